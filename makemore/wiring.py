"""Which layer of a network reads which one's output (beyond the lecture).

The lecture's networks are layers in a row. In the paper's a value is read twice, and added to others. What
does more than call layers, the engines by hand, the convolution, the picture, looks at a network as a list
of wires. They are found by following one value through ``__call__`` of every layer that declares
``made_of_layers``; all others are followed no further.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

from makemore.layers import Layer, Looks, declared

INPUT = -1
"""The wire that stands for the input of the network."""


class Wire(NamedTuple):
    """A layer and the one wire whose output it reads; or no layer: the sum of the outputs of two wires."""

    layer: Layer | None
    sources: tuple[int, ...]


def wires_of(network: Layer) -> list[Wire]:
    """The wires of a network, each behind those that it reads; the last one is its output.

    Those that nobody reads are left out.
    Raises ValueError on a layer that declares to be made of layers, but does something else besides.
    """
    wires: list[Wire] = []
    output = _follow(network, _Value(wires, INPUT))
    read = {output.index}
    for i in range(output.index, INPUT, -1):
        if i in read:
            read.update(wires[i].sources)
    number = {old: new for new, old in enumerate(sorted(read | {INPUT}), start=INPUT)}
    return [
        Wire(layer, tuple(number[source] for source in sources))
        for i, (layer, sources) in enumerate(wires)
        if i in read
    ]


class _Value:
    """A value on its way through the layers: the output of a wire."""

    def __init__(self, wires: list[Wire], index: int) -> None:
        self.wires, self.index = wires, index

    def __add__(self, other: _Value) -> _Value:
        return self.through(None, self, other)

    def through(self, layer: Layer | None, *values: _Value) -> _Value:
        self.wires.append(Wire(layer, tuple(value.index for value in values)))
        return _Value(self.wires, len(self.wires) - 1)


class _Followed:
    """Stands for a layer within another one: notes what it is called with."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer

    def __call__(self, x: _Value) -> _Value:
        return _follow(self.layer, x, self)

    def __getattr__(self, name: str) -> Any:  # block.z, say: the value that it has left there
        return getattr(self.layer, name)


def _follow(layer: Layer, x: _Value, stand_in: _Followed | None = None) -> _Value:
    """What comes out of a layer for a value."""
    if not declared(layer, "made_of_layers"):
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
        raise ValueError(f"{type(layer).__name__} does more than call layers and add: {error}") from error
    if stand_in is not None:
        stand_in.layer = inside
    assert isinstance(out, _Value)
    return out


def looks_at(layer: Layer | None) -> Looks | None:
    """Which positions the layer makes one, or None if it declares nothing."""
    looks = None if layer is None else declared(layer, "looks_at")
    return None if looks is None else looks(layer)


def positions_of(wires: Sequence[Wire]) -> tuple[list[int], int]:
    """How many positions the output of each wire has, and the input, if the last output has one.

    Raises ValueError where two layers need different numbers from one.
    """
    needed: dict[int, int] = {len(wires) - 1: 1}
    for i in range(len(wires) - 1, -1, -1):
        layer, sources = wires[i]
        looks = looks_at(layer)
        positions = needed.setdefault(i, 1)
        below = positions if looks is None else looks.needed(positions)
        for source in sources:
            if needed.setdefault(source, below) != below:
                raise ValueError(f"one value is to have {needed[source]} positions, and {below} for {layer}")
    return [needed[i] for i in range(len(wires))], needed.get(INPUT, 1)


def readers_of(wires: Sequence[Wire]) -> list[int]:
    """How many wires read the output of each."""
    read = [source for wire in wires for source in wire.sources]
    return [read.count(i) for i in range(len(wires))]
