"""Progress bars on stderr, for whoever waits (beyond the lecture)."""

from __future__ import annotations

import os
from typing import Any

from tqdm import tqdm

DELAY = 0.3
"""Seconds that something takes before its bar is shown; before the first step five such things follow."""


def bar(total: int | None, unit: str, doing: str) -> tqdm[Any]:
    """A bar for a person at a terminal; of many processes the first one has it."""
    silent = None if os.environ.get("RANK", "0") == "0" else True
    return tqdm(
        total=total,
        unit=unit,
        unit_scale=True,
        unit_divisor=1024 if unit == "B" else 1000,
        desc=doing,
        delay=DELAY,
        disable=silent,
        leave=False,
    )
