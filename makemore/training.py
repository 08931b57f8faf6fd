"""The training loop: batches, steps, loss history, and the two recipes (lecture cell 10).

``LectureRecipe`` is the lecture's: plain SGD on batches drawn at random. ``ModernRecipe`` lies beyond it and
has ``ModernTrainer``: AdamW on batches taken by epochs, and three things that keep a small network from
learning its words by heart, see there.

Departures from the lecture, without effect on its figures: the batches of many steps are drawn in one
call, which takes the same numbers from the generator; losses stay in a tensor, so that the loop
waits for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from makemore.backprop import BackpropEngine
from makemore.evaluation import loss
from makemore.layers import Sequential, require_like
from makemore.words import ContextRows, Data

BLOCK_STEPS = 500
BLOCK_EXAMPLES = 65_536

TEACHERS_STRENGTH = 8.0
"""Examples that the teachers' opinion of a context counts as."""

TEACHING_PIECE = 4096
"""Contexts that a teacher looks at at a time."""

LECTURE_EXAMPLES = 182_625
"""Training examples of the lecture's list."""


@dataclass(frozen=True)
class LectureRecipe:
    """Plain SGD: ``lr``, and ``lr_final`` from step ``lr_drop`` on."""

    steps: int = 200_000
    batch_size: int = 32
    lr: float = 0.1
    lr_final: float = 0.01
    lr_drop: int = 150_000

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.lr if step < self.lr_drop else self.lr_final


@dataclass(frozen=True)
class ModernRecipe:
    """Muon and AdamW with one cycle: up within the share ``warm_up`` of the steps, then a cosine down to 0.

    ``lr`` is the peak for Muon, which updates the Linear weights but the last, ``lr_other`` that of AdamW
    for the rest; ``weight_decay`` is AdamW's, for the last Linear alone. ``drop`` is the probability that
    the embedding of the oldest characters is dropped. With ``soft_targets`` the target is what follows the
    context anywhere in the training words, up to ``shared`` examples in one; with ``teachers`` it leans
    on what that many networks, trained before for a shorter time, make of the context. See
    ``ModernTrainer``. The training ends before its last step when the val loss has not fallen for
    ``patience`` evaluations in a row.
    """

    steps: int = 850
    batch_size: int = 1024
    lr: float = 0.02
    lr_other: float = 8e-3
    weight_decay: float = 0.4
    warm_up: float = 0.05
    drop: float = 0.2
    soft_targets: bool = True
    shared: int = 4
    patience: int = 5
    teachers: int = 0

    @classmethod
    def for_examples(cls, examples: int, **given: Any) -> ModernRecipe:
        """The recipe for a list with that many training examples; ``given`` fields are as they are.

        Fewer examples are learnt by heart sooner: they get fewer steps, smaller batches, more dropping and
        more decay. The rules were found on lists of 300, 7,000 and 32,000 names.
        """
        taught = given.get("teachers", 0) > 0
        scarcity = min(5.0, max(0.0, math.log(LECTURE_EXAMPLES / examples)))
        steps = 2500 if taught else 850
        batch_size = 1024
        while batch_size > max(64, examples / 12):
            batch_size //= 2
        rules = {
            "steps": round(min(10_000, max(steps / 8, steps * (examples / LECTURE_EXAMPLES) ** 0.5))),
            "batch_size": batch_size,
            "weight_decay": round(0.4 + 0.2 * scarcity, 2),
            "drop": round(min(0.75, 0.2 + 0.18 * scarcity), 2),
            "shared": 2 if taught else 4,
        }
        return cls(**(rules | given))

    def teacher(self) -> ModernRecipe:
        """The recipe of this one's teachers: shorter, with less dropping and coarser targets."""
        steps = max(1, round(0.28 * self.steps))
        return replace(self, steps=steps, drop=self.drop / 2, soft_targets=True, shared=8, teachers=0)

    def share_at(self, step: int) -> float:
        """The share of the peak learning rates that a step has, counted from 0."""
        warm = max(1.0, self.warm_up * self.steps)
        if step < warm:
            return (step + 1) / (warm + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1.0, self.steps - warm)))


Recipe = LectureRecipe | ModernRecipe


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
    """What does the steps: by autograd, the lecture's way, or by hand (backprop.py)."""

    def sgd_steps(self, X: Tensor, Y: Tensor, lrs: Sequence[float]) -> Tensor: ...
    def gradients(self, X: Tensor, Y: Tensor, keep: Tensor | None = None) -> Tensor: ...


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

    def gradients(self, X: Tensor, Y: Tensor, keep: Tensor | None = None) -> Tensor:
        """Put the gradients of one batch into ``p.grad``; returns its loss, ().

        X is (B, T); Y is (B,), or (B, vocab_size) for distributions in place of symbols; ``keep``, (B, T) and
        floating, is 0 for the positions whose embedding is dropped.
        """
        self.network.train()
        embedding, *rest = self.network.layers
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


ENGINES: dict[str, Callable[[Sequential], Engine]] = {
    "backprop": BackpropEngine,
    "autograd": AutogradEngine,
}


class Trainer:
    """A network in training by the lecture's recipe: how far it is, and what it has seen.

    ``losses`` holds the batch loss of every step done, ``evaluations`` the split losses in between.
    The batches are drawn from ``generator``, a CPU one, so that a run on any device sees the same.
    """

    def __init__(
        self, network: Sequential, data: Data, recipe: Recipe, generator: Generator, engine: str = "backprop"
    ) -> None:
        """``engine`` is "backprop" or "autograd"."""
        self.network = network
        self.data = data
        self.recipe = recipe
        self.generator = generator
        self.engine = ENGINES[engine](network)
        self.step = 0
        self.evaluations: list[Evaluation] = []
        self._losses: list[Tensor] = []

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
        block = max(1, min(BLOCK_STEPS, BLOCK_EXAMPLES // self.recipe.batch_size))
        while not self.done:
            next_stop = (self.step // stops + 1) * stops
            losses = (
                self.advance(min(block, next_stop - self.step, self.recipe.steps - self.step)).float().cpu()
            )
            self._losses.append(losses)
            self.step += len(losses)
            yield losses

    def advance(self, steps: int) -> Tensor:
        """Do that many steps on fresh batches; returns their batch losses, (steps,)."""
        examples = self.data.train
        shape = (steps, self.recipe.batch_size)
        ix = torch.randint(0, len(examples), shape, generator=self.generator)
        X, Y = examples[ix.to(examples.symbols.device)]  # (steps, B, T), (steps, B)
        assert isinstance(self.recipe, LectureRecipe)
        return self.engine.sgd_steps(X, Y, [self.recipe.lr_at(self.step + i) for i in range(steps)])

    def evaluate(self, *splits: str) -> Evaluation:
        """Evaluate the named splits ("train", "val", ...) and remember the result."""
        losses = {split: loss(self.network, getattr(self.data, split)) for split in splits}
        self.evaluations.append(Evaluation(self.step, **losses))
        return self.evaluations[-1]

    def finish(self) -> None:
        """Called once no step is left to do: the network is now the one to keep."""


class ModernTrainer(Trainer):
    """A network in training by the modern recipe (beyond the lecture).

    What makes the difference to the lecture's steps, most important first:

    * The target of an example is the distribution of the symbols that follow its context in the
      training words, not the one symbol that follows here: the same in the mean, with less noise, and
      with nothing to learn by heart where a context is followed by many. See ``words.ContextRows``.
    * The embeddings of older characters are dropped at random: not of the last two, of the third with a
      third of the probability ``drop``, of the fourth with two thirds, of those before with all of it.
    * Muon for the hidden weights, AdamW for the rest, one cycle of the learning rate, large batches taken
      by epochs.
    * The network that had the lowest val loss is kept.
    * If asked for: targets that lean on teachers, networks of the same kind trained before.
    """

    recipe: ModernRecipe

    def __init__(
        self,
        network: Sequential,
        data: Data,
        recipe: ModernRecipe,
        generator: Generator,
        engine: str = "backprop",
    ) -> None:
        super().__init__(network, data, recipe, generator, engine)
        self.optimizers = self._make_optimizers()
        self.best: dict[str, Tensor] = {}
        self.best_val = math.inf
        self.stale = 0
        soft = recipe.soft_targets
        self.rows = ContextRows(data.train, len(data.vocabulary), recipe.shared) if soft else data.train
        lags = torch.arange(data.train.block_size, 0, -1)
        self._drop = recipe.drop * ((lags - 2) / 3).clamp(0, 1)  # (T,), the oldest first
        self._epoch: Tensor | None = None
        self._batches_done = 0
        self._epoch_start = generator.get_state()

    def _make_optimizers(self) -> list[tuple[torch.optim.Optimizer, float]]:
        """The optimisers and their peak learning rates."""
        recipe, parameters = self.recipe, self.network.parameters()
        *hidden, last = [p for p in parameters[1:] if p.ndim == 2]
        rest = [p for p in parameters if not any(p is weight for weight in (*hidden, last))]
        groups: list[dict[str, Any]] = [
            {"params": [last], "weight_decay": recipe.weight_decay},
            {"params": rest},
        ]
        adamw = torch.optim.AdamW(groups, lr=recipe.lr_other, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
        muon = torch.optim.Muon(hidden, lr=recipe.lr, weight_decay=0.1, momentum=0.95)
        return [(muon, recipe.lr), (adamw, recipe.lr_other)]

    def learn_from(self, teachers: Sequence[Sequential]) -> None:
        """Let the targets lean on the mean of the teachers' distributions, as on so many examples."""
        assert isinstance(self.rows, ContextRows)
        examples = self.rows.example
        prior = torch.zeros((len(examples), len(self.data.vocabulary)), device=examples.device)
        for start in range(0, len(examples), TEACHING_PIECE):
            X = self.data.train[examples[start : start + TEACHING_PIECE]][0]
            for teacher in teachers:
                with teacher.evaluating():
                    prior[start : start + len(X)] += F.softmax(teacher(X), dim=1) / len(teachers)
        self.rows.mix(prior, TEACHERS_STRENGTH)

    @property
    def done(self) -> bool:
        """Whether no step is left, or the val loss has not fallen for long."""
        return super().done or self.stale >= self.recipe.patience

    def advance(self, steps: int) -> Tensor:
        """Do that many steps on the next batches of the epoch; returns their batch losses, (steps,)."""
        device = self.data.train.symbols.device
        losses = torch.empty(steps, device=device)
        for i in range(steps):
            X, Y = self.rows[self._next_batch().to(device)]
            keep = None
            if self.recipe.drop > 0:
                keep = (torch.rand(X.shape, generator=self.generator) >= self._drop).float().to(device)
            losses[i] = self.engine.gradients(X, Y, keep)
            share = self.recipe.share_at(self.step + i)
            for optimizer, peak in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = peak * share
                optimizer.step()
            self._batches_done += 1
        return losses

    def _next_batch(self) -> Tensor:
        """The indices of the next batch; an epoch's last batch is the one that is still full."""
        size = min(self.recipe.batch_size, len(self.rows))
        if self._epoch is None or (self._batches_done + 1) * size > len(self._epoch):
            self._epoch_start = self.generator.get_state()
            self._epoch = torch.randperm(len(self.rows), generator=self.generator)
            self._batches_done = 0
        return self._epoch[self._batches_done * size :][:size]

    def evaluate(self, *splits: str) -> Evaluation:
        """Evaluate; remember the network too if its val loss is the lowest so far."""
        evaluation = super().evaluate(*splits)
        if evaluation.val is not None and not self.done:
            if evaluation.val < self.best_val:
                self.best_val, self.stale = evaluation.val, 0
                self.best = {name: t.detach().clone() for name, t in self.network.named_tensors().items()}
            else:
                self.stale += 1
        return evaluation

    def finish(self) -> None:
        """Go back to the network that had the lowest val loss, unless it is the last one."""
        if self.best and loss(self.network, self.data.val) > self.best_val:
            self.network.load(self.best)

    def state(self) -> dict[str, Tensor]:
        """The optimiser's tensors, the best network, and where the epoch stands."""
        state = {"epoch_start": self._epoch_start, "batches_done": torch.tensor(self._batches_done)}
        state |= {
            "best_val": torch.tensor(self.best_val, dtype=torch.float64),
            "stale": torch.tensor(self.stale),
        }
        state |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        for o, (optimizer, _) in enumerate(self.optimizers):
            for i, values in optimizer.state_dict()["state"].items():
                state |= {f"optimizer.{o}.{i}.{name}": tensor for name, tensor in values.items()}
        return state

    def restore(
        self, step: int, losses: Tensor, evaluations: Sequence[Evaluation], state: Mapping[str, Tensor]
    ) -> None:
        """Stand where a run stood. Raises KeyError, ValueError or RuntimeError on a state that is none."""
        super().restore(step, losses, evaluations, state)
        self.best_val, self.stale = float(state["best_val"]), int(state["stale"])
        self.best = {n.removeprefix("best."): t for n, t in state.items() if n.startswith("best.")}
        if self.best:
            require_interchangeable(self.best, self.network.named_tensors())
        for o, (optimizer, _) in enumerate(self.optimizers):
            values: dict[int, dict[str, Tensor]] = {}
            for name, tensor in state.items():
                if name.startswith(f"optimizer.{o}."):
                    _, _, i, field = name.split(".")
                    values.setdefault(int(i), {})[field] = tensor
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            for place, parameter in enumerate(parameters if step > 0 else []):
                moments = {name: tensor for name, tensor in values[place].items() if name != "step"}
                own = ("momentum_buffer",) if o == 0 else ("exp_avg", "exp_avg_sq")
                require_interchangeable(moments, dict.fromkeys(own, parameter))
            optimizer.load_state_dict(optimizer.state_dict() | {"state": values})
        if step > 0:
            self._epoch_start = state["epoch_start"]
            require_interchangeable(
                {"epoch_start": self._epoch_start}, {"epoch_start": self.generator.get_state()}
            )
            self._batches_done = int(state["batches_done"])
            if self._batches_done < 0:
                raise ValueError(f"{self._batches_done} batches cannot be done")
            epoch = Generator()
            epoch.set_state(self._epoch_start)
            self._epoch = torch.randperm(len(self.rows), generator=epoch)


def require_interchangeable(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless names, shapes and dtypes are the same."""
    require_like(tensors, own)
    for name, tensor in tensors.items():
        if tensor.dtype != own[name].dtype:
            raise ValueError(f"{name} is {tensor.dtype}, not {own[name].dtype}")
