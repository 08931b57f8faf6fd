"""The convolution against the layers it is made of.

Reference: the network itself, at every position of every word. Behaviour: what is refused, false declarations
that are found, and how often a window is computed.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from random_graphs import random_graph
from shaken_networks import NETWORKS_TO_CONVERT, VOCABULARY, V, plan, shaken
from torch import Generator, Tensor

from makemore.core.graph import FalseDeclaration, context_length
from makemore.core.layer import Layer, Window, window_of
from makemore.core.random import default_generator
from makemore.data.encoding import encode_words
from makemore.inference.convolution import Convolution, NotAConvolution, Stage, Value
from makemore.inference.decoder import CachedDecoder
from makemore.inference.generation import generate
from makemore.inference.predictor import NetworkPredictor, as_predictor
from makemore.inference.scoring import log_likelihoods, loss
from makemore.lecture.evaluation import split_loss
from makemore.lecture.layers import BatchNorm1d, Embedding, FlattenConsecutive, Linear, Sequential, Tanh
from makemore.lecture.words import Examples, Vocabulary
from makemore.paper.layers import Dropout, FlattenDilated, GatedActivation, ReLU, RMSNorm, TakeLast
from makemore.run.catalog import NETWORKS, network_plan
from makemore.training.ensemble import Ensemble


@pytest.mark.full
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("name", NETWORKS_TO_CONVERT)
def test_logits_at_every_position_are_those_of_the_layers(
    name: str, dtype: torch.dtype, tolerance: float
) -> None:
    for seed, length in enumerate((1, 2, 7, 8, 9, 40)):
        network = shaken(NETWORKS_TO_CONVERT[name], seed, dtype)
        symbols = torch.randint(1, V, (3, length), generator=Generator().manual_seed(seed))
        contexts = F.pad(symbols, (context_length(network), 0)).unfold(1, context_length(network), 1)[:, :-1]
        with network.evaluating():
            expected = network(contexts.reshape(3 * length, -1)).view(3, length, -1)
        converted = Convolution.from_network(network)
        assert converted.block_size == context_length(network)
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
        ((1, 128, 27), 1, "None"),
    ]


@pytest.mark.full
@pytest.mark.parametrize("seed", range(25))
def test_random_blocks_and_skips_at_every_position(seed: int) -> None:
    torch.manual_seed(seed)
    layers, T, size = random_graph(random.Random(seed))
    network = shaken(layers, seed, torch.float64)
    converted = Convolution.from_network(network)
    assert converted.block_size == context_length(network) == T
    symbols = torch.randint(0, size, (3, 20), generator=Generator().manual_seed(seed))
    contexts = F.pad(symbols, (T, 0)).unfold(1, T, 1)[:, :-1].reshape(60, T)
    with network.evaluating():
        expected = network(contexts)
    logits = converted.logits(symbols).reshape(60, -1)
    torch.testing.assert_close(logits, expected, atol=1e-12, rtol=1e-12)
    words = CachedDecoder(converted)
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
        (1, 1, 1, (0,), ""),  # the residual of the embedding
        (2, 2, 2, (), "RMSNorm GatedActivation"),
        (1, 1, 1, (), ""),  # the first block's skip
        (1, 1, 3, (2,), ""),
        (2, 4, 5, (), "RMSNorm GatedActivation"),
        (1, 1, 3, (4,), ""),
        (1, 1, 6, (7,), "ReLU"),  # the last block's skip, the other two added
        (1, 1, 8, (), "ReLU"),
        (1, 1, 9, (), ""),
    ]


def test_pointwise_layers_share_a_stage() -> None:
    layers = [Embedding(V, 4), FlattenConsecutive(2), Linear(8, 6), RMSNorm(6), GatedActivation(), Tanh()]
    convolutions = Convolution.from_network(Sequential([*layers, Linear(3, V)])).stages
    assert [tuple(stage.weight.shape) for stage in convolutions] == [(2, 4, 6), (1, 3, V)]


def test_dropout_is_left_out() -> None:
    """Even between layers that share a stage only without it."""
    with default_generator(Generator().manual_seed(1)):
        layers = [
            *[Embedding(V, 4), FlattenConsecutive(2), Linear(8, 6), Tanh(), ReLU()],
            *[FlattenConsecutive(2), Linear(12, 5), BatchNorm1d(5), Tanh(), Linear(5, V)],
        ]
    dropped = [each for layer in layers for each in (layer, Dropout(0.9))]
    networks = [shaken(each, 3, torch.float64).train() for each in (layers, dropped)]
    symbols = torch.randint(1, V, (3, 20), generator=Generator().manual_seed(2))
    plain, found = (Convolution.from_network(network).logits(symbols) for network in networks)
    torch.testing.assert_close(found, plain, atol=1e-14, rtol=0)
    assert all(layer.training for layer in networks[1].modules())


def test_a_network_that_reads_less_than_its_context() -> None:
    network = shaken([Embedding(V, 5), TakeLast(1, skip=7), Linear(5, V)], 1, torch.float64)
    assert context_length(network) == 8
    converted = Convolution.from_network(network)
    assert converted.block_size == 1
    examples = Examples(encode_words(VOCABULARY, ["abba", "", "hagebadde"]), 8)
    assert loss(converted, examples) == pytest.approx(split_loss(network, examples), abs=1e-12)


class Both(Layer):
    """Two ways to concatenate, added, though their nodes belong to different times."""

    composite = True

    def __init__(self) -> None:
        self.layers = [FlattenConsecutive(2), FlattenDilated(2, 2)]

    def __call__(self, x: Tensor) -> Tensor:
        return self.layers[0](x) + self.layers[1](x)


class TwoTables(Layer):
    """Two embeddings of the symbols, added."""

    composite = True

    def __init__(self, channels: int) -> None:
        self.tables = [Embedding(V, channels) for _ in range(2)]

    def __call__(self, x: Tensor) -> Tensor:
        self.out = self.tables[0](x) + self.tables[1](x)
        return self.out

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        return ((f"tables.{i}", table) for i, table in enumerate(self.tables))


class Gelu(Tanh):
    """It does not inherit the declarations of Tanh."""

    def __call__(self, x: Tensor) -> Tensor:
        self.out = F.gelu(x)
        return self.out


@pytest.mark.parametrize(
    ("layers", "block_size", "message"),
    [
        (
            network_plan("hierarchical-bug").build(V).layers,
            8,
            r"HistoricBatchNorm1d\(68\) has different statistics at each of 4 positions",
        ),
        (
            [Embedding(V, 2), FlattenConsecutive(2), Gelu(), Linear(4, V)],
            2,
            r"Gelu\(\) does not declare what it does with positions",
        ),
        (
            [TwoTables(V), FlattenConsecutive(1)],
            None,
            r"reads the symbols once, Embedding\(9, 9\) reads them again",
        ),
        (
            [Embedding(V, 2), Both(), FlattenConsecutive(2), Linear(8, V)],
            None,
            "a sum of nodes that belong to different times",
        ),
    ],
)
def test_a_network_without_a_convolution_is_refused_and_its_layers_answer(
    layers: list[Layer], block_size: int | None, message: str
) -> None:
    network = shaken(layers, 1, torch.float64)
    network.block_size = block_size
    with pytest.raises(NotAConvolution, match=message):
        Convolution.from_network(network)
    predictor = as_predictor(network)
    assert isinstance(predictor, NetworkPredictor)
    assert re.search(message, predictor.reason)
    examples = Examples(encode_words(VOCABULARY, ["abba", "", "hagebadde"]), context_length(network))
    assert loss(network, examples) == split_loss(network, examples)


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ([Linear(2, 2)], NotAConvolution, r"begins with an Embedding, got Linear\(2, 2\)"),
        ([], NotAConvolution, "begins with an Embedding, got no layer"),
        ([Embedding(V, 2), Embedding(V, 2)], TypeError, r"Embedding\(9, 2\) needs int64 indices"),
        (
            [Embedding(V, 2), FlattenConsecutive(2), Linear(2, 5)],
            ValueError,
            r"Linear\(2, 5\) needs an input \(\.\.\., 2\), got \(4, 4\)",
        ),
        ([Embedding(V, 2), BatchNorm1d(3)], ValueError, r"BatchNorm1d\(3\) needs \(B, 3\) or \(B, T, 3\)"),
    ],
)
def test_a_network_that_cannot_be_called_says_why(
    layers: list[Layer], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Convolution.from_network(Sequential(layers))


class Fixed(Layer):
    """The base of layers that declare something wrong."""

    def __init__(self, dim: int) -> None:
        self.table = torch.randn((8, dim), generator=Generator().manual_seed(4), dtype=torch.float64)


class SumOfTwo(Fixed):
    """Adds the positions that it declares to concatenate."""

    def __call__(self, x: Tensor) -> Tensor:
        self.out = (x[:, 0::2] + x[:, 1::2]).squeeze(1)
        return self.out

    def concatenates(self) -> Window:
        return Window(2, (0, 1))


class SumOfTwoTwice(Fixed):
    """The same, with as many channels as it declares."""

    def __call__(self, x: Tensor) -> Tensor:
        self.out = (x[:, 0::2] + x[:, 1::2]).repeat(1, 1, 2).squeeze(1)
        return self.out

    def concatenates(self) -> Window:
        return Window(2, (0, 1))


class Swapped(Fixed):
    """Concatenates the newer position first."""

    def __call__(self, x: Tensor) -> Tensor:
        self.out = torch.cat([x[:, 1::2], x[:, 0::2]], dim=2).squeeze(1)
        return self.out

    def concatenates(self) -> Window:
        return Window(2, (0, 1))


class Centered(Fixed):
    """Subtracts the mean over the positions."""

    pointwise = True

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x - x.mean(dim=1, keepdim=True) if x.ndim == 3 else x
        return self.out


class AddsPosition(Fixed):
    """Adds something else at each position."""

    pointwise = True

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x + self.table[-x.shape[1] :] if x.ndim == 3 and x.shape[1] <= 8 else x
        return self.out


class UpToEight(Fixed):
    """Computes something else for more positions than a context has."""

    pointwise = True

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x.tanh() if x.ndim == 2 or x.shape[1] <= 8 else x
        return self.out


class NeedsPositions(Fixed):
    """Takes (B, T, C) alone."""

    pointwise = True

    def __call__(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        self.out = x.tanh().view(B, T, C)
        return self.out


class MeanOfAll(Fixed):
    """Has fewer dimensions in its output than in its input."""

    pointwise = True

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x.mean(dim=1)
        return self.out


class WrongScale(Fixed):
    """Declares another scale than it has."""

    def __call__(self, x: Tensor) -> Tensor:
        self.out = self.table[0] * x
        return self.out

    def affine(self) -> tuple[Tensor, Tensor]:
        return 1.01 * self.table[0], torch.zeros_like(self.table[0])


class WrongShift(Fixed):
    """Forgets its shift."""

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x + self.table[0]
        return self.out

    def affine(self) -> tuple[Tensor, Tensor]:
        return torch.ones_like(self.table[0]), torch.zeros_like(self.table[0])


class WrongMatrix(Fixed):
    """Declares the transpose of its matrix."""

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x @ self.table[:, :8]
        return self.out

    def affine(self) -> tuple[Tensor, Tensor]:
        return self.table[:, :8].T, torch.zeros_like(self.table[0])


class OneFactor(Fixed):
    """Declares one number in place of one for each channel."""

    def __call__(self, x: Tensor) -> Tensor:
        self.out = 2 * x
        return self.out

    def affine(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(2.0), torch.tensor(0.0)


class Noise(Fixed):
    """Declares that it only acts in training, but also does so in evaluation."""

    pointwise = True
    stochastic = True

    def __call__(self, x: Tensor) -> Tensor:
        self.out = 0.9 * x
        return self.out


IS_WRONG = "a declaration .* is wrong"  # of which layer is not known
FALSE_DECLARATIONS: dict[type[Fixed], str] = {
    SumOfTwo: r"^SumOfTwo\(\) declares that it concatenates Window.*, but it does not",
    SumOfTwoTwice: r"^SumOfTwoTwice\(\) declares that it concatenates Window.*, but it does not",
    Swapped: r"^Swapped\(\) declares that it concatenates Window.*, but it does not",
    Centered: r"^Centered\(\) declares that it is pointwise, but it is not",
    AddsPosition: r"^AddsPosition\(\) declares that it is pointwise, but it is not",
    UpToEight: IS_WRONG,
    NeedsPositions: r"^NeedsPositions\(\) declares that it is pointwise, but fails on rows .*: not enough",
    WrongScale: r"^WrongScale\(\) declares that it is affine, but it is not",
    WrongShift: r"^WrongShift\(\) declares that it is affine, but it is not",
    WrongMatrix: r"^WrongMatrix\(\) declares that it is affine, but it is not",
    OneFactor: r"^OneFactor\(\) declares that it is affine, with a scale \(\) .* do not fit 8",
    Noise: r"^Noise\(\) declares that it is stochastic, but in evaluation it does not return its input",
}


def with_false_declaration(kind: type[Fixed], place: int) -> Sequential:
    """A network for 8 symbols that has the layer after its embedding, or later, with 4 positions left."""
    concatenates = window_of(kind(8)) is not None
    with default_generator(Generator().manual_seed(5)):
        layers: list[Layer] = [Embedding(V, 8)]
        for i in range(3):
            here = i == place
            width = 8 if here and kind is SumOfTwo else 16
            gather: list[Layer] = [kind(8)] if here and concatenates else [FlattenConsecutive(2)]
            if here and not concatenates:
                gather.insert(0, kind(8))
            layers += [*gather, Linear(width, 8), Tanh()]
        return Sequential([*layers, Linear(8, V)]).to(dtype=torch.float64)


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(("kind", "message"), FALSE_DECLARATIONS.items())
def test_a_false_declaration_is_found(kind: type[Fixed], message: str, place: int) -> None:
    network = with_false_declaration(kind, place)
    network(torch.zeros(1, 8, dtype=torch.int64))
    for use in (
        Convolution.from_network,
        as_predictor,
        lambda network: as_predictor(Ensemble([network])),
        lambda network: loss(network, Examples(torch.tensor([1, 2, 0]), 8)),
        lambda network: log_likelihoods(network, VOCABULARY, ["ab"]),
        lambda network: next(generate(network, VOCABULARY, Generator())),
    ):
        with pytest.raises(FalseDeclaration, match=message):
            use(network)


class TorchLinear(Layer):
    """Stores its weight as ``torch.nn.Linear`` does, and declares a view of it."""

    PARAMETERS = ("weight",)

    def __init__(self, fan_in: int, fan_out: int) -> None:
        self.weight = torch.randn((fan_out, fan_in), generator=Generator().manual_seed(3))

    def __call__(self, x: Tensor) -> Tensor:
        self.out = F.linear(x, self.weight)
        return self.out

    def affine(self) -> tuple[Tensor, Tensor]:
        return self.weight.T, torch.zeros(len(self.weight))


def test_a_layer_whose_scale_is_not_contiguous() -> None:
    layers = [Embedding(V, 8), FlattenConsecutive(2), TorchLinear(16, 6), Tanh(), TorchLinear(6, V)]
    network = Sequential(layers)
    examples = Examples(encode_words(VOCABULARY, ["ab", "b", "abba"]), 2)
    Convolution.from_network(network)
    assert loss(network, examples) == pytest.approx(split_loss(network, examples), abs=1e-6)


def test_a_pointwise_layer_without_positions_in_its_output_is_found() -> None:
    network = Sequential([Embedding(V, 8), MeanOfAll(8), Linear(8, V)])
    with pytest.raises(
        FalseDeclaration, match=r"^MeanOfAll\(\) declares that it is pointwise, but it is not"
    ):
        as_predictor(network)
    network.block_size = 8
    with pytest.raises(ValueError, match="block_size is 8, but its layers need contexts of 1"):
        as_predictor(network)


@pytest.mark.parametrize("value", [1e20, math.inf, math.nan])
def test_a_network_that_diverged_is_not_called_wrongly_declared(value: float) -> None:
    network = network_plan("wavenet", n_hidden=6).build(V)
    network.layers[-1].state_dict()["weight"].fill_(value)
    Convolution.from_network(network)


@pytest.mark.parametrize("characters", ["", "a"])
def test_the_smallest_vocabularies(characters: str) -> None:
    vocabulary = Vocabulary(characters)
    network = network_plan("hierarchical", n_hidden=6).build(len(vocabulary))
    examples = Examples(encode_words(vocabulary, ["", characters * 9]), 8)
    assert loss(network, examples) == pytest.approx(split_loss(network, examples), abs=1e-6)


def test_equal_windows_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    sum_products = Stage.sum_products

    def counted(*args: object) -> Value:
        value = sum_products(*args)  # type: ignore[arg-type]
        rows.append((len(value.rows), len(value.ids)))
        return value

    network = shaken(plan(4), 0, torch.float32)
    converted = Convolution.from_network(network)
    monkeypatch.setattr(Stage, "sum_products", counted)
    loss(converted, Examples(encode_words(VOCABULARY, ["abab", "aba"]), 4))
    # Pairs ..  .a  ab  ba; contexts ....  ...a  ..ab  .aba  abab; their logits.
    assert rows == [(4, 9), (5, 9), (5, 9)]


def test_products_do_not_depend_on_the_other_rows() -> None:
    stage = Convolution.from_network(NETWORKS["wavenet"].build(27, Generator().manual_seed(0))).stages[1]
    nodes = torch.randn((1000, 128), generator=Generator().manual_seed(1))
    together = stage.products(nodes)
    for rows in ([0], [999, 5], list(range(300, 900, 7))):
        for product, alone in zip(together, stage.products(nodes[rows]), strict=True):
            assert torch.equal(product[rows], alone)
