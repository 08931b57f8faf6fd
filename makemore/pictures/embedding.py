"""The picture of the embedding: each character as a point (lecture 2's, for tables of any width)."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

import torch
from matplotlib.figure import Figure
from torch import Tensor

from makemore.convolution.drawing import GREY, OUTPUT, SEEN
from makemore.errors import UsageError
from makemore.layers import Embedding, Sequential
from makemore.pictures.style import MISSING, figure_of, symbols_of
from makemore.words import STOP, Vocabulary

APART = 0.035
"""The least distance between two labels, as a share of the picture; others stay dots."""

NOTE = (
    "Look for characters that stand together: the network uses them alike, often the vowels. "
    "Two dimensions are not all: the axes say how much of the variance they show."
)


def draw_embedding(network: Sequential, vocabulary: Vocabulary) -> Figure:
    """The rows of the embedding in the two dimensions of their largest variance, with their characters.

    What to look for: characters that the network treats alike stand together, above all the vowels; the
    stop stands apart. Dots without a character had no room for it, or the font no picture. Of an ensemble
    the first member's is drawn. Raises UsageError on a network without any. The figure is returned.
    """
    table = next((layer for layer in network.modules() if isinstance(layer, Embedding)), None)
    if table is None:
        raise UsageError("the network has no Embedding to draw")
    points, shares = principal_components(table.weight.detach())
    title = f"The embedding of {len(points):,} symbols, {table.weight.shape[1]} channels"
    figure = figure_of(7, 7, title, NOTE)
    axes = figure.add_subplot()
    xs, ys = points.T.tolist()
    symbols = symbols_of(vocabulary, "bold")
    labelled = spread_out(points, [i for i, text in enumerate(symbols) if text != MISSING and i != STOP])
    kinds = [
        "start and stop" if i == STOP else "vowel" if is_vowel(vocabulary.itos[i]) else "other"
        for i in range(len(points))
    ]
    for kind, color in (("start and stop", "black"), ("vowel", OUTPUT), ("other", SEEN)):
        if kind not in kinds:
            continue
        bare = [i for i, its in enumerate(kinds) if its == kind and i not in labelled]
        size = 40 if kind == "start and stop" else 6
        axes.scatter([xs[i] for i in bare], [ys[i] for i in bare], size, color, alpha=0.7, gid=f"dots {kind}")
        axes.scatter([], [], 40, color, label=kind)
        for i in labelled:
            if kinds[i] == kind:
                text = axes.text(xs[i], ys[i], symbols[i], ha="center", va="center", parse_math=False)
                text.set(color=color, weight="bold", fontsize=13, gid=f"symbol {i}")
    axes.margins(0.06)
    axes.update_datalim(points.tolist())
    axes.set_xlabel(f"principal component 1 ({shares[0]:.0%} of the variance)")
    axes.set_ylabel(f"principal component 2 ({shares[1]:.0%} of the variance)")
    axes.axhline(0, color=GREY, linewidth=0.4, zorder=0)
    axes.axvline(0, color=GREY, linewidth=0.4, zorder=0)
    axes.legend(fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)
    return figure


def principal_components(table: Tensor) -> tuple[Tensor, list[float]]:
    """The rows, (V, C), in the two directions of largest variance, (V, 2), and these as shares of it all.

    The sign of a direction is such that its largest component is positive.
    """
    centred = table.double() - table.double().mean(0)
    _, sizes, directions = torch.linalg.svd(centred, full_matrices=False)
    directions = torch.nn.functional.pad(directions, (0, 0, 0, 2))[:2]
    sizes = torch.nn.functional.pad(sizes, (0, 2))
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    directions = directions * torch.where(largest < 0, -1, 1)
    total = (sizes**2).sum().clamp_min(1e-30)
    return centred @ directions.T, (sizes[:2] ** 2 / total).tolist()


def spread_out(points: Tensor, rows: Iterable[int]) -> set[int]:
    """Those of the rows, first ones first, that have room for a label: the others are too near to one."""
    places = points / (points.amax(0) - points.amin(0)).clamp_min(1e-30)
    chosen: list[int] = []
    for i in rows:
        if not chosen or ((places[chosen] - places[i]).abs().amax(1) >= APART).all():
            chosen.append(i)
    return set(chosen)


def is_vowel(ch: str) -> bool:
    """Whether the letter below all accents is one of a, e, i, o, u, y."""
    return unicodedata.normalize("NFD", ch)[0].lower() in "aeiouy"
