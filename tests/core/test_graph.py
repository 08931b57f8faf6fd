"""Which layer reads which one's output, found by following a value through the layers."""

from __future__ import annotations

import pytest
from torch import Tensor

from makemore.core.graph import (
    INPUT,
    geometry,
    trace,
    use_counts,
)
from makemore.core.layer import Layer
from makemore.lecture.layers import Embedding, FlattenConsecutive, Linear, Sequential, Tanh
from makemore.paper.layers import FlattenDilated, ResidualBlock, SkipConnections, TakeLast


def names(network: Layer) -> list[tuple[str, tuple[int, ...]]]:
    return [(type(layer).__name__ if layer else "sum", inputs) for layer, inputs in trace(network)]


def test_layers_in_a_row() -> None:
    network = Sequential([Embedding(5, 3), Sequential([Tanh(), Sequential([])]), Linear(3, 5)])
    assert names(network) == [("Embedding", (INPUT,)), ("Tanh", (0,)), ("Linear", (1,))]
    assert use_counts(trace(network)) == [1, 1, 0]


def test_blocks_and_skips() -> None:
    first = ResidualBlock(FlattenDilated(2, 1), [Linear(6, 4), Tanh()], Linear(4, 3))
    last = ResidualBlock(FlattenConsecutive(2), [Linear(6, 4), Tanh()], None)
    skips = SkipConnections([first, last], [Sequential([TakeLast(2), Linear(4, 7)]), Linear(4, 7)])
    network = Sequential([Embedding(5, 3), skips])
    assert names(network) == [
        ("Embedding", (INPUT,)),
        *[("FlattenDilated", (0,)), ("Linear", (1,)), ("Tanh", (2,))],
        *[("TakeLast", (0,)), ("Linear", (3,)), ("sum", (4, 5))],
        *[("TakeLast", (3,)), ("Linear", (7,))],
        *[("FlattenConsecutive", (6,)), ("Linear", (9,)), ("Tanh", (10,))],
        *[("Linear", (11,)), ("sum", (8, 12))],
    ]
    where = geometry(trace(network))
    assert where.positions == [3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1]
    assert where.steps == [1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2]
    assert where.block_size == 3
    assert trace(network)[2].layer is first.body.layers[1], "the layers themselves, not copies"
    assert not hasattr(network, "out"), "the layers are left as they are"


def test_what_nobody_reads_is_left_out() -> None:
    last = ResidualBlock(FlattenConsecutive(2), [Linear(6, 4)], Linear(4, 3))
    network = Sequential([Embedding(5, 3), SkipConnections([last], [Linear(4, 5)])])
    assert names(network) == [
        *[("Embedding", (INPUT,)), ("FlattenConsecutive", (0,)), ("Linear", (1,)), ("Linear", (2,))],
    ]


class Halved(Layer):
    """It says that it is made of layers alone, but it is not."""

    composite = True

    def __call__(self, x: Tensor) -> Tensor:
        return x / 2


class Unlike(Sequential):
    """A subclass may do something else with its layers: it is followed no further."""


def test_what_does_more_than_it_declares_is_named() -> None:
    with pytest.raises(ValueError, match="Halved does more than call layers and add: unsupported operand"):
        trace(Sequential([Embedding(5, 3), Halved()]))
    assert names(Unlike([Tanh()])) == [("Unlike", (INPUT,))]


def test_lengths_that_do_not_agree_are_named() -> None:
    block = ResidualBlock(FlattenConsecutive(2), [Linear(6, 4)], Linear(4, 3))
    block.take_last = TakeLast(4)
    network = Sequential([Embedding(5, 3), block, FlattenConsecutive(2)])
    with pytest.raises(
        ValueError, match=r"one needs 8 positions from a node, FlattenConsecutive\(2\) needs 4"
    ):
        geometry(trace(network))
