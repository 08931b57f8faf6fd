"""The graph of a network: which layer reads the output of which, and where its positions are.

The lecture's networks are layers in a row. In the paper's network a value is read twice and added to others.
The hand-derived engines, the convolution and the picture of the nodes therefore look at a network as a list
of nodes. ``trace`` finds them by sending one value through ``__call__`` of every layer that declares
``composite``; all other layers become nodes as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from makemore.core.errors import UsageError
from makemore.core.layer import (
    Layer,
    Window,
    declared,
    keeps_positions,
    layer_text,
    require_network,
    window_of,
    with_children_replaced,
)
from makemore.core.text import plural

INPUT = -1
"""The index of the network's input."""

DIVERGED_VALUES = 1e10
"""A network with larger values in a layer has diverged."""

MAX_POSITIONS = 2**40
"""The largest number of positions of a context: without a limit, a few layers could ask for huge numbers."""

AFFINE_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
"""How far an affine layer may be from its scale and shift, as a share of the terms; 0.1 for other dtypes."""


class Node(NamedTuple):
    """A layer and the index of the node whose output it reads; without a layer, the sum of two outputs."""

    layer: Layer | None
    inputs: tuple[int, ...]


class FalseDeclaration(UsageError):
    """A layer computes something other than it declares."""


def trace(network: Layer) -> list[Node]:
    """The nodes of a network in an order in which each follows those it reads. The last gives the output.

    Nodes whose output is not read are left out. Raises FalseDeclaration on a layer that declares
    ``composite`` but does more than call layers and add, and TypeError on what is not a network.
    """
    require_network(network)
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
    """A value on its way through the layers: the output of a node. It can be added, and nothing else."""

    def __init__(self, nodes: list[Node], index: int) -> None:
        self.nodes, self.index = nodes, index

    def __add__(self, other: _Value) -> _Value:
        return self.through(None, self, other) if isinstance(other, _Value) else NotImplemented

    def __radd__(self, other: object) -> _Value:
        return self if type(other) is int and other == 0 else NotImplemented  # sum() begins with 0

    def through(self, layer: Layer | None, *values: _Value) -> _Value:
        self.nodes.append(Node(layer, tuple(value.index for value in values)))
        return _Value(self.nodes, len(self.nodes) - 1)


class _Followed:
    """Takes the place of a layer within a composite one and notes what it is called with."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer

    def __call__(self, *inputs: Any, **named: Any) -> _Value:
        if len(inputs) != 1 or named or not isinstance(inputs[0], _Value):
            kinds = ", ".join(type(each).__name__ for each in (*inputs, *named.values())) or "nothing"
            raise TypeError(f"it calls {layer_text(self.layer)} with {kinds}, not with one value")
        return _follow(self.layer, inputs[0], self)

    def __getattr__(self, name: str) -> Any:  # such as block.z, a value that the block has stored
        return getattr(self.layer, name)


# Python's own messages name these classes: "'value' object has no attribute 'tanh'".
_Value.__name__, _Followed.__name__ = "value", "layer"


def _follow(layer: Layer, x: _Value, followed: _Followed | None = None) -> _Value:
    """The output of a layer for a value."""
    if not declared(layer, "composite"):
        return x.through(layer, x)
    inside = with_children_replaced(layer, _Followed)
    try:
        out: Any = inside(x)  # type: ignore[arg-type]
        if not isinstance(out, _Value):
            raise TypeError(f"it returns {type(out).__name__}, not one value")
    except (AttributeError, TypeError) as error:
        raise FalseDeclaration(
            f"{type(layer).__name__} declares composite = True, but does more than call layers that are its"
            f" attributes, or in lists and tuples, and add their outputs: {error}"
        ) from error
    if followed is not None:
        followed.layer = inside
    return out


def is_chain(nodes: Sequence[Node]) -> bool:
    """Whether each node reads the output of the one before, the first one the input."""
    return all(node.inputs == (i - 1,) for i, node in enumerate(nodes))


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
                raise ValueError(f"{_node_text(layer)} needs more than {MAX_POSITIONS:,} positions")
        elif layer is not None and not keeps_positions(layer):
            raise UndeclaredLayer(f"{layer_text(layer)} does not declare what it does with positions")
        for j in inputs:
            if lengths.setdefault(j, length) != length:
                raise ValueError(
                    f"the layers disagree: one needs {plural(lengths[j], 'position')} from a node,"
                    f" {_node_text(layer)} needs {length}"
                )
    steps: dict[int, int] = {INPUT: 1}
    for i, (layer, inputs) in enumerate(nodes):
        window = window_of(layer)
        steps[i] = steps[inputs[-1]] * (1 if window is None else window.stride)
    count = range(len(nodes))
    return Geometry([lengths[i] for i in count], [steps[i] for i in count], lengths.get(INPUT, 1))


def _node_text(layer: Layer | None) -> str:
    """The text of a node's layer, for messages."""
    return "a sum" if layer is None else layer_text(layer)


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
    """Compare what layers declare with what they compute for contexts X (B, T), in evaluation.

    Raises FalseDeclaration that names the layer, since a fast path that relied on a wrong declaration would
    compute something else without any sign of it. The values of a network that has diverged depend on
    rounding: they are not compared.
    """
    with network.evaluating():
        values = node_values(nodes, X)
        if not all(bool((value.abs() < DIVERGED_VALUES).all()) for value in values):
            return
        for (layer, inputs), out in zip(nodes, values, strict=True):
            if layer is None or inputs[0] == INPUT:
                continue
            x = values[inputs[0]]
            if (window := window_of(layer)) is not None:
                _check_window(layer, window, x, out)
            if declared(layer, "pointwise"):
                _check_pointwise(layer, x, out)
            if declared(layer, "affine"):
                _check_affine(layer, x, out)
            if declared(layer, "stochastic") and not same_values(out, x):
                raise FalseDeclaration(
                    f"{layer_text(layer)} declares that it is stochastic, but in evaluation it does not"
                    " return its input"
                )


def _check_window(layer: Layer, window: Window, x: Tensor, out: Tensor) -> None:
    length = x.shape[1] - window.offsets[-1]
    parts = [x[:, offset:][:, : length : window.stride] for offset in window.offsets]
    if not same_values(out, torch.cat(parts, dim=2).squeeze(1)):
        raise FalseDeclaration(f"{layer_text(layer)} declares that it concatenates {window}, but it does not")


def _check_pointwise(layer: Layer, x: Tensor, out: Tensor) -> None:
    if x.ndim != 3:
        return
    try:
        alone = layer(x.flatten(0, 1)).view(*x.shape[:2], -1)  # each position on its own
    except (RuntimeError, ValueError, IndexError) as error:
        raise FalseDeclaration(
            f"{layer_text(layer)} declares that it is pointwise, but fails on rows (B*T, C): {error}"
        ) from error
    if not same_values(out, alone):
        raise FalseDeclaration(f"{layer_text(layer)} declares that it is pointwise, but it is not")


def _check_affine(layer: Layer, x: Tensor, out: Tensor) -> None:
    try:
        scale, shift = map(torch.as_tensor, declared(layer, "affine")(layer))
    except ValueError:  # it has no affine map, such as a BatchNorm with statistics for each position
        return
    C = x.shape[-1]
    if tuple(scale.shape) not in ((C,), (C, out.shape[-1])) or shift.shape != out.shape[-1:]:
        raise FalseDeclaration(
            f"{layer_text(layer)} declares that it is affine, with a scale {tuple(scale.shape)} and a shift"
            f" {tuple(shift.shape)}, which do not fit {C} channels in and {out.shape[-1]} out"
        )
    x, scale, shift = x.double(), scale.double(), shift.double()
    multiply = torch.mul if scale.ndim == 1 else torch.matmul
    # Large terms may cancel each other: the rounding errors are those of the terms.
    largest = multiply(x.abs(), scale.abs()) + shift.abs()
    difference = (multiply(x, scale) + shift - out.double()).abs()
    tolerance = AFFINE_TOLERANCE.get(out.dtype, 0.1)
    if (difference > tolerance * largest + tolerance).any():
        raise FalseDeclaration(f"{layer_text(layer)} declares that it is affine, but it is not")


def same_values(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal up to rounding."""
    tolerance = 1e-3 if a.dtype.itemsize < 4 or a.dtype == torch.float32 else 1e-9
    return a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
