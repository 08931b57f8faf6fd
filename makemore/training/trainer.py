"""The training loop that every recipe shares. It can be stopped after any step and resumed to the bit.

With ``LectureRecipe`` and ``AutogradEngine`` it is the lecture's loop (``lecture/training.py``): the same
batches and the same losses. The batches of many steps are chosen in one call, which takes the same numbers
from the generator, and losses stay in a tensor, so that the loop does not wait for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from makemore.core.fit import check_training_data, note_checked_data
from makemore.core.layer import Layer, stochastic_layers
from makemore.data.examples import shards
from makemore.data.word_list import Data
from makemore.lecture.evaluation import split_loss
from makemore.lecture.words import Examples
from makemore.training.engine import AutogradEngine, MakeEngine
from makemore.training.evaluation import Evaluation
from makemore.training.processes import ONE_PROCESS, Processes
from makemore.training.recipe import Recipe

MAX_BATCHES_AT_ONCE = 500
"""The largest number of batches that are chosen in one call."""

MAX_EXAMPLES_AT_ONCE = 65_536
"""The largest number of examples that are chosen in one call, unless a single batch has more."""

MAX_VAL_EXAMPLES = 2**17
"""The largest number of val examples that are evaluated during a training."""

MAX_TRAIN_EXAMPLES = 2**22
"""The largest number of training examples that are evaluated at the end."""


class NetworkFiles(Protocol):
    """The files of further networks that a run trains, by number."""

    def read(self, number: int) -> bytes:
        """The content of a file; empty if there is none."""
        ...

    def write(self, number: int, content: bytes) -> None: ...

    def pack(self, number: int, trainer: Trainer) -> bytes:
        """The content for a network that has been trained."""
        ...

    def unpack(self, number: int, content: bytes, recipe: Recipe) -> tuple[Layer, float] | None:
        """The network and its val loss, or None if the content is of another run or recipe."""
        ...


@dataclass(frozen=True)
class RunContext:
    """The facts about a run that its trainer may need.

    ``seed`` is the run's. ``build`` makes a new network of the run's plan with values drawn from a generator.
    ``make_engine`` makes an engine for a network that one process trains, and ``files`` has the files of such
    networks.
    """

    seed: int
    build: Callable[[Generator], Layer]
    make_engine: MakeEngine
    files: NetworkFiles


EvaluateLoss = Callable[[Layer, Examples], float]


class Trainer:
    """A network in training by the lecture's recipe.

    ``step`` is the number of steps done, ``losses`` has their batch losses and ``evaluations`` the split
    losses in between. Batches are drawn from ``generator``, a CPU one, so that a run has the same batches
    on any device. ``make_engine`` makes the engine for the network, ``evaluate_loss`` gives its mean loss
    on examples.

    Layers that draw random numbers in training are given a generator each, seeded from ``generator``. So
    their numbers do not depend on how many batches are drawn in one call.

    The characters of the data are noted in the network. Raises UsageError on data of another vocabulary or
    context length than the network's and on a network that does not give logits (B, vocab_size), and
    TypeError on a recipe that needs another trainer.
    """

    def __init__(
        self,
        network: Layer,
        data: Data,
        recipe: Recipe,
        generator: Generator,
        make_engine: MakeEngine = AutogradEngine,
        evaluate_loss: EvaluateLoss = split_loss,
        processes: Processes = ONE_PROCESS,
    ) -> None:
        self._check(network, data, recipe)
        self.network = network
        self.data = data
        self.recipe = recipe
        self.generator = generator
        self.make_engine, self.engine = make_engine, make_engine(network)
        note_checked_data(network, data.train)
        self.evaluate_loss = evaluate_loss
        self.processes = processes
        self.shards = [data.train]
        self.val_subset = shards(data.val, MAX_VAL_EXAMPLES)[0]
        self.train_subset = shards(data.train, MAX_TRAIN_EXAMPLES)[0]
        self.step = 0
        self.evaluations: list[Evaluation] = []
        self._losses: list[Tensor] = []
        self._stochastic = stochastic_layers(network)
        seeds = torch.randint(2**63 - 1, (len(self._stochastic),), generator=generator.clone_state()).tolist()
        for layer, seed in zip(self._stochastic.values(), seeds, strict=True):
            layer.generator = Generator().manual_seed(seed)

    def _check(self, network: Layer, data: Data, recipe: Recipe) -> None:
        """Raise TypeError or UsageError unless network, data and recipe fit each other and this trainer."""
        name = type(self).__name__
        if not isinstance(data, Data):
            raise TypeError(f"{name} needs Data, such as words.data(block_size), got a {type(data).__name__}")
        if not isinstance(recipe, Recipe):
            raise TypeError(f"{name} needs a recipe, such as LectureRecipe(), got {recipe!r}")
        if recipe.trainer not in {cls.__name__ for cls in type(self).__mro__}:
            raise TypeError(f"{name} cannot train by a {type(recipe).__name__}: use {recipe.trainer}")
        check_training_data(network, data.train)

    def prepare(self, context: RunContext) -> None:
        """Called before the steps of a run, new or resumed."""

    @property
    def losses(self) -> Tensor:
        """Batch losses of the steps done: float32, (step,)."""
        return torch.cat(self._losses) if self._losses else torch.empty(0)

    @property
    def done(self) -> bool:
        """Whether no step is left to do."""
        return self.step >= self.recipe.steps

    def state(self) -> dict[str, Tensor]:
        """The tensors that a resumed run needs, besides network, losses, evaluations and generator."""
        states = {}
        for name, layer in self._stochastic.items():
            assert layer.generator is not None
            states[f"generator.{name}"] = layer.generator.get_state()
        return states

    def restore(
        self, step: int, losses: Tensor, evaluations: Sequence[Evaluation], state: Mapping[str, Tensor]
    ) -> None:
        """Restore a saved state. Network and generator are restored by the caller.

        Raises KeyError, ValueError or RuntimeError on tensors that are not such a state.
        """
        self.step = step
        self._losses = [losses]
        self.evaluations = list(evaluations)
        for name, layer in self._stochastic.items():
            assert layer.generator is not None
            layer.generator.set_state(state[f"generator.{name}"])

    def run(self, yield_every: int) -> Iterator[Tensor]:
        """Train to the end, and yield the losses of the steps done since the last yield.

        It yields at every multiple of ``yield_every`` steps, where ``step`` is that multiple, and at the end.
        It also yields in between: after 500 steps at the latest, and after fewer if their batches would have
        more than 65,536 examples.
        """
        most = max(1, min(MAX_BATCHES_AT_ONCE, MAX_EXAMPLES_AT_ONCE // self.recipe.batch_size))
        while not self.done:
            next_stop = (self.step // yield_every + 1) * yield_every
            steps = min(most, next_stop - self.step, self.recipe.steps - self.step)
            losses = self.advance(steps).float().cpu()
            self._losses.append(losses)
            self.step += len(losses)
            yield losses

    def advance(self, steps: int) -> Tensor:
        """Do that many steps on new batches; returns their batch losses, (steps,)."""
        examples = self.data.train
        shape = (steps, self.recipe.batch_size)
        ix = torch.randint(0, len(examples), shape, generator=self.generator)
        X, Y = examples[ix.to(examples.symbols.device)]  # (steps, B, T), (steps, B)
        return self.engine.sgd_steps(X, Y, [self.recipe.lr_at(self.step + i) for i in range(steps)])

    def evaluate(self, *splits: str) -> Evaluation:
        """Evaluate the named splits ("train", "val", ...) and append the result to ``evaluations``.

        Of a large list, this is always the same part of the training split, ``train_subset``, and as long as
        steps are left the same part of the val split, ``val_subset``.
        """
        subsets = {"train": self.train_subset} | ({} if self.done else {"val": self.val_subset})
        examples = {split: subsets.get(split, getattr(self.data, split)) for split in splits}
        losses = {split: self.evaluate_loss(self.network, some) for split, some in examples.items()}
        self.evaluations.append(Evaluation(self.step, **losses))
        return self.evaluations[-1]

    def finish(self) -> str:
        """Called when no step is left to do, to make the network the one to keep.

        Returns a line that says why the run ended early and which step's network is kept, or "".
        """
        return ""
