"""The training loop and the lecture's step by autograd (lecture cell 10).

Departures from the lecture, without effect on its figures: the batches of many steps are drawn in one
call, which takes the same numbers from the generator; losses stay in a tensor, so that the loop
waits for nothing. What does the steps, and what evaluates, is handed in: by default the lecture's ways.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from makemore.evaluation import split_loss
from makemore.layers import Sequential
from makemore.networks import Plan
from makemore.recipes import Recipe
from makemore.words import Data, Examples

BATCHES_DRAWN = 500
"""Batches that are drawn at a time, at most."""

EXAMPLES_DRAWN = 65_536
"""Examples that are drawn at a time, unless one batch has more."""

WATCHED = 2**17
"""Val examples, at most, whose loss is taken during a training."""

JUDGED = 2**22
"""Training examples, at most, whose loss is taken at the end."""


@dataclass(frozen=True)
class Evaluation:
    """Mean losses of the splits after ``step`` steps, in nats per symbol; None where not evaluated."""

    step: int
    train: float | None = None
    val: float | None = None
    test: float | None = None
    unseen_val: float | None = None
    unseen_test: float | None = None


class Engine(Protocol):
    """What does the steps: by autograd, the lecture's way, or by hand (``backprop/``).

    Targets Y are symbols, or distributions in their place, with one dimension more, (..., vocab_size).
    """

    def sgd_steps(self, X: Tensor, Y: Tensor, lrs: Sequence[float]) -> Tensor:
        """A step of SGD on each batch; returns the batch losses.

        X is (steps, B, T), Y is (steps, B), ``lrs`` the learning rate of each step; (steps,) comes back.
        """
        ...

    def gradients(self, X: Tensor, Y: Tensor, keep: Tensor | None = None) -> Tensor:
        """Put the gradients of one batch into ``p.grad``; returns its loss, ().

        X is (B, T), Y is (B,); ``keep``, (B, T) and floating, is 0 for the positions whose embedding is
        dropped.
        """
        ...


class AutogradEngine(Engine):
    """The lecture's step: forward, backward and update by autograd."""

    def __init__(self, network: Sequential) -> None:
        self.network = network

    def sgd_steps(self, X: Tensor, Y: Tensor, lrs: Sequence[float]) -> Tensor:
        parameters = self.network.parameters()
        losses = torch.empty(len(lrs), dtype=parameters[0].dtype, device=X.device)
        for i, lr in enumerate(lrs):
            losses[i] = self.gradients(X[i], Y[i])
            for p in parameters:
                p.data += -lr * cast(Tensor, p.grad)
        return losses

    def gradients(self, X: Tensor, Y: Tensor, keep: Tensor | None = None) -> Tensor:
        embedding, *rest = self.network.train().flattened()
        x = embedding(X)
        if keep is not None:
            x = x * keep.unsqueeze(-1)
        for layer in rest:
            x = layer(x)
        batch_loss = F.cross_entropy(x, Y)
        for p in self.network.parameters():
            p.grad = None
        torch.autograd.backward(batch_loss)
        return batch_loss.detach()


@dataclass(frozen=True)
class Run:
    """What a trainer may need to know of the run it is in.

    ``directory`` takes its files, ``fingerprint`` is that of the word list, ``seed`` the run's.
    """

    directory: Path
    plan: Plan
    fingerprint: str
    seed: int


class Trainer:
    """A network in training by the lecture's recipe: how far it is, and what it has seen.

    ``losses`` holds the batch loss of every step done, ``evaluations`` the split losses in between.
    ``parts`` of the training split follow one another, epoch by epoch; the lecture's way has but one.
    The batches are drawn from ``generator``, a CPU one, so that a run on any device sees the same.
    ``engine`` makes of the network what does the steps; ``loss`` gives its mean loss on some examples.
    """

    def __init__(
        self,
        network: Sequential,
        data: Data,
        recipe: Recipe,
        generator: Generator,
        engine: Callable[[Sequential], Engine] = AutogradEngine,
        loss: Callable[[Sequential, Examples], float] = split_loss,
    ) -> None:
        self.network = network
        self.data = data
        self.recipe = recipe
        self.generator = generator
        self.engine = engine(network)
        self.loss = loss
        self.parts = [data.train]
        self.watched, self.judged = data.val.parts(WATCHED)[0], data.train.parts(JUDGED)[0]
        self.step = 0
        self.evaluations: list[Evaluation] = []
        self._losses: list[Tensor] = []

    def prepare(self, run: Run) -> None:
        """Called before the steps of a run, new or resumed: there is nothing to do."""

    @property
    def losses(self) -> Tensor:
        """Batch losses of the steps done: float32, (step,)."""
        return torch.cat(self._losses) if self._losses else torch.empty(0)

    @property
    def done(self) -> bool:
        """Whether no step is left to do."""
        return self.step >= self.recipe.steps

    def state(self) -> dict[str, Tensor]:
        """The tensors that a resumed run needs beside network, history and generator: none."""
        return {}

    def restore(
        self, step: int, losses: Tensor, evaluations: Sequence[Evaluation], state: Mapping[str, Tensor]
    ) -> None:
        """Stand where a run stood; network and generator are restored by the caller."""
        self.step = step
        self._losses = [losses]
        self.evaluations = list(evaluations)

    def run(self, stops: int) -> Iterator[Tensor]:
        """Train to the end; yields the losses of the steps just done, time and again.

        That is at every multiple of ``stops`` steps, at the end, and in between as often as batches
        are drawn.
        """
        most = max(1, min(BATCHES_DRAWN, EXAMPLES_DRAWN // self.recipe.batch_size))
        while not self.done:
            next_stop = (self.step // stops + 1) * stops
            steps = min(most, next_stop - self.step, self.recipe.steps - self.step)
            losses = self.advance(steps).float().cpu()
            self._losses.append(losses)
            self.step += len(losses)
            yield losses

    def advance(self, steps: int) -> Tensor:
        """Do that many steps on fresh batches; returns their batch losses, (steps,)."""
        examples = self.data.train
        shape = (steps, self.recipe.batch_size)
        ix = torch.randint(0, len(examples), shape, generator=self.generator)
        X, Y = examples[ix.to(examples.symbols.device)]  # (steps, B, T), (steps, B)
        return self.engine.sgd_steps(X, Y, [self.recipe.lr_at(self.step + i) for i in range(steps)])

    def evaluate(self, *splits: str) -> Evaluation:
        """Evaluate the named splits ("train", "val", ...) and remember the result.

        Of a large list, always the same part of the training split, ``judged``, and as long as steps are left
        the same part of the val split, ``watched``.
        """
        parts = {"train": self.judged} | ({} if self.done else {"val": self.watched})
        examples = {split: parts.get(split, getattr(self.data, split)) for split in splits}
        losses = {split: self.loss(self.network, some) for split, some in examples.items()}
        self.evaluations.append(Evaluation(self.step, **losses))
        return self.evaluations[-1]

    def finish(self) -> None:
        """Called once no step is left to do: the network is now the one to keep."""
