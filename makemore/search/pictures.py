"""Optuna's pictures of a study."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import optuna
from matplotlib import pyplot, rc_context

PICTURES = (
    "optimization_history",
    "intermediate_values",
    "slice",
    "param_importances",
    "parallel_coordinate",
    "timeline",
)
"""The pictures of ``optuna.visualization``."""


def draw_study(study: optuna.Study, out_dir: Path) -> list[Path]:
    """Write Optuna's pictures, except those that need more trials; return their paths."""
    pyplot.switch_backend("Agg")
    written = []
    for name in PICTURES:
        # Optuna chooses a style for all pictures of the process.
        with suppress(RuntimeError, ValueError), rc_context():
            axes = getattr(optuna.visualization.matplotlib, f"plot_{name}")(study)
            panels = [*getattr(axes, "flat", [axes])]
            panels[0].figure.set_size_inches(max(10, 3 * len(panels)), 6)
            panels[0].figure.savefig(out_dir / f"{name}.png", dpi=110, bbox_inches="tight")
            pyplot.close(panels[0].figure)
            written.append(out_dir / f"{name}.png")
    return written
