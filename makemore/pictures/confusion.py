"""The picture of which labels a network takes words for."""

from __future__ import annotations

from makemore.core.figure import Figure
from makemore.core.text import plural
from makemore.inference.classification import Confusion
from makemore.pictures.figures import WIDTH, figure_of
from makemore.pictures.palette import AMOUNTS, BACKGROUND, REFERENCE

MAX_LABELS = 40
"""The largest number of labels that are drawn: of more, those with most words."""

NUMBERED_LABELS = 20
"""The largest number of labels whose shares are written into the squares."""

NOTE = (
    "A row has the words of one label, by the label that fits them best. A network that tells labels apart"
    " has its color on the diagonal; a square off it shows which labels look alike."
)


def draw_confusion(confusion: Confusion) -> Figure:
    """Draw a ``Confusion``: rows are the words' own labels, columns the most probable ones for the network.

    Each row adds up to 100 %. Returns the figure without showing it.
    """
    totals = confusion.counts.sum(1)
    order = totals.argsort(descending=True, stable=True)[: min(MAX_LABELS, int((totals > 0).sum()))]
    order = order.sort().values
    shares = 100 * (confusion.counts / totals.clamp(min=1).unsqueeze(1))[order][:, order]
    names = [confusion.names[i] for i in order.tolist()]
    size = 2.8 + 0.33 * len(names)
    title = (
        f"{confusion.column}: {100 * confusion.accuracy:.1f} % of {plural(confusion.words, 'word')} right,"
        f" balanced {100 * confusion.balanced_accuracy:.1f} %"
    )
    figure = figure_of(max(6.0, min(WIDTH, size)), max(4.5, size), title, NOTE)
    axes = figure.subplots()
    image = axes.imshow(shares.tolist(), cmap=AMOUNTS, vmin=0, vmax=100)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8, parse_math=False)
    axes.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    axes.set_xlabel("most probable label", fontsize=9)
    axes.set_ylabel("label of the word", fontsize=9)
    if len(names) <= NUMBERED_LABELS:
        for (i, j), share in ((at, float(shares[at])) for at in _squares(len(names))):
            if share >= 0.5:
                color = REFERENCE if share > 50 else BACKGROUND
                axes.text(j, i, f"{share:.0f}", ha="center", va="center", fontsize=7, color=color)
    figure.colorbar(image, ax=axes, shrink=0.6, label="% of the label's words")
    return figure


def _squares(n: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(n) for j in range(n)]
