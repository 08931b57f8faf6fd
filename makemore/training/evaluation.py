"""The losses of the splits at one step of a training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Evaluation:
    """Mean losses of the splits after ``step`` steps, in nats per symbol; None where not evaluated."""

    step: int
    train: float | None = None
    val: float | None = None
    test: float | None = None
    unseen_val: float | None = None
    unseen_test: float | None = None
