"""The picture of the embedding: each character as a point (lecture 2's, for tables of any width)."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

import torch
from torch import Tensor

from makemore.core.errors import UsageError
from makemore.core.figure import Figure
from makemore.core.fit import check_data
from makemore.core.layer import Layer
from makemore.core.text import plural
from makemore.lecture.layers import Embedding
from makemore.lecture.words import STOP, Vocabulary
from makemore.pictures.figures import MISSING, drawable_symbols, figure_of
from makemore.pictures.palette import ACCENT, GRAY, PRIMARY, REFERENCE

SIZE = 7
"""Width and height of the figure in inches."""

MIN_DISTANCE = 0.025
"""The smallest distance between two labels, as a share of the picture; other symbols are dots."""

KINDS = {"start and stop": REFERENCE, "vowel": ACCENT, "other": PRIMARY}
"""The kinds of symbols and their colors."""

VOWELS = set("aeiouyæœøıəɛɔαεηιουωаеиоуыэюяєіөүұәաեէըիոօაეიოუ")
"""The vowels of the Latin, Greek, Cyrillic, Armenian and Georgian alphabets, without accents."""

SEMIVOWELS = set("йў")
"""Consonants that Unicode decomposes into a vowel and an accent."""

NOTE = (
    "Look for groups of characters, often the vowels: the network uses them in a similar way. Each axis"
    " shows only its share of the variance."
)

NOTE_ON_DOTS = " A dot is a character whose label has no room beside the others, or no glyph in the font."


def draw_embedding(network: Layer, vocabulary: Vocabulary) -> Figure:
    """Draw the rows of the embedding as characters, in the two directions of largest variance.

    A symbol is a dot if another label is too close or the font has no glyph for it. Of an ensemble the first
    member is drawn.

    What to look for: characters that the network uses in a similar way are close together, above all the
    vowels, and the stop is far from the others. Returns the figure without showing it. Raises UsageError if
    the network has no Embedding.
    """
    check_data(network, vocabulary.characters)
    table = next((layer for layer in network.modules() if isinstance(layer, Embedding)), None)
    if table is None:
        raise UsageError("the network has no Embedding to draw")
    points, shares = principal_components(table.weight.detach().cpu())
    title = f"Embedding of {plural(len(points), 'symbol')}, {plural(table.weight.shape[1], 'channel')}"
    symbols = drawable_symbols(vocabulary, "bold")
    labeled = rows_with_room(points, [i for i, text in enumerate(symbols) if text != MISSING and i != STOP])
    all_labeled = len(labeled) == len(points) - 1  # the stop is a dot that the legend explains
    figure = figure_of(SIZE, SIZE, title, NOTE if all_labeled else NOTE + NOTE_ON_DOTS)
    axes = figure.add_subplot()
    xs, ys = points.T.tolist()
    kinds = [kind_of(i, vocabulary) for i in range(len(points))]
    for kind, color in KINDS.items():
        if kind not in kinds:
            continue
        dots = [i for i, other in enumerate(kinds) if other == kind and i not in labeled]
        size = 40 if kind == "start and stop" else 6
        axes.scatter([xs[i] for i in dots], [ys[i] for i in dots], size, color, alpha=0.7, gid=f"dots {kind}")
        axes.scatter([], [], 40, color, label=kind)
        for i in labeled:
            if kinds[i] == kind:
                text = axes.text(xs[i], ys[i], symbols[i], ha="center", va="center", parse_math=False)
                text.set(color=color, weight="bold", fontsize=13, gid=f"symbol {i}")
    axes.margins(0.06)
    axes.update_datalim(points.tolist())
    axes.set_xlabel(f"principal component 1 ({shares[0]:.0%} of the variance)")
    axes.set_ylabel(f"principal component 2 ({shares[1]:.0%} of the variance)")
    axes.axhline(0, color=GRAY, linewidth=0.4, zorder=0)
    axes.axvline(0, color=GRAY, linewidth=0.4, zorder=0)
    axes.legend(fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)
    return figure


def kind_of(symbol: int, vocabulary: Vocabulary) -> str:
    """The kind of a symbol, see ``KINDS``. Accents do not matter: é is a vowel.

    In scripts that write vowels as signs, these are told by their names.
    """
    if symbol == STOP:
        return "start and stop"
    character = vocabulary.itos[symbol].lower()
    if character in SEMIVOWELS:
        return "other"
    letter = unicodedata.normalize("NFKD", character)[0]
    return "vowel" if letter in VOWELS or "VOWEL" in unicodedata.name(character[0], "") else "other"


def principal_components(table: Tensor) -> tuple[Tensor, list[float]]:
    """The rows of a table in the two directions of largest variance, and the shares of the variance.

    (V, C) -> (V, 2) and two numbers.
    """
    return in_directions(table, principal_directions(table))


def principal_directions(table: Tensor) -> Tensor:
    """The two directions of largest variance among the rows of a table: (V, C) -> (2, C) in float64.

    The sign of a direction makes its largest component positive. A direction that does not exist is 0.
    """
    directions = torch.linalg.svd(centered(table), full_matrices=False)[2]
    directions = torch.nn.functional.pad(directions, (0, 0, 0, 2))[:2]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return directions * torch.where(largest < 0, -1, 1)


def in_directions(table: Tensor, directions: Tensor) -> tuple[Tensor, list[float]]:
    """The rows of a table in two directions, and the share of the variance in each.

    (V, C) and (2, C) -> (V, 2) and two numbers.
    """
    rows = centered(table)
    points = rows @ directions.T
    total = rows.square().sum().clamp_min(1e-30)
    return points, (points.square().sum(0) / total).tolist()


def centered(table: Tensor) -> Tensor:
    """The rows of a table less their mean, in float64."""
    return table.double() - table.double().mean(0)


def rows_with_room(points: Tensor, rows: Iterable[int]) -> set[int]:
    """The rows whose labels have room: earlier rows come first, later rows too close to them are left out."""
    scaled = points / (points.amax(0) - points.amin(0)).clamp_min(1e-30)
    chosen: list[int] = []
    for i in rows:
        if not chosen or ((scaled[chosen] - scaled[i]).abs().amax(1) >= MIN_DISTANCE).all():
            chosen.append(i)
    return set(chosen)
