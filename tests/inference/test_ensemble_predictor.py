"""Ensembles by every predictor: the mean of the members' probabilities, plainly and by convolution."""

from __future__ import annotations

import pytest
import torch
from plain_generation import generate_plain
from shaken_networks import VOCABULARY, V, plan, shaken, some_words
from torch import Generator

from makemore.core.graph import context_length
from makemore.data.encoding import encode_words
from makemore.inference.generation import Filters, generate, generate_scored
from makemore.inference.predictor import NetworkPredictor
from makemore.inference.scoring import log_likelihoods, loss
from makemore.lecture.evaluation import split_loss
from makemore.lecture.layers import Embedding, HistoricBatchNorm1d, Linear, Sequential
from makemore.lecture.sampling import sample_word
from makemore.lecture.words import Examples
from makemore.paper.layers import FlattenDilated
from makemore.pictures.nodes import draw_nodes
from makemore.pictures.summary import summary
from makemore.run.catalog import network_plan
from makemore.training.ensemble import Ensemble


def with_statistics_per_position(seed: int) -> Sequential:
    """A network that no convolution equals."""
    network = network_plan("hierarchical-bug", 8, 4, 6).build(V, Generator().manual_seed(seed))
    assert any(isinstance(layer, HistoricBatchNorm1d) for layer in network.layers)
    return shaken(network.layers, seed, torch.float64)


ENSEMBLES = {
    "of one kind": [shaken(plan(8), seed, torch.float64) for seed in range(3)],
    "of all kinds": [
        # It reads the oldest and the newest of 8: contexts that are equal to it differ for the others.
        shaken([Embedding(V, 4), FlattenDilated(2, 7), Linear(8, V)], 2, torch.float64),
        shaken(plan(8), 3, torch.float64),
        shaken(plan(8, hierarchical=False), 4, torch.float64),
        with_statistics_per_position(5),
    ],
    "one": [shaken(plan(8), 6, torch.float64)],
}


@pytest.mark.parametrize("members", ENSEMBLES.values(), ids=ENSEMBLES)
def test_the_probabilities_are_the_mean_of_the_members(members: list[Sequential]) -> None:
    ensemble = Ensemble(members).eval()
    X = torch.randint(0, V, (50, 8), generator=Generator().manual_seed(1))
    expected = sum(network(X).softmax(1) for network in members) / len(members)
    torch.testing.assert_close(ensemble(X).exp(), expected, atol=1e-14, rtol=0)
    torch.testing.assert_close(ensemble(X).softmax(1), expected, atol=1e-14, rtol=0)
    assert context_length(ensemble) == 8
    assert summary(ensemble).splitlines()[1].startswith("Ensemble ")


@pytest.mark.parametrize("members", ENSEMBLES.values(), ids=ENSEMBLES)
def test_by_convolution_and_plainly_the_values_are_the_same(members: list[Sequential]) -> None:
    ensemble, words = Ensemble(members), some_words(60)
    examples = Examples(encode_words(VOCABULARY, words), 8)
    assert loss(ensemble, examples) == pytest.approx(split_loss(ensemble, examples), abs=1e-12)
    plain = log_likelihoods(NetworkPredictor(ensemble), VOCABULARY, words)
    torch.testing.assert_close(log_likelihoods(ensemble, VOCABULARY, words), plain, atol=1e-10, rtol=0)


@pytest.mark.full
@pytest.mark.parametrize("members", ENSEMBLES.values(), ids=ENSEMBLES)
def test_by_convolution_and_plainly_the_words_are_the_same(members: list[Sequential]) -> None:
    ensemble, filters = Ensemble(members), Filters(temperature=0.9, top_p=0.95, max_length=12)
    expected = list(
        generate_plain(ensemble, VOCABULARY, Generator().manual_seed(2), 200, filters, prefix="ab")
    )
    got = list(generate_scored(ensemble, VOCABULARY, Generator().manual_seed(2), 200, filters, prefix="ab"))
    assert [sample.word for sample in got] == [sample.word for sample in expected]
    scores = [[sample.log_likelihood for sample in samples] for samples in (got, expected)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-9)
    assert len(set(got)) > 100
    assert sample_word(ensemble, VOCABULARY, Generator().manual_seed(2), prefix="ab").startswith("ab")


@pytest.mark.full
def test_words_do_not_depend_on_the_batch() -> None:
    ensemble = Ensemble([shaken(plan(8), seed, torch.float32) for seed in range(3)])
    words = [
        list(generate(ensemble, VOCABULARY, Generator().manual_seed(4), 5000, batch=batch))
        for batch in (1024, 4096)
    ]
    assert words[0] == words[1]


def test_the_first_member_is_drawn() -> None:
    ensemble = Ensemble([Sequential(plan(8)), Sequential(plan(8, hierarchical=False))])
    titles = [axes.get_title() for axes in draw_nodes(ensemble, "abc").axes]
    assert titles == [axes.get_title() for axes in draw_nodes(ensemble.members[0], "abc").axes]
    assert len(titles) == 2
