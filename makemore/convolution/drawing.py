"""Which characters each node of a network sees, drawn from its layers (beyond the lecture).

The lecture shows two pictures: the tree that fuses the characters of one context, and figure 3 of the
WaveNet paper (van den Oord et al. 2016, arXiv:1609.03499), a stack of dilated causal convolutions.
``draw_nodes`` draws both of one network of ours, and colours in the second what is the first: the tree
is all that a single output of the convolutions sees.

Departures from the paper's figure: sizes are the network's own, read from its layers and from
``Convolution.stages``; the word is padded with ``.`` as the lecture's contexts are. A node of the
convolutions stands above the newest character it sees, as there, a node of the tree above their middle.
"""

import math
import textwrap
from collections.abc import Collection, Sequence

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from makemore.convolution.stages import Convolution
from makemore.ensemble import members_of
from makemore.errors import UsageError
from makemore.layers import Sequential, declared
from makemore.networks import summary
from makemore.plotting import drawable
from makemore.wiring import looks_at, wires_of

SEEN, OUTPUT = "#0072B2", "#D55E00"  # of Okabe and Ito's palette, which the colour-blind tell apart
FAINT, GREY = "#BDBDBD", "#6E6E6E"

WIDTH = 9.4
"""Inches: 1,410 pixels as ``save_figure`` writes it."""

MOST_PLACES_BESIDE = 30
"""Places up to which two panels stand beside each other; with more, one below the other."""

LONGEST_WORD = 200
"""Characters of a word that is drawn; with more, the lines would be one grey."""

Nodes = tuple[list[list[float]], list[list[tuple[float, float]]]]
"""The x of each row's nodes, from the characters up, and of the two ends of the lines above each row."""


def draw_nodes(network: Sequential, word: str = "diondre") -> Figure:
    """The tree over the last context of a word, and the same nodes among those of the whole word.

    If no convolution is equal to the network, only the tree, and why. The next characters are the
    word's own, not guesses. Gids name what is drawn: "tree", "all" or "seen", "nodes" or "lines", and the
    row, as in "seen nodes 0"; x is a place in the padded word. The figure is returned, not shown.
    Of an ensemble the first member is drawn. Raises UsageError on a word of more than ``LONGEST_WORD``
    characters.
    """
    network = members_of(network)[0]
    if len(word) > LONGEST_WORD:
        raise UsageError(f"a word of {len(word):,} characters cannot be drawn: {LONGEST_WORD} is the most")
    fused, labels = zip(*rows_of_nodes(network), strict=True)
    size, top = math.prod(fused), len(labels) - 1
    symbols = "." * size + word + "."
    last = len(symbols) - 2  # the place of the newest character that the last output sees
    context, outputs = range(last - size + 1, last + 1), range(size - 1, last + 1)
    try:
        stages, problem = Convolution.from_network(network).stages, ""
    except ValueError as error:
        stages, problem = [], f"Not drawn as convolutions: {error}."
    beside = bool(stages) and size + last + 1 <= MOST_PLACES_BESIDE
    stacked = bool(stages) and not beside
    figure = Figure(figsize=(WIDTH, (0.6 * top + 1.8) * (1 + stacked)), layout="constrained")
    ratios = [size, last + 1] if beside else [1]
    panels = [*figure.subplots(1 + stacked, 1 + beside, squeeze=False, width_ratios=ratios).flat]
    places = [size + (last + 1) * beside, last + 1 + size * beside]  # along the width of each panel
    tree_spacing, spacing = (72 * 0.7 * WIDTH / n for n in places)  # points from one place to the next
    for axes in panels:
        axes.set(frame_on=False, xticks=[], xlim=(context[0] - 0.5, last + 0.5), ylim=(-1, top + 0.9))
        axes.set_yticks([-0.62, *range(top + 1), top + 0.62], ["context", *labels, "next character"])
        axes.tick_params(length=0, labelsize=9, labelleft=stacked or axes is panels[0])

    nodes = tree_nodes(fused[1:], last)
    panels[0].set_title("one context, as a tree", fontsize=11)
    _characters(panels[0], -0.7, {x: symbols[x] for x in context}, context, SEEN, tree_spacing)
    _characters(panels[0], top + 0.54, {nodes[0][-1][0]: symbols[-1]}, nodes[0][-1], OUTPUT, tree_spacing)
    _draw_nodes(panels[0], nodes, "tree", tree_spacing)
    if not stages:
        figure.supxlabel(textwrap.fill(problem, 90), fontsize=9, color=GREY, parse_math=False)
        return figure

    lags = [stage.lags for stage in stages]
    panels[1].set_title("the whole word, as dilated causal convolutions", fontsize=11)
    panels[1].set_xlim(-0.5, last + 0.5)
    _characters(panels[1], -0.7, {x: symbols[x] for x in range(last + 1)}, context, SEEN, spacing)
    _characters(panels[1], top + 0.54, {x: symbols[x + 1] for x in outputs}, [last], OUTPUT, spacing)
    _draw_nodes(panels[1], convolution_nodes(lags, outputs), "all", spacing)
    _draw_nodes(panels[1], convolution_nodes(lags, [last]), "seen", spacing)
    right = panels[1].secondary_yaxis("right")
    kernels = [f"kernel {len(s.lags)}" + f"\ndilation {s.dilation}" * (len(s.lags) > 1) for s in stages]
    right.set_yticks([i + 0.5 for i in range(top)], kernels, fontsize=9)
    right.tick_params(length=0)
    right.spines["right"].set_visible(False)
    return figure


def rows_of_nodes(network: Sequential) -> list[tuple[int, str]]:
    """Each row of nodes: how many of the row below a node fuses, and the label.

    Cut where ``Convolution.from_network`` cuts: behind a layer that acts per position, or where positions
    are fused.
    """
    summary(network, batch_size=1)  # a forward pass, which leaves each layer's output
    rows: list[tuple[int, str]] = []
    label, fused, channels = "", 1, 0

    def end_row() -> None:
        nonlocal label, fused
        if label:
            rows.append((fused, f"{label} ({channels})"))
            label, fused = "", 1

    if any(wire.sources != (i - 1,) for i, wire in enumerate(wires_of(network))):
        raise UsageError("a network with residual and skip connections cannot be drawn")
    for i, layer in enumerate(network.flattened()):
        if looks := looks_at(layer):
            end_row()
            fused *= len(looks.offsets)
        else:
            ends_here = i == 0 or declared(layer, "acts_per_position")
            plus = "" if not label else "\n+ " if ends_here else " + "
            label += plus + type(layer).__name__.removesuffix("1d")
            channels = layer.out.shape[-1]
            if ends_here:
                end_row()
    end_row()
    return rows


def tree_nodes(fused: Sequence[int], last: int) -> Nodes:
    """The lecture's tree over the characters up to ``last``: every n neighbours become one node.

    >>> tree_nodes([2, 2], last=9)[0]
    [[6, 7, 8, 9], [6.5, 8.5], [7.5]]
    """
    nodes: list[list[float]] = [[*range(last - math.prod(fused) + 1, last + 1)]]
    lines = []
    for n in fused:
        below = nodes[-1]
        nodes.append([(below[i] + below[i + n - 1]) / 2 for i in range(0, len(below), n)])
        lines.append([(x, nodes[-1][i // n]) for i, x in enumerate(below)])
    return nodes, lines


def convolution_nodes(lags: Sequence[Sequence[int]], outputs: Sequence[int]) -> Nodes:
    """What some outputs of dilated causal convolutions see, from the ``lags`` of each convolution.

    >>> convolution_nodes([[1, 0], [2, 0]], [9])[0]
    [[6, 7, 8, 9], [7, 9], [9]]
    """
    nodes: list[list[float]] = [[*outputs]]
    lines: list[list[tuple[float, float]]] = []
    for stage in reversed(lags):
        lines.insert(0, [(x - lag, x) for x in nodes[0] for lag in stage])
        nodes.insert(0, sorted({below for below, _ in lines[0]}))
    return nodes, lines


def _characters(
    axes: Axes, y: float, symbols: dict[float, str], seen: Collection[float], color: str, spacing: float
) -> None:
    """Symbols by their x, coloured where they belong to the tree."""
    for x, symbol in symbols.items():
        text = axes.text(x, y, drawable(symbol, "bold"), ha="center", weight="bold", parse_math=False)
        text.set(color=color if x in seen else GREY, fontsize=min(14, 0.8 * spacing))


def _draw_nodes(axes: Axes, nodes: Nodes, kind: str, spacing: float) -> None:
    """Lines and nodes, row by row; those of the kind "all" are faint."""
    faint = kind == "all"
    for i, lines in enumerate(nodes[1]):
        segments = [[(x, i), (above, i + 1)] for x, above in lines]
        width, color, order = (0.7, FAINT, 1) if faint else (1.6, SEEN, 2)
        gid = f"{kind} lines {i}"
        axes.add_collection(LineCollection(segments, colors=color, linewidths=width, zorder=order, gid=gid))
    for i, row in enumerate(nodes[0]):
        edge = FAINT if faint else OUTPUT if i == len(nodes[1]) else SEEN
        dots = axes.scatter(row, [i] * len(row), s=min(10, 0.6 * spacing) ** 2, gid=f"{kind} nodes {i}")
        dots.set(facecolor="white" if faint else edge, edgecolor=edge, zorder=3 if faint else 4)
