"""Losses and likelihoods by convolution against those through all the layers.

Behaviour: pieces, chunks and the order of the words do not change the result; what is refused.
"""

from __future__ import annotations

import math
import random

import pytest
import torch
from shaken_networks import NETWORKS_TO_CONVERT, VOCABULARY, V, plan, shaken, some_words
from torch import Tensor

from makemore.core.errors import DataError
from makemore.core.graph import context_length
from makemore.data.encoding import decode_words, encode_words
from makemore.inference import convolution, scoring
from makemore.inference.convolution import Convolution
from makemore.inference.predictor import NetworkPredictor
from makemore.inference.scoring import in_order, log_likelihoods, loss
from makemore.lecture.evaluation import log_probs, split_loss
from makemore.lecture.layers import Sequential
from makemore.lecture.words import Examples, Vocabulary
from makemore.run.catalog import NETWORKS


def all_log_probs(network: Convolution | Sequential, examples: Examples) -> Tensor:
    if isinstance(network, Sequential):
        return torch.cat(list(log_probs(network, examples)))
    return torch.cat(list(network.log_probs(examples)))


@pytest.mark.full
@pytest.mark.parametrize("piece", [1, convolution.PIECE_VALUES])
@pytest.mark.parametrize("name", NETWORKS_TO_CONVERT)
def test_loss_is_the_plain_one(name: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "PIECE_VALUES", piece)  # at least TILE examples: 12 pieces
    network = shaken(NETWORKS_TO_CONVERT[name], 3, torch.float64)
    words = some_words(300)
    examples = Examples(encode_words(VOCABULARY, words), context_length(network))
    converted = Convolution.from_network(network)
    expected = all_log_probs(network, examples)
    torch.testing.assert_close(all_log_probs(converted, examples), expected, atol=1e-12, rtol=1e-12)
    assert loss(converted, examples) == pytest.approx(split_loss(network, examples), abs=1e-12)


def test_loss_in_float32() -> None:
    network = shaken(NETWORKS["wavenet"].build(V).layers, 4, torch.float32)
    examples = Examples(encode_words(VOCABULARY, some_words(3000)), 8)
    found = loss(Convolution.from_network(network), examples)
    assert found == pytest.approx(split_loss(network, examples), abs=1e-6)


@pytest.mark.full
@pytest.mark.parametrize("sorted_examples", [1, 40, 500])
def test_the_loss_of_many_examples_is_that_of_the_words_in_order(
    sorted_examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "SORTED_EXAMPLES", sorted_examples)
    network = shaken(NETWORKS["wavenet"].build(V).layers, 5, torch.float64)
    symbols = encode_words(VOCABULARY, some_words(300))
    for some in (symbols, symbols[:-1]):  # whole words, and symbols that end within a word
        examples = Examples(some, 8)
        assert loss(network, examples) == pytest.approx(split_loss(network, examples), abs=1e-12)


@pytest.mark.parametrize(
    "characters", ["ab", "abcdefghijklmnopqrstuvwxyz", "".join(map(chr, range(300, 900)))]
)
def test_words_in_order(characters: str) -> None:
    """Words that differ only after the characters that are compared may come in any order."""
    draw, vocabulary = random.Random(7), Vocabulary(characters)
    words = ["".join(draw.choices(characters, k=draw.randint(1, 8))) for _ in range(500)]
    ordered = decode_words(vocabulary, in_order(Examples(encode_words(vocabulary, words), 3)).symbols)
    compared = {2: 8, 26: 8, 600: 6}[len(characters)]
    assert sorted(ordered) == sorted(words)
    assert [word[:compared] for word in ordered] == sorted(word[:compared] for word in words)
    assert in_order(Examples(torch.zeros(3, dtype=torch.uint8), 3)).symbols.tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_likelihoods_are_the_plain_ones_in_order(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = shaken(plan(8), 5, dtype)
    # One of the words is longer than a chunk and a piece.
    words = [*some_words(200), "", "a" * 1000, *some_words(50, seed=1)]
    expected = log_likelihoods(NetworkPredictor(network), VOCABULARY, words)
    assert expected.shape == (252,)
    examples = Examples(encode_words(VOCABULARY, ["ab"]), 8)
    single = all_log_probs(network, examples).double().sum()
    assert log_likelihoods(NetworkPredictor(network), VOCABULARY, ["ab"]).item() == pytest.approx(
        single.item(), abs=1e-12
    )

    converted = Convolution.from_network(network)
    monkeypatch.setattr(scoring, "CHUNK_SYMBOLS", 64)
    monkeypatch.setattr(convolution, "PIECE_VALUES", 1)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    scores = log_likelihoods(converted, VOCABULARY, words)
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, expected, atol=tolerance, rtol=tolerance)
    assert torch.equal(
        log_likelihoods(converted, VOCABULARY, iter(words)), scores
    )  # an iterator, as from generate


def test_one_text_in_place_of_words_is_not_scored_letter_by_letter() -> None:
    with pytest.raises(TypeError, match="log_likelihoods needs a list of words, not one text"):
        log_likelihoods(shaken(plan(2), 1, torch.float32), VOCABULARY, "ann")


def test_log_likelihoods_of_nothing_and_of_the_unknown() -> None:
    converted = Convolution.from_network(shaken(plan(4), 0, torch.float32))
    assert log_likelihoods(converted, VOCABULARY, []).shape == (0,)
    with pytest.raises(DataError, match="'z' is not in the vocabulary"):
        log_likelihoods(converted, VOCABULARY, ["abba", "fez"])


def test_a_loss_and_likelihoods_without_a_convolution() -> None:
    network = NETWORKS["hierarchical-bug"].build(V)
    words = some_words(30)
    examples = Examples(encode_words(VOCABULARY, words), 8)
    assert loss(network, examples) == split_loss(network, examples)
    total = log_likelihoods(network, VOCABULARY, words).sum().item()
    assert -total / len(examples) == pytest.approx(split_loss(network, examples), abs=1e-6)


def test_no_examples_have_no_loss() -> None:
    network = shaken(plan(4), 0, torch.float32)
    examples = Examples(encode_words(VOCABULARY, []), 4)
    for either in (network, Convolution.from_network(network), NetworkPredictor(network)):
        assert math.isnan(loss(either, examples))
