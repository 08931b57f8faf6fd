"""Which words stand in a list, by their bits, against Python's sets."""

from __future__ import annotations

import random

import pytest
import torch

from makemore import shuffle
from makemore.seen import KnownWords, found, hashes, kept
from makemore.words import Vocabulary, WordList

ALPHABET = "abcdefgh王"


@pytest.fixture(params=[2**18, 50])
def words(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Some words, of which many stand there twice, seen in stretches of one size or another."""
    monkeypatch.setattr(shuffle, "STRETCH", request.param)
    rng = random.Random(0)
    return ["".join(rng.choices(ALPHABET, k=rng.randint(1, 5))) for _ in range(3000)]


def test_words_have_the_same_bits_if_and_only_if_they_are_the_same(words: list[str]) -> None:
    bits = torch.cat([*hashes(Vocabulary(ALPHABET).encode_all(words), "")]).tolist()
    assert len(bits) == len(words)
    assert len(set(zip(words, bits, strict=True))) == len(set(words)) == len(set(bits))
    shares = [sum(bit >> i & 1 for bit in set(bits)) / len(set(bits)) for i in range(64)]
    assert all(abs(share - 0.5) < 0.06 for share in shares), "every bit tells words apart"


def test_what_is_found_is_what_a_set_has(words: list[str]) -> None:
    vocabulary = Vocabulary(ALPHABET)
    run, wanted = vocabulary.encode_all(words[:2000]), vocabulary.encode_all(words[2000:])
    there = found(torch.cat([*hashes(wanted, "")]), run)
    known = set(words[:2000])
    assert there.tolist() == [word in known for word in words[2000:]]
    assert vocabulary.decode_all(kept(wanted, there)) == [word for word in words[2000:] if word in known]
    assert found(torch.empty(0, dtype=torch.int64), run).tolist() == []
    assert KnownWords(run, vocabulary.stoi).__contains__("") is False


def test_one_word_at_a_time(words: list[str]) -> None:
    vocabulary = Vocabulary(ALPHABET)
    known, among = set(words[:2000]), KnownWords(vocabulary.encode_all(words[:2000]), vocabulary.stoi)
    for word in [*words, "", "x", "abx", "a" * 500, *(word + "a" for word in words)]:
        assert (word in among) == (word in known)


def test_a_list_knows_which_words_are_new() -> None:
    rng = random.Random(1)
    words = WordList.of(["".join(rng.choices("ab", k=rng.randint(1, 9))) for _ in range(600)])
    train, val, test = words.split()
    data, seen = words.data(4), set(train)
    for own, examples in ((val, data.unseen_val), (test, data.unseen_test)):
        new = [word for word in own if word not in seen]
        assert 0 < len(new) < len(own)
        assert words.vocabulary.decode_all(examples.symbols) == new
    asked = [*train[:5], *train[:5], *data.vocabulary.decode_all(data.unseen_val.symbols), ""]
    assert words.number_in_training(asked) == len(set(train[:5]))
    assert words.number_in_training([]) == 0
