"""Which layer reads which one's output, found by following a value through the layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from makemore.core.graph import (
    INPUT,
    FalseDeclaration,
    Node,
    geometry,
    node_values,
    trace,
    use_counts,
)
from makemore.core.layer import Layer, layer_text
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


class Branches(Layer):
    """Layers in a tuple and in a named tuple, whose outputs are added by ``sum``."""

    composite = True

    def __init__(self) -> None:
        self.branches = (Linear(3, 3), Linear(3, 3))
        self.last = Last(Tanh(), 7)

    def __call__(self, x: Tensor) -> Tensor:
        return self.last.layer(sum(branch(x) for branch in self.branches))


class Last(NamedTuple):
    layer: Layer
    number: int


def test_layers_in_tuples_are_followed() -> None:
    network = Sequential([Embedding(5, 3), Branches()])
    assert names(network) == [
        *[("Embedding", (INPUT,)), ("Linear", (0,)), ("Linear", (0,)), ("sum", (1, 2)), ("Tanh", (3,))]
    ]
    assert isinstance(network.layers[1].branches[0], Linear), "the layers are left as they are"
    X = torch.tensor([[1, 2]])
    assert torch.equal(node_values(trace(network), X)[-1], network(X))


class Composite(Layer):
    """Does with its input what it is told to do."""

    composite = True

    def __init__(self, what: Callable[..., Any]) -> None:
        self.linear, self.what = Linear(3, 3), what

    def __call__(self, x: Tensor) -> Tensor:
        return self.what(self.linear, x)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda _, x: x * 2, r"unsupported operand type\(s\) for \*: 'value' and 'int'"),
        (lambda _, x: x.tanh(), "'value' object has no attribute 'tanh'"),
        (lambda _, x: torch.tanh(x), r"tanh\(\): argument .* must be Tensor, not value"),
        (lambda _, x: torch.cat([x, x]), "expected Tensor as element 0 .*, but got value"),
        (lambda _, x: x[:, 0], "'value' object is not subscriptable"),
        (lambda _, x: x + 1, "unsupported operand .*: 'value' and 'int'"),
        (lambda linear, x: x + linear, "unsupported operand .*: 'value' and 'layer'"),
        (lambda linear, x: x @ linear.weight, "unsupported operand .*: 'value' and 'Tensor'"),
        (lambda linear, x: linear(x, x), r"it calls Linear\(3, 3\) with value, value, not with one value"),
        (lambda linear, _: linear(torch.ones(3)), r"it calls Linear\(3, 3\) with Tensor, not with one value"),
        (lambda linear, _: None, "it returns NoneType, not one value"),
        (lambda linear, x: (x, x), "it returns tuple, not one value"),
        (lambda linear, x: linear, "it returns layer, not one value"),
    ],
)
def test_what_a_composite_layer_does_besides_is_said_in_plain_words(
    what: Callable[..., Any], message: str
) -> None:
    with pytest.raises(FalseDeclaration, match=f"^Composite declares composite = True.*: {message}"):
        trace(Sequential([Embedding(5, 3), Composite(what)]))


class Named(Layer):
    """Its ``repr`` has the name of this class, whatever the layer is."""

    def __repr__(self) -> str:
        return "Named\n  7"


class Subclass(Named):
    """Inherits the ``repr``."""


class OwnLinear(Linear):
    """So does this one."""


def test_a_message_names_a_layers_own_class() -> None:
    texts = [layer_text(layer) for layer in (Named(), Subclass(), OwnLinear(3, 4), Linear(3, 4, bias=False))]
    assert texts == ["Named 7", "Subclass()", "OwnLinear(3, 4)", "Linear(3, 4, bias=False)"]
    with pytest.raises(ValueError, match=r"^OwnLinear\(3, 4\) needs an input \(\.\.\., 3\), got \(2, 2\)$"):
        OwnLinear(3, 4)(torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"^Subclass\(\) does not declare what it does with positions$"):
        geometry(trace(Sequential([Embedding(5, 3), Subclass()])))


class Unlike(Sequential):
    """A subclass may do something else with its layers: it is followed no further."""


def test_what_does_more_than_it_declares_is_named() -> None:
    with pytest.raises(ValueError, match=r"^Halved declares composite = True"):
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
    nodes = [
        *(Node(Embedding(5, 3), (INPUT,)), Node(Tanh(), (0,)), Node(Tanh(), (1,)), Node(None, (1, 2))),
        *(Node(FlattenConsecutive(2), (1,)), Node(None, (3, 4))),
    ]
    with pytest.raises(ValueError, match=r"^the layers disagree: one needs 2 positions .*, a sum needs 1$"):
        geometry(nodes)
