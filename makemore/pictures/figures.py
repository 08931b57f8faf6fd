"""What the pictures share: figures with title and note, text in any alphabet, the outputs of all layers."""

from __future__ import annotations

import copy
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import LogFormatter
from torch import Tensor

from makemore.core.errors import UsageError
from makemore.core.figure import Figure
from makemore.core.fit import check_logits
from makemore.core.layer import Layer, recorded_outputs, require_network, window_of
from makemore.lecture.words import Vocabulary
from makemore.pictures.palette import GRAY

WIDTH = 9.4
"""The width of most figures in inches: 1,410 pixels as ``save_figure`` writes them."""

DEFAULT_WORD = "diondre"
"""The word that is drawn if none is given: the lecture's example."""

MAX_WORD_LENGTH = 200
"""The largest number of characters of a word that can be drawn; more would run into each other."""

MAX_SYMBOLS = 40
"""The largest number of symbols whose probabilities are drawn: of a larger vocabulary, the likeliest ones."""

MAX_QUOTED = 40
"""The largest number of characters of a word in a title."""

CHARACTERS_PER_INCH = 14
"""The number of characters of a note that fit into an inch, with room to spare."""

MISSING = "\N{REPLACEMENT CHARACTER}"
"""Takes the place of a character that the font has no glyph for."""


def figure_of(width: float, height: float, title: str = "", note: str = "") -> Figure:
    """An empty figure, in inches, with a title above and a note on what to look for below."""
    figure = Figure(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=12, parse_math=False)
    if note:
        figure.supxlabel(wrapped(note, width), fontsize=8.5, color=GRAY, parse_math=False)
    return figure


def wrapped(note: str, width: float) -> str:
    """A note in lines of that width, in inches."""
    return textwrap.fill(note, round(CHARACTERS_PER_INCH * width))


def save_figure(figure: Figure, file: str | Path | BinaryIO, format: str = "png") -> None:
    """Write a figure as "png", "svg" or "pdf". No display is needed."""
    figure.savefig(file, format=format, dpi=150)


def row_label(axes: Axes, text: str) -> None:
    """Write a text to the left of a row of the figure."""
    axes.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=9, parse_math=False)


def text_ticks(axis: Any, positions: Sequence[float], labels: list[str], **style: Any) -> None:
    """Label the positions of an axis with plain text: ``$`` and ``_`` are characters, not math."""
    axis.set_ticks(positions, labels, parse_math=False, **style)


class PlainLogFormatter(LogFormatter):
    """Labels a log scale with 0.6 instead of 6 x 10^-1, where there is room."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def drawable(text: str, weight: str = "normal") -> str:
    """Replace every character for which no font has a glyph in the given weight.

    The fonts are those of matplotlib's setting ``font.family``.

    >>> drawable("emma 日本語")
    'emma ���'
    """
    families = FontProperties().get_family()
    fonts = [get_font(findfont(FontProperties(family=family, weight=weight))) for family in families]
    known = {ch for ch in set(text) if ch.isprintable() and any(f.get_char_index(ord(ch)) for f in fonts)}
    return "".join(ch if ch in known else MISSING for ch in text)


def missing_glyphs(text: str) -> str:
    """The characters of a text that no font can show, each once."""
    return "".join(ch for ch in sorted(set(text)) if not ch.isspace() and drawable(ch) == MISSING)


def drawable_symbol(symbol: str, weight: str = "normal") -> str:
    """A character that can be drawn and seen: a blank is replaced by a mark, an accent is on a circle.

    >>> drawable_symbol(" "), drawable_symbol("\u0301")
    ('␣', '◌́')
    """
    if symbol.isspace():
        return "\N{OPEN BOX}"
    text = drawable(symbol, weight)
    if text == MISSING or unicodedata.category(symbol[0])[0] != "M":
        return text
    circle = drawable("\N{DOTTED CIRCLE}", weight)
    return text if circle == MISSING else circle + text


def drawable_symbols(vocabulary: Vocabulary, weight: str = "normal") -> list[str]:
    """All symbols of a vocabulary as characters that can be drawn; the stop is a dot."""
    return [drawable_symbol(vocabulary.itos[i], weight) for i in range(len(vocabulary))]


def quoted(word: str) -> str:
    """A word in quotation marks for a title; the end of a long word is cut off."""
    text = drawable_symbol(word[0]) if word else ""  # an accent has something below it later on
    text += "".join("\N{OPEN BOX}" if ch.isspace() else drawable(ch) for ch in word[1:])
    return f"“{text}”" if len(text) <= MAX_QUOTED else f"“{text[: MAX_QUOTED - 1]}…”"


def check_length(word: str) -> None:
    """Raise UsageError on a word of more than ``MAX_WORD_LENGTH`` characters."""
    if len(word) > MAX_WORD_LENGTH:
        raise UsageError(f"a word of {len(word):,} characters cannot be drawn: {MAX_WORD_LENGTH} is the most")


class Observed(NamedTuple):
    """A layer and its output, (B, C) or (B, T, C), both on the CPU; ``name`` is as in "3 BatchNorm1d"."""

    name: str
    layer: Layer
    out: Tensor


def observe(network: Layer, X: Tensor) -> list[Observed]:
    """The layers of a network and their outputs for contexts X, (B, block_size), in evaluation.

    They are in the order of the forward pass, a layer that contains others after these. Layers that only pass
    on their input, such as FlattenConsecutive, are left out. The network is copied and does not change.
    """
    require_network(network)
    network = copy.deepcopy(network).to("cpu")
    with network.evaluating(), recorded_outputs(network) as outputs:
        network(X.cpu())
    observed: list[Observed] = []
    known = set()
    for name, layer in named_layers(network):
        out = outputs.get(id(layer))
        if out is None or window_of(layer) is not None:
            continue
        memory = out.data_ptr(), out.numel()  # equal for a view of another layer's whole output
        if memory not in known:
            known.add(memory)
            observed.append(Observed(f"{name} {type(layer).__name__}".strip(), layer, out))
    return observed


def named_layers(layer: Layer, name: str = "") -> Iterator[tuple[str, Layer]]:
    """A layer and all layers that it contains, with their names, children before parents."""
    for child_name, child in layer.named_children():
        yield from named_layers(child, f"{name}.{child_name}".lstrip("."))
    yield name, layer


def logits_of(network: Layer, X: Tensor) -> Tensor:
    """The logits for contexts X in evaluation, on the CPU: (B, block_size) -> (B, vocab_size)."""
    with network.evaluating():
        return check_logits(network(X.to(network.parameters()[0].device)), X).cpu()
