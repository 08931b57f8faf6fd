"""The picture of one context on its way through the network: the channels of every node."""

from __future__ import annotations

import math
from itertools import groupby

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from torch import Tensor

from makemore.core.figure import Figure
from makemore.core.fit import check_data
from makemore.core.graph import context_length
from makemore.core.layer import Layer
from makemore.core.text import known_form
from makemore.lecture.words import STOP, Vocabulary
from makemore.pictures.figures import (
    DEFAULT_WORD,
    MAX_SYMBOLS,
    WIDTH,
    Observed,
    drawable_symbol,
    drawable_symbols,
    figure_of,
    logits_of,
    observe,
    quoted,
    row_label,
    text_ticks,
)
from makemore.pictures.palette import ACCENT, BACKGROUND, GRAY, PRIMARY, SIGNED
from makemore.training.ensemble import members_of

ROW_HEIGHT = 0.95
"""The height of a row of nodes in inches."""

MAX_LABELS = 64
"""The longest context whose characters are written below it."""

NOTE = (
    "Each box is a node, roughly above the characters that it depends on; each small square is one of"
    " its channels. Look at how the boxes of different characters differ, and how each row combines the"
    " boxes below it."
)


def draw_tree(network: Layer, vocabulary: Vocabulary, word: str = DEFAULT_WORD) -> Figure:
    """Draw the values of every node for one context, the last characters of ``word``.

    A row is the output of a layer, (T, C): T boxes with a square for each of the C channels. In the
    lecture's tree a box is above the characters that it depends on. Colors range from -1 to 1, or further
    if the row has larger values. Of consecutive layers with outputs of the same shape, the last is drawn.
    On top are the probabilities of the next character. Of an ensemble the first member is drawn.

    What to look for: similar characters have similar boxes in the lowest row. Further up a box says less
    about one character and more about the whole context. Returns the figure without showing it. Raises
    DataError on a character that is not in the vocabulary.
    """
    check_data(network, vocabulary.characters)
    members = members_of(network)
    network, size = members[0], context_length(members[0])
    word = known_form(word, vocabulary.stoi)
    context = ([STOP] * size + vocabulary.encode(word))[-size:]
    X = torch.tensor([context])
    probs = F.softmax(logits_of(network, X)[0], dim=-1)
    rows = last_of_each_shape(observe(network, X))
    title = f"Values of every node for {quoted(word)}"
    if len(members) > 1:
        title += f", network 1 of {len(members)}"
    figure = figure_of(WIDTH, ROW_HEIGHT * len(rows) + 2.9, title, NOTE)
    panels = figure.subplots(len(rows) + 1, 1, height_ratios=[1.1, *[1] * len(rows)])

    _draw_probabilities(panels[0], probs, drawable_symbols(vocabulary))
    for axes, (name, _, out) in zip(panels[1:], reversed(rows), strict=True):
        values = out[0].double()
        values = values.unsqueeze(0) if values.ndim == 1 else values  # (T, C)
        nodes, channels = values.shape
        bound = max(1.0, values.abs().max().item())
        image = axes.imshow(
            boxes(values, size).tolist(), cmap=SIGNED, vmin=-bound, vmax=bound, aspect="auto",
            extent=(-0.5, size - 0.5, 0, 1), interpolation="nearest", gid=f"nodes {name}",
        )  # fmt: skip
        axes.set(xlim=(-0.5, size - 0.5), xticks=[], yticks=[])
        row_label(axes, f"{name}\n{nodes:,} x {channels:,}")
        for edge in range(1, nodes):
            axes.axvline(edge * size / nodes - 0.5, color=BACKGROUND, linewidth=min(3.0, 150 / size))
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(
            image, ax=axes, fraction=0.02, pad=0.01, ticks=[-bound, 0, bound], format="%.2g"
        )
        bar.ax.tick_params(labelsize=7)
    positions = range(size if size <= MAX_LABELS else 0)
    labels = [drawable_symbol(vocabulary.itos[context[i]]) for i in positions]
    text_ticks(panels[-1].xaxis, positions, labels, weight="bold", color=PRIMARY)
    panels[-1].tick_params(axis="x", length=0)
    panels[-1].set_xlabel("context, the oldest character first (. is padding)")
    return figure


def last_of_each_shape(observed: list[Observed]) -> list[Observed]:
    """Of consecutive layers with outputs of the same shape, the last."""
    return [[*group][-1] for _, group in groupby(observed, lambda one: one.out.shape)]


def boxes(values: Tensor, size: int) -> Tensor:
    """The image of a row of nodes: (T, C) -> (height, T * columns), nan where a box has no channel.

    A box is ``size`` / T wide and 1 high. The number of columns makes the squares of its channels about
    square in the figure.
    """
    nodes, channels = values.shape
    width = 0.75 * WIDTH / nodes  # of a box, in inches
    columns = min(channels, max(1, round(math.sqrt(channels * width / (0.8 * ROW_HEIGHT)))))
    height = math.ceil(channels / columns)
    padded = F.pad(values, (0, height * columns - channels), value=math.nan)
    return padded.view(nodes, height, columns).transpose(0, 1).reshape(height, -1)


def _draw_probabilities(axes: Axes, probs: Tensor, symbols: list[str]) -> None:
    """Draw the probabilities of the next character, (V,), as bars."""
    likeliest = probs.argsort(descending=True, stable=True)[:MAX_SYMBOLS]
    rows = likeliest.sort().values.tolist()
    bars = axes.bar([*range(len(rows))], probs[rows].tolist(), color=PRIMARY, gid="next")
    bars[rows.index(int(likeliest[0]))].set_color(ACCENT)
    text_ticks(axes.xaxis, range(len(rows)), [symbols[i] for i in rows], fontsize=8)
    part = "" if len(rows) == len(probs) else f"\n{len(rows)} of {len(probs):,} symbols"
    row_label(axes, f"probability of the\nnext character{part}")
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.tick_params(axis="x", length=0, pad=1)
    axes.tick_params(axis="y", labelsize=8, colors=GRAY)
    axes.spines[["right", "top"]].set_visible(False)
