"""Recipes: the settings by which a network is trained. Does not import torch.

To add a recipe, derive a dataclass from ``Recipe``, write a trainer, and add one line to ``run/catalog.py``.
The flags, range errors, ``--help``, printed header and rules of a resumed run follow from the settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from makemore.core.settings import FIRST, Knobs, knob


@dataclass(frozen=True)
class Recipe(Knobs):
    """How a network is trained: ``steps`` on batches of ``batch_size`` examples, at the learning rate ``lr``.

    Every recipe declares these three again, with its own defaults and ranges.
    """

    shows_val: ClassVar[bool] = True  # whether log lines show the val loss
    can_extend: ClassVar[bool] = False  # whether a finished run can be resumed with more steps
    depends_on_evaluations: ClassVar[bool] = True  # whether the network depends on when val is evaluated
    trainer: ClassVar[str] = "Trainer"  # the name of the class that trains by it, or of a base class of that

    steps: int
    batch_size: int
    lr: float

    @classmethod
    def for_examples(cls, examples: int, width: float = 1.0, **given: Any) -> Self:
        """The recipe for a list with that many training examples, with the settings that are ``given``.

        ``width`` is the width of the hidden layers as a multiple of the lecture's.
        """
        return cls(**given)

    @classmethod
    def default_width_ratio(cls, examples: int, steps: int | None) -> float:
        """The default width of the hidden layers as a multiple of the plan's."""
        return 1

    def with_head_start(self, given: Mapping[str, Any]) -> Self:
        """The recipe for a network that begins with trained values; the settings ``given`` stay."""
        return self

    @classmethod
    def default_ensemble(cls, examples: int) -> int:
        """The default number of networks that are averaged."""
        return 1

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.lr

    def lrs_at(self, step: int) -> dict[str, float]:
        """All learning rates of a step, by the names of their settings."""
        return {"lr": self.lr_at(step)}

    def lr_milestone(self) -> tuple[float, str]:
        """The step at which the learning rate changes, and a text that says how, for the picture."""
        return 0, f"lr {self.lr:g}"

    def describe(self) -> str:
        """All settings except steps and batch size, for the header of a run."""
        values = {name.replace("_", " "): value for name, value in vars(self).items() if value is not None}
        del values["steps"], values["batch size"]
        texts = {n: v if isinstance(v, str | bool) else format(v, ",") for n, v in values.items()}
        return ", ".join(f"{name} {text}" for name, text in texts.items())


@dataclass(frozen=True)
class LectureRecipe(Recipe):
    """Plain SGD at the learning rate ``lr``, and ``lr_final`` from step ``lr_drop`` on (lecture cell 10).

    By default ``lr_final`` is a tenth of ``lr``, and ``lr_drop`` 3/4 of the steps.
    """

    shows_val = False
    can_extend = True
    depends_on_evaluations = False

    steps: int = knob(200_000, "training steps", 1, 10**9, may_change=True, group=FIRST)
    batch_size: int = knob(32, "examples per batch", 2, 2**20)
    lr: float = knob(0.1, "learning rate", 0, 1e30)
    lr_final: float = knob(None, "learning rate from step --lr-drop on", 0, 1e30, default_text="lr / 10")
    lr_drop: int = knob(
        None,
        "step at which the learning rate drops to --lr-final",
        0,
        10**9,
        default_text="3/4 of the steps",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        defaults = {"lr_final": self.lr / 10, "lr_drop": self.steps * 3 // 4}
        for name, default in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.lr if step < self.lr_drop else self.lr_final

    def lr_milestone(self) -> tuple[float, str]:
        """The step at which the learning rate drops."""
        return self.lr_drop, f"lr {self.lr:g} to {self.lr_final:g}"
