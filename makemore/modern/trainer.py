"""The training of the modern recipe: Muon and AdamW on batches taken by epochs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from makemore.backprop.engine import BackpropEngine
from makemore.core.fit import check_examples, check_logits
from makemore.core.layer import Layer, require_like
from makemore.data.examples import shards
from makemore.data.word_list import Data
from makemore.inference.scoring import loss
from makemore.lecture.layers import Linear
from makemore.lecture.words import Examples
from makemore.modern.markov import markov_model
from makemore.modern.optimizers import AdamW, Muon
from makemore.modern.recipe import ModernRecipe
from makemore.modern.soft_targets import SoftTargets
from makemore.modern.teachers import trained_teachers
from makemore.training.engine import MakeEngine, droppable_nodes
from makemore.training.ensemble import members_of
from makemore.training.evaluation import Evaluation
from makemore.training.processes import ONE_PROCESS, Processes
from makemore.training.trainer import EvaluateLoss, RunContext, Trainer

TEACHER_CONTEXTS = 4096
"""The number of contexts that go through a teacher at once."""

SHARD_EXAMPLES = 2**20
"""The largest number of examples in an epoch, and in its soft targets: a larger list has shards."""

VALUES_AT_ONCE = 2**18
"""Values of contexts and targets that are gathered in one call, unless a single batch has more."""


class ModernTrainer(Trainer):
    """A network in training by the modern recipe.

    The differences from the lecture's training, the most important first:

    * The target of an example is the distribution of the symbols that follow its context anywhere in the
      training words, in place of the one symbol that follows here. The gradients are the same on average and
      have less noise, and where many symbols follow a context there is nothing to memorize. See
      ``soft_targets.py``.
    * The embeddings of characters far back in the context are dropped at random: never those of the last two,
      that of the third last with a third of the probability ``context_dropout``, that of the fourth last with
      two thirds, and those of earlier characters with all of it.
    * Muon for the hidden weights, AdamW for the rest, one cycle of the learning rates, large batches taken
      by epochs. A list of more than ``SHARD_EXAMPLES`` training examples has shards: each epoch takes the
      next shard, and its soft targets are those of the shard, so that memory and start-up time do not grow
      with the list.
    * The network with the lowest val loss is kept, unless few words make the val loss inaccurate.
    * For few words, the targets are mixed with the distributions of a Markov model of the same words. See
      ``markov.py``.
    * Optional: batches of consecutive examples. Long contexts are hardly ever equal, but those of consecutive
      examples share windows, which are computed once (``backprop.windows``).
    * Optional: targets mixed with the distributions of teachers, networks of the same plan trained before.

    Raises UsageError on a network whose characters cannot be dropped, unless ``context_dropout`` is 0.
    """

    recipe: ModernRecipe

    def __init__(
        self,
        network: Layer,
        data: Data,
        recipe: ModernRecipe,
        generator: Generator,
        make_engine: MakeEngine = BackpropEngine,
        evaluate_loss: EvaluateLoss = loss,
        processes: Processes = ONE_PROCESS,
    ) -> None:
        if not isinstance(recipe, ModernRecipe):
            raise TypeError(f"ModernTrainer needs a ModernRecipe, such as ModernRecipe(), got {recipe!r}")
        super().__init__(network, data, recipe, generator, make_engine, evaluate_loss, processes)
        if recipe.context_dropout > 0:
            for member in members_of(network):
                droppable_nodes(member)  # raises UsageError
        self.muon, self.adamw = self._make_optimizers()
        self.best: dict[str, Tensor] = {}
        self.best_val = math.inf
        self.stale = 0
        self.teachers: Sequence[Layer] = ()
        self.shards = shards(data.train, SHARD_EXAMPLES)
        self._go_to_shard(0)
        lags = torch.arange(data.train.block_size, 0, -1)
        self._drop_probs = recipe.context_dropout * ((lags - 2) / 3).clamp(0, 1)  # (T,), the oldest first
        self._epoch: Tensor | None = None
        self._batches_done = 0
        self._epoch_start = generator.get_state()

    def _make_optimizers(self) -> tuple[Muon, AdamW]:
        """Muon for the weights of all Linear layers but a network's last, AdamW for the rest."""
        networks = [list(member.modules()) for member in members_of(self.network)]
        linears = [[layer.weight for layer in layers if isinstance(layer, Linear)] for layers in networks]
        names = {id(p): name for name, p in self.network.named_parameters()}
        hidden = {names[id(weight)]: weight for weights in linears for weight in weights[:-1]}
        rest = {name: p for name, p in self.network.named_parameters() if name not in hidden}
        assert len(hidden) + len(rest) == len(self.network.parameters())
        decays = {names[id(w)]: self.recipe.weight_decay for weights in linears for w in weights[-1:]}
        return Muon(hidden, processes=self.processes), AdamW(rest, decays)

    def prepare(self, context: RunContext) -> None:
        """Train the teachers that the recipe asks for, or read them from files, and distil from them."""
        if not self.recipe.teachers:
            return

        def make_trainer(network: Layer, recipe: ModernRecipe, generator: Generator) -> ModernTrainer:
            return ModernTrainer(
                network, self.data, recipe, generator, context.make_engine, self.evaluate_loss
            )

        teachers = trained_teachers(self.recipe, context, make_trainer, self.processes)
        self.distil_from([teacher.to(self.data.train.symbols.device) for teacher in teachers])

    def distil_from(self, teachers: Sequence[Layer]) -> None:
        """Mix the targets with the mean of the teachers' distributions, in place of the Markov model's.

        Raises DataError or UsageError on a teacher that was trained for other characters, labels or contexts.
        """
        for teacher in teachers:
            check_examples(teacher, self.data.train)
        self.teachers = teachers
        self._go_to_shard(self._shard)

    def _mix_in_teachers(self) -> None:
        assert isinstance(self.rows, SoftTargets)
        examples = self.rows.example
        prior = torch.zeros((len(examples), len(self.data.vocabulary)), device=examples.device)
        for start in range(0, len(examples), TEACHER_CONTEXTS):
            X = self.rows.examples[examples[start : start + TEACHER_CONTEXTS]][0]
            for teacher in self.teachers:
                with teacher.evaluating():
                    logits = check_logits(teacher(X), X)
                prior[start : start + len(X)] += F.softmax(logits, dim=1) / len(self.teachers)
        self.rows.mix(prior, self.recipe.teacher_weight)

    def _go_to_shard(self, number: int) -> None:
        """Make the rows of a shard. After the last shard comes the first again."""
        self._shard = number
        examples = self.shards[number % len(self.shards)]
        self.rows: Examples | SoftTargets = examples
        if self.recipe.targets == "soft":
            self.rows = SoftTargets(examples, len(self.data.vocabulary), self.recipe.examples_per_row)
        if self.teachers:
            self._mix_in_teachers()
        elif isinstance(self.rows, SoftTargets) and self.recipe.markov > 0:
            context, probs = markov_model(examples, self.rows.vocab_size)
            self.rows.mix(probs[context[self.rows.example]], self.recipe.markov)

    @property
    def done(self) -> bool:
        """Whether no step is left, or the val loss has not fallen for ``patience`` evaluations."""
        return super().done or self.stale >= self.recipe.patience

    def advance(self, steps: int) -> Tensor:
        """Do that many steps on the next batches of the epoch; returns their batch losses, (steps,)."""
        losses = torch.empty(steps, device=self.data.train.symbols.device)
        done = 0
        while done < steps:
            for X, Y, keep_mask in self._next_batches(steps - done):
                losses[done] = self.engine.gradients(X, Y, keep_mask)
                share = self.recipe.share_at(self.step + done)
                done += 1
                self.muon.step(self.recipe.lr * share)
                self.adamw.step(self.recipe.lr_adamw * share, self.step + done)
        return losses

    def _next_batches(self, most: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Contexts, targets and ``keep_mask`` of the next batches, at most ``most``.

        They are gathered in one call, which is faster. The numbers that are taken from the generator are the
        same as for one batch at a time.
        """
        index = self._next_rows(most).to(self.data.train.symbols.device)  # may change self.rows
        X, Y = self.rows[index]
        if self.recipe.context_dropout == 0:
            return zip(X, Y, repeat(None), strict=False)
        symbols = *index.shape, len(self._drop_probs)  # labels are never dropped
        numbers = torch.rand(symbols, generator=self.generator)
        return zip(X, Y, (numbers >= self._drop_probs).float().to(X.device), strict=True)

    def _next_rows(self, most: int) -> Tensor:
        """The rows of the next batches of an epoch, (n, B), with n at most ``most``.

        The end of an epoch that does not fill a batch is left out.
        """
        size, chunks = self._batch_shape()
        if self._epoch is None or (self._batches_done + 1) * chunks > len(self._epoch):
            if self._epoch is not None and len(self.shards) > 1:
                self._go_to_shard(self._shard + 1)
                size, chunks = self._batch_shape()
            self._epoch_start = self.generator.get_state()
            self._epoch = torch.randperm(self._num_chunks(), generator=self.generator)
            self._batches_done = 0
        values = size * chunks * (len(self._drop_probs) + len(self.data.vocabulary))  # of a batch
        most = min(most, max(1, VALUES_AT_ONCE // values), len(self._epoch) // chunks - self._batches_done)
        batches = self._epoch[self._batches_done * chunks :][: most * chunks].view(most, chunks)
        self._batches_done += most
        if size == 1:
            return batches
        starts = (batches * size).clamp(max=len(self.rows) - size)  # the last chunk overlaps the one before
        return (starts.unsqueeze(2) + torch.arange(size)).flatten(1)  # (n, chunks) -> (n, chunks * size)

    def _batch_shape(self) -> tuple[int, int]:
        """The number of consecutive rows in a chunk, and the number of chunks in a batch."""
        size = min(self.recipe.consecutive, len(self.rows))
        return size, min(max(1, self.recipe.batch_size // size), self._num_chunks())

    def _num_chunks(self) -> int:
        """The number of chunks in an epoch."""
        return -(-len(self.rows) // self.recipe.consecutive)

    def evaluate(self, *splits: str) -> Evaluation:
        """Evaluate, and keep a copy of the network if its val loss is the lowest so far."""
        evaluation = super().evaluate(*splits)
        if evaluation.val is not None and not self.done:
            if evaluation.val < self.best_val:
                self.best_val, self.stale = evaluation.val, 0
                self.best = {name: t.detach().clone() for name, t in self.network.state_dict().items()}
            else:
                self.stale += 1
        return evaluation

    def finish(self) -> str:
        """Restore the network with the lowest val loss, unless the last one is better or is to be kept."""
        recipe, told = self.recipe, list[str]()
        if self.step < recipe.steps:
            evaluations = f"{recipe.patience} evaluations" if recipe.patience > 1 else "one evaluation"
            told.append(
                f"ended at step {self.step:,} of {recipe.steps:,}: the val loss has not fallen for"
                f" {evaluations} (--patience)"
            )
        choose = recipe.keep == "best" and self.best
        if choose and self.evaluate_loss(self.network, self.val_subset) > self.best_val:
            self.network.load_state_dict(self.best)
            step = next((e.step for e in self.evaluations if e.val == self.best_val), self.step)
            told.append(f"the network of step {step:,} is kept, which has the lowest val loss")
        return "; ".join(told)

    def state(self) -> dict[str, Tensor]:
        """The optimizers' tensors, the best network, and the position within the epoch."""
        shard = {"shard": torch.tensor(self._shard)} if len(self.shards) > 1 else {}
        return {
            **super().state(),
            **shard,
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
        """Restore a saved state: see ``Trainer``."""
        super().restore(step, losses, evaluations, state)
        best = {name.removeprefix("best."): t for name, t in state.items() if name.startswith("best.")}
        if best:
            require_interchangeable(best, self.network.state_dict())
        self.best = best
        own = self.state()
        require_interchangeable(state, own)
        for name, tensor in own.items():
            tensor.copy_(state[name])  # the optimizers' own tensors, and copies of the others
        self.best_val, self.stale = float(own["best_val"]), int(own["stale"])
        self._epoch_start, self._batches_done = own["epoch_start"], int(own["batches_done"])
        shard = int(own.get("shard", 0))
        if self._batches_done < 0 or shard < 0:
            raise ValueError(f"a run cannot have done {self._batches_done} batches of shard {shard}")
        if shard != self._shard:
            self._go_to_shard(shard)
        if step > 0:
            epoch = Generator().set_state(self._epoch_start)
            self._epoch = torch.randperm(self._num_chunks(), generator=epoch)


def require_interchangeable(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless names, shapes and dtypes are the same."""
    require_like(tensors, own)
    for name, tensor in tensors.items():
        if tensor.dtype != own[name].dtype:
            raise ValueError(f"{name} is {tensor.dtype}, not {own[name].dtype}")
