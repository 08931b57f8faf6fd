"""The convolution against the layers it is made of, and the fast losses against the plain ones.

Reference: the Sequential itself, at every position of every word. Behaviour: what is refused, and that
pieces, chunks and the order of the words make no difference.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from makemore.convolution import Convolution, log_likelihoods, loss, scoring, stages
from makemore.convolution.forms import plain_form
from makemore.evaluation import log_probs, split_loss
from makemore.layers import (
    BatchNorm1d,
    Embedding,
    FlattenConsecutive,
    HistoricBatchNorm1d,
    Layer,
    Linear,
    Sequential,
    Tanh,
)
from makemore.networks import NETWORKS, block_size, network_plan
from makemore.words import DataError, Examples, Vocabulary

VOCABULARY = Vocabulary("abcdefgh")
V = len(VOCABULARY)


def shaken(layers: list[Layer], seed: int, dtype: torch.dtype) -> Sequential:
    """The layers with other values than those they start with, running statistics included."""
    network = Sequential(layers).to(dtype=dtype)
    generator = Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator, dtype=dtype)
        tensor.data = noise.abs() + 0.5 if name.endswith("running_var") else tensor.data + 0.3 * noise
    return network


def plan(block_size: int, *, hierarchical: bool = True) -> list[Layer]:
    sizes = network_plan("hierarchical" if hierarchical else "mlp", block_size, 5, 12)
    return sizes.build(V, Generator().manual_seed(1)).layers


NETWORKS_TO_CONVERT: dict[str, list[Layer]] = {
    "pairs of 2": plan(2),
    "pairs of 4": plan(4),
    "pairs of 8": plan(8),
    "pairs of 16": plan(16),
    "flat 3": plan(3, hierarchical=False),
    "flat 8": plan(8, hierarchical=False),
    "one character": plan(1, hierarchical=False),
    "4 and 2, with bias": [
        Embedding(V, 3),
        *[FlattenConsecutive(4), Linear(12, 7), BatchNorm1d(7), Tanh()],
        *[FlattenConsecutive(2), Linear(14, 9), Tanh(), Linear(9, V, bias=False)],
    ],
    "any order": [
        *[Embedding(V, 4), BatchNorm1d(4), FlattenConsecutive(2), FlattenConsecutive(2)],
        *[BatchNorm1d(16), Tanh(), Linear(16, 6), Linear(6, 5), FlattenConsecutive(2), Tanh(), Tanh()],
        *[Sequential([Linear(10, 6), HistoricBatchNorm1d(6)]), Linear(6, V), BatchNorm1d(V)],
    ],
    "counts": [Embedding(V, V), FlattenConsecutive(1)],
    "no Linear": [Embedding(V, 5), FlattenConsecutive(2), Tanh()],
}


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
        ([Embedding(V, 2), BatchNorm1d(3)], r"BatchNorm1d\(3\) does not fit its input of 2"),
    ],
)
def test_what_cannot_be_converted_is_refused_by_name(layers: list[Layer], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Convolution.from_network(Sequential(layers))


def some_words(number: int, longest: int = 20, seed: int = 0) -> list[str]:
    generator = Generator().manual_seed(seed)
    lengths = torch.randint(0, longest, (number,), generator=generator).tolist()
    letters = torch.randint(0, 3, (sum(lengths),), generator=generator).tolist()
    text = "".join("abh"[i] for i in letters)
    ends = torch.tensor(lengths).cumsum(0).tolist()
    return [text[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def all_log_probs(network: Convolution | Sequential, examples: Examples) -> Tensor:
    if isinstance(network, Sequential):
        return torch.cat(list(log_probs(network, examples)))
    return torch.cat(list(network.log_probs(examples)))


@pytest.mark.parametrize("piece", [1, stages.PIECE_VALUES])
@pytest.mark.parametrize("name", NETWORKS_TO_CONVERT)
def test_loss_is_the_plain_one(name: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "PIECE_VALUES", piece)  # at least TILE examples: 12 pieces
    network = shaken(NETWORKS_TO_CONVERT[name], 3, torch.float64)
    words = some_words(300)
    examples = Examples(VOCABULARY.encode_all(words), block_size(network))
    converted = Convolution.from_network(network)
    expected = all_log_probs(network, examples)
    torch.testing.assert_close(all_log_probs(converted, examples), expected, atol=1e-12, rtol=1e-12)
    assert loss(converted, examples) == pytest.approx(split_loss(network, examples), abs=1e-12)


def test_loss_in_float32() -> None:
    network = shaken(NETWORKS["wavenet"].build(V).layers, 4, torch.float32)
    examples = Examples(VOCABULARY.encode_all(some_words(3000)), 8)
    found = loss(Convolution.from_network(network), examples)
    assert found == pytest.approx(split_loss(network, examples), abs=1e-6)


def test_equal_windows_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    fuse = stages.Stage.fuse

    def counted(*args: object) -> tuple[Tensor, Tensor]:
        nodes, ids = fuse(*args)  # type: ignore[arg-type]
        rows.append((len(nodes), len(ids)))
        return nodes, ids

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_likelihoods_are_the_plain_ones_in_order(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = shaken(plan(8), 5, dtype)
    # One of the words is longer than a chunk, and than a piece.
    words = [*some_words(200), "", "a" * 1000, *some_words(50, seed=1)]
    expected = log_likelihoods(plain_form(network), VOCABULARY, words)
    assert expected.shape == (252,)
    examples = Examples(VOCABULARY.encode_all(["ab"]), 8)
    single = all_log_probs(network, examples).double().sum()
    assert log_likelihoods(plain_form(network), VOCABULARY, ["ab"]).item() == pytest.approx(
        single.item(), abs=1e-12
    )

    converted = Convolution.from_network(network)
    monkeypatch.setattr(scoring, "CHUNK_SYMBOLS", 64)
    monkeypatch.setattr(stages, "PIECE_VALUES", 1)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    scores = log_likelihoods(converted, VOCABULARY, words)
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, expected, atol=tolerance, rtol=tolerance)


def test_log_likelihoods_of_nothing_and_of_the_unknown() -> None:
    converted = Convolution.from_network(shaken(plan(4), 0, torch.float32))
    assert log_likelihoods(converted, VOCABULARY, []).shape == (0,)
    with pytest.raises(DataError, match="'z' is not in the vocabulary"):
        log_likelihoods(converted, VOCABULARY, ["abba", "fez"])
