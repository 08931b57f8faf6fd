"""What a training run is to do; the defaults are the lecture's. Imports no torch (beyond the lecture)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, get_type_hints

from makemore.errors import UsageError

MAY_CHANGE = ("data", "steps", "device", "threads", "log_every", "eval_every", "save_every", "samples")
"""Settings that a resumed run may change; the words themselves may not, wherever they lie now."""


RANGES: dict[str, tuple[float, float]] = {
    "block_size": (1, 1024),
    "n_embd": (1, 4096),
    "n_hidden": (1, 16_384),
    "steps": (1, 10**9),
    "batch_size": (2, 2**20),
    "lr": (0, 1e30),
    "lr_final": (0, 1e30),
    "lr_drop": (0, 10**9),
    "seed": (0, 2**63 - 1),
    "threads": (1, 1024),
    "log_every": (1, 10**9),
    "eval_every": (1, 10**9),
    "save_every": (0, 1e9),
    "samples": (0, 10**6),
}
"""Lowest and highest value of each number."""


@dataclass(frozen=True)
class Settings:
    """The settings of a run, named as the flags of ``makemore-train``.

    None stands for a default that follows from the others; ``resolved`` fills it in. Raises UsageError on a
    value of another type or out of range.
    """

    data: str | None = None
    network: str = "wavenet"
    block_size: int | None = None
    n_embd: int | None = None
    n_hidden: int | None = None
    steps: int = 200_000
    batch_size: int = 32
    lr: float = 0.1
    lr_final: float | None = None
    lr_drop: int | None = None
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
            if hint is float or hint == float | None:
                hint |= int
            low, high = RANGES.get(name, (0, 0))
            number = isinstance(value, int | float)
            if not isinstance(value, hint) or (number and not low <= value <= high):
                raise UsageError(f"{flag(name)} must be from {low:g} to {high:g}, got {value!r}")

    def resolved(self) -> Settings:
        """The same with every default of the schedule and the log filled in."""
        log_every = self.log_every or max(1, min(10_000, self.steps // 20))
        return replace(
            self,
            lr_final=self.lr / 10 if self.lr_final is None else self.lr_final,
            lr_drop=self.steps * 3 // 4 if self.lr_drop is None else self.lr_drop,
            log_every=log_every,
            eval_every=self.eval_every or log_every,
        )

    def changed(self, given: Mapping[str, Any]) -> Settings:
        """The settings of a run that is resumed with these given anew.

        Raises UsageError on one that differs and may not.
        """
        own = asdict(self)
        for name, value in given.items():
            if name not in MAY_CHANGE and value != own[name]:
                allowed = ", ".join(flag(other) for other in MAY_CHANGE)
                raise UsageError(
                    f"{flag(name)} was {own[name]} in the run to resume and cannot become {value};"
                    f" what may change: {allowed}"
                )
        return replace(self, **given)


NAMES = tuple(field.name for field in fields(Settings))


def flag(name: str) -> str:
    """The command-line flag of a setting.

    >>> flag("n_embd")
    '--n-embd'
    """
    return "--" + name.replace("_", "-")
