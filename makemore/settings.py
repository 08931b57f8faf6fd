"""What a training run is to do. Imports no torch (beyond the lecture)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, get_type_hints

from makemore.errors import UsageError

RANGES: dict[str, tuple[float, float]] = {
    "block_size": (1, 1024),
    "n_embd": (1, 4096),
    "n_hidden": (1, 16_384),
    "steps": (1, 10**9),
    "batch_size": (2, 2**20),
    "lr": (0, 1e30),
    "lr_final": (0, 1e30),
    "lr_drop": (0, 10**9),
    "lr_other": (0, 1e30),
    "weight_decay": (0, 1e6),
    "warm_up": (0, 1),
    "drop": (0, 1),
    "shared": (1, 10**6),
    "teachers": (0, 100),
    "patience": (1, 10**9),
    "seed": (0, 2**63 - 1),
    "threads": (1, 1024),
    "log_every": (1, 10**9),
    "eval_every": (1, 10**9),
    "save_every": (0, 1e9),
    "samples": (0, 10**6),
}
"""Lowest and highest value of each number."""

CHOICES = {
    "recipe": ("modern", "lecture"),
    "engine": ("backprop", "autograd"),
    "targets": ("soft", "hard"),
}

LECTURE_ONLY = ("lr_final", "lr_drop")
MODERN_ONLY = ("lr_other", "weight_decay", "warm_up", "drop", "targets", "shared", "teachers", "patience")

MAY_CHANGE = ("data", "device", "threads", "log_every", "save_every", "samples")
"""Settings that a resumed run may change; the words themselves may not, wherever they lie now."""

LECTURE_MAY_CHANGE = (*MAY_CHANGE, "steps", "eval_every")
"""The lecture's learning rate does not depend on the number of steps, nor its course on evaluations."""


@dataclass(frozen=True)
class Settings:
    """The settings of a run, named as the flags of ``makemore-train``.

    None stands for a default that follows from the others, or from the words. Raises UsageError on a
    value of another type or out of range, and on one that the other recipe would need.
    """

    recipe: str = "modern"
    data: str | None = None
    network: str = "wavenet"
    block_size: int | None = None
    n_embd: int | None = None
    n_hidden: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    lr_final: float | None = None
    lr_drop: int | None = None
    lr_other: float | None = None
    weight_decay: float | None = None
    warm_up: float | None = None
    drop: float | None = None
    targets: str | None = None
    shared: int | None = None
    teachers: int | None = None
    patience: int | None = None
    engine: str = "backprop"
    seed: int = 42
    device: str = "auto"
    threads: int = 1
    log_every: int | None = None
    eval_every: int | None = None
    save_every: float = 10.0
    samples: int = 20

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(Settings).items():
            value = getattr(self, name)
            if name in RANGES and value is not None:
                low, high = RANGES[name]
                whole = hint in (int, int | None)
                if type(value) not in ((int,) if whole else (int, float)) or not low <= value <= high:
                    raise UsageError(f"{flag(name)} must be from {low:g} to {high:g}, got {value!r}")
            elif not isinstance(value, hint):
                raise UsageError(f"{flag(name)} cannot be {value!r}")
            if name in CHOICES and value not in (None, *CHOICES[name]):
                raise UsageError(f"{flag(name)} must be one of {', '.join(CHOICES[name])}, got {value!r}")
        for name in MODERN_ONLY if self.recipe == "lecture" else LECTURE_ONLY:
            if getattr(self, name) is not None:
                raise UsageError(f"the {self.recipe} recipe has no {flag(name)}")
        if self.teachers and self.targets == "hard":
            raise UsageError("--teachers need soft targets: leave out --targets hard")

    @property
    def missing(self) -> list[str]:
        """The settings that have no value yet, though their recipe needs one."""
        optional = ("data", *(MODERN_ONLY if self.recipe == "lecture" else LECTURE_ONLY))
        return [name for name, value in asdict(self).items() if value is None and name not in optional]

    def changed(self, given: Mapping[str, Any]) -> Settings:
        """The settings of a run that is resumed with these given anew.

        Raises UsageError on one that differs and may not.
        """
        own = asdict(self)
        allowed = LECTURE_MAY_CHANGE if self.recipe == "lecture" else MAY_CHANGE
        for name, value in given.items():
            if name not in allowed and value != own[name]:
                raise UsageError(
                    f"{flag(name)} was {own[name]} in the run to resume and cannot become {value};"
                    f" what may change: {', '.join(flag(other) for other in allowed)}"
                )
        return replace(self, **given)


NAMES = tuple(field.name for field in fields(Settings))


def flag(name: str) -> str:
    """The command-line flag of a setting.

    >>> flag("n_embd")
    '--n-embd'
    """
    return "--" + name.replace("_", "-")
