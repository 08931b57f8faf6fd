"""Pictures of a training run (lecture cell 11); the drawings of ``convolution/`` use matplotlib too."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from torch import Tensor

from makemore.recipes import Recipe
from makemore.training import Evaluation

LECTURE_WINDOW = 1000
"""Steps that one point of the lecture's curve is the mean of."""

LONGEST_TITLE = 80
"""Characters of a title that fit above the curve."""


def window_size(steps: int) -> int:
    """How many steps to average over: 1,000 as in the lecture, fewer for a short run.

    >>> window_size(200_000), window_size(20_000), window_size(50)
    (1000, 100, 1)
    """
    return next((window for window in (1000, 100, 10) if steps >= 50 * window), 1)


def plot_losses(
    losses: Tensor, evaluations: Sequence[Evaluation] = (), recipe: Recipe | None = None, title: str = ""
) -> Figure:
    """The lecture's curve: log10 of the batch loss, mean over each 1,000 steps (fewer if it was short).

    ``losses`` is (steps,), in nats. Val losses are drawn where they were evaluated, and the step
    at which the learning rate turns is marked. The figure is returned, not shown.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    window = window_size(len(losses))
    points = losses[: len(losses) // window * window].double().log10().view(-1, window).mean(1)
    middle = [(i + 0.5) * window for i in range(len(points))]
    mean = f"mean of {window:,} steps" if window > 1 else "every step"
    if window != LECTURE_WINDOW:
        mean += " (short run; the lecture: 1,000)"
    axes.plot(middle, points.tolist(), linewidth=1.2, label=f"batch loss, {mean}")
    val = [(e.step, math.log10(e.val)) for e in evaluations if e.val]
    if val:
        label = f"val loss, {10 ** val[-1][1]:.4f} at the end"
        axes.plot(*zip(*val, strict=True), "o", markersize=4, label=label)
    if recipe is not None:
        step, text = recipe.turn()
        axes.axvline(step, color="grey", linestyle="--", linewidth=1)
        bottom = axes.get_xaxis_transform()
        axes.text(step, 0.02, f"  {text}", transform=bottom, va="bottom", color="grey", clip_on=True)
    axes.set(xlabel="step", ylabel="log10 of the loss (nats per symbol)")
    if len(title) > LONGEST_TITLE:
        half = LONGEST_TITLE // 2
        title = f"{title[: half - 1]}…{title[-half:]}"
    axes.set_title(drawable(title), parse_math=False)
    axes.locator_params(axis="x", integer=True)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right")
    return figure


def drawable(text: str, weight: str = "normal") -> str:
    """The text with a mark in place of every character that no font of that weight has a picture of.

    The fonts are those of matplotlib's setting ``font.family``.

    >>> drawable("emma 日本語")
    'emma ���'
    """
    families, mark = FontProperties().get_family(), "\N{REPLACEMENT CHARACTER}"
    fonts = [get_font(findfont(FontProperties(family=family, weight=weight))) for family in families]
    known = {ch for ch in set(text) if ch.isprintable() and any(f.get_char_index(ord(ch)) for f in fonts)}
    return "".join(ch if ch in known else mark for ch in text)


def save_figure(figure: Figure, file: str | Path | BinaryIO, format: str = "png") -> None:
    """Write a figure as PNG, or as "svg" or "pdf"; it needs no display."""
    figure.savefig(file, format=format, dpi=150)
