"""A trained network in the form that answers soonest: a convolution, or its layers (beyond the lecture).

Both forms answer the same questions with the same figures, to rounding; ``form_of`` chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from makemore.convolution.queues import Contexts, GrowingWords, Queues
from makemore.convolution.stages import Convolution
from makemore.evaluation import log_probs
from makemore.layers import Sequential
from makemore.networks import block_size
from makemore.words import Examples


class Form(NamedTuple):
    """What a trained network is asked.

    ``log_probs`` gives the log-probabilities of some examples' targets, piece by piece; ``growing`` makes
    what gives the logits of words that grow; ``width`` is the most channels a layer has.
    """

    block_size: int
    device: torch.device
    width: int
    log_probs: Callable[[Examples], Iterator[Tensor]]
    growing: Callable[[], GrowingWords]


def fast_form(convolution: Convolution) -> Form:
    """Every distinct window of symbols is computed once, and for a growing word only what is new."""
    return Form(
        convolution.block_size,
        convolution.device,
        max(stage.weight.shape[2] for stage in convolution.stages),
        convolution.log_probs,
        partial(Queues, convolution),
    )


def plain_form(network: Sequential) -> Form:
    """The lecture's way: every context through all the layers."""
    return Form(
        block_size(network),
        network.parameters()[0].device,
        max(p.shape[-1:].numel() for p in network.parameters()),
        partial(log_probs, network),
        partial(Contexts, network),
    )


AnyForm = Sequential | Convolution | Form
"""A network, or what was made of one already."""


def form_of(network: AnyForm) -> Form:
    """The fast form if some convolution is equal to the network, else the plain one."""
    if isinstance(network, Form):
        return network
    if isinstance(network, Convolution):
        return fast_form(network)
    try:
        return fast_form(Convolution.from_network(network))
    except ValueError:  # the historic BatchNorm, say, computes something else at each position
        return plain_form(network)
