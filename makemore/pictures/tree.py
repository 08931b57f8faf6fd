"""The picture of one context on its way through the network: every node with its channels."""

from __future__ import annotations

import math
from itertools import groupby

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from makemore.convolution.drawing import GREY, OUTPUT, SEEN, WIDTH
from makemore.ensemble import members_of
from makemore.layers import Sequential
from makemore.networks import block_size
from makemore.pictures.style import (
    SIGNED,
    Observed,
    figure_of,
    observe,
    plain_ticks,
    quoted,
    row_label,
    shown,
    symbols_of,
)
from makemore.words import STOP, Vocabulary

ROW = 0.95
"""Inches of height for a row of nodes."""

MOST_LABELS = 64
"""Characters of the context that are written below it."""

MOST_BARS = 40
"""Symbols whose probabilities are drawn; of a larger vocabulary the likeliest ones."""

NOTE = (
    "Each box is a node, above the characters it sees; in it a small square for each channel. "
    "Look at how boxes of characters differ, and how each row mixes those below into fewer."
)


def draw_tree(network: Sequential, vocabulary: Vocabulary, word: str = "diondre") -> Figure:
    """One context, the last characters of ``word``, through all layers: the values of every node.

    A row is what a layer puts out, (T, C), a node a box in its place among the T, which in the lecture's tree
    is above the characters that it sees, and each of its channels a square: its colour reaches from -1 to 1,
    or further where the row has larger values. Of layers in a row with outputs of one shape, the last is
    drawn. On top, the probabilities of the next character.

    What to look for: alike characters have alike boxes in the lowest row; further up a box says less about
    a character and more about the whole. Of an ensemble the first member is drawn. Raises DataError on a
    character the vocabulary lacks. The figure is returned, not shown.
    """
    members = members_of(network)
    network, size = members[0], block_size(network)
    context = ([STOP] * size + vocabulary.encode(word))[-size:]
    device = network.parameters()[0].device
    observed = observe(network, torch.tensor([context], device=device))
    rows = nodes_of(observed)
    probs = F.softmax(observed[-1].out[0].cpu(), dim=-1)
    which = f", in network 1 of {len(members)}" if len(members) > 1 else ""
    figure = figure_of(WIDTH, ROW * len(rows) + 2.9, f"{quoted(word)}, node by node{which}", NOTE)
    panels = figure.subplots(len(rows) + 1, 1, height_ratios=[1.1, *[1] * len(rows)])

    _draw_next(panels[0], probs, symbols_of(vocabulary))
    for axes, (name, _, out) in zip(panels[1:], reversed(rows), strict=True):
        values = out.detach()[0].double().cpu()
        values = values.unsqueeze(0) if values.ndim == 1 else values  # (T, C)
        bound = max(1.0, values.abs().max().item())
        image = axes.imshow(
            boxes(values, size), cmap=SIGNED, vmin=-bound, vmax=bound, aspect="auto",
            extent=(-0.5, size - 0.5, 0, 1), interpolation="nearest", gid=f"nodes {name}",
        )  # fmt: skip
        axes.set(xlim=(-0.5, size - 0.5), xticks=[], yticks=[])
        nodes, channels = values.shape
        row_label(axes, f"{name}\n{nodes:,} x {channels:,}")
        for edge in range(1, nodes):
            axes.axvline(edge * size / nodes - 0.5, color="white", linewidth=min(3.0, 150 / size))
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(
            image, ax=axes, fraction=0.02, pad=0.01, ticks=[-bound, 0, bound], format="%.2g"
        )
        bar.ax.tick_params(labelsize=7)
    places = range(size if size <= MOST_LABELS else 0)
    labels = [shown(vocabulary.itos[context[i]]) for i in places]
    plain_ticks(panels[-1].xaxis, places, labels, weight="bold", color=SEEN)
    panels[-1].tick_params(axis="x", length=0)
    panels[-1].set_xlabel("context, the oldest character first (. is none)")
    return figure


def nodes_of(observed: list[Observed]) -> list[Observed]:
    """Of layers in a row with outputs of one shape, the last."""
    return [[*alike][-1] for _, alike in groupby(observed, lambda one: one.out.shape)]


def boxes(values: Tensor, size: int) -> list[list[float]]:
    """Nodes with their channels, (T, C), as one image: each node a box, nan where it has no channel.

    The boxes are ``size`` / T wide for a height of 1, by the picture's proportions, and their squares about
    square.
    """
    nodes, channels = values.shape
    wide = 0.75 * WIDTH / nodes  # inches
    columns = min(channels, max(1, round(math.sqrt(channels * wide / (0.8 * ROW)))))
    height = -(-channels // columns)
    filled = F.pad(values, (0, height * columns - channels), value=math.nan)
    image: list[list[float]] = (
        filled.view(nodes, height, columns).transpose(0, 1).reshape(height, -1).tolist()
    )
    return image


def _draw_next(axes: Axes, probs: Tensor, symbols: list[str]) -> None:
    """Bars for the probabilities of the next character."""
    likeliest = probs.argsort(descending=True, stable=True)[:MOST_BARS]
    rows = likeliest.sort().values.tolist()
    bars = axes.bar([*range(len(rows))], probs[rows].tolist(), color=SEEN, gid="next")
    bars[rows.index(int(likeliest[0]))].set_color(OUTPUT)
    plain_ticks(axes.xaxis, range(len(rows)), [symbols[i] for i in rows], fontsize=8)
    few = "" if len(rows) == len(probs) else f"\n{len(rows)} of {len(probs):,} symbols"
    row_label(axes, f"probability of\nthe next{few}")
    axes.tick_params(axis="x", length=0, pad=1)
    axes.tick_params(axis="y", labelsize=8, colors=GREY)
    axes.spines[["right", "top"]].set_visible(False)
