"""A trained network in the form that answers soonest: a convolution, or its layers (beyond the lecture).

Both forms answer the same questions with the same figures, to rounding; ``form_of`` chooses.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from makemore.convolution.queues import Contexts, GrowingWords, InEachMember, Queues
from makemore.convolution.stages import Convolution
from makemore.ensemble import Ensemble, members_of
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


def mean_form(members: Sequence[Form]) -> Form:
    """The mean of the members' probabilities."""
    return Form(
        members[0].block_size,
        members[0].device,
        sum(form.width for form in members),
        partial(_mean_log_probs, members),
        lambda: InEachMember([form.growing() for form in members]),
    )


def _mean_log_probs(members: Sequence[Form], examples: Examples) -> Iterator[Tensor]:
    """In one piece: the members may take the examples in pieces of several sizes."""
    total = torch.full((len(examples),), -torch.inf, device=examples.symbols.device)
    for form in members:
        total = torch.logaddexp(total, torch.cat(list(form.log_probs(examples))))
    yield total - math.log(len(members))


AnyForm = Sequential | Convolution | Form
"""A network, or what was made of one already."""


def form_of(network: AnyForm) -> Form:
    """The fast form if some convolution is equal to the network, else the plain one."""
    if isinstance(network, Form):
        return network
    if isinstance(network, Convolution):
        return fast_form(network)
    if isinstance(network, Ensemble):
        return mean_form([form_of(member) for member in members_of(network)])
    try:
        return fast_form(Convolution.from_network(network))
    except ValueError:  # the historic BatchNorm, say, computes something else at each position
        return plain_form(network)
