"""The settings of the modern recipe, and the rules by which they follow from the size of a word list.

Does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from makemore.core.errors import UsageError
from makemore.core.settings import FIRST, knob
from makemore.training.recipe import Recipe

LECTURE_EXAMPLES = 182_625
"""Training examples of the lecture's list, for which the defaults hold."""

FEW_EXAMPLES = 30_000
"""Training examples of 5,000 names, up to which a list has few words: several networks are averaged."""

MIDDLE_EXAMPLES = 10_000
"""Training examples of some 1,700 names, up to which eight networks are averaged, and four beyond."""

SMOOTHED_EXAMPLES = 3_000
"""Training examples of some 500 names, below which the targets are mixed with those of a Markov model."""

TINY_EXAMPLES = 600
"""Training examples of some 100 names. Fewer get half the steps."""

AVERAGED_DROPOUT = 0.5
"""The most context dropout where networks are averaged, which makes up for some overfitting of each."""

NARROW_NETWORK_EXAMPLES = 1200
"""Training examples of some 170 names, up to which hidden layers of half the width give a lower loss."""

HEAD_START_LR = 0.25
"""The learning rates of a network that begins with trained values, as a share of the others."""

UNDROPPED_EXAMPLES = 2**19
"""Training examples above which context dropout is reduced; from 1.6 million on it is 0."""

WIDE_NETWORK_EXAMPLES = 2**22
"""Training examples from which hidden layers of twice the width give a lower loss in the same time."""

WIDTH_EXPONENT = 0.8
"""A network of width ratio r is treated like one with r to this power times fewer examples."""

EFFORTS: dict[str, dict[str, Any]] = {
    "quick": {"steps": 330, "context_dropout": 0.0, "lr": 0.04, "lr_adamw": 0.012, "examples_per_row": 8},
    "default": {},
    "best": {"teachers": 4, "teacher_share": 0.105, "steps": 8000, "lr": 0.03, "lr_adamw": 0.01},
}
"""Settings on the lecture's list for less or more time, where they differ from the defaults."""

DISTILLING: dict[str, Any] = {"teacher_weight": 64.0, "context_dropout": 0.05, "lr": 0.03, "lr_adamw": 0.01}
"""The same for a run with a trained teacher, whose distributions leave little to overfit."""


@dataclass(frozen=True)
class ModernRecipe(Recipe):
    """Muon and AdamW with one cycle of the learning rates: a linear rise, then a cosine down to 0.

    ``lr`` is the peak learning rate of Muon, which updates the weights of all Linear layers but the last,
    and ``lr_adamw`` that of AdamW for all other parameters. ``weight_decay`` is AdamW's, for the weight of
    the last Linear alone. The rates rise during the share ``warm_up`` of the steps.

    ``context_dropout`` is the probability that the embedding of an old character is dropped. With soft
    targets a context's target is the distribution of the symbols that follow it anywhere in the words;
    up to ``examples_per_row`` examples of a context form one row. Batches take ``consecutive`` examples at
    a time; more than 1 needs hard targets and no context dropout.

    With ``teachers``, that many networks are trained first, for ``teacher_share`` of the steps, and the
    targets are mixed with their distributions, which count as ``teacher_weight`` examples for each context.
    ``distil_from`` is the model file of a teacher that has been trained already; an ensemble is a good one.
    The run ends early when the val loss has not fallen for ``patience`` evaluations in a row. ``effort`` is a
    preset from ``EFFORTS`` for the settings that are not given.
    """

    trainer = "ModernTrainer"

    steps: int = knob(850, "training steps", 1, 10**9, default_text="by the number of words", group=FIRST)
    batch_size: int = knob(1024, "examples per batch", 2, 2**20, default_text="up to 1,024")
    lr: float = knob(0.02, "peak learning rate of Muon", 0, 1e30, default_text="0.02 to 0.055 for few words")
    lr_adamw: float = knob(
        8e-3, "peak learning rate of AdamW", 0, 1e30, default_text="0.008 to 0.02 for few words"
    )
    weight_decay: float = knob(
        0.4, "weight decay of the last layer", 0, 1e6, default_text="by the number of words"
    )
    warm_up: float = knob(
        0.05,
        "share of the steps during which the learning rates rise",
        0,
        1,
        default_text="0.05 to 0.15 for few words",
    )
    context_dropout: float = knob(
        0.2,
        "probability to drop the embedding of a character far back in the context",
        0,
        1,
        default_text="by the number of words",
    )
    targets: str = knob(
        "soft",
        "soft: the distribution of the symbols that follow a context; hard: the one symbol that follows",
        choices=("soft", "hard"),
    )
    examples_per_row: int = knob(
        4,
        "with soft targets: how many examples of the same context count as one example",
        1,
        10**6,
        default_text="4; for few words up to 16; with teachers 2",
    )
    markov: float = knob(
        0.0,
        "with soft targets: how many examples the distribution of a Markov model counts as; 0: none",
        0,
        1e6,
        default_text="0; more for few words",
    )
    patience: int = knob(
        5,
        "evaluations without a lower val loss before the run ends",
        1,
        10**9,
        default_text="5; 1,000 for few words",
    )
    keep: str = knob(
        "best",
        "which network the run ends with: best: that with the lowest val loss; last: that of the last step",
        choices=("best", "last"),
        default_text="best; last for few words",
    )
    consecutive: int = knob(
        1, "examples taken from the list in a row; for long contexts 128 is faster", 1, 2**20
    )
    teachers: int = knob(
        0,
        "teacher networks to train first and distil from; with --ensemble, all members distil from them;"
        " 4: lower loss, slower",
        0,
        100,
    )
    teacher_share: float = knob(0.28, "steps of a teacher, as a share of the run's", 0, 1)
    distil_from: str | None = knob(
        None,
        "a trained network to distil from in place of --teachers: model file or directory of a run; best an"
        " ensemble",
        metavar="MODEL",
    )
    teacher_weight: float = knob(
        8.0,
        "how many examples the distribution of the teachers counts as",
        0,
        1e6,
        default_text="8; with --distil-from 64",
    )
    effort: str = knob(
        "default",
        "modern: preset for the settings not given: quick (half the time), default, best (ten times)",
        choices=EFFORTS,
        group=FIRST,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teachers and self.distil_from is not None:
            raise UsageError("give --teachers or --distil-from, not both")
        if self.targets == "hard" and (self.teachers or self.distil_from is not None):
            without = "leave out --distil-from" if self.distil_from is not None else "give --teachers 0"
            raise UsageError(
                f"teachers need soft targets: leave out --targets hard and --consecutive, or {without}"
            )
        if self.markov > 0 and self.targets == "hard":
            raise UsageError("--markov needs soft targets: leave out --targets hard, or give --markov 0")
        if self.consecutive > 1 and (self.targets == "soft" or self.context_dropout > 0):
            raise UsageError("--consecutive above 1 needs --targets hard and --context-dropout 0")

    @classmethod
    def for_examples(cls, examples: int, width: float = 1.0, **given: Any) -> ModernRecipe:
        """The recipe for a list with that many training examples, with the settings that are ``given``.

        A network overfits sooner on fewer examples, and sooner if its hidden layers have ``width`` times
        the lecture's width. So fewer examples get more context dropout and weight decay, fewer steps and
        smaller batches, and, without teachers or a preset, higher learning rates and coarser targets.

        Up to ``FEW_EXAMPLES`` the val loss, which is that of few words, does not end the run, and below
        ``SMOOTHED_EXAMPLES`` it does not choose the network. There the soft targets are mixed with the
        distributions of a Markov model (``markov.py``), which counts as up to 16 examples, and the least
        number of steps is halved for the shortest lists. Between the two, several networks are averaged and
        the targets are not mixed: there context dropout is ``AVERAGED_DROPOUT`` at most.

        With more than ``UNDROPPED_EXAMPLES`` a network does not overfit, and context dropout falls to 0. From
        ``WIDE_NETWORK_EXAMPLES`` on a wider network gets fewer steps, for the same time. The rules were
        found on lists of 300, 3,000, 7,000 and 32,000 names, and of 100,000, 200,000 and 1,000,000 words
        (docs/LOG.md).
        """
        chosen = EFFORTS.get(given.get("effort", cls.effort), {})
        trained = given.get("distil_from") is not None
        if trained:
            chosen = {**chosen, "teachers": 0, **DISTILLING}
        taught = trained or given.get("teachers", chosen.get("teachers", 0)) > 0
        consecutive = given.get("consecutive", 1) > 1
        enough = examples / max(1.0, width) ** WIDTH_EXPONENT
        scarcity, few = (min(5.0, max(0.0, math.log(LECTURE_EXAMPLES / n))) for n in (enough, examples))
        if taught or chosen or consecutive:
            few = 0.0
        plenty = max(0.0, math.log(enough / UNDROPPED_EXAMPLES))
        steps = chosen.get("steps", 2500 if taught else 850)
        batch_size = 1024
        while batch_size > max(64, examples / 12):
            batch_size //= 2
        wanted = steps * (examples / LECTURE_EXAMPLES) ** 0.5 * math.exp(-0.21 * few)
        if examples >= WIDE_NETWORK_EXAMPLES:
            wanted *= 0.28 ** min(1.0, max(0.0, math.log2(width)))
        rare = math.log(SMOOTHED_EXAMPLES / examples) / math.log(SMOOTHED_EXAMPLES / TINY_EXAMPLES)
        rare = min(1.0, max(0.0, rare))  # how much the targets need smoothing, 1 for the shortest lists
        least_steps = steps / 8 * min(1.0, max(0.5, examples / (1.5 * TINY_EXAMPLES)))
        dropout = chosen.get("context_dropout", 0.2) + 0.18 * (scarcity - plenty) + 0.08 * few
        most_dropout = 0.85 if few else 0.75
        if few and SMOOTHED_EXAMPLES <= examples <= FEW_EXAMPLES:
            most_dropout = AVERAGED_DROPOUT
        rules = {
            "examples_per_row": 2 if taught else min(16, round(4 * 2 ** (0.84 * few))),
            "lr": round(min(0.055, 0.02 * math.exp(0.41 * few)), 4),
            "lr_adamw": round(min(0.02, 0.008 * math.exp(0.365 * few)), 4),
            "warm_up": round(min(0.15, 0.05 + 0.042 * few), 3),
            **chosen,
            "steps": round(min(10_000, max(least_steps, wanted))),
            "batch_size": batch_size,
            "weight_decay": round(0.4 + 0.2 * scarcity + min(1.4, 0.6 * few), 2),
            "context_dropout": round(min(most_dropout, max(0.0, dropout)), 2),
        }
        if examples <= FEW_EXAMPLES:
            rules["patience"] = 1000
        if examples < SMOOTHED_EXAMPLES:
            rules["keep"] = "last"
        if given.get("targets", "soft") == "soft" and not consecutive:
            rules["markov"] = round(16 * rare, 1)
        if consecutive:
            rules |= {"targets": "hard", "context_dropout": 0.0}
        return cls(**(rules | given))

    @classmethod
    def default_width_ratio(cls, examples: int, steps: int | None) -> float:
        """1/2 for the shortest lists; 2 for millions of words, unless there are too few steps; else 1."""
        if examples <= NARROW_NETWORK_EXAMPLES:
            return 0.5
        return 2 if examples >= WIDE_NETWORK_EXAMPLES and (steps is None or steps >= cls.steps) else 1

    @classmethod
    def default_ensemble(cls, examples: int) -> int:
        """8 for up to ``MIDDLE_EXAMPLES`` and 4 for up to ``FEW_EXAMPLES``, which take seconds; else 1."""
        return 8 if examples <= MIDDLE_EXAMPLES else 4 if examples <= FEW_EXAMPLES else 1

    def with_head_start(self, given: Mapping[str, Any]) -> ModernRecipe:
        """The recipe for a network that begins with trained values: a quarter of the learning rates."""
        lower = {
            name: getattr(self, name) * HEAD_START_LR for name in ("lr", "lr_adamw") if name not in given
        }
        return replace(self, **lower)

    def teacher(self) -> ModernRecipe:
        """The recipe of the teachers: fewer steps, less context dropout, coarser targets."""
        steps = max(1, round(self.teacher_share * self.steps))
        return replace(
            self,
            steps=steps,
            context_dropout=self.context_dropout / 2,
            targets="soft",
            examples_per_row=8,
            teachers=0,
        )

    def share_at(self, step: int) -> float:
        """The share of the peak learning rates that a step has, counted from 0."""
        warm = max(1.0, self.warm_up * self.steps)
        if step < warm:
            return (step + 1) / (warm + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1.0, self.steps - warm)))

    def lr_at(self, step: int) -> float:
        """Muon's learning rate of a step, counted from 0."""
        return self.lr * self.share_at(step)

    def lrs_at(self, step: int) -> dict[str, float]:
        """The learning rates of Muon and of AdamW."""
        share = self.share_at(step)
        return {"lr": self.lr * share, "lr_adamw": self.lr_adamw * share}

    def lr_milestone(self) -> tuple[float, str]:
        """The step at which the learning rates reach their peak."""
        return self.warm_up * self.steps, f"lr up to {self.lr:g}, then a cosine to 0"
