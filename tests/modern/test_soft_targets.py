"""Soft targets against counting with dictionaries, and against the loss of the examples themselves."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from makemore.data.encoding import encode_words
from makemore.data.word_list import Data, bundled_path, read_words
from makemore.lecture.evaluation import split_loss
from makemore.lecture.words import Examples, Vocabulary
from makemore.modern.soft_targets import SoftTargets
from makemore.run.catalog import NETWORKS


@pytest.fixture(scope="module")
def data() -> Data:
    return read_words(bundled_path()).data(8)


def test_targets_are_the_distributions_of_the_symbols_that_follow_a_context() -> None:
    """Against counting with dictionaries."""
    words = ["ab", "ab", "abc", "b", "cab", "b"]
    vocabulary = Vocabulary("abc")
    examples = Examples(encode_words(vocabulary, words), 2)
    X, Y = examples[:]
    following: dict[tuple[int, ...], list[int]] = {}
    for x, y in zip(X.tolist(), Y.tolist(), strict=True):
        following.setdefault(tuple(x), []).append(y)
    rows = SoftTargets(examples, len(vocabulary), examples_per_row=2)
    xs, ys = rows[torch.arange(len(rows))]
    assert ys.sum() == pytest.approx(len(rows))
    found: dict[tuple[int, ...], list[list[float]]] = {}
    for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
        found.setdefault(tuple(x), []).append(y)
    assert found.keys() == following.keys()
    for context, symbols in following.items():
        assert len(found[context]) == -(-len(symbols) // 2)
        total = torch.tensor(found[context]).sum(0) * len(examples) / len(rows)
        torch.testing.assert_close(total, torch.bincount(torch.tensor(symbols), minlength=4).float())


def test_a_prior_counts_as_pseudocount_examples() -> None:
    examples = Examples(encode_words(Vocabulary("ab"), ["ab", "ab", "ab", "b"]), 2)
    plain, mixed = (SoftTargets(examples, 3) for _ in range(2))
    every = torch.arange(len(plain))
    (contexts, own), total = plain[every], plain.totals[plain.context].unsqueeze(1)
    prior = torch.rand((len(plain.totals), 3), generator=torch.Generator().manual_seed(0))
    prior /= prior.sum(1, keepdim=True)
    mixed.mix(prior, 8.0)
    weight = own.sum(1, keepdim=True)
    expected = (total * own / weight + 8 * prior[plain.context]) / (total + 8) * weight
    assert torch.equal(mixed[every][0], contexts)
    torch.testing.assert_close(mixed[every][1], expected)


def test_the_mean_loss_over_all_rows_is_that_of_the_examples(data: Data) -> None:
    network = NETWORKS["hierarchical"].build(len(data.vocabulary), torch.Generator().manual_seed(0))
    rows = SoftTargets(data.val, len(data.vocabulary))
    X, Y = rows[torch.arange(len(rows))]
    with network.evaluating():
        soft = F.cross_entropy(network(X), Y).item()
    assert soft == pytest.approx(split_loss(network, data.val), abs=1e-5)
