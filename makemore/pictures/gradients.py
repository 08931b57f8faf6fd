"""The picture of recorded gradients and updates over the steps (lecture 3's update-to-data ratio)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from makemore.core.errors import UsageError
from makemore.core.figure import Figure
from makemore.core.layer import Layer, require_network
from makemore.pictures.figures import WIDTH, figure_of, named_layers
from makemore.pictures.palette import COLORS, FAINT, GRAY, REFERENCE
from makemore.pictures.recorder import Record

USUAL_RATIO = 1e-3
"""The lecturer's rule of thumb for SGD: the update is a thousandth of the value."""

WEIGHT_STYLES = ("-", "--", ":")
"""How more weights than there are colors are told apart."""

NOTE = (
    "Look for lines at about the same height: a layer far below the others hardly learns. With plain"
    " SGD a ratio of 0.001 is usual (dashed line); with Muon and AdamW it begins well above and ends"
    " below."
)


def draw_gradients(records: Sequence[Record], network: Layer) -> Figure:
    """Draw the gradients of all parameters, and the updates divided by the values, over the steps.

    Each is a root mean square, on a log scale. Weights, the parameters with two dimensions, have a color
    each; the other parameters are gray.

    What to look for: the ratios of all weights should have about the same size. With SGD 0.001 is usual: far
    less is slow, far more is unstable. Returns the figure without showing it. Raises UsageError if there are
    no records, or if they are from another network.
    """
    require_network(network)
    by_name: dict[str, list[Record]] = {name: [] for name, _ in network.named_parameters()}
    for record in records:
        if record.parameter not in by_name:
            raise UsageError(
                f"the recorded gradients are from another network: this one has no {record.parameter}"
            )
        by_name[record.parameter].append(record)
    if not records:
        raise UsageError("no gradients were recorded")
    layers = {name: type(layer).__name__ for name, layer in named_layers(network)}
    weights = [name for name, p in network.named_parameters() if p.ndim == 2]
    height = max(4.9, 0.18 * len(weights) + 1)  # the legend has a line for each weight
    figure = figure_of(WIDTH, height, "Gradients and updates during training", NOTE)
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        axes.plot([], [], color=FAINT, linewidth=0.8, label="other parameters")
        axes.set(xlabel="step", yscale="log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.locator_params(axis="x", integer=True)
        axes.tick_params(labelsize=8, labelcolor=GRAY)
        axes.grid(alpha=0.3)
    left.set(title="gradient", ylabel="root mean square")
    right.set(title="update / value", ylabel="ratio of root mean squares")
    for name in sorted(by_name, key=lambda name: name in weights):  # weights last, above the others
        steps = [record.step for record in by_name[name]]
        gradients = [positive_or_nan(record.gradient) for record in by_name[name]]
        ratios = [positive_or_nan(record.update / (record.value or math.inf)) for record in by_name[name]]
        for axes, values in ((left, gradients), (right, ratios)):
            (line,) = axes.plot(steps, values, color=FAINT, linewidth=0.8, gid=name)
            if name in weights:
                k, layer = weights.index(name), layers[name.rpartition(".")[0]]
                style = WEIGHT_STYLES[k // len(COLORS) % len(WEIGHT_STYLES)]
                line.set(color=COLORS[k % len(COLORS)], linestyle=style, linewidth=1.5, zorder=3)
                line.set(label=f"{name}, {layer}")
    right.axhline(USUAL_RATIO, color=REFERENCE, linestyle="--", linewidth=1)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def positive_or_nan(value: float) -> float:
    """The value, or nan if a log scale cannot show it."""
    return value if value > 0 else math.nan
