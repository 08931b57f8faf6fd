"""The convolution against the layers it is made of.

Reference: the Sequential itself, at every position of every word. Behaviour: what is refused, and what is
computed how often.
"""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from random_graphs import random_graph
from shaken_networks import NETWORKS_TO_CONVERT, VOCABULARY, V, plan, shaken
from torch import Generator, Tensor

from makemore.convolution import Convolution, loss, stages
from makemore.convolution.queues import Queues
from makemore.layers import (
    BatchNorm1d,
    Embedding,
    FlattenConsecutive,
    FlattenDilated,
    GatedActivation,
    Layer,
    Linear,
    RMSNorm,
    Sequential,
    Tanh,
)
from makemore.networks import NETWORKS, block_size
from makemore.words import Examples


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("name", NETWORKS_TO_CONVERT)
def test_logits_at_every_position_are_those_of_the_sequential(
    name: str, dtype: torch.dtype, tolerance: float
) -> None:
    for seed, length in enumerate((1, 2, 7, 8, 9, 40)):
        network = shaken(NETWORKS_TO_CONVERT[name], seed, dtype)
        symbols = torch.randint(1, V, (3, length), generator=Generator().manual_seed(seed))
        contexts = F.pad(symbols, (block_size(network), 0)).unfold(1, block_size(network), 1)[:, :-1]
        with network.evaluating():
            expected = network(contexts.reshape(3 * length, -1)).view(3, length, -1)
        converted = Convolution.from_network(network)
        assert converted.block_size == block_size(network)
        logits = converted.logits(symbols)
        assert logits.dtype == dtype
        torch.testing.assert_close(logits, expected, atol=tolerance, rtol=tolerance)


def test_a_trained_network_is_converted_as_in_evaluation_and_left_as_it_is() -> None:
    network = NETWORKS["wavenet"].build(V, Generator().manual_seed(0))
    for _ in range(3):
        network(torch.randint(0, V, (32, 8), generator=Generator().manual_seed(0)))
    assert network.training
    logits = Convolution.from_network(network).logits(torch.tensor([[1, 2, 3]]))
    assert network.training
    assert not logits.requires_grad
    with network.evaluating():
        expected = network(torch.tensor([[0, 0, 0, 0, 0, 0, 1, 2]]))
    torch.testing.assert_close(logits[:, 2], expected, atol=1e-5, rtol=1e-5)


def test_a_wavenet_is_kernels_of_two_with_dilations_one_two_four() -> None:
    convolutions = Convolution.from_network(NETWORKS["wavenet"].build(27)).stages
    assert [(tuple(s.weight.shape), s.dilation, str(s.activation)) for s in convolutions] == [
        ((2, 24, 128), 1, "Tanh()"),
        ((2, 128, 128), 2, "Tanh()"),
        ((2, 128, 128), 4, "Tanh()"),
        ((1, 128, 27), 8, "None"),
    ]


@pytest.mark.parametrize("seed", range(25))
def test_random_blocks_and_skips_at_every_position(seed: int) -> None:
    torch.manual_seed(seed)
    layers, T, size = random_graph(random.Random(seed))
    network = shaken(layers, seed, torch.float64)
    converted = Convolution.from_network(network)
    assert converted.block_size == block_size(network) == T
    symbols = torch.randint(0, size, (3, 20), generator=Generator().manual_seed(seed))
    contexts = F.pad(symbols, (T, 0)).unfold(1, T, 1)[:, :-1].reshape(60, T)
    with network.evaluating():
        expected = network(contexts)
    logits = converted.logits(symbols).reshape(60, -1)
    torch.testing.assert_close(logits, expected, atol=1e-12, rtol=1e-12)
    words = Queues(converted)
    words.start(3)
    for t in range(20):
        found, ids = words.append(symbols[:, t - 1] if t else torch.zeros(3, dtype=torch.int64))
        torch.testing.assert_close(found[ids], expected.view(3, 20, -1)[:, t], atol=1e-12, rtol=1e-12)


def _names(activation: Layer | None) -> str:
    layers = activation.layers if isinstance(activation, Sequential) else [activation] if activation else []
    return " ".join(type(layer).__name__ for layer in layers)


def test_residuals_and_skips_are_added_in_stages() -> None:
    convolutions = Convolution.from_network(NETWORKS["wavenet-paper"].build(27)).stages
    assert [(len(s.weight), s.dilation, s.source, s.added, _names(s.activation)) for s in convolutions] == [
        (2, 1, 0, (), "RMSNorm GatedActivation"),
        (1, 2, 1, (0,), ""),  # the residual of the embedding
        (2, 2, 2, (), "RMSNorm GatedActivation"),
        (1, 8, 1, (), ""),  # the first block's skip
        (1, 4, 3, (2,), ""),
        (2, 4, 5, (), "RMSNorm GatedActivation"),
        (1, 8, 3, (4,), ""),
        (1, 8, 6, (7,), "ReLU"),  # the last block's skip, the other two added
        (1, 8, 8, (), "ReLU"),
        (1, 8, 9, (), ""),
    ]


def test_layers_that_act_on_each_position_share_a_stage() -> None:
    layers = [Embedding(V, 4), FlattenConsecutive(2), Linear(8, 6), RMSNorm(6), GatedActivation(), Tanh()]
    convolutions = Convolution.from_network(Sequential([*layers, Linear(3, V)])).stages
    assert [tuple(stage.weight.shape) for stage in convolutions] == [(2, 4, 6), (1, 3, V)]


class Both(Layer):
    """What two ways of fusing give, added up, though their nodes belong to different times."""

    made_of_layers = True

    def __init__(self) -> None:
        self.layers = [FlattenConsecutive(2), FlattenDilated(2, 2)]

    def __call__(self, x: Tensor) -> Tensor:
        return self.layers[0](x) + self.layers[1](x)


class Gelu(Tanh):
    """It inherits no declaration: a convolution cannot know what it does."""


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (NETWORKS["hierarchical-bug"].build(V).layers, r"HistoricBatchNorm1d\(68\) has other statistics at"),
        ([Embedding(V, 2), Gelu()], r"cannot make a convolution of the layer Gelu\(\)"),
        ([Embedding(V, 2), Embedding(V, 2)], r"of the layer Embedding\(9, 2\)"),
        ([Linear(2, 2)], r"begins with an Embedding, got Linear\(2, 2\)"),
        ([], "begins with an Embedding, got None"),
        (
            [Embedding(V, 2), FlattenConsecutive(2), Linear(2, 5)],
            r"Linear\(2, 5\) does not fit its input of 4",
        ),
        ([Embedding(V, 2), Both(), FlattenConsecutive(2)], "a sum of nodes that belong to different times"),
        ([Embedding(V, 2), BatchNorm1d(3)], r"BatchNorm1d\(3\) does not fit its input of 2"),
    ],
)
def test_what_cannot_be_converted_is_refused_by_name(layers: list[Layer], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Convolution.from_network(Sequential(layers))


def test_equal_windows_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    fuse = stages.Stage.fuse

    def counted(*args: object) -> stages.Value:
        value = fuse(*args)  # type: ignore[arg-type]
        rows.append((len(value.nodes), len(value.ids)))
        return value

    monkeypatch.setattr(stages.Stage, "fuse", counted)
    network = shaken(plan(4), 0, torch.float32)
    examples = Examples(VOCABULARY.encode_all(["abab", "aba"]), 4)
    loss(Convolution.from_network(network), examples)
    # Pairs ..  .a  ab  ba; contexts ....  ...a  ..ab  .aba  abab; their logits.
    assert rows == [(4, 9), (5, 9), (5, 9)]


def test_products_do_not_depend_on_the_rows_beside() -> None:
    stage = Convolution.from_network(NETWORKS["wavenet"].build(27, Generator().manual_seed(0))).stages[1]
    nodes = torch.randn((1000, 128), generator=Generator().manual_seed(1))
    together = stage.products(nodes)
    for rows in ([0], [999, 5], list(range(300, 900, 7))):
        for product, alone in zip(together, stage.products(nodes[rows]), strict=True):
            assert torch.equal(product[rows], alone)
