"""Fast losses and likelihoods against the plain ones, through all the layers.

Behaviour: pieces, chunks and the order of the words make no difference; what is refused.
"""

from __future__ import annotations

import math

import pytest
import torch
from shaken_networks import NETWORKS_TO_CONVERT, VOCABULARY, V, plan, shaken, some_words
from torch import Tensor

from makemore.convolution import Convolution, log_likelihoods, loss, scoring, stages
from makemore.convolution.forms import plain_form
from makemore.evaluation import log_probs, split_loss
from makemore.layers import Sequential
from makemore.networks import NETWORKS, block_size
from makemore.words import DataError, Examples


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
    assert torch.equal(log_likelihoods(converted, VOCABULARY, iter(words)), scores)  # as generate gives them


def test_log_likelihoods_of_nothing_and_of_the_unknown() -> None:
    converted = Convolution.from_network(shaken(plan(4), 0, torch.float32))
    assert log_likelihoods(converted, VOCABULARY, []).shape == (0,)
    with pytest.raises(DataError, match="'z' is not in the vocabulary"):
        log_likelihoods(converted, VOCABULARY, ["abba", "fez"])


def test_a_loss_and_likelihoods_without_a_convolution() -> None:
    network = NETWORKS["hierarchical-bug"].build(V)
    words = some_words(30)
    examples = Examples(VOCABULARY.encode_all(words), 8)
    assert loss(network, examples) == split_loss(network, examples)
    total = log_likelihoods(network, VOCABULARY, words).sum().item()
    assert -total / len(examples) == pytest.approx(split_loss(network, examples), abs=1e-6)


def test_no_examples_have_no_loss() -> None:
    network = shaken(plan(4), 0, torch.float32)
    examples = Examples(VOCABULARY.encode_all([]), 4)
    for form in (network, Convolution.from_network(network), plain_form(network)):
        assert math.isnan(loss(form, examples))
