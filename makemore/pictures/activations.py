"""The picture of the outputs of each layer (lecture 3's histograms of tanh, for every layer)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from makemore.core.figure import Figure
from makemore.core.layer import Layer, declared
from makemore.pictures.figures import WIDTH, figure_of, observe, row_label
from makemore.pictures.palette import ACCENT, FAINT, PRIMARY

BINS = 80
"""Bars in a histogram."""

MARGIN = 0.015
"""How close to a bound an output is saturated, as a share of the output range: beyond 0.97 for tanh."""

ROW_HEIGHT = 0.62
"""The height of a layer's row in inches."""

NOTE = (
    "Look for standard deviations that stay about the same from layer to layer, and for few saturated"
    " outputs. A saturated unit hardly learns; a unit that is saturated for every context is dead."
)


def draw_activations(network: Layer, X: Tensor) -> Figure:
    """Draw a histogram of every layer's outputs for contexts X, (B, block_size), in evaluation.

    Each has its mean and standard deviation beside it. A layer that declares an ``output_range``, such as
    Tanh, also has the share of outputs that are saturated, and of units (channels) that are saturated for
    every context and position.

    What to look for: the standard deviations should neither shrink nor grow from layer to layer, and few
    outputs of a Tanh should be saturated (5 % are no problem), since they pass on almost no gradient. Returns
    the figure without showing it.
    """
    observed = observe(network, X)
    height = ROW_HEIGHT * len(observed) + 1.2
    figure = figure_of(WIDTH, height, f"Outputs of each layer for {len(X):,} contexts", NOTE)
    panels = figure.subplots(len(observed), 1, squeeze=False)[:, 0]
    for axes, (name, layer, out) in zip(panels, observed, strict=True):
        values = out.flatten().double()
        bounds = [bound for bound in declared(layer, "output_range") or () if math.isfinite(bound)]
        low = min([values.min().item(), *bounds])
        high = max([values.max().item(), *bounds])
        if low == high:
            low, high = low - 0.5, high + 0.5
        counts = torch.histc(values, BINS, low, high) / len(values) * 100
        edges = torch.linspace(low, high, BINS + 1, dtype=torch.float64)
        axes.stairs(counts.tolist(), edges.tolist(), fill=True, color=PRIMARY, gid=f"histogram {name}")
        text = f"mean {values.mean():.2f}\nstd {values.std(correction=0):.2f}"
        shares = saturation(layer, out)
        if shares is not None:
            text += f"\nsaturated {shares[0]:.1%}\ndead units {shares[1]:.1%}"
        for bound in bounds:
            axes.axvline(bound, color=ACCENT, linewidth=2)
        axes.text(1.01, 0.5, text, transform=axes.transAxes, va="center", fontsize=8)
        row_label(axes, f"{name}\n({out.shape[-1]:,})")
        axes.set(xlim=(low, high), yticks=[])
        axes.tick_params(labelsize=7, pad=1, length=2)
        axes.spines[["left", "right", "top"]].set_visible(False)
        axes.axvline(0, color=FAINT, linewidth=0.8, zorder=0)
    panels[-1].set_xlabel("output, on a separate scale in each row; height: share of the outputs", fontsize=9)
    return figure


def saturation(layer: Layer, out: Tensor) -> tuple[float, float] | None:
    """The share of saturated outputs, and of units that are saturated for every context and position.

    None for a layer that declares no ``output_range``.
    """
    output_range = declared(layer, "output_range")
    if output_range is None:
        return None
    low, high = output_range
    margin = MARGIN * (high - low) if math.isfinite(high - low) else 0.0
    saturated = (out <= low + margin) | (out >= high - margin)
    dead = saturated.flatten(0, -2).all(0)
    return saturated.double().mean().item(), dead.double().mean().item()
