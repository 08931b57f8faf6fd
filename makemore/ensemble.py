"""Several networks as one, whose probabilities are averaged (beyond the lecture).

Networks that started from other values err in other places: their mean errs less than each of them. Members
are trained side by side, each on its own loss, on the same batches. What takes a network takes an ensemble:

    network = Ensemble([plan.build(len(data.vocabulary), generator) for _ in range(4)])
    engine = partial(EnsembleEngine, make_engine=WindowsEngine)
    trainer = ModernTrainer(network, data, recipe, generator, engine)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from makemore.layers import Layer, Looks, Sequential
from makemore.networks import Plan, block_size
from makemore.training import Engine


class Ensemble(Sequential):
    """Networks side by side, its ``layers``: indices (B, T) -> logarithms of their mean probabilities, (B, V)

    They are logits like others: their softmax is that mean. Raises ValueError on no networks, and on networks
    with contexts of several lengths.
    """

    def __init__(self, members: Sequence[Sequential]) -> None:
        super().__init__(members)
        sizes = {block_size(member) for member in members}
        if len(sizes) != 1:
            raise ValueError(f"an ensemble needs networks with one block size, got {sorted(sizes) or 'none'}")

    def __call__(self, x: Tensor) -> Tensor:
        self.out = mean_log_probs([layer(x) for layer in self.layers])
        return self.out

    def flattened(self) -> list[Layer]:
        """Itself: its layers do not follow one another."""
        return [self]

    def looks_at(self) -> Looks:
        """The whole context of its members."""
        context = block_size(members_of(self)[0])
        return Looks(context, tuple(range(context)))

    def __repr__(self) -> str:
        return f"Ensemble({len(self.layers)} networks)"


def mean_log_probs(logits: Sequence[Tensor]) -> Tensor:
    """The logarithms of the mean of some distributions, whose logits are (..., V) each: (..., V)."""
    log_probs = torch.stack([F.log_softmax(each, dim=-1) for each in logits])
    return log_probs.logsumexp(0) - math.log(len(logits))


def members_of(network: Sequential) -> list[Sequential]:
    """The members of an ensemble; of any other network, itself."""
    if not isinstance(network, Ensemble):
        return [network]
    return [member for member in network.layers if isinstance(member, Sequential)]


def build(plan: Plan, members: int | None, vocab_size: int, generator: Generator) -> Sequential:
    """A network of that plan, or an ensemble of so many, whose values are drawn one network after another."""
    if members is None:
        return plan.build(vocab_size, generator)
    return Ensemble([plan.build(vocab_size, generator) for _ in range(members)])


class EnsembleEngine:
    """An engine for each member, made by ``make_engine``: one after another, on the same batches.

    Every member has the gradients of its own loss; the losses that come back are the means of the members'.
    """

    def __init__(self, network: Sequential, make_engine: Callable[[Sequential], Engine]) -> None:
        self.engines = [make_engine(member) for member in members_of(network)]

    def sgd_steps(self, X: Tensor, Y: Tensor, lrs: Sequence[float]) -> Tensor:
        """A step of SGD on each batch, X (steps, B, T); returns the batch losses, (steps,)."""
        return torch.stack([engine.sgd_steps(X, Y, lrs) for engine in self.engines]).mean(0)

    def gradients(self, X: Tensor, Y: Tensor, keep: Tensor | None = None) -> Tensor:
        """Put the gradients of a batch, X (B, T), into every ``p.grad``; returns its loss, ()."""
        return torch.stack([engine.gradients(X, Y, keep) for engine in self.engines]).mean(0)
