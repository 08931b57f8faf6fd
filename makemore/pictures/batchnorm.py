"""The picture of BatchNorm: its running statistics, and the statistics of some contexts by position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from torch import Tensor

from makemore.core.errors import UsageError
from makemore.core.figure import Figure
from makemore.core.layer import Layer
from makemore.pictures.figures import WIDTH, PlainLogFormatter, figure_of, observe, row_label
from makemore.pictures.palette import ACCENT, AMOUNTS, PRIMARY, REFERENCE

ROW_HEIGHT = 1.75
"""The height of a layer's row in inches."""

MAX_POSITIONS = 8
"""The largest number of positions whose statistics are drawn: if there are more, evenly spaced ones."""

POSITION_STYLES = ("-", "--", ":", "-.")
"""How the running statistics of several positions are told apart."""

TENSORS = {"gamma", "beta", "running_mean", "running_var"}
"""The tensors of a layer that can be drawn."""

NOTE = (
    "One black line is correct: a channel has one running mean for all positions. With the lecture's"
    " bug there is one for each position. The thin lines of the contexts should scatter around the black"
    " line."
)


def draw_batchnorm(network: Layer, X: Tensor) -> Figure:
    """Draw the mean, standard deviation, gain and bias of every channel of every BatchNorm.

    Black lines are the running statistics, with the channels in the order of their running mean. Thin lines
    are the statistics of contexts X, (B, block_size), at each position in evaluation. Every layer with the
    tensors of a BatchNorm1d is drawn; its running statistics may be (dim,) or (positions, dim).

    What to look for: the black line in the middle of the thin ones, otherwise training and evaluation differ.
    With the lecture's bug there is a black line for each position; those of the oldest positions, which are
    padding for most words, vary least. Returns the figure without showing it. Raises UsageError if the
    network has no BatchNorm.
    """
    observed = [o for o in observe(network, X) if {*o.layer.PARAMETERS, *o.layer.BUFFERS} >= TENSORS]
    if not observed:
        raise UsageError("the network has no BatchNorm to draw")
    title = f"BatchNorm: running statistics, and statistics of {len(X):,} contexts"
    figure = figure_of(WIDTH, ROW_HEIGHT * len(observed) + 1.9, title, NOTE)
    rows = figure.subplots(len(observed), 3, squeeze=False, sharex="row")
    for axes, heading in zip(rows[0], ("mean", "standard deviation", "gain and bias"), strict=True):
        axes.set_title(heading, fontsize=10)
    for panels, (name, layer, out) in zip(rows, observed, strict=True):
        norm: Any = layer
        gamma, beta = norm.gamma.double(), norm.beta.double()
        mean, var = norm.running_mean.double(), norm.running_var.double()
        # The input of the layer, computed back from its output in evaluation; nan where the gain is 0.
        normalized = (out.double() - beta) / torch.where(gamma == 0, torch.nan, gamma)
        x = normalized * torch.sqrt(var + norm.eps) + mean
        x = x.unsqueeze(1) if x.ndim == 2 else x  # (B, T, C)
        mean, var = mean.view(-1, len(gamma)), var.view(-1, len(gamma))  # (positions, C)
        order = mean.mean(0).argsort()
        _draw_statistic(panels[0], mean[:, order], x.mean(0)[:, order])
        _draw_statistic(panels[1], var[:, order].sqrt(), x.std(0, correction=0)[:, order])
        panels[1].set_yscale("log")
        panels[1].yaxis.set_major_formatter(PlainLogFormatter())
        panels[1].yaxis.set_minor_formatter(PlainLogFormatter())
        panels[2].plot(gamma[order].tolist(), color=PRIMARY, linewidth=1.2)
        panels[2].plot(beta[order].tolist(), color=ACCENT, linewidth=1.2)
        row_label(panels[0], f"{name}\n({', '.join(f'{n:,}' for n in out.shape[1:])})")
        for axes in panels:
            axes.tick_params(which="both", labelsize=7)
            axes.grid(alpha=0.3)
    for axes in rows[-1]:
        axes.set_xlabel("channel, by running mean", fontsize=9)
    _add_legend(
        rows[-1, 0],
        {
            "running statistics": REFERENCE,
            "contexts, oldest position": position_color(0, MAX_POSITIONS),
            "contexts, newest position": position_color(MAX_POSITIONS - 1, MAX_POSITIONS),
        },
    )
    _add_legend(rows[-1, 2], {"gain (gamma)": PRIMARY, "bias (beta)": ACCENT})
    return figure


def position_color(t: int, T: int) -> Any:
    """The color of position t of T, from dark for the oldest to light for the newest."""
    return colormaps[AMOUNTS](t / T)  # the lightest color of the map would be invisible on white


def _add_legend(axes: Axes, colors: Mapping[str, Any]) -> None:
    """Add a legend below the last row: within a panel it would hide lines."""
    handles = [Line2D([], [], color=color, label=label) for label, color in colors.items()]
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.28), frameon=False, fontsize=8)


def _draw_statistic(axes: Axes, running: Tensor, contexts: Tensor) -> None:
    """Draw a statistic by channel: the layer's, (positions, C), and that of the contexts, (T, C)."""
    T = len(contexts)
    for t in torch.linspace(0, T - 1, min(T, MAX_POSITIONS)).round().int().tolist():
        color = position_color(t, T)
        axes.plot(contexts[t].tolist(), color=color, linewidth=0.6, gid=f"position {t}")
    for i, line in enumerate(running):
        style = POSITION_STYLES[i % len(POSITION_STYLES)]
        axes.plot(line.tolist(), style, color=REFERENCE, linewidth=1.4, gid=f"running {i}")
