"""Which predictor is chosen for a network, and that all of them give the same results; a user's layers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from plain_generation import generate_plain
from shaken_networks import NETWORKS_TO_CONVERT, VOCABULARY, V, plan, shaken, some_words
from torch import Generator, Tensor

from makemore.core.layer import Layer
from makemore.core.random import default_generator
from makemore.data.encoding import encode_words
from makemore.inference.convolution import Convolution
from makemore.inference.decoder import CachedDecoder, FullContextDecoder
from makemore.inference.generation import Filters, generate, generate_scored
from makemore.inference.predictor import (
    ConvolutionPredictor,
    NetworkPredictor,
    Predictable,
    Predictor,
    as_predictor,
)
from makemore.inference.scoring import log_likelihoods, loss
from makemore.lecture.evaluation import split_loss
from makemore.lecture.layers import Embedding, FlattenConsecutive, Linear, Sequential, Tanh
from makemore.lecture.sampling import sample_word
from makemore.lecture.words import Examples
from makemore.run.catalog import NETWORKS


class Slope(Layer):
    """A trained slope below 0, declared to be pointwise."""

    PARAMETERS = ("slope",)
    pointwise = True

    def __init__(self) -> None:
        self.slope = torch.tensor(0.2)

    def __call__(self, x: Tensor) -> Tensor:
        self.out = torch.where(x < 0, self.slope * x, x)
        return self.out


class Noise(Layer):
    """Noise in training alone, so that a result shows the mode that it was computed in."""

    pointwise = True

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x + torch.randn(x.shape, dtype=x.dtype) if self.training else x.tanh()
        return self.out


class Undeclared(Slope):
    """The same; a subclass does not inherit the declaration."""


def with_layers_of(kind: type[Layer]) -> Sequential:
    with default_generator(Generator().manual_seed(1)):
        network = Sequential(
            [
                *[Embedding(V, 4), FlattenConsecutive(2), Linear(8, 7), kind()],
                *[FlattenConsecutive(2), kind(), Linear(14, V), kind()],
            ]
        )
    network.block_size = 4
    for p in network.parameters():
        p.requires_grad = True
    return network.to(dtype=torch.float64)


@pytest.mark.parametrize(
    ("kind", "decoder"),
    [(Tanh, CachedDecoder), (Slope, CachedDecoder), (Noise, CachedDecoder), (Undeclared, FullContextDecoder)],
)
def test_a_users_layer_has_the_predictor_that_knows_it(
    kind: type[Layer], decoder: type[CachedDecoder | FullContextDecoder]
) -> None:
    network = with_layers_of(kind).train()
    assert type(as_predictor(network).decoder()) is decoder
    examples = Examples(encode_words(VOCABULARY, some_words(100)), 4)
    expected = split_loss(network, examples)
    assert loss(network, examples) == pytest.approx(expected, abs=1e-12)
    samples = list(generate_scored(network, VOCABULARY, Generator().manual_seed(2), 30))
    plain = list(generate_plain(network, VOCABULARY, Generator().manual_seed(2), 30))
    words = [sample.word for sample in samples]
    assert words == [sample.word for sample in plain]
    scores = torch.tensor([sample.log_likelihood for sample in plain], dtype=torch.float64)
    drawn = torch.tensor([sample.log_likelihood for sample in samples], dtype=torch.float64)
    for found in (log_likelihoods(network, VOCABULARY, words), drawn):
        torch.testing.assert_close(found, scores, atol=1e-10, rtol=0)
    assert network.training
    assert all(p.requires_grad and p.grad is None for p in network.parameters())


class MeanOverPositions(Layer):
    """(B, T, C) -> (B, C). It declares nothing."""

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x.mean(dim=1)
        return self.out


class GRU(Layer):
    """A gated recurrent unit over the positions: (B, T, C) -> (B, C). It declares nothing."""

    def __init__(self, dim: int) -> None:
        self.gates, self.candidate = Linear(2 * dim, 2 * dim), Linear(2 * dim, dim)

    def __call__(self, x: Tensor) -> Tensor:
        h = torch.zeros_like(x[:, 0])
        for x_t in x.unbind(1):
            reset, update = self.gates(torch.cat([x_t, h], 1)).sigmoid().chunk(2, dim=1)
            h = update * h + (1 - update) * self.candidate(torch.cat([x_t, reset * h], 1)).tanh()
        self.out = h
        return self.out

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        yield from (("gates", self.gates), ("candidate", self.candidate))


@pytest.mark.full
@pytest.mark.parametrize("kind", ["mean", "GRU"])
def test_a_network_of_undeclared_layers_takes_the_plain_path(kind: str) -> None:
    layer = MeanOverPositions() if kind == "mean" else GRU(12)
    network = shaken([Embedding(V, 12), layer, Tanh(), Linear(12, V)], 1, torch.float64).train()
    network.block_size = 8
    assert type(as_predictor(network)) is NetworkPredictor
    words = some_words(100)
    examples = Examples(encode_words(VOCABULARY, words), 8)
    X, Y = examples[:]
    with network.evaluating():
        expected = network(X).log_softmax(1)[torch.arange(len(Y)), Y]
    assert loss(network, examples) == pytest.approx(-expected.mean().item(), abs=1e-12)
    assert split_loss(network, examples) == pytest.approx(-expected.mean().item(), abs=1e-12)
    of_word = torch.repeat_interleave(torch.tensor([len(word) + 1 for word in words]))
    totals = torch.zeros(len(words), dtype=torch.float64).index_add_(0, of_word, expected)
    torch.testing.assert_close(log_likelihoods(network, VOCABULARY, words), totals, atol=1e-10, rtol=0)

    filters = Filters(temperature=0.8, top_k=6, max_length=11)
    plain = list(generate_plain(network, VOCABULARY, Generator().manual_seed(2), 300, filters, prefix="ab"))
    scored = list(generate_scored(network, VOCABULARY, Generator().manual_seed(2), 300, filters, prefix="ab"))
    assert [sample.word for sample in scored] == [sample.word for sample in plain]
    assert len({sample.word for sample in plain}) > 100
    for fast, slow in zip(scored, plain, strict=True):
        assert fast.log_likelihood == pytest.approx(slow.log_likelihood, abs=1e-10)
    found = generate(network, VOCABULARY, Generator().manual_seed(2), 300, filters, prefix="ab")
    assert list(found) == [sample.word for sample in plain]

    for seed in range(20):
        generator, context, out = Generator().manual_seed(seed), [0] * 8, list[int]()
        while len(out) < 20:
            with network.evaluating():
                probs = network(torch.tensor([context])).softmax(1)
            ix = int(torch.multinomial(probs, num_samples=1, generator=generator))
            if ix == 0:
                break
            context, out = [*context[1:], ix], [*out, ix]
        word = sample_word(network, VOCABULARY, Generator().manual_seed(seed), max_length=20)
        assert word == VOCABULARY.decode(out)
    assert all(layer.training for layer in network.modules())

    network.block_size = None
    assert loss(network, examples) == pytest.approx(-expected.mean().item(), abs=1e-12)
    for use in (
        lambda: log_likelihoods(network, VOCABULARY, words),
        lambda: list(generate(network, VOCABULARY, Generator(), 2)),
        lambda: list(generate_scored(network, VOCABULARY, Generator(), 2)),
        lambda: sample_word(network, VOCABULARY, Generator()),
        lambda: as_predictor(network).block_size,
    ):
        with pytest.raises(
            ValueError, match=r"^the length of the context is not known, .* set network\.block_size$"
        ):
            use()


def test_logits_of_a_convolution_need_no_gradient() -> None:
    converted = Convolution.from_network(with_layers_of(Slope))
    assert not converted.logits(torch.tensor([[1, 2, 3]])).requires_grad
    words = CachedDecoder(converted)
    words.start(1)
    assert not words.append(torch.tensor([0]))[0].requires_grad


def test_a_later_training_does_not_change_a_convolution() -> None:
    network = with_layers_of(Slope)
    converted = Convolution.from_network(network)
    before = converted.logits(torch.tensor([[1, 2, 3]]))
    for p in network.parameters():
        p.data += 1
    torch.testing.assert_close(converted.logits(torch.tensor([[1, 2, 3]])), before, atol=0, rtol=0)


@pytest.mark.parametrize("name", NETWORKS_TO_CONVERT)
def test_network_convolution_and_predictors_give_the_same_values(name: str) -> None:
    network = shaken(NETWORKS_TO_CONVERT[name], 6, torch.float64)
    converted, words = Convolution.from_network(network), some_words(60)
    examples = Examples(encode_words(VOCABULARY, words), converted.block_size)
    predictors: list[Predictable] = [
        network,
        converted,
        ConvolutionPredictor(converted),
        as_predictor(network),
        NetworkPredictor(network),
    ]
    assert {as_predictor(each).block_size for each in predictors} == {converted.block_size}
    expected = split_loss(network, examples)
    scores = log_likelihoods(NetworkPredictor(network), VOCABULARY, words)
    for each in predictors:
        assert loss(each, examples) == pytest.approx(expected, abs=1e-12)
        torch.testing.assert_close(log_likelihoods(each, VOCABULARY, words), scores, atol=1e-10, rtol=0)


def test_as_predictor_chooses_and_returns_a_predictor_as_it_is() -> None:
    network = shaken(plan(4), 0, torch.float32)
    fast = as_predictor(network)
    assert isinstance(fast, Predictor)
    assert type(fast.decoder()) is CachedDecoder
    assert as_predictor(fast) is fast
    assert type(as_predictor(Convolution.from_network(network)).decoder()) is CachedDecoder
    slow = NetworkPredictor(network)
    assert type(slow.decoder()) is FullContextDecoder
    assert as_predictor(slow) is slow
    assert type(as_predictor(NETWORKS["hierarchical-bug"].build(V)).decoder()) is FullContextDecoder
    assert fast.device == slow.device == torch.device("cpu")
    assert fast.width == slow.width == 12


def test_a_predictor_keeps_nothing_of_earlier_words() -> None:
    predictor = as_predictor(shaken(plan(4), 0, torch.float64))
    words = list(generate(predictor, VOCABULARY, Generator().manual_seed(3), 20))
    assert list(generate(predictor, VOCABULARY, Generator().manual_seed(3), 20)) == words
