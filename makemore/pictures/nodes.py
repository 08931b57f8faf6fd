"""The picture of the nodes: which characters each node of a network depends on.

The lecture shows two pictures: the tree that combines the characters of one context, and figure 3 of the
WaveNet paper (van den Oord et al. 2016, arXiv:1609.03499), a stack of dilated causal convolutions.
``draw_nodes`` draws both for a given network. In the second it colors the nodes of the first: the tree has
all the nodes that a single output of the convolutions depends on.

Networks with residual and skip connections also have the arrows of the paper's figure 4: a residual comes
from the newest of the nodes that are concatenated, a skip connection from the newest node of a block.

Departures from the paper's figures: all sizes are read from the network's layers, and the word is padded with
``.`` as the lecture's contexts are. As in figure 3, a node of the convolutions is above the newest character
that it depends on; a node of the tree is above the middle of the nodes that it reads.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch

from makemore.core.errors import UsageError
from makemore.core.figure import Figure
from makemore.core.graph import FalseDeclaration, context_length
from makemore.core.layer import Layer
from makemore.core.text import known_form
from makemore.inference.convolution import Convolution
from makemore.pictures.figures import DEFAULT_WORD, WIDTH, check_length, drawable_symbol, figure_of, wrapped
from makemore.pictures.node_rows import Layout, Row, convolution_nodes, rows_of_nodes, tree_nodes
from makemore.pictures.palette import ACCENT, BACKGROUND, FAINT, GRAY, PRIMARY, RESIDUAL, SKIP
from makemore.training.ensemble import members_of

MAX_SIDE_BY_SIDE = 30
"""The largest number of places, in both panels together, with which the panels are side by side."""

ROW_HEIGHT = 0.6
"""The distance between two rows in inches."""

ROOM_FOR_ARROWS = 1.0
"""The room to the right of the newest nodes, in places, if the network has residual or skip connections."""


def draw_nodes(network: Layer, word: str = DEFAULT_WORD) -> Figure:
    """Draw the tree over the last context of a word, and the convolutions over the whole word.

    A network that equals no convolution has only the tree, and a note that says why. The word is brought into
    the form that all words have. The next characters are those of the word, not predictions. Of an ensemble
    the first member is drawn. Returns the figure without showing it.

    The gids of the artists begin with "tree" for the tree, and in the convolutions with "all" for all nodes
    or "seen" for those of the tree. Then follow "nodes", "lines", "residuals" or "skips", and the row, as in
    "seen nodes 0". An x is a place in the padded word.

    Raises UsageError on a word of more than ``MAX_WORD_LENGTH`` characters, and on a network with a layer
    that does not declare what it does with positions, or something else than it does.
    """
    network = members_of(network)[0]
    word = known_form(word, network.characters or ())
    check_length(word)
    try:
        rows, size = rows_of_nodes(network), context_length(network)
        problem = why_no_convolution(network)
    except ValueError as error:
        raise UsageError(f"the nodes of this network cannot be drawn: {error}") from error
    symbols = "." * size + word + "."
    newest = len(symbols) - 2  # the place of the last character that the last output depends on
    context, outputs = range(newest - size + 1, newest + 1), range(size - 1, newest + 1)
    top = len(rows) - 1

    figure, panels, spacings = _make_panels(rows, [size] if problem else [size, newest + 1])
    axes, spacing = panels[0], spacings[0]
    axes.set_title("one context, as a tree", fontsize=11)
    axes.set_xlim(context[0] - 0.5, newest + 0.5 + _room(rows))
    tree = tree_nodes(rows, newest, size)
    root = tree.nodes[-1][0]
    _draw_characters(axes, -0.7, {x: symbols[x] for x in context}, context, PRIMARY, spacing)
    _draw_characters(axes, top + 0.54, {root: symbols[-1]}, [root], ACCENT, spacing)
    _draw_lines_and_nodes(axes, rows, tree, "tree", spacing)
    _draw_arrows(axes, rows, tree, "tree", spacing)
    if problem:
        note = wrapped(f"Not drawn as convolutions: {problem}.", 0.7 * WIDTH)
        axes.set_xlabel(note, fontsize=8.5, color=GRAY, labelpad=10, parse_math=False)
        return figure

    axes, spacing = panels[1], spacings[1]
    axes.set_title("the whole word, as dilated causal convolutions", fontsize=11)
    axes.set_xlim(-0.5, newest + 0.5 + _room(rows))
    seen = convolution_nodes(rows, [newest])
    _draw_characters(axes, -0.7, {x: symbols[x] for x in range(newest + 1)}, context, PRIMARY, spacing)
    _draw_characters(axes, top + 0.54, {x: symbols[x + 1] for x in outputs}, [newest], ACCENT, spacing)
    _draw_lines_and_nodes(axes, rows, convolution_nodes(rows, outputs), "all", spacing)
    _draw_lines_and_nodes(axes, rows, seen, "seen", spacing)
    _draw_arrows(axes, rows, seen, "seen", spacing)
    _label_kernels(axes, rows)
    return figure


def why_no_convolution(network: Layer) -> str:
    """Why no convolution equals the network; "" if one does. Raises FalseDeclaration."""
    try:
        Convolution.from_network(network)
    except FalseDeclaration:
        raise
    except ValueError as error:
        return str(error)
    return ""


def _arrow_colors(rows: Sequence[Row]) -> dict[str, str]:
    """The kinds of arrows that the rows have, and their colors."""
    colors = {}
    if any(row.residuals for row in rows):
        colors["residual connection"] = RESIDUAL
    if any(row.skips for row in rows):
        colors["skip connection"] = SKIP
    return colors


def _room(rows: Sequence[Row]) -> float:
    """The room to the right of the newest nodes, in places."""
    return ROOM_FOR_ARROWS if _arrow_colors(rows) else 0.0


def _make_panels(rows: Sequence[Row], places: Sequence[int]) -> tuple[Figure, list[Axes], list[float]]:
    """A figure with a panel for each number of places, side by side if there is room.

    The third value is the distance between two places in each panel, in points.
    """
    side_by_side = sum(places) <= MAX_SIDE_BY_SIDE
    num_rows, num_columns = (1, len(places)) if side_by_side else (len(places), 1)
    colors, top = _arrow_colors(rows), len(rows) - 1
    figure = figure_of(WIDTH, (ROW_HEIGHT * top + 1.8 + 0.3 * bool(colors)) * num_rows)
    widths = places if side_by_side else [1]
    panels = [*figure.subplots(num_rows, num_columns, squeeze=False, width_ratios=widths).flat]
    labels = ["context", *(row.label for row in rows), "next character"]
    for axes in panels:
        axes.set(frame_on=False, xticks=[], ylim=(-1, top + 0.9))
        axes.set_yticks([-0.62, *range(top + 1), top + 0.62], labels)
        axes.tick_params(length=0, labelsize=9, labelleft=axes is panels[0] or not side_by_side)
    if colors:
        handles = [Line2D([], [], color=color, label=label) for label, color in colors.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    width = 72 * 0.7 * WIDTH  # in points, without the labels
    return figure, panels, [width / (sum(places) if side_by_side else n) for n in places]


def _label_kernels(axes: Axes, rows: Sequence[Row]) -> None:
    """Write the kernel size and dilation of each convolution to the right."""
    labels = []
    for row in rows[1:]:
        dilation = f"\ndilation {row.lags[-2]}" if len(row.lags) > 1 else ""
        labels.append(f"kernel {len(row.lags)}{dilation}")
    right = axes.secondary_yaxis("right")
    right.set_yticks([i + 0.5 for i in range(len(labels))], labels, fontsize=9)
    right.tick_params(length=0)
    right.spines["right"].set_visible(False)


def _draw_characters(
    axes: Axes, y: float, symbols: Mapping[float, str], colored: Collection[float], color: str, spacing: float
) -> None:
    """Draw characters by their x. Those that are not ``colored`` are gray."""
    for x, symbol in symbols.items():
        text = axes.text(x, y, drawable_symbol(symbol, "bold"), ha="center", weight="bold", parse_math=False)
        text.set(color=color if x in colored else GRAY, fontsize=min(14, 0.8 * spacing))


def _draw_lines_and_nodes(axes: Axes, rows: Sequence[Row], layout: Layout, kind: str, spacing: float) -> None:
    """Draw all lines and then all nodes, faint ones for the kind "all"."""
    faint = kind == "all"
    color, width, zorder = (FAINT, 0.7, 1) if faint else (PRIMARY, 1.6, 2)
    for i, lines in enumerate(layout.lines):
        segments = [[(below, rows[i + 1].source), (x, i + 1)] for below, x in lines]
        gid = f"{kind} lines {i}"
        axes.add_collection(LineCollection(segments, colors=color, linewidths=width, zorder=zorder, gid=gid))
    for i, xs in enumerate(layout.nodes):
        edge = ACCENT if i == len(rows) - 1 and not faint else color
        dots = axes.scatter(xs, [i] * len(xs), s=min(10, 0.6 * spacing) ** 2, gid=f"{kind} nodes {i}")
        dots.set(facecolor=BACKGROUND if faint else edge, edgecolor=edge, zorder=zorder + 2)


def _draw_arrows(axes: Axes, rows: Sequence[Row], layout: Layout, kind: str, spacing: float) -> None:
    """Draw residual and skip connections as curved arrows."""
    longest = max((i - added.row for i, row in enumerate(rows) for added in row.skips), default=1)
    bend = min(0.3, 1.7 * ROOM_FOR_ARROWS * spacing / (72 * ROW_HEIGHT * longest))
    for i, row in enumerate(rows):
        residuals = [(added, "residuals", -0.25, RESIDUAL) for added in row.residuals]
        skips = [(added, "skips", bend, SKIP) for added in row.skips]
        for added, name, curve, color in residuals + skips:
            for j, x in enumerate(layout.nodes[i]):
                start = layout.nodes[added.row][added.position(j)] if kind == "tree" else x
                _draw_arrow(axes, (start, added.row), (x, i), curve, color, f"{kind} {name} {i}")


def _draw_arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], bend: float, color: str, gid: str
) -> None:
    style = f"arc3,rad={bend}"
    arrow = FancyArrowPatch(start, end, connectionstyle=style, arrowstyle="-|>", shrinkA=4, shrinkB=5)
    arrow.set(gid=gid, color=color, linewidth=1.4, mutation_scale=9, zorder=5, clip_on=False)
    axes.add_patch(arrow)
