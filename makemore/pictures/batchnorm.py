"""The picture of what BatchNorm keeps: running statistics, and those of some contexts by position."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from makemore.convolution.drawing import GREY, OUTPUT, SEEN, WIDTH
from makemore.errors import UsageError
from makemore.layers import Sequential
from makemore.pictures.style import AMOUNTS, PlainLog, figure_of, observe, row_label

ROW = 1.75
"""Inches of height for a layer."""

MOST_POSITIONS = 8
"""Positions whose statistics are drawn, the newest and others at even distances."""

NOTE = (
    "One black line is right: one value a channel for all positions. The lecture's bug keeps one for each"
    " position. Thin lines, from the oldest position (dark) to the newest (light), should scatter about it."
)


def draw_batchnorm(network: Sequential, X: Tensor) -> Figure:
    """Mean, standard deviation, gain and bias of every channel of every BatchNorm.

    The running statistics in black, channels in the order of their running mean; thin, those of the contexts
    X, (B, block_size), by position, in evaluation. Any layer with ``running_mean`` and ``running_var`` is
    drawn, (dim,) or (positions, dim).

    What to look for: black amid the thin lines (else training and evaluation differ); with the lecture's bug
    there is a black line for each position, and the oldest ones, padding for most words, deviate
    least. Raises UsageError on a network without such a layer. The figure is returned, not shown.
    """
    observed = [o for o in observe(network, X) if {"running_mean", "running_var"} <= {*o.layer.BUFFERS}]
    if not observed:
        raise UsageError("the network has no BatchNorm to draw")
    title = f"BatchNorm's statistics, and those of {len(X):,} contexts"
    figure = figure_of(WIDTH, ROW * len(observed) + 1.3, title, NOTE)
    rows = figure.subplots(len(observed), 3, squeeze=False, sharex="row")
    for axes, heading in zip(rows[0], ("mean", "standard deviation", "gain and bias"), strict=True):
        axes.set_title(heading, fontsize=10)
    for panels, (name, layer, out) in zip(rows, observed, strict=True):
        norm: Any = layer
        gamma, beta = norm.gamma.detach().double(), norm.beta.detach().double()
        mean, var = norm.running_mean.detach().double(), norm.running_var.detach().double()
        # What the layer was given, from what it made of it in evaluation; nan where the gain is 0.
        xhat = (out.detach().double() - beta) / torch.where(gamma == 0, torch.nan, gamma)
        x = xhat * torch.sqrt(var + norm.eps) + mean
        x = x.unsqueeze(1) if x.ndim == 2 else x  # (B, T, C)
        mean, var = mean.view(-1, len(gamma)), var.view(-1, len(gamma))  # (positions, C)
        order = mean.mean(0).argsort()
        _lines(panels[0], mean[:, order], x.mean(0)[:, order])
        _lines(panels[1], var[:, order].sqrt(), x.std(0, correction=0)[:, order])
        panels[1].set_yscale("log")
        panels[1].yaxis.set_major_formatter(PlainLog())
        panels[1].yaxis.set_minor_formatter(PlainLog())
        panels[2].plot(gamma[order].tolist(), color=SEEN, linewidth=1.2, label="gain (gamma)")
        panels[2].plot(beta[order].tolist(), color=OUTPUT, linewidth=1.2, label="bias (beta)")
        row_label(panels[0], f"{name}\n({', '.join(f'{n:,}' for n in out.shape[1:])})")
        for axes in panels:
            axes.tick_params(which="both", labelsize=7)
            axes.grid(alpha=0.3)
    for axes in rows[-1]:
        axes.set_xlabel("channel, by running mean", fontsize=9)
    rows[0, 0].legend(fontsize=7)
    rows[0, 2].legend(fontsize=7)
    return figure


def _lines(axes: Axes, running: Tensor, contexts: Tensor) -> None:
    """A statistic over the channels: (positions, C) of the layer, (T, C) of the contexts."""
    T = len(contexts)
    for t in torch.linspace(0, T - 1, min(T, MOST_POSITIONS)).round().int().tolist():
        color = colormaps[AMOUNTS](t / T)
        axes.plot(contexts[t].tolist(), color=color, linewidth=0.6, gid=f"position {t}")
    label = "running, all positions" if len(running) == 1 else "running, by position"
    for i, line in enumerate(running):
        style = "-" if len(running) == 1 else ("-", "--", ":", "-.")[i % 4]
        axes.plot(line.tolist(), style, color="black", linewidth=1.4, label=label, gid=f"running {i}")
        label = ""
    axes.plot([], [], color=GREY, linewidth=0.6, label="these contexts, by position")
