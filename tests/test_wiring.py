"""Which layer reads which one's output, found by following a value through the layers."""

from __future__ import annotations

import pytest
from torch import Tensor

from makemore.layers import (
    Embedding,
    FlattenConsecutive,
    FlattenDilated,
    Layer,
    Linear,
    Newest,
    ResidualBlock,
    Sequential,
    SkipConnections,
    Tanh,
)
from makemore.wiring import INPUT, positions_of, readers_of, wires_of


def names(network: Layer) -> list[tuple[str, tuple[int, ...]]]:
    return [(type(layer).__name__ if layer else "sum", sources) for layer, sources in wires_of(network)]


def test_layers_in_a_row() -> None:
    network = Sequential([Embedding(5, 3), Sequential([Tanh(), Sequential([])]), Linear(3, 5)])
    assert names(network) == [("Embedding", (INPUT,)), ("Tanh", (0,)), ("Linear", (1,))]
    assert readers_of(wires_of(network)) == [1, 1, 0]


def test_blocks_and_skips() -> None:
    first = ResidualBlock(FlattenDilated(2, 1), [Linear(6, 4), Tanh()], Linear(4, 3))
    last = ResidualBlock(FlattenConsecutive(2), [Linear(6, 4), Tanh()], None)
    skips = SkipConnections([first, last], [Sequential([Newest(2), Linear(4, 7)]), Linear(4, 7)])
    network = Sequential([Embedding(5, 3), skips])
    assert names(network) == [
        ("Embedding", (INPUT,)),
        *[("FlattenDilated", (0,)), ("Linear", (1,)), ("Tanh", (2,))],
        *[("Newest", (0,)), ("Linear", (3,)), ("sum", (4, 5))],
        *[("Newest", (3,)), ("Linear", (7,))],
        *[("FlattenConsecutive", (6,)), ("Linear", (9,)), ("Tanh", (10,))],
        *[("Linear", (11,)), ("sum", (8, 12))],
    ]
    assert positions_of(wires_of(network)) == ([3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1], 3)
    assert wires_of(network)[2].layer is first.gated.layers[1], "the layers themselves, not copies"
    assert not hasattr(network, "out"), "the layers are left as they are"


def test_what_nobody_reads_is_left_out() -> None:
    last = ResidualBlock(FlattenConsecutive(2), [Linear(6, 4)], Linear(4, 3))
    network = Sequential([Embedding(5, 3), SkipConnections([last], [Linear(4, 5)])])
    assert names(network) == [
        *[("Embedding", (INPUT,)), ("FlattenConsecutive", (0,)), ("Linear", (1,)), ("Linear", (2,))],
    ]


class Halved(Layer):
    """It says that it is made of layers alone, but it is not."""

    made_of_layers = True

    def __call__(self, x: Tensor) -> Tensor:
        return x / 2


class Unlike(Sequential):
    """A subclass may do something else with its layers: it is followed no further."""


def test_what_does_more_than_it_declares_is_named() -> None:
    with pytest.raises(ValueError, match="Halved does more than call layers and add: unsupported operand"):
        wires_of(Sequential([Embedding(5, 3), Halved()]))
    assert names(Unlike([Tanh()])) == [("Unlike", (INPUT,))]


def test_lengths_that_do_not_agree_are_named() -> None:
    block = ResidualBlock(FlattenConsecutive(2), [Linear(6, 4)], Linear(4, 3))
    block.newest = Newest(4)
    network = Sequential([Embedding(5, 3), block, FlattenConsecutive(2)])
    with pytest.raises(ValueError, match=r"to have 8 positions, and 4 for FlattenConsecutive\(2\)"):
        positions_of(wires_of(network))
