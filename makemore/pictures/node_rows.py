"""The rows of nodes in the picture of the nodes: which layers compute a row, and what its nodes read.

``rows_of_nodes`` finds the rows of a network. ``tree_nodes`` and ``convolution_nodes`` lay them out: they
give the nodes that one context, or some outputs of the convolutions, depend on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from makemore.core.graph import INPUT, check_declarations, geometry, node_values, trace, use_counts
from makemore.core.layer import Layer, Window, declared, window_of
from makemore.lecture.layers import Embedding

SAME_POSITION = Window(1, (0,))


class Added(NamedTuple):
    """A row whose nodes are added to those of another row: the newest ones of a window of them."""

    row: int
    window: Window = SAME_POSITION

    def position(self, j: int) -> int:
        """The position, in this row, of the node that is added to node j."""
        return self.window.stride * j + self.window.offsets[-1]


@dataclass
class Row:
    """A row of nodes: the output of one or more layers, one node for each position.

    Each node reads a ``window`` of nodes of the row ``source``, which are ``step`` symbols apart. Nodes of
    other rows are added to it: ``residuals``, and ``skips`` that go through a Linear. ``layers`` is a text,
    and ``index`` the row's index among all rows: None as long as layers may be added to it.
    """

    layers: str
    channels: int
    source: int = 0
    window: Window = SAME_POSITION
    step: int = 1
    residuals: tuple[Added, ...] = ()
    skips: tuple[Added, ...] = ()
    index: int | None = None

    @property
    def label(self) -> str:
        """The layers and the number of channels."""
        return f"{self.layers} ({self.channels})"

    @property
    def lags(self) -> list[int]:
        """How many symbols back each node is that a node reads, the oldest first."""
        return [(self.window.offsets[-1] - offset) * self.step for offset in self.window.offsets]


def rows_of_nodes(network: Layer) -> list[Row]:
    """The rows of nodes of a network, from the symbols up.

    A row ends after a pointwise layer, and where positions are concatenated. A Linear whose output is added
    to a residual belongs to the row of the nodes that it reads, as does the residual. Linears whose outputs
    are added up are one row, with the layer that follows.

    Raises ValueError if a layer does not declare what it does with positions, or something else than it does.
    """
    nodes = trace(network)
    where = geometry(nodes)
    if not nodes or any(INPUT in node.inputs for node in nodes[1:]):
        raise ValueError("its first layer, and no other, must read the symbols")
    first = nodes[0].layer
    vocab_size = len(first.weight) if isinstance(first, Embedding) else 1
    X = torch.arange(2 * where.block_size, device=network.parameters()[0].device) * 7 % vocab_size
    check_declarations(network, nodes, X.view(2, -1))
    with network.evaluating():
        channels = [value.shape[-1] for value in node_values(nodes, X.view(2, -1))]
    counts = use_counts(nodes)
    rows = _Rows()
    row_of: list[Row] = []  # the row that has the output of each node
    for i, (layer, inputs) in enumerate(nodes):
        name, window = type(layer).__name__.removesuffix("1d"), window_of(layer)
        if i == 0:
            row = Row(name, channels[0])
            rows.close(row)
        elif layer is None:
            row = rows.add(row_of[inputs[0]], row_of[inputs[1]])
        elif window is not None:
            row = rows.concatenate(row_of[inputs[0]], window, where.steps[inputs[0]])
        else:
            below, row = inputs[0], row_of[inputs[0]]
            pointwise = bool(declared(layer, "pointwise"))
            if pointwise and declared(nodes[below].layer, "pointwise") and counts[below] == 1:
                row.layers = row.layers.replace("\n", " ")  # the line break is before the last layer
            else:
                row = rows.open(row, where.steps[below])
            separator = "" if not row.layers else "\n+ " if pointwise else " + "
            row.layers += separator + name
            row.channels = channels[i]
            if pointwise:
                rows.close(row)
        if row.layers and (i == len(nodes) - 1 or counts[i] > 1):
            rows.close(row)
        row_of.append(row)
    return rows.closed


class _Rows:
    """The rows of a network while they are found. A row is closed when no layers may be added to it."""

    def __init__(self) -> None:
        self.closed: list[Row] = []

    def close(self, row: Row) -> int:
        """Close a row if it is open; returns its index."""
        if row.index is None:
            row.index = len(self.closed)
            self.closed.append(row)
        return row.index

    def open(self, row: Row, step: int) -> Row:
        """A row for layers that read the nodes of ``row``: the row itself if it is open."""
        if row.index is not None:
            return Row("", row.channels, row.index, step=step)
        return row if row.layers else replace(row)

    def concatenate(self, row: Row, window: Window, step: int) -> Row:
        """A row without layers so far, whose nodes read a window of the nodes of ``row``."""
        if row.layers:
            self.close(row)
            row = self.open(row, step)
        stride, inner = row.window
        offsets = tuple(stride * offset + more for offset in window.offsets for more in inner)
        return replace(row, window=Window(stride * window.stride, offsets))

    def add(self, a: Row, b: Row) -> Row:
        """The row that has the sum of the nodes of two rows."""
        if all(row.layers and row.index is None and len(row.window.offsets) == 1 for row in (a, b)):
            skips = (*a.skips, Added(a.source, a.window), *b.skips)  # b keeps its lines to the nodes it reads
            return replace(b, layers="Skips", skips=skips)
        a, b = sorted((a, b), key=self._order)
        open_without_layers = a.index is None and not a.layers
        residual = Added(a.source, a.window) if open_without_layers else Added(self.close(a))
        index = b.source if b.index is None and b.window == SAME_POSITION else self.close(b)
        row = self.closed[index]
        if index != residual.row:
            row.layers += "\n+ residual"
            row.residuals += (residual,)
            row.channels = b.channels
        return row

    def _order(self, row: Row) -> int:
        """Closed rows are sorted by index; an open row comes last, or first if it has no layers."""
        if row.index is None and row.layers:
            return len(self.closed)
        return row.index or 0


class Layout(NamedTuple):
    """Where the nodes are. A node's x is a place in the padded word, its y the index of its row.

    ``nodes`` has the x of each row's nodes, from the symbols up. ``lines`` has, for each row but the first,
    the x of both ends of the lines from the nodes that are read.
    """

    nodes: list[list[float]]
    lines: list[list[tuple[float, float]]]


def tree_nodes(rows: Sequence[Row], newest: int, size: int) -> Layout:
    """The nodes of the context of ``size`` characters up to the place ``newest``.

    Each node is above the middle of the nodes that it reads.
    """
    nodes: list[list[float]] = [[*range(newest - size + 1, newest + 1)]]
    lines = []
    for row in rows[1:]:
        below, (stride, offsets) = nodes[row.source], row.window
        starts = range(0, len(below) - offsets[-1], stride)
        nodes.append([(below[i + offsets[0]] + below[i + offsets[-1]]) / 2 for i in starts])
        lines.append([(below[i + o], nodes[-1][i // stride]) for i in starts for o in offsets])
    return Layout(nodes, lines)


def convolution_nodes(rows: Sequence[Row], outputs: Sequence[int]) -> Layout:
    """The nodes of dilated causal convolutions that the outputs at some places depend on.

    Each node is above the newest character that it depends on.
    """
    places: list[set[int]] = [set() for _ in rows]
    places[-1].update(outputs)
    lines: list[list[tuple[float, float]]] = []
    for row, own in zip(reversed(rows[1:]), reversed(places[1:]), strict=True):
        lines.insert(0, [(x - lag, x) for x in sorted(own) for lag in row.lags])
        places[row.source].update(x - lag for x in own for lag in row.lags)
        for added in (*row.residuals, *row.skips):
            places[added.row].update(own)
    return Layout([[*sorted(own)] for own in places], lines)
