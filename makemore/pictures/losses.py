"""The picture of a run's losses: the lecture's curve (cell 11) with val losses and the learning rate.

The lecture plots log10 of the loss, as ``plot_losses`` does. Here the axis is logarithmic and shows the loss.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.ticker import AutoLocator, NullFormatter
from torch import Tensor

from makemore.core.figure import Figure
from makemore.pictures.figures import drawable, figure_of
from makemore.pictures.palette import ACCENT, GRAY, PRIMARY
from makemore.training.evaluation import Evaluation
from makemore.training.recipe import Recipe

LECTURE_WINDOW = 1000
"""Steps that are averaged for one point of the lecture's curve."""

MIN_POINTS = 50
"""The smallest number of points of a curve of averages: a run with fewer has a shorter window."""

WIDE = 30
"""The ratio of the largest to the smallest loss from which the ticks are powers of ten."""

MAX_TITLE = 80
"""The largest number of characters of a title."""


def window_size(steps: int) -> int:
    """The number of steps to average: 1,000 as in the lecture, fewer for a short run.

    >>> window_size(200_000), window_size(20_000), window_size(50)
    (1000, 100, 1)
    """
    return next((window for window in (LECTURE_WINDOW, 100, 10) if steps >= MIN_POINTS * window), 1)


def draw_losses(
    losses: Tensor, evaluations: Sequence[Evaluation] = (), recipe: Recipe | None = None, title: str = ""
) -> Figure:
    """Draw the batch losses, (steps,) in nats, on a logarithmic axis.

    A point is the mean of the logarithms of 1,000 losses or fewer, as in the lecture. Also drawn are the val
    losses of the evaluations, and the step at which the learning rate of the recipe changes. Returns the
    figure without showing it.
    """
    figure = figure_of(8, 4.5)
    axes = figure.add_subplot()
    window = window_size(len(losses))
    whole = len(losses) // window * window
    points = losses[:whole].double().log().view(-1, window).mean(1).exp()  # (steps,) -> (steps // window,)
    middles = [(i + 0.5) * window for i in range(len(points))]
    label = f"batch loss, mean of {window:,} steps" if window > 1 else "batch loss of every step"
    if window != LECTURE_WINDOW:
        label += f" (lecture: mean of {LECTURE_WINDOW:,})"
    axes.plot(middles, points.tolist(), color=PRIMARY, linewidth=1.2, label=label)
    val = [(e.step, e.val) for e in evaluations if e.val]
    if val:
        axes.plot(
            *zip(*val, strict=True),
            "o",
            color=ACCENT,
            markersize=4,
            label=f"val loss, {val[-1][1]:.4f} at the end",
        )
    if recipe is not None:
        step, text = recipe.lr_milestone()
        axes.axvline(step, color=GRAY, linestyle="--", linewidth=1)
        bottom = axes.get_xaxis_transform()
        axes.text(step, 0.02, f"  {text}", transform=bottom, va="bottom", color=GRAY, clip_on=True)
    axes.set(xlabel="step", ylabel="loss (nats per symbol)", yscale="log")
    low, high = axes.get_ylim()
    if high < WIDE * low:  # the powers of ten alone would give one label or none
        axes.yaxis.set_major_locator(AutoLocator())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    if len(title) > MAX_TITLE:
        half = MAX_TITLE // 2
        title = f"{title[: half - 1]}…{title[-half:]}"
    axes.set_title(drawable(title), parse_math=False)
    axes.locator_params(axis="x", integer=True)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right")
    return figure
