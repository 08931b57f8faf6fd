"""The same network as a dilated causal convolution (beyond the lecture: its "next time")."""

from makemore.convolution.generation import Filters as Filters
from makemore.convolution.generation import Sample as Sample
from makemore.convolution.generation import generate as generate
from makemore.convolution.generation import generate_scored as generate_scored
from makemore.convolution.scoring import log_likelihoods as log_likelihoods
from makemore.convolution.scoring import loss as loss
from makemore.convolution.stages import Convolution as Convolution
