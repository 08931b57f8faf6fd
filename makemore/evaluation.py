"""The losses of the splits (lecture cells 12-13).

Departures from the lecture:

* The examples go through the network in pieces, so that the memory needed does not grow with the split;
  the sum is kept in float64.
* ``loss`` takes the network's convolution, which gives the same figure several times sooner; the lecture's
  way is ``split_loss``.
"""

from __future__ import annotations

import math

from makemore.convolution import convolution_loss, fast_form, plain_log_probs
from makemore.layers import Sequential
from makemore.words import Examples


def split_loss(network: Sequential, examples: Examples) -> float:
    """Mean cross-entropy of a network in evaluation on the examples, in nats per symbol.

    Every example goes through all the layers. nan for no examples.
    """
    total = math.fsum(piece.double().sum().item() for piece in plain_log_probs(network, examples))
    return -total / len(examples) if len(examples) else math.nan


def loss(network: Sequential, examples: Examples) -> float:
    """The figure of ``split_loss`` to 1e-6, by the network's convolution if there is one equal to it."""
    if len(examples) == 0:
        return math.nan
    form = fast_form(network)
    return split_loss(form, examples) if isinstance(form, Sequential) else convolution_loss(form, examples)
