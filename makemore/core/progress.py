"""Progress bars on stderr."""

from __future__ import annotations

import os
from typing import Any

from tqdm import tqdm

from makemore.core.text import show_controls

DELAY = 0.3
"""Seconds before a bar is shown. Up to five steps with a bar follow one another before training starts."""


def progress_bar(total: int | None, unit: str, doing: str) -> tqdm[Any]:
    """A progress bar, shown on a terminal. If there are many processes, only the first shows it."""
    hidden = None if os.environ.get("RANK", "0") == "0" else True  # None: hidden unless it is a terminal
    return tqdm(
        total=total,
        unit=unit,
        unit_scale=True,
        unit_divisor=1024 if unit == "B" else 1000,
        desc=show_controls(doing),
        delay=DELAY,
        disable=hidden,
        leave=False,
    )
