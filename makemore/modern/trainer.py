"""The modern recipe's training (beyond the lecture): Muon and AdamW on batches taken by epochs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from makemore.backprop import BackpropEngine
from makemore.convolution.scoring import loss
from makemore.ensemble import members_of
from makemore.layers import Linear, Sequential, require_like
from makemore.modern.optimizers import AdamW, Muon
from makemore.modern.soft_targets import SoftTargets
from makemore.modern.teachers import trained_teachers
from makemore.parallel.engine import ParallelEngine
from makemore.parallel.processes import ALONE
from makemore.recipes import ModernRecipe
from makemore.training import Engine, Evaluation, Run, Trainer
from makemore.words import Data, Examples

TEACHERS_STRENGTH = 8.0
"""Examples that the teachers' opinion of a context counts as."""

TEACHING_PIECE = 4096
"""Contexts that a teacher looks at at a time."""

PART = 2**20
"""Examples of an epoch, and of the soft targets, at most: a larger list is gone through part by part."""


class ModernTrainer(Trainer):
    """A network in training by the modern recipe (beyond the lecture).

    What makes the difference to the lecture's steps, most important first:

    * The target of an example is the distribution of the symbols that follow its context in the
      training words, not the one symbol that follows here: the same in the mean, with less noise, and
      with nothing to learn by heart where a context is followed by many. See ``soft_targets.py``.
    * The embeddings of older characters are dropped at random: not of the last two, of the third with a
      third of the probability ``drop``, of the fourth with two thirds, of those before with all of it.
    * Muon for the hidden weights, AdamW for the rest, one cycle of the learning rate, large batches taken
      by epochs. A list of more than ``PART`` training examples has parts: each epoch is of the next one, and
      what follows a context is what follows it there, so that memory and start do not grow with the list.
    * The network that had the lowest val loss is kept.
    * If asked for: batches of consecutive examples. Long contexts, of which hardly two are the same, share
      their windows then, so that a step costs what its distinct windows cost (``backprop.windows``).
    * If asked for: targets that lean on teachers, networks of the same kind trained before.
    """

    recipe: ModernRecipe

    def __init__(
        self,
        network: Sequential,
        data: Data,
        recipe: ModernRecipe,
        generator: Generator,
        engine: Callable[[Sequential], Engine] = BackpropEngine,
        loss: Callable[[Sequential, Examples], float] = loss,
    ) -> None:
        super().__init__(network, data, recipe, generator, engine, loss)
        shared = self.engine if isinstance(self.engine, ParallelEngine) else None
        self._processes = shared.processes if shared else ALONE  # those that share each batch
        self._teachers_engine = shared.make_engine if shared else engine  # one process trains a teacher
        self.muon, self.adamw = self._make_optimizers()
        self.best: dict[str, Tensor] = {}
        self.best_val = math.inf
        self.stale = 0
        self.teachers: Sequence[Sequential] = ()
        self.parts = data.train.parts(PART)
        self._go_to_part(0)
        lags = torch.arange(data.train.block_size, 0, -1)
        self._drop = recipe.drop * ((lags - 2) / 3).clamp(0, 1)  # (T,), the oldest first
        self._epoch: Tensor | None = None
        self._batches_done = 0
        self._epoch_start = generator.get_state()

    def _make_optimizers(self) -> tuple[Muon, AdamW]:
        """Muon for the weights of all Linears but a network's last, AdamW for all else."""
        networks = [list(member.modules()) for member in members_of(self.network)]
        linears = [[layer.weight for layer in layers if isinstance(layer, Linear)] for layers in networks]
        names = {id(p): name for name, p in self.network.named_parameters()}
        hidden = {names[id(weight)]: weight for weights in linears for weight in weights[:-1]}
        rest = {name: p for name, p in self.network.named_parameters() if name not in hidden}
        assert len(hidden) + len(rest) == len(self.network.parameters())
        decays = {names[id(w)]: self.recipe.weight_decay for weights in linears for w in weights[-1:]}
        return Muon(hidden, processes=self._processes), AdamW(rest, decays)

    def prepare(self, run: Run) -> None:
        """Train the teachers that the recipe asks for, or read those that are there, and learn from them."""
        if self.recipe.teachers:
            teachers = trained_teachers(self.recipe, self.data, run, self._teacher, self._processes)
            self.learn_from(teachers)

    def _teacher(self, network: Sequential, recipe: ModernRecipe, generator: Generator) -> ModernTrainer:
        """What trains a teacher."""
        return ModernTrainer(network, self.data, recipe, generator, self._teachers_engine, self.loss)

    def learn_from(self, teachers: Sequence[Sequential]) -> None:
        """Let the targets lean on the mean of the teachers' distributions, as on so many examples."""
        self.teachers = teachers
        self._lean_on_teachers()

    def _lean_on_teachers(self) -> None:
        assert isinstance(self.rows, SoftTargets)
        examples = self.rows.example
        prior = torch.zeros((len(examples), len(self.data.vocabulary)), device=examples.device)
        for start in range(0, len(examples), TEACHING_PIECE):
            X = self.rows.examples[examples[start : start + TEACHING_PIECE]][0]
            for teacher in self.teachers:
                with teacher.evaluating():
                    prior[start : start + len(X)] += F.softmax(teacher(X), dim=1) / len(self.teachers)
        self.rows.mix(prior, TEACHERS_STRENGTH)

    def _go_to_part(self, part: int) -> None:
        """Make the rows of the part that the epoch of that number, from 0 on, is of."""
        self._part = part
        examples = self.parts[part % len(self.parts)]
        self.rows: Examples | SoftTargets = examples
        if self.recipe.targets == "soft":
            self.rows = SoftTargets(examples, len(self.data.vocabulary), self.recipe.examples_per_row)
        if self.teachers:
            self._lean_on_teachers()

    @property
    def done(self) -> bool:
        """Whether no step is left, or the val loss has not fallen for long."""
        return super().done or self.stale >= self.recipe.patience

    def advance(self, steps: int) -> Tensor:
        """Do that many steps on the next batches of the epoch; returns their batch losses, (steps,)."""
        device = self.data.train.symbols.device
        losses = torch.empty(steps, device=device)
        for i in range(steps):
            index = self._next_batch().to(device)  # which may go to other rows
            X, Y = self.rows[index]
            keep = None
            if self.recipe.drop > 0:
                keep = (torch.rand(X.shape, generator=self.generator) >= self._drop).float().to(device)
            losses[i] = self.engine.gradients(X, Y, keep)
            share = self.recipe.share_at(self.step + i)
            self.muon.step(self.recipe.lr * share)
            self.adamw.step(self.recipe.lr_other * share, self.step + i + 1)
            self._batches_done += 1
        return losses

    def _next_batch(self) -> Tensor:
        """The indices of the next batch; an epoch's last batch is the one that is still full."""
        chunk, chunks = self._batch_shape()
        if self._epoch is None or (self._batches_done + 1) * chunks > len(self._epoch):
            if self._epoch is not None and len(self.parts) > 1:
                self._go_to_part(self._part + 1)
                chunk, chunks = self._batch_shape()
            self._epoch_start = self.generator.get_state()
            self._epoch = torch.randperm(self._chunks(), generator=self.generator)
            self._batches_done = 0
        batch = self._epoch[self._batches_done * chunks :][:chunks]
        if chunk == 1:
            return batch
        starts = (batch * chunk).clamp(max=len(self.rows) - chunk)  # the last one has no more than is left
        return (starts.unsqueeze(1) + torch.arange(chunk)).flatten()  # (chunks,) -> (chunks * chunk,)

    def _batch_shape(self) -> tuple[int, int]:
        """How many rows a chunk has, and how many chunks a batch."""
        chunk = min(self.recipe.chunk, len(self.rows))
        return chunk, min(max(1, self.recipe.batch_size // chunk), self._chunks())

    def _chunks(self) -> int:
        """How many chunks of rows an epoch has."""
        return -(-len(self.rows) // self.recipe.chunk)

    def evaluate(self, *splits: str) -> Evaluation:
        """Evaluate; remember the network too if its val loss is the lowest so far."""
        evaluation = super().evaluate(*splits)
        if evaluation.val is not None and not self.done:
            if evaluation.val < self.best_val:
                self.best_val, self.stale = evaluation.val, 0
                self.best = {name: t.detach().clone() for name, t in self.network.state_dict().items()}
            else:
                self.stale += 1
        return evaluation

    def finish(self) -> None:
        """Go back to the network that had the lowest val loss, unless it is the last one."""
        if self.best and self.loss(self.network, self.watched) > self.best_val:
            self.network.load_state_dict(self.best)

    def state(self) -> dict[str, Tensor]:
        """The optimisers' tensors, the best network, and where the epoch stands."""
        part = {"part": torch.tensor(self._part)} if len(self.parts) > 1 else {}
        return {
            **part,
            "epoch_start": self._epoch_start,
            "batches_done": torch.tensor(self._batches_done),
            "best_val": torch.tensor(self.best_val, dtype=torch.float64),
            "stale": torch.tensor(self.stale),
            **{f"best.{name}": tensor for name, tensor in self.best.items()},
            **{f"muon.{name}": tensor for name, tensor in self.muon.state_dict().items()},
            **{f"adamw.{name}": tensor for name, tensor in self.adamw.state_dict().items()},
        }

    def restore(
        self, step: int, losses: Tensor, evaluations: Sequence[Evaluation], state: Mapping[str, Tensor]
    ) -> None:
        """Stand where a run stood. Raises ValueError or RuntimeError on a state that is none."""
        super().restore(step, losses, evaluations, state)
        best = {name.removeprefix("best."): t for name, t in state.items() if name.startswith("best.")}
        if best:
            require_interchangeable(best, self.network.state_dict())
        self.best = best
        own = self.state()
        require_interchangeable(state, own)
        for name, tensor in own.items():
            tensor.copy_(state[name])  # the optimisers' own, and copies of the others
        self.best_val, self.stale = float(own["best_val"]), int(own["stale"])
        self._epoch_start, self._batches_done = own["epoch_start"], int(own["batches_done"])
        part = int(own.get("part", 0))
        if self._batches_done < 0 or part < 0:
            raise ValueError(f"{self._batches_done} batches of part {part} cannot be done")
        if part != self._part:
            self._go_to_part(part)
        if step > 0:
            epoch = Generator().set_state(self._epoch_start)
            self._epoch = torch.randperm(self._chunks(), generator=epoch)


def require_interchangeable(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless names, shapes and dtypes are the same."""
    require_like(tensors, own)
    for name, tensor in tensors.items():
        if tensor.dtype != own[name].dtype:
            raise ValueError(f"{name} is {tensor.dtype}, not {own[name].dtype}")
