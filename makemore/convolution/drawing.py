"""Which characters each node of a network sees, drawn from its layers (beyond the lecture).

The lecture shows two pictures: the tree that fuses the characters of one context, and figure 3 of the
WaveNet paper (van den Oord et al. 2016, arXiv:1609.03499), a stack of dilated causal convolutions.
``draw_nodes`` draws both of one network of ours, and colours in the second what is the first: the tree
is all that a single output of the convolutions sees.

The two arrows of the paper's figure 4 are there as well: the residual, from the newest of the nodes that are
fused, and the skips, from the newest node of each block to where they are added up.

Departures from the paper's figures: sizes are the network's own, read from its layers and from
``Convolution.stages``; the word is padded with ``.`` as the lecture's contexts are. A node of the
convolutions stands above the newest character it sees, as there, a node of the tree above their middle.
"""

import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch

from makemore.convolution.stages import Convolution
from makemore.ensemble import members_of
from makemore.errors import UsageError
from makemore.layers import Looks, Sequential, declared
from makemore.networks import block_size, summary
from makemore.plotting import drawable
from makemore.wiring import looks_at, readers_of, wires_of

SEEN, OUTPUT = "#0072B2", "#D55E00"  # of Okabe and Ito's palette, which the colour-blind tell apart
RESIDUAL, SKIP = "#009E73", "#CC79A7"
FAINT, GREY = "#BDBDBD", "#6E6E6E"

WIDTH = 9.4
"""Inches: 1,410 pixels as ``save_figure`` writes it."""

MOST_PLACES_BESIDE = 30
"""Places up to which two panels stand beside each other; with more, one below the other."""

LONGEST_WORD = 200
"""Characters of a word that is drawn; with more, the lines would be one grey."""

ROW_HEIGHT = 0.6
"""Inches from row to row."""

ROOM_FOR_SKIPS = 1.0
"""Places that are left free beside the newest nodes, where skips go up."""

LABELS = {"residual: the newest of the nodes that are fused": RESIDUAL, "skip of the newest node": SKIP}

Nodes = tuple[list[list[float]], list[list[tuple[float, float]]]]
"""The x of each row's nodes, from the characters up, and of the two ends of the lines above each row."""


def draw_nodes(network: Sequential, word: str = "diondre") -> Figure:
    """The tree over the last context of a word, and the same nodes among those of the whole word.

    If no convolution is equal to the network, only the tree, and why. The next characters are the
    word's own, not guesses. Gids name what is drawn: "tree", "all" or "seen", "nodes", "lines", "residuals"
    or "skips", and the row, as in "seen nodes 0"; x is a place in the padded word. The figure is returned,
    not shown. Of an ensemble the first member is drawn. Raises UsageError on a word of more than
    ``LONGEST_WORD`` characters.
    """
    network = members_of(network)[0]
    if len(word) > LONGEST_WORD:
        raise UsageError(f"a word of {len(word):,} characters cannot be drawn: {LONGEST_WORD} is the most")
    rows, size = rows_of_nodes(network), block_size(network)
    labels, top = [row.label for row in rows], len(rows) - 1
    arrows = any(row.residuals or row.skips for row in rows)
    symbols = "." * size + word + "."
    last = len(symbols) - 2  # the place of the newest character that the last output sees
    context, outputs = range(last - size + 1, last + 1), range(size - 1, last + 1)
    try:
        Convolution.from_network(network)
        problem = ""
    except ValueError as error:
        problem = f"Not drawn as convolutions: {error}."
    beside = not problem and size + last + 1 <= MOST_PLACES_BESIDE
    stacked = not problem and not beside
    figure = Figure(
        figsize=(WIDTH, (ROW_HEIGHT * top + 1.8 + 0.3 * arrows) * (1 + stacked)), layout="constrained"
    )
    ratios = [size, last + 1] if beside else [1]
    panels = [*figure.subplots(1 + stacked, 1 + beside, squeeze=False, width_ratios=ratios).flat]
    places = [size + (last + 1) * beside, last + 1 + size * beside]  # along the width of each panel
    tree_spacing, spacing = (72 * 0.7 * WIDTH / n for n in places)  # points from one place to the next
    for axes in panels:
        axes.set(frame_on=False, xticks=[], xlim=(context[0] - 0.5, last + 0.5), ylim=(-1, top + 0.9))
        axes.set_yticks([-0.62, *range(top + 1), top + 0.62], ["context", *labels, "next character"])
        axes.tick_params(length=0, labelsize=9, labelleft=stacked or axes is panels[0])

    if arrows:
        handles = [Line2D([], [], color=color, label=label) for label, color in LABELS.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
        for axes in panels:
            axes.set_xlim(axes.get_xlim()[0], last + 0.5 + ROOM_FOR_SKIPS)
    nodes = tree_nodes(rows, last, size)
    panels[0].set_title("one context, as a tree", fontsize=11)
    _characters(panels[0], -0.7, {x: symbols[x] for x in context}, context, SEEN, tree_spacing)
    _characters(panels[0], top + 0.54, {nodes[0][-1][0]: symbols[-1]}, nodes[0][-1], OUTPUT, tree_spacing)
    _draw_nodes(panels[0], rows, nodes, "tree", tree_spacing)
    _draw_arrows(panels[0], rows, nodes, "tree", tree_spacing)
    if problem:
        figure.supxlabel(textwrap.fill(problem, 90), fontsize=9, color=GREY, parse_math=False)
        return figure

    panels[1].set_title("the whole word, as dilated causal convolutions", fontsize=11)
    panels[1].set_xlim(-0.5, last + 0.5 + ROOM_FOR_SKIPS * arrows)
    _characters(panels[1], -0.7, {x: symbols[x] for x in range(last + 1)}, context, SEEN, spacing)
    _characters(panels[1], top + 0.54, {x: symbols[x + 1] for x in outputs}, [last], OUTPUT, spacing)
    _draw_nodes(panels[1], rows, convolution_nodes(rows, outputs), "all", spacing)
    seen = convolution_nodes(rows, [last])
    _draw_nodes(panels[1], rows, seen, "seen", spacing)
    _draw_arrows(panels[1], rows, seen, "seen", spacing)
    right = panels[1].secondary_yaxis("right")
    kernels = [
        f"kernel {len(row.lags)}" + (f"\ndilation {row.lags[-2]}" if len(row.lags) > 1 else "")
        for row in rows[1:]
    ]
    right.set_yticks([i + 0.5 for i in range(top)], kernels, fontsize=9)
    right.tick_params(length=0)
    right.spines["right"].set_visible(False)
    return figure


ITSELF = Looks(1, (0,))


@dataclass
class Row:
    """A row of nodes: the layers that give it, and of which nodes of the row ``source`` each consists.

    The nodes of the rows in ``residuals`` are added to those with the same newest character, the newest node
    of each row in ``skips`` to its last one. ``step_below`` are the symbols from node to node of the source.
    ``place`` is its own among all rows, once no layer is added to it any more.
    """

    names: list[str]
    channels: int
    source: int = 0
    looks: Looks = ITSELF
    step_below: int = 1
    residuals: list[int] = field(default_factory=list)
    skips: list[int] = field(default_factory=list)
    place: int | None = None

    @property
    def label(self) -> str:
        """Its layers, and how many channels come out of them."""
        return f"{''.join(self.names)} ({self.channels})"

    @property
    def lags(self) -> list[int]:
        """How many symbols back each of the nodes lies that a node consists of, the oldest first."""
        return [(self.looks.offsets[-1] - offset) * self.step_below for offset in self.looks.offsets]


def rows_of_nodes(network: Sequential) -> list[Row]:
    """The rows of nodes, from the symbols up.

    A row ends behind a layer that acts on each position alone, and where positions are fused. A residual, and
    the Linear behind the nodes that it is added to, are part of the row of these nodes; Linears whose outputs
    are added up are one row, with the layer behind them.
    """
    summary(network, batch_size=1)  # a forward pass, which leaves each layer's output
    wires, rows, given = wires_of(network), list[Row](), list[Row]()
    readers = readers_of(wires)
    for i, (layer, sources) in enumerate(wires):
        looks = looks_at(layer)
        if i == 0 and layer is not None:
            row = Row([type(layer).__name__], layer.out.shape[-1])
            _end(row, rows)
        elif layer is None:
            row = _added_up(given[sources[0]], given[sources[1]], rows)
        elif looks is not None:
            row = _looked_at(given[sources[0]], looks, rows)
        else:
            row, below = given[sources[0]], wires[sources[0]].layer
            acts = bool(declared(layer, "acts_per_position"))
            if acts and below and declared(below, "acts_per_position") and readers[sources[0]] == 1:
                row.names[-1] = row.names[-1].replace("\n", " ")  # one more that acts on each position
            else:
                row = _open(row)
            plus = "" if not row.names else "\n+ " if acts else " + "
            row.names.append(plus + type(layer).__name__.removesuffix("1d"))
            row.channels = layer.out.shape[-1]
            if acts:
                _end(row, rows)
        if row.names and (i == len(wires) - 1 or readers[i] > 1):
            _end(row, rows)
        given.append(row)
    return rows


def _end(row: Row, rows: list[Row]) -> int:
    """Add a row to all those that there are, unless it is there; returns its place."""
    if row.place is None:
        row.place = len(rows)
        rows.append(row)
    return row.place


def _open(row: Row) -> Row:
    """The row itself if a layer may be added to it, else a new one of its nodes."""
    if row.place is not None:
        return Row([], row.channels, row.place, step_below=row.step_below * row.looks.stride)
    return row if row.names else replace(row, names=[])


def _looked_at(row: Row, looks: Looks, rows: list[Row]) -> Row:
    """A row, without layers so far, whose nodes consist of some nodes of another row."""
    if row.names:
        _end(row, rows)
        row = _open(row)
    offsets = [row.looks.stride * offset + inner for offset in looks.offsets for inner in row.looks.offsets]
    return replace(row, looks=Looks(row.looks.stride * looks.stride, tuple(offsets)), names=[])


def _added_up(a: Row, b: Row, rows: list[Row]) -> Row:
    """The row that has the sum of two."""
    if all(row.names and row.place is None and len(row.looks.offsets) == 1 for row in (a, b)):
        skips = [*a.skips, a.source, *b.skips]  # two Linears: the later one's nodes are below it
        return replace(b, names=["Skips"], skips=skips)
    a, b = sorted((a, b), key=lambda row: len(rows) if row.place is None and row.names else row.place or 0)
    residual = a.source if a.place is None and not a.names else _end(a, rows)
    place = b.source if b.place is None and b.looks == ITSELF else _end(b, rows)
    if place != residual:
        rows[place].names.append("\n+ residual")
        rows[place].residuals.append(residual)
        rows[place].channels = b.channels
    return rows[place]


def tree_nodes(rows: Sequence[Row], last: int, size: int) -> Nodes:
    """The nodes of a context of ``size`` characters up to ``last``, each above the middle of what it sees."""
    nodes: list[list[float]] = [[*range(last - size + 1, last + 1)]]
    lines = []
    for row in rows[1:]:
        below, (stride, offsets) = nodes[row.source], row.looks
        starts = range(0, len(below) - offsets[-1], stride)
        nodes.append([(below[i + offsets[0]] + below[i + offsets[-1]]) / 2 for i in starts])
        lines.append([(below[i + o], nodes[-1][i // stride]) for i in starts for o in offsets])
    return nodes, lines


def convolution_nodes(rows: Sequence[Row], outputs: Sequence[int]) -> Nodes:
    """What some outputs of dilated causal convolutions see, each node above its newest character."""
    seen: list[set[int]] = [set() for _ in rows]
    seen[-1].update(outputs)
    lines: list[list[tuple[float, float]]] = []
    for row, places in zip(reversed(rows[1:]), reversed(seen[1:]), strict=True):
        lines.insert(0, [(x - lag, x) for x in sorted(places) for lag in row.lags])
        seen[row.source].update(int(below) for below, _ in lines[0])
        for other in (*row.residuals, *row.skips):
            seen[other].update(places)
    return [[*sorted(places)] for places in seen], lines


def _characters(
    axes: Axes, y: float, symbols: dict[float, str], seen: Collection[float], color: str, spacing: float
) -> None:
    """Symbols by their x, coloured where they belong to the tree."""
    for x, symbol in symbols.items():
        text = axes.text(x, y, drawable(symbol, "bold"), ha="center", weight="bold", parse_math=False)
        text.set(color=color if x in seen else GREY, fontsize=min(14, 0.8 * spacing))


def _draw_nodes(axes: Axes, rows: Sequence[Row], nodes: Nodes, kind: str, spacing: float) -> None:
    """Lines and nodes, row by row; those of the kind "all" are faint."""
    faint = kind == "all"
    for i, lines in enumerate(nodes[1]):
        segments = [[(x, rows[i + 1].source), (above, i + 1)] for x, above in lines]
        width, color, order = (0.7, FAINT, 1) if faint else (1.6, SEEN, 2)
        gid = f"{kind} lines {i}"
        axes.add_collection(LineCollection(segments, colors=color, linewidths=width, zorder=order, gid=gid))
    for i, row in enumerate(nodes[0]):
        edge = FAINT if faint else OUTPUT if i == len(nodes[1]) else SEEN
        dots = axes.scatter(row, [i] * len(row), s=min(10, 0.6 * spacing) ** 2, gid=f"{kind} nodes {i}")
        dots.set(facecolor="white" if faint else edge, edgecolor=edge, zorder=3 if faint else 4)


def _draw_arrows(axes: Axes, rows: Sequence[Row], nodes: Nodes, kind: str, spacing: float) -> None:
    """The residuals of every node, and the skips of the newest ones, in curves beside the lines."""
    longest = max((i - below for i, row in enumerate(rows) for below in row.skips), default=1)
    bend = min(0.3, 1.7 * ROOM_FOR_SKIPS * spacing / (72 * ROW_HEIGHT * longest))
    for i, row in enumerate(rows):
        for below in row.residuals:
            stride, offset = row.looks.stride, row.looks.offsets[-1]
            for j, x in enumerate(nodes[0][i]):
                start = nodes[0][below][stride * j + offset] if kind == "tree" else x
                _arrow(axes, (start, below), (x, i), -0.25, RESIDUAL, f"{kind} residuals {i}")
        for below in row.skips:
            ends = (nodes[0][below][-1], below), (nodes[0][i][-1], i)
            _arrow(axes, *ends, bend, SKIP, f"{kind} skips {i}")


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], bend: float, color: str, gid: str
) -> None:
    style = f"arc3,rad={bend}"
    arrow = FancyArrowPatch(start, end, connectionstyle=style, arrowstyle="-|>", shrinkA=4, shrinkB=5)
    arrow.set(gid=gid, color=color, linewidth=1.4, mutation_scale=9, zorder=5, clip_on=False)
    axes.add_patch(arrow)
