"""The WaveNet-style character model of "Building makemore, part 5", on hand-written layers.

The public names are imported when first used, so that the commands answer ``--help`` without torch.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names, for editors and type checkers
    from makemore.backprop import *
    from makemore.convolution import *
    from makemore.convolution.drawing import *
    from makemore.ensemble import *
    from makemore.evaluation import *
    from makemore.layers import *
    from makemore.model_file import *
    from makemore.modern.trainer import *
    from makemore.modules import *
    from makemore.networks import *
    from makemore.page import *
    from makemore.pictures.activations import *
    from makemore.pictures.batchnorm import *
    from makemore.pictures.embedding import *
    from makemore.pictures.gradients import *
    from makemore.pictures.probabilities import *
    from makemore.pictures.tree import *
    from makemore.plotting import *
    from makemore.recipes import *
    from makemore.sampling import *
    from makemore.training import *
    from makemore.words import *

_NAMES = {
    "backprop": "BackpropEngine",
    "convolution": "Convolution Filters generate generate_scored log_likelihoods loss",
    "convolution.drawing": "draw_nodes",
    "ensemble": "Ensemble EnsembleEngine",
    "evaluation": "split_loss",
    "layers": "BatchNorm1d Embedding FlattenConsecutive FlattenDilated GatedActivation HistoricBatchNorm1d"
    " Layer Linear Newest ReLU RMSNorm ResidualBlock Sequential SkipConnections Tanh",
    "model_file": "Model load_model save_model",
    "modern.trainer": "ModernTrainer",
    "modules": "from_module to_module",
    "networks": "NETWORKS Plan network_plan summary",
    "page": "page_html",
    "pictures.activations": "draw_activations",
    "pictures.batchnorm": "draw_batchnorm",
    "pictures.embedding": "draw_embedding",
    "pictures.gradients": "draw_gradients",
    "pictures.probabilities": "draw_probabilities",
    "pictures.tree": "draw_tree",
    "plotting": "plot_losses",
    "recipes": "LectureRecipe ModernRecipe",
    "sampling": "sample_word",
    "training": "AutogradEngine Trainer",
    "words": "Data Examples Vocabulary WordList load_words read_words",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [*_HOME]

try:
    __version__ = version("makemore-wavenet")
except PackageNotFoundError:
    __version__ = "0"


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'makemore' has no attribute {name!r}")
    return getattr(import_module(f"makemore.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
