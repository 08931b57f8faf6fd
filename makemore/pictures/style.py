"""What the pictures share: colours, characters as text, the outputs of all layers.

Lines and points have colours of Okabe and Ito's palette, values the maps cividis and PuOr: the colour-blind
tell them apart, and so does a grey printer the former map's.
"""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from torch import Tensor

from makemore.convolution.drawing import GREY, OUTPUT, SEEN
from makemore.layers import Layer, Sequential
from makemore.plotting import drawable
from makemore.words import Vocabulary

COLORS = (SEEN, OUTPUT, "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""For lines that are to be told apart, the first ones first."""

MISSING = "\N{REPLACEMENT CHARACTER}"
"""Stands for what the font has no picture of, see ``plotting.drawable``."""

AMOUNTS, SIGNED = "cividis", "PuOr"
"""Maps for values from 0 up, and for values with a sign."""

LONGEST_QUOTED = 40
"""Characters of a word in a title."""

LETTERS_PER_INCH = 14
"""Of a note: so many of its letters are surely no wider than an inch."""


class Observed(NamedTuple):
    """What a layer put out: (B, C) or (B, T, C). ``name`` has its place, as in "3 BatchNorm1d"."""

    name: str
    layer: Layer
    out: Tensor


def observe(network: Sequential, X: Tensor) -> list[Observed]:
    """What each layer makes of the contexts X, (B, block_size), in evaluation.

    In the order of the forward pass, a layer made of others behind these. One that hands on what another has
    put out, as a view of it, is left out. The network stays as it is.
    """
    network = copy.deepcopy(network)
    with network.evaluating():
        network(X)
    observed: list[Observed] = []
    seen = set()
    for name, layer in inside_out(network):
        out = vars(layer).get("out")
        if out is not None and (key := (out.data_ptr(), out.numel())) not in seen:
            seen.add(key)
            observed.append(Observed(f"{name} {type(layer).__name__}".strip(), layer, out))
    return observed


def inside_out(layer: Layer, name: str = "") -> Iterator[tuple[str, Layer]]:
    """This layer and all those within it by name, those within first."""
    for child, inner in layer.named_children():
        yield from inside_out(inner, f"{name}.{child}".lstrip("."))
    yield name, layer


def shown(symbol: str, weight: str = "normal") -> str:
    """A character as it can be drawn: a blank as a mark, one that the font lacks as another."""
    return "\N{OPEN BOX}" if symbol.isspace() else drawable(symbol, weight)


def quoted(word: str) -> str:
    """A word as a title has it, a long one cut off."""
    text = "".join(map(shown, word))
    return f"“{text}”" if len(text) <= LONGEST_QUOTED else f"“{text[: LONGEST_QUOTED - 1]}…”"


def symbols_of(vocabulary: Vocabulary, weight: str = "normal") -> list[str]:
    """Every symbol as it can be drawn in that weight; the stop is a dot."""
    return [shown(vocabulary.itos[i], weight) for i in range(len(vocabulary))]


def figure_of(width: float, height: float, title: str, note: str = "") -> Figure:
    """An empty figure, in inches, with a title and what to look for below it."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=12, parse_math=False)
    if note:
        wrapped = textwrap.fill(note, round(LETTERS_PER_INCH * width))
        figure.supxlabel(wrapped, fontsize=8.5, color=GREY, parse_math=False)
    return figure


class PlainLog(LogFormatter):
    """The labels of a log scale as 0.6 instead of 6 x 10^-1, where there is room for them."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def row_label(axes: Axes, text: str) -> None:
    """What stands to the left of a row of the picture."""
    axes.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=9, parse_math=False)


def plain_ticks(axis: Any, places: Sequence[float], labels: list[str], **more: Any) -> None:
    """Ticks whose labels are text, whatever characters they have."""
    axis.set_ticks(places, labels, parse_math=False, **more)
