"""The training loop: batches, schedule, loss history (lecture cell 10).

Departures from the lecture, without effect on its figures: the batches of many steps are drawn in one
call, which takes the same numbers from the generator; losses stay in a tensor, so that the loop
waits for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from makemore.evaluation import split_loss
from makemore.layers import Sequential
from makemore.words import Data

BLOCK_STEPS = 500
BLOCK_EXAMPLES = 65_536


@dataclass(frozen=True)
class Schedule:
    """Plain SGD as in the lecture: ``lr``, and ``lr_final`` from step ``lr_drop`` on."""

    steps: int = 200_000
    batch_size: int = 32
    lr: float = 0.1
    lr_final: float = 0.01
    lr_drop: int = 150_000

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.lr if step < self.lr_drop else self.lr_final


@dataclass(frozen=True)
class Evaluation:
    """Mean losses of the splits after ``step`` steps, in nats per symbol; None where not evaluated."""

    step: int
    train: float | None = None
    val: float | None = None
    test: float | None = None


class AutogradEngine:
    """The lecture's step: forward, backward and update by autograd."""

    def __init__(self, network: Sequential) -> None:
        self.network = network

    def sgd_steps(self, X: Tensor, Y: Tensor, lrs: Sequence[float]) -> Tensor:
        """A step of SGD on each batch; returns the batch losses.

        X is (steps, B, T), Y is (steps, B), ``lrs`` the learning rate of each step; (steps,) comes back.
        """
        losses = torch.empty(len(lrs), device=X.device)
        parameters = self.network.parameters()
        for i, lr in enumerate(lrs):
            losses[i] = self.gradients(X[i], Y[i])
            for p in parameters:
                p.data += -lr * cast(Tensor, p.grad)
        return losses

    def gradients(self, X: Tensor, Y: Tensor) -> Tensor:
        """Put the gradients of one batch, (B, T) and (B,), into ``p.grad``; returns its loss, ()."""
        self.network.train()
        loss = F.cross_entropy(self.network(X), Y)
        for p in self.network.parameters():
            p.grad = None
        torch.autograd.backward(loss)
        return loss.detach()


class Trainer:
    """A network in training: how far it is, and what it has seen.

    ``losses`` holds the batch loss of every step done, ``evaluations`` the split losses in between.
    The batches are drawn from ``generator``, a CPU one, so that a run on any device sees the same.
    """

    def __init__(self, network: Sequential, data: Data, schedule: Schedule, generator: Generator) -> None:
        self.network = network
        self.data = data
        self.schedule = schedule
        self.generator = generator
        self.engine = AutogradEngine(network)
        self.step = 0
        self.evaluations: list[Evaluation] = []
        self._losses: list[Tensor] = []

    @property
    def losses(self) -> Tensor:
        """Batch losses of the steps done: float32, (step,)."""
        return torch.cat(self._losses) if self._losses else torch.empty(0)

    def restore(self, step: int, losses: Tensor, evaluations: Sequence[Evaluation]) -> None:
        """Stand where a run stood; network and generator are restored by the caller."""
        self.step = step
        self._losses = [losses]
        self.evaluations = list(evaluations)

    def run(self, stops: int) -> Iterator[Tensor]:
        """Train to the end of the schedule; yields the losses of the steps just done, time and again.

        That is at every multiple of ``stops`` steps, at the end, and in between as often as batches
        are drawn.
        """
        schedule = self.schedule
        block = max(1, min(BLOCK_STEPS, BLOCK_EXAMPLES // schedule.batch_size))
        while self.step < schedule.steps:
            next_stop = (self.step // stops + 1) * stops
            yield self.advance(min(block, next_stop - self.step, schedule.steps - self.step))

    def advance(self, steps: int) -> Tensor:
        """Do that many steps on fresh batches; returns their batch losses, (steps,), on the CPU."""
        examples = self.data.train
        shape = (steps, self.schedule.batch_size)
        ix = torch.randint(0, len(examples), shape, generator=self.generator)
        X, Y = examples[ix.to(examples.symbols.device)]  # (steps, B, T), (steps, B)
        lrs = [self.schedule.lr_at(self.step + i) for i in range(steps)]
        losses = self.engine.sgd_steps(X, Y, lrs).cpu()
        self._losses.append(losses)
        self.step += steps
        return losses

    def evaluate(self, *splits: str) -> Evaluation:
        """Evaluate the named splits ("train", "val", "test") and remember the result."""
        losses = {split: split_loss(self.network, getattr(self.data, split)) for split in splits}
        self.evaluations.append(Evaluation(self.step, **losses))
        return self.evaluations[-1]
