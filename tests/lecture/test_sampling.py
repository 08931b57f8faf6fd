"""Sampling against the lecture's loop, and what the knobs do."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from makemore.core.errors import DataError
from makemore.inference.generation import generate
from makemore.inference.scoring import log_likelihoods
from makemore.lecture.sampling import next_symbol_probs, sample_word
from makemore.lecture.words import Vocabulary
from makemore.run.catalog import network_plan
from makemore.run.model_file import Model


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lecture_samples(model: Model, number: int, generator: torch.Generator) -> list[str]:
    """Lecture cell 15, as written there but for the generator."""
    words = []
    for layer in model.network.layers:
        layer.training = False  # type: ignore[attr-defined]
    for _ in range(number):
        out: list[int] = []
        context = [0] * model.block_size
        while True:
            logits = model.network(torch.tensor([context]))
            probs = F.softmax(logits, dim=1)
            ix = torch.multinomial(probs, num_samples=1, generator=generator).item()
            context = [*context[1:], ix]
            out.append(ix)
            if ix == 0:
                break
        words.append("".join(model.vocabulary.itos[i] for i in out[:-1]))
    return words


def draw(model: Model, number: int = 50, seed: int = 0, **options: object) -> list[str]:
    generator = seeded(seed)
    return [sample_word(model.network, model.vocabulary, generator, **options) for _ in range(number)]


def test_words_are_the_lectures(small_model: Model) -> None:
    assert draw(small_model) == lecture_samples(small_model, 50, seeded())
    assert draw(small_model) != draw(small_model, seed=1)


def test_prefix_and_max_length(small_model: Model) -> None:
    assert all(word.startswith("mar") for word in draw(small_model, prefix="mar"))
    assert max(map(len, draw(small_model, max_length=4))) == 4
    with pytest.raises(DataError, match="character 'é' is not in the vocabulary"):
        draw(small_model, prefix="é")


def test_a_prefix_in_any_unicode_form() -> None:
    """The vocabulary of a list has characters in NFC; one that is made from letters may have others."""
    for characters, begun in (("Zoé", "Zoé"), ("Zoe\u0301", "Zoe\u0301")):
        vocabulary = Vocabulary(characters)
        network = network_plan("mlp", 2, 2, 4).build(len(vocabulary), seeded())
        for prefix in ("Zoé", "Zoe\u0301", "\ufeffZo\u200bé"):
            assert sample_word(network, vocabulary, seeded(), prefix=prefix).startswith(begun)
            assert next(generate(network, vocabulary, seeded(), 1, prefix=prefix)).startswith(begun)
            (score,) = log_likelihoods(network, vocabulary, [prefix]).tolist()
            assert score == log_likelihoods(network, vocabulary, [begun]).item()


def test_temperature(small_model: Model) -> None:
    assert len(set(draw(small_model, temperature=0))) == 1
    assert draw(small_model, temperature=0)[0] == draw(small_model, top_k=1)[0]
    assert draw(small_model, temperature=1e-30)[0] == draw(small_model, temperature=0)[0]
    sharp, wild = (len(set(draw(small_model, temperature=t))) for t in (0.2, 2.0))
    assert sharp < wild


def test_next_symbol_probs() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0, -1.0]])
    torch.testing.assert_close(next_symbol_probs(logits, 1.0, None), F.softmax(logits, dim=1))
    torch.testing.assert_close(next_symbol_probs(logits, 0.5, 9), F.softmax(logits * 2, dim=1))
    assert next_symbol_probs(logits, 0, None).tolist() == [[0, 1, 0, 0]]
    kept = F.softmax(torch.tensor([2.0, 1.0]), dim=0).tolist()
    top = next_symbol_probs(logits, 1.0, 2)
    torch.testing.assert_close(top, torch.tensor([[0, kept[0], kept[1], 0]]))
