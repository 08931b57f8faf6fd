"""The picture of what comes out of each layer (lecture 3's histograms of tanh, for every layer there is)."""

from __future__ import annotations

import math

import torch
from matplotlib.figure import Figure
from torch import Tensor

from makemore.convolution.drawing import FAINT, OUTPUT, SEEN, WIDTH
from makemore.layers import Layer, Sequential, declared
from makemore.pictures.style import figure_of, observe, row_label

BINS = 80

NEAR = 0.015
"""What counts as next to a bound, as a share of the way between the bounds: beyond 0.97 for tanh."""

ROW = 0.62
"""Inches of height for a layer."""

NOTE = (
    "Look for values that neither die out nor pile up at the bounds from layer to layer. "
    "A saturated unit hardly learns; one that is saturated for every context is dead."
)


def draw_activations(network: Sequential, X: Tensor) -> Figure:
    """A histogram of every layer's outputs on the contexts X, (B, block_size), in evaluation.

    Beside each its mean and standard deviation; for a layer with ``bounds`` (tanh) the share of outputs
    next to them, and of channels that are there for every context and position.

    What to look for: the standard deviations should neither shrink nor grow from layer to layer, and few
    tanh should be saturated (5 % is nothing to worry about): these pass next to no gradient down. The figure
    is returned, not shown.
    """
    observed = observe(network, X)
    height = ROW * len(observed) + 1.2
    figure = figure_of(WIDTH, height, f"What comes out of each layer, on {len(X):,} contexts", NOTE)
    panels = figure.subplots(len(observed), 1, squeeze=False)[:, 0]
    for axes, (name, layer, out) in zip(panels, observed, strict=True):
        values = out.detach().flatten().double()
        low, high = (float(bound) for bound in values.aminmax())
        bounds = [bound for bound in declared(layer, "bounds") or () if math.isfinite(bound)]
        low, high = min([low, *bounds]), max([high, *bounds])
        if low == high:
            low, high = low - 0.5, high + 0.5
        counts = torch.histc(values, BINS, low, high) / len(values) * 100
        edges = torch.linspace(low, high, BINS + 1, dtype=torch.float64)
        axes.stairs(counts.tolist(), edges.tolist(), fill=True, color=SEEN, gid=f"histogram {name}")
        text = f"mean {values.mean():.2f}\nstd {values.std(correction=0):.2f}"
        near, dead = saturation(layer, out)
        if near is not None:
            text += f"\nsaturated {near:.1%}\ndead units {dead:.1%}"
        for bound in bounds:
            axes.axvline(bound, color=OUTPUT, linewidth=2)
        axes.text(1.01, 0.5, text, transform=axes.transAxes, va="center", fontsize=8)
        row_label(axes, f"{name}\n({out.shape[-1]:,})")
        axes.set(xlim=(low, high), yticks=[])
        axes.tick_params(labelsize=7, pad=1, length=2)
        axes.spines[["left", "right", "top"]].set_visible(False)
        axes.axvline(0, color=FAINT, linewidth=0.8, zorder=0)
    panels[-1].set_xlabel(
        "output (each row has a scale of its own); height: share of the outputs", fontsize=9
    )
    return figure


def saturation(layer: Layer, out: Tensor) -> tuple[float | None, float]:
    """The share of outputs next to a bound of the layer, and of channels that are so always.

    None for a layer that declares no bounds.
    """
    bounds = declared(layer, "bounds")
    if bounds is None:
        return None, 0.0
    low, high = bounds
    margin = NEAR * (high - low) if high - low < math.inf else 0.0
    near = (out <= low + margin) | (out >= high - margin)
    return near.double().mean().item(), near.flatten(0, -2).all(0).double().mean().item()
