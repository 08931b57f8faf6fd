"""Decoders against all the layers on the whole context of each word."""

from __future__ import annotations

import pytest
import torch
from shaken_networks import NETWORKS_TO_CONVERT, V, shaken
from torch import Generator, Tensor

from makemore.core.graph import context_length
from makemore.inference.convolution import Convolution
from makemore.inference.decoder import CachedDecoder, Decoder, FullContextDecoder
from makemore.lecture.layers import Sequential
from makemore.lecture.words import STOP
from makemore.run.catalog import NETWORKS


def decoder(kind: str, network: Sequential) -> Decoder:
    return (
        FullContextDecoder(network)
        if kind == "contexts"
        else CachedDecoder(Convolution.from_network(network))
    )


def check(words: Decoder, network: Sequential, number: int) -> None:
    """Lengthen words by random symbols; a tenth of the words ends at each position."""
    generator = Generator().manual_seed(number)
    size = context_length(network)
    histories = torch.zeros((number, size - 1), dtype=torch.int64)
    symbols = torch.full((number,), STOP)
    words.start(number)
    for _ in range(size + 3):
        histories = torch.cat([histories, symbols.unsqueeze(1)], dim=1)
        logits, ids = words.append(symbols)
        with network.evaluating():
            expected = network(histories[:, -size:])
        assert ids.shape == (len(symbols),)
        torch.testing.assert_close(logits[ids], expected, atol=1e-11, rtol=1e-11)
        index = torch.nonzero(torch.rand(len(symbols), generator=generator) < 0.9).flatten()
        words.select(index)
        histories = histories[index]
        symbols = torch.randint(1, V, (len(index),), generator=generator)


@pytest.mark.parametrize("kind", ["cached", "contexts"])
@pytest.mark.parametrize("name", NETWORKS_TO_CONVERT)
def test_logits_are_those_of_the_whole_context(name: str, kind: str) -> None:
    network = shaken(NETWORKS_TO_CONVERT[name], 7, torch.float64)
    words = decoder(kind, network)
    for number in (300, 1, 40):  # one decoder starts several times
        check(words, network, number)


def test_equal_contexts_have_one_node() -> None:
    network = NETWORKS["wavenet"].build(V, Generator().manual_seed(0))
    words = decoder("cached", network)
    words.start(1000)
    assert len(words.append(torch.zeros(1000, dtype=torch.int64))[0]) == 1
    logits, ids = words.append(torch.arange(1000) % 5 + 1)
    assert len(logits) == 5
    assert len(ids) == 1000


@pytest.mark.parametrize("kind", ["cached", "contexts"])
def test_a_word_does_not_depend_on_the_other_words(kind: str) -> None:
    """Except for rounding: the order in which a BLAS adds may depend on the row."""
    network = NETWORKS["wavenet"].build(V, Generator().manual_seed(0))
    symbols = torch.randint(1, V, (6, 600), generator=Generator().manual_seed(1))

    def logits_of(of: Tensor) -> Tensor:
        words = decoder(kind, network)
        words.start(len(of))
        words.append(torch.zeros(len(of), dtype=torch.int64))
        found = [words.append(row[of]) for row in symbols]
        return torch.stack([logits[ids] for logits, ids in found])

    together = logits_of(torch.arange(600))
    for of in (torch.tensor([0]), torch.tensor([599, 3]), torch.arange(100, 500, 3)):
        torch.testing.assert_close(logits_of(of), together[:, of], rtol=0, atol=1e-6)


def test_a_decoder_leaves_the_network_in_its_mode() -> None:
    network = NETWORKS["hierarchical-bug"].build(V, Generator().manual_seed(0)).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    words = FullContextDecoder(network)
    words.start(3)
    assert words.append(torch.zeros(3, dtype=torch.int64))[0].shape == (3, V)
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
