"""The picture of what the network expects next, along a word."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from makemore.convolution.drawing import LONGEST_WORD, OUTPUT
from makemore.errors import UsageError
from makemore.layers import Sequential
from makemore.networks import block_size
from makemore.pictures.style import AMOUNTS, figure_of, plain_ticks, quoted, shown, symbols_of
from makemore.words import STOP, Examples, Vocabulary

MOST_ROWS = 40
"""Symbols that are drawn; of a larger vocabulary the likeliest ones."""

NOTE = (
    "Each column is what may follow the characters up to there; a ring marks what does. Look for columns of"
    " many shades, where the network is in doubt, and for rings in the dark, which surprise it."
)


def draw_probabilities(network: Sequential, vocabulary: Vocabulary, word: str = "diondre") -> Figure:
    """The probability of every symbol after each beginning of the word, as a map; rings mark the word.

    Of a large vocabulary the ``MOST_ROWS`` symbols that are likeliest somewhere, and those of the word.

    What to look for: where a column is bright in one cell the network is sure, and where the ring is in a
    dark one it is surprised; the title has the mean surprise, the loss. Raises UsageError on a word of more
    than ``LONGEST_WORD`` characters, DataError on one with a character the vocabulary lacks. The figure is
    returned, not shown.
    """
    if len(word) > LONGEST_WORD:
        raise UsageError(f"a word of {len(word):,} characters cannot be drawn: {LONGEST_WORD} is the most")
    targets = [*vocabulary.encode(word), STOP]
    X, Y = Examples(torch.tensor(targets), block_size(network))[:]
    with network.evaluating():
        logprobs = F.log_softmax(network(X.to(network.parameters()[0].device)).cpu(), dim=1)  # (T, V)
    nats = -logprobs.gather(1, Y.unsqueeze(1)).mean().item()
    likeliest = logprobs.amax(0).argsort(descending=True, stable=True).tolist()
    rows = sorted({*targets, *likeliest[: max(0, MOST_ROWS - len({*targets}))]})
    symbols = symbols_of(vocabulary)
    title = f"{quoted(word)}: what comes next, {nats:.3f} nats per character"
    width, height = max(5.5, 0.36 * len(targets) + 2), max(2.9, 0.19 * len(rows) + 1.9)
    figure = figure_of(width, height, title, NOTE)
    axes = figure.add_subplot()
    image = axes.imshow(logprobs.exp()[:, rows].T.tolist(), cmap=AMOUNTS, vmin=0, aspect="auto")
    rings = axes.scatter(range(len(targets)), [rows.index(i) for i in targets], s=70, gid="word")
    rings.set(facecolor="none", edgecolor=OUTPUT, linewidth=1.8)
    plain_ticks(axes.xaxis, range(len(targets)), ["start", *map(shown, word)])
    plain_ticks(axes.yaxis, range(len(rows)), [symbols[i] for i in rows])
    axes.tick_params(axis="y", labelsize=8, length=0)
    axes.set_xlabel("after")
    few = "" if len(rows) == len(vocabulary) else f", {len(rows)} of {len(vocabulary):,} symbols"
    axes.set_ylabel(f"next character (. is the stop){few}")
    figure.colorbar(image, ax=axes, label="probability", fraction=0.05, pad=0.02)
    return figure
