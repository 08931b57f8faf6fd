"""The graph of a network: which layer reads the output of which, and where its positions are.

The lecture's networks are layers in a row. In the paper's network a value is read twice and added to others.
The hand-derived engines, the convolution and the picture of the nodes therefore look at a network as a list
of nodes. ``trace`` finds them by sending one value through ``__call__`` of every layer that declares
``composite``; all other layers become nodes as they are.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from makemore.core.errors import UsageError
from makemore.core.layer import Layer, declared, keeps_positions, window_of
from makemore.core.text import plural

INPUT = -1
"""The index of the network's input."""

MAX_POSITIONS = 2**40
"""The largest number of positions of a context: without a limit, a few layers could ask for huge numbers."""


class Node(NamedTuple):
    """A layer and the index of the node whose output it reads; without a layer, the sum of two outputs."""

    layer: Layer | None
    inputs: tuple[int, ...]


class FalseDeclaration(UsageError):
    """A layer computes something other than it declares."""


def trace(network: Layer) -> list[Node]:
    """The nodes of a network in an order in which each follows those it reads. The last gives the output.

    Nodes whose output is not read are left out. Raises FalseDeclaration on a layer that declares
    ``composite`` but does more than call layers and add.
    """
    nodes: list[Node] = []
    output = _follow(network, _Value(nodes, INPUT))
    read = {output.index}
    for i in range(output.index, INPUT, -1):
        if i in read:
            read.update(nodes[i].inputs)
    number = {old: new for new, old in enumerate(sorted(read | {INPUT}), start=INPUT)}
    return [
        Node(layer, tuple(number[j] for j in inputs)) for i, (layer, inputs) in enumerate(nodes) if i in read
    ]


class _Value:
    """A value on its way through the layers: the output of a node."""

    def __init__(self, nodes: list[Node], index: int) -> None:
        self.nodes, self.index = nodes, index

    def __add__(self, other: _Value) -> _Value:
        return self.through(None, self, other)

    def through(self, layer: Layer | None, *values: _Value) -> _Value:
        self.nodes.append(Node(layer, tuple(value.index for value in values)))
        return _Value(self.nodes, len(self.nodes) - 1)


class _Followed:
    """Takes the place of a layer within a composite one and notes what it is called with."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer

    def __call__(self, x: _Value) -> _Value:
        return _follow(self.layer, x, self)

    def __getattr__(self, name: str) -> Any:  # such as block.z, a value that the block has stored
        return getattr(self.layer, name)


def _follow(layer: Layer, x: _Value, followed: _Followed | None = None) -> _Value:
    """The output of a layer for a value."""
    if not declared(layer, "composite"):
        return x.through(layer, x)
    inside = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, Layer):
            setattr(inside, name, _Followed(value))
        elif isinstance(value, list):
            setattr(inside, name, [_Followed(v) if isinstance(v, Layer) else v for v in value])
    try:
        out: Any = inside(x)  # type: ignore[arg-type]
    except (AttributeError, TypeError) as error:
        raise FalseDeclaration(
            f"{type(layer).__name__} does more than call layers and add: {error}"
        ) from error
    if followed is not None:
        followed.layer = inside
    if not isinstance(out, _Value):
        raise FalseDeclaration(
            f"{type(layer).__name__} does more than call layers and add: it returns {out!r}"
        )
    return out


def use_counts(nodes: Sequence[Node]) -> list[int]:
    """How many nodes read the output of each."""
    counts = Counter(j for node in nodes for j in node.inputs)
    return [counts[i] for i in range(len(nodes))]


class UndeclaredLayer(ValueError):
    """A layer does not declare what it does with positions."""


@dataclass(frozen=True)
class Geometry:
    """Where the positions of each node's output are.

    ``positions[i]`` is the number of positions of node i's output, and ``steps[i]`` how many symbols of the
    context lie between one position and the next. ``block_size`` is the length of the context.
    """

    positions: list[int]
    steps: list[int]
    block_size: int


def geometry(nodes: Sequence[Node]) -> Geometry:
    """The geometry of a network that gives one position of output.

    Raises UndeclaredLayer on a layer that does not declare what it does with positions, and ValueError if two
    layers need different numbers of positions from one node.
    """
    lengths: dict[int, int] = {len(nodes) - 1: 1}
    for i in range(len(nodes) - 1, INPUT, -1):
        layer, inputs = nodes[i]
        length = lengths[i]
        if (window := window_of(layer)) is not None:
            length = window.input_length(length)
            if length > MAX_POSITIONS:
                raise ValueError(f"{layer} needs more than {MAX_POSITIONS:,} positions")
        elif layer is not None and not keeps_positions(layer):
            raise UndeclaredLayer(f"{layer} does not declare what it does with positions")
        for j in inputs:
            if lengths.setdefault(j, length) != length:
                raise ValueError(
                    f"the layers disagree: one needs {plural(lengths[j], 'position')} from a node,"
                    f" {layer} needs {length}"
                )
    steps: dict[int, int] = {INPUT: 1}
    for i, (layer, inputs) in enumerate(nodes):
        window = window_of(layer)
        steps[i] = steps[inputs[-1]] * (1 if window is None else window.stride)
    count = range(len(nodes))
    return Geometry([lengths[i] for i in count], [steps[i] for i in count], lengths.get(INPUT, 1))


def context_length(network: Layer) -> int:
    """The length of the context that a network takes, in symbols.

    That is its ``block_size`` if it has one, else what its layers declare. Raises ValueError if neither is
    known, or if the two differ.
    """
    try:
        inferred = geometry(trace(network)).block_size
    except UndeclaredLayer as error:
        if network.block_size is None:
            raise ValueError(
                f"the length of the context is not known, since {error}: set network.block_size"
            ) from None
        return network.block_size
    if network.block_size not in (None, inferred):
        raise ValueError(
            f"the network's block_size is {network.block_size}, but its layers need contexts of {inferred}"
        )
    return inferred


def node_values(nodes: Sequence[Node], x: Tensor, first: Tensor | None = None) -> list[Tensor]:
    """The output of every node for the input x, computed by the layers themselves.

    With ``first``, the output of the first node is taken from there.
    """
    values: list[Tensor] = [] if first is None else [first]
    for layer, inputs in nodes[len(values) :]:
        read = [x if j == INPUT else values[j] for j in inputs]
        values.append(read[0] + read[1] if layer is None else layer(read[0]))
    return values


@torch.no_grad()
def check_declarations(network: Layer, nodes: Sequence[Node], X: Tensor) -> None:
    """Compare what layers declare about positions with what they compute for contexts X (B, T).

    In evaluation. Raises FalseDeclaration, since a fast path that relied on a wrong declaration would compute
    something else without any sign of it.
    """
    with network.evaluating():
        values = node_values(nodes, X)
        for (layer, inputs), out in zip(nodes, values, strict=True):
            x = X if inputs[0] == INPUT else values[inputs[0]]
            if layer is None or inputs[0] == INPUT:
                continue
            if (window := window_of(layer)) is not None:
                length = x.shape[1] - window.offsets[-1]
                parts = [x[:, offset:][:, : length : window.stride] for offset in window.offsets]
                if not same_values(out, torch.cat(parts, dim=2).squeeze(1)):
                    raise FalseDeclaration(f"{layer} declares that it concatenates {window}, but it does not")
            elif declared(layer, "pointwise") and x.ndim == 3:
                try:
                    alone = layer(x.flatten(0, 1)).view(*x.shape[:2], -1)  # each position on its own
                except (RuntimeError, ValueError, IndexError) as error:
                    raise FalseDeclaration(
                        f"{layer} declares that it is pointwise, but fails on rows (B*T, C): {error}"
                    ) from error
                if not same_values(out, alone):
                    raise FalseDeclaration(f"{layer} declares that it is pointwise, but it is not")


def same_values(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal up to rounding."""
    tolerance = 1e-3 if a.dtype.itemsize < 4 or a.dtype == torch.float32 else 1e-9
    return a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
