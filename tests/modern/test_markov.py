"""The Markov model of the modern recipe equals the plain one of the study, and is mixed into soft targets."""

from __future__ import annotations

import markov
import pytest
import torch
from torch import Generator

from makemore.data.word_list import WordList, load_words
from makemore.modern.markov import markov_model
from makemore.modern.recipe import ModernRecipe
from makemore.modern.trainer import ModernTrainer
from makemore.run.catalog import network_plan

WORDS = WordList.of([*load_words().words[::700], "a", "aa", "aaa", "zoé"])


@pytest.mark.parametrize("order", [0, 1, 2, 3, 5])
def test_it_is_the_plain_model(order: int) -> None:
    data = WORDS.data(8)
    context, probs = markov_model(data.train, len(data.vocabulary), order)
    plain = markov.MarkovModel(WORDS.split()[0], order, "Kneser-Ney", len(data.vocabulary))
    characters = markov.STOP + data.vocabulary.characters
    torch.testing.assert_close(probs.sum(1), torch.ones(len(probs)))
    for i in range(0, len(data.train), 17):
        X, _ = data.train[i]
        text = "".join(characters[symbol] for symbol in X.tolist())[8 - order :]
        expected = torch.tensor([plain.probability(text, ch) for ch in characters])
        torch.testing.assert_close(probs[context[i]], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("smoothing", ["Witten-Bell", "Kneser-Ney"])
@pytest.mark.parametrize("order", [1, 2, 4])
def test_plain_distributions_add_up_to_one(smoothing: str, order: int) -> None:
    train, val, _ = WORDS.split()
    characters = markov.STOP + WORDS.vocabulary.characters
    model = markov.MarkovModel(train, order, smoothing, len(characters))
    for context in ("", "a", "an", "anna", "zzzz", val[0]):
        text = (markov.STOP * order + context)[-order:]
        assert sum(model.probability(text, ch) for ch in characters) == pytest.approx(1)


def trainer(markov_examples: float) -> ModernTrainer:
    data = WORDS.data(8)
    network = network_plan(n_hidden=8).build(len(data.vocabulary), Generator().manual_seed(1))
    recipe = ModernRecipe(steps=3, batch_size=8, markov=markov_examples)
    return ModernTrainer(network, data, recipe, Generator().manual_seed(1))


def test_targets_are_mixed_with_it() -> None:
    plain, mixed = trainer(0).rows, trainer(4).rows
    assert not isinstance(plain, type(WORDS.data(8).train))
    index = torch.arange(len(plain))
    X, Y = plain[index]
    same, Z = mixed[index]
    assert torch.equal(X, same)
    data = WORDS.data(8)
    context, probs = markov_model(data.train, len(data.vocabulary))
    times = Y.sum(1, keepdim=True)  # the weight of each row
    total = plain.totals[plain.context].unsqueeze(1)
    prior = probs[context[plain.example]][plain.context]
    torch.testing.assert_close(Z, (Y * total + 4 * prior * times) / (total + 4))


def test_teachers_take_its_place() -> None:
    of_teachers, of_both = trainer(0), trainer(4)
    for each in (of_teachers, of_both):
        each.distil_from([of_teachers.network])
    index = torch.arange(len(of_both.rows))
    assert torch.equal(of_both.rows[index][1], of_teachers.rows[index][1])
