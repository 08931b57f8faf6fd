"""The picture of the next-character probabilities along a word."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from makemore.core.figure import Figure
from makemore.core.fit import check_data
from makemore.core.graph import context_length
from makemore.core.layer import Layer
from makemore.core.text import known_form
from makemore.lecture.words import STOP, Examples, Vocabulary
from makemore.pictures.figures import (
    DEFAULT_WORD,
    MAX_SYMBOLS,
    check_length,
    drawable_symbol,
    drawable_symbols,
    figure_of,
    logits_of,
    quoted,
    text_ticks,
)
from makemore.pictures.palette import ACCENT, AMOUNTS

NOTE = (
    "A column shows the probabilities of the next character, and a ring the next character of the word."
    " Look for columns with several bright cells, where the network is in doubt, and for rings on dark"
    " cells, which surprise it."
)


def draw_probabilities(network: Layer, vocabulary: Vocabulary, word: str = DEFAULT_WORD) -> Figure:
    """Draw the probability of every symbol after each beginning of the word as a map; rings mark the word.

    Of a large vocabulary, the symbols of the word and the likeliest others are drawn, ``MAX_SYMBOLS`` in all.

    What to look for: where a column has one bright cell, the network is sure. Where a ring is on a dark cell,
    the network is surprised; the title has the mean surprise, which is the loss. Returns the figure without
    showing it. Raises UsageError on a word of more than ``MAX_WORD_LENGTH`` characters, and DataError on a
    character that is not in the vocabulary.
    """
    check_data(network, vocabulary.characters)
    word = known_form(word, vocabulary.stoi)
    check_length(word)
    targets = [*vocabulary.encode(word), STOP]
    X, Y = Examples(torch.tensor(targets), context_length(network))[:]
    log_probs = F.log_softmax(logits_of(network, X), dim=1)  # (T, V)
    nats = -log_probs.gather(1, Y.unsqueeze(1)).mean().item()
    likeliest = log_probs.amax(0).argsort(descending=True, stable=True).tolist()
    others = [i for i in likeliest if i not in targets]
    rows = sorted([*{*targets}, *others[: max(0, MAX_SYMBOLS - len({*targets}))]])
    symbols = drawable_symbols(vocabulary)
    title = f"Next character along {quoted(word)}: loss {nats:.3f} nats per character"
    width, height = max(5.5, 0.36 * len(targets) + 2), max(2.9, 0.19 * len(rows) + 1.9)
    figure = figure_of(width, height, title, NOTE)
    axes = figure.add_subplot()
    image = axes.imshow(log_probs.exp()[:, rows].T.tolist(), cmap=AMOUNTS, vmin=0, aspect="auto")
    rings = axes.scatter(range(len(targets)), [rows.index(i) for i in targets], s=70, gid="word")
    rings.set(facecolor="none", edgecolor=ACCENT, linewidth=1.8)
    text_ticks(axes.xaxis, range(len(targets)), ["start", *map(drawable_symbol, word)])
    text_ticks(axes.yaxis, range(len(rows)), [symbols[i] for i in rows])
    axes.tick_params(axis="y", labelsize=8, length=0)
    axes.set_xlabel("previous character")
    part = "" if len(rows) == len(vocabulary) else f", {len(rows)} of {len(vocabulary):,} symbols"
    axes.set_ylabel(f"next character (. is the end){part}")
    figure.colorbar(image, ax=axes, label="probability", fraction=0.05, pad=0.02)
    return figure
