"""Which form a network is asked in, and that all of them answer alike; layers of one's own."""

from __future__ import annotations

import pytest
import torch
from plain_generation import generate_plain
from shaken_networks import NETWORKS_TO_CONVERT, VOCABULARY, V, plan, shaken, some_words
from torch import Generator, Tensor

from makemore.convolution import Convolution, generate, generate_scored, log_likelihoods, loss
from makemore.convolution.forms import Form, fast_form, form_of, plain_form
from makemore.convolution.queues import Contexts, Queues
from makemore.evaluation import split_loss
from makemore.layers import Embedding, FlattenConsecutive, Layer, Linear, Sequential, Tanh
from makemore.networks import NETWORKS
from makemore.words import Examples


class Slope(Layer):
    """Another slope below 0, which is trained: what it does is declared."""

    PARAMETERS = ("slope",)
    acts_per_position = True

    def __init__(self) -> None:
        self.slope = torch.tensor(0.2)

    def __call__(self, x: Tensor) -> Tensor:
        self.out = torch.where(x < 0, self.slope * x, x)
        return self.out


class Noise(Layer):
    """Noise in training alone, so that an answer shows which mode it is given in."""

    acts_per_position = True

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x + torch.randn(x.shape, dtype=x.dtype) if self.training else x.tanh()
        return self.out


class Undeclared(Slope):
    """As above, but a subclass inherits no declaration."""


def with_layers_of(kind: type[Layer]) -> Sequential:
    generator = Generator().manual_seed(1)
    network = Sequential(
        [
            *[Embedding(V, 4, generator=generator), FlattenConsecutive(2)],
            *[Linear(8, 7, generator=generator), kind(), FlattenConsecutive(2), kind()],
            *[Linear(14, V, generator=generator), kind()],
        ]
    )
    for p in network.parameters():
        p.requires_grad = True
    return network.to(dtype=torch.float64)


@pytest.mark.parametrize(
    ("kind", "growing"), [(Tanh, Queues), (Slope, Queues), (Noise, Queues), (Undeclared, Contexts)]
)
def test_a_layer_of_ones_own_is_answered_by_the_form_that_knows_it(
    kind: type[Layer], growing: type[Queues | Contexts]
) -> None:
    network = with_layers_of(kind).train()
    assert type(form_of(network).growing()) is growing
    examples = Examples(VOCABULARY.encode_all(some_words(100)), 4)
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


def test_logits_of_a_convolution_need_no_gradient() -> None:
    converted = Convolution.from_network(with_layers_of(Slope))
    assert not converted.logits(torch.tensor([[1, 2, 3]])).requires_grad
    words = Queues(converted)
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
def test_network_convolution_and_forms_give_the_same_figures(name: str) -> None:
    network = shaken(NETWORKS_TO_CONVERT[name], 6, torch.float64)
    converted, words = Convolution.from_network(network), some_words(60)
    examples = Examples(VOCABULARY.encode_all(words), converted.block_size)
    forms = [network, converted, fast_form(converted), form_of(network), plain_form(network)]
    assert {form_of(form).block_size for form in forms} == {converted.block_size}
    expected = split_loss(network, examples)
    scores = log_likelihoods(plain_form(network), VOCABULARY, words)
    for form in forms:
        assert loss(form, examples) == pytest.approx(expected, abs=1e-12)
        torch.testing.assert_close(log_likelihoods(form, VOCABULARY, words), scores, atol=1e-10, rtol=0)


def test_form_of_chooses_and_leaves_a_form_alone() -> None:
    network = shaken(plan(4), 0, torch.float32)
    fast = form_of(network)
    assert isinstance(fast, Form)
    assert type(fast.growing()) is Queues
    assert form_of(fast) is fast
    assert type(form_of(Convolution.from_network(network)).growing()) is Queues
    slow = plain_form(network)
    assert type(slow.growing()) is Contexts
    assert form_of(slow) is slow
    assert type(form_of(NETWORKS["hierarchical-bug"].build(V)).growing()) is Contexts
    assert fast.device == slow.device == torch.device("cpu")
    assert fast.width == slow.width == 12


def test_a_form_makes_words_again_and_again() -> None:
    """Nothing of the words before is left in it."""
    form = form_of(shaken(plan(4), 0, torch.float64))
    words = list(generate(form, VOCABULARY, Generator().manual_seed(3), 20))
    assert list(generate(form, VOCABULARY, Generator().manual_seed(3), 20)) == words
