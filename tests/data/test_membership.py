"""Membership tests by hashes equal those of Python's sets."""

from __future__ import annotations

import random

import pytest
import torch

from makemore.data import shuffle
from makemore.data.encoding import decode_words, encode_words
from makemore.data.membership import WordSet, isin, select, word_hashes
from makemore.data.word_list import WordList
from makemore.lecture.words import Vocabulary

ALPHABET = "abcdefgh王"


@pytest.fixture(params=[2**18, 50])
def words(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """3000 words with many duplicates, processed in one chunk or in many."""
    monkeypatch.setattr(shuffle, "CHUNK_SYMBOLS", request.param)
    rng = random.Random(0)
    return ["".join(rng.choices(ALPHABET, k=rng.randint(1, 5))) for _ in range(3000)]


def test_words_have_equal_hashes_if_and_only_if_they_are_equal(words: list[str]) -> None:
    hashes = torch.cat([*word_hashes(encode_words(Vocabulary(ALPHABET), words), "")]).tolist()
    assert len(hashes) == len(words)
    different = set(hashes)
    assert len(set(zip(words, hashes, strict=True))) == len(set(words)) == len(different)
    shares = [sum(value >> bit & 1 for value in different) / len(different) for bit in range(64)]
    assert all(abs(share - 0.5) < 0.06 for share in shares), "every bit is 1 in about half of the hashes"


def test_isin_and_select_equal_a_set(words: list[str]) -> None:
    vocabulary = Vocabulary(ALPHABET)
    symbols, asked = encode_words(vocabulary, words[:2000]), encode_words(vocabulary, words[2000:])
    mask = isin(torch.cat([*word_hashes(asked, "")]), symbols)
    known = set(words[:2000])
    assert mask.tolist() == [word in known for word in words[2000:]]
    assert decode_words(vocabulary, select(asked, mask)) == [word for word in words[2000:] if word in known]
    assert isin(torch.empty(0, dtype=torch.int64), symbols).tolist() == []
    assert WordSet(symbols, vocabulary.stoi).__contains__("") is False


def test_a_word_set_equals_a_set(words: list[str]) -> None:
    vocabulary = Vocabulary(ALPHABET)
    known, word_set = set(words[:2000]), WordSet(encode_words(vocabulary, words[:2000]), vocabulary.stoi)
    for word in [*words, "", "x", "abx", "a" * 500, *(word + "a" for word in words)]:
        assert (word in word_set) == (word in known)


def test_unseen_words_are_those_not_in_the_training_split() -> None:
    rng = random.Random(1)
    words = WordList.of(["".join(rng.choices("ab", k=rng.randint(1, 9))) for _ in range(600)])
    train, val, test = words.split()
    data, seen = words.data(4), set(train)
    for split, examples in ((val, data.unseen_val), (test, data.unseen_test)):
        new = [word for word in split if word not in seen]
        assert 0 < len(new) < len(split)
        assert decode_words(words.vocabulary, examples.symbols) == new
    asked = [*train[:5], *train[:5], *decode_words(data.vocabulary, data.unseen_val.symbols), ""]
    assert words.number_in_training(asked) == len(set(train[:5]))
    assert words.number_in_training([]) == 0
