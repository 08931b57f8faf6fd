"""The picture of recorded gradients and updates over the steps (lecture 3's update-to-data ratio)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from makemore.convolution.drawing import FAINT, GREY, WIDTH
from makemore.errors import UsageError
from makemore.layers import Sequential
from makemore.pictures.recorder import Record
from makemore.pictures.style import COLORS, figure_of, inside_out

USUAL_RATIO = 1e-3
"""The lecturer's rule of thumb for SGD: an update is a thousandth of the value."""

NOTE = (
    "Look for lines of all layers at about one height: a layer far below the others hardly learns. "
    "With plain SGD a ratio of 0.001 is usual (dashed); Muon and AdamW begin well above it and end below."
)


def draw_gradients(records: Sequence[Record], network: Sequential) -> Figure:
    """Gradients, and updates by values, of every parameter over the steps, on log scales.

    All are root mean squares. Weights, that is parameters of two dimensions, have a colour each, the others
    are grey.

    What to look for: the weights of all layers have ratios of one size. With SGD 0.001 is usual: much less
    is slow, much more unstable. The figure is returned, not shown. Raises UsageError on no records, and on
    those of another network.
    """
    by_name: dict[str, list[Record]] = {name: [] for name, _ in network.named_parameters()}
    for record in records:
        if record.parameter not in by_name:
            raise UsageError(f"the recorded gradients are another network's: this has no {record.parameter}")
        by_name[record.parameter].append(record)
    if not records:
        raise UsageError("no gradients were recorded")
    kinds = {name: type(layer).__name__ for name, layer in inside_out(network)}
    weights = [name for name, p in network.named_parameters() if p.ndim == 2]
    height = max(4.9, 0.18 * len(weights) + 1)  # the legend has a line for each
    figure = figure_of(WIDTH, height, "Gradients and updates", NOTE)
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        axes.plot([], [], color=FAINT, linewidth=0.8, label="others")
        axes.set(xlabel="step", yscale="log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.locator_params(axis="x", integer=True)
        axes.tick_params(labelsize=8, labelcolor=GREY)
        axes.grid(alpha=0.3)
    left.set(title="gradient", ylabel="root mean square")
    right.set(title="update / value", ylabel="ratio of root mean squares")
    for name in sorted(by_name, key=lambda name: name in weights):
        steps = [record.step for record in by_name[name]]
        gradients = [above_zero(record.gradient) for record in by_name[name]]
        ratios = [above_zero(record.update / (record.value or math.inf)) for record in by_name[name]]
        for axes, values in ((left, gradients), (right, ratios)):
            (line,) = axes.plot(steps, values, color=FAINT, linewidth=0.8, gid=name)
            if name in weights:
                k, layer = weights.index(name), name.rpartition(".")[0]
                line.set(color=COLORS[k % len(COLORS)], linestyle=("-", "--", ":")[k // len(COLORS) % 3])
                line.set(linewidth=1.5, label=f"{name}, {kinds[layer]}", zorder=3)
    right.axhline(USUAL_RATIO, color="black", linestyle="--", linewidth=1)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def above_zero(value: float) -> float:
    """The value, or nan where a log scale has no place for it."""
    return value if value > 0 else math.nan
