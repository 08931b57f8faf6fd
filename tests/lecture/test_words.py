"""The lecture's words as they are read, against the classes that store no contexts."""

from __future__ import annotations

import pytest
import torch

from makemore.data.word_list import WordList, load_words
from makemore.lecture.words import Vocabulary, build_dataset, split_words


@pytest.mark.parametrize("block_size", [1, 3, 8, 16])
def test_examples_equal_the_stored_dataset(block_size: int) -> None:
    words = load_words().words[::50]
    words_list = WordList.of(words)
    data = words_list.data(block_size)
    vocabulary = Vocabulary(words)
    assert vocabulary.characters == data.vocabulary.characters
    for split, examples in zip(split_words(words), data[1:4], strict=True):
        X, Y = build_dataset(split, vocabulary, block_size)
        assert X.dtype == Y.dtype == torch.int64
        assert len(examples) == len(X)
        assert torch.equal(examples[:][0], X)
        assert torch.equal(examples[:][1], Y)


def test_the_split_is_the_word_lists(lecture_words: WordList) -> None:
    train, val, test = split_words(lecture_words.words)
    assert (train, val, test) == lecture_words.split()
    assert train[:2] == ["yuheng", "diondre"]
    X, _ = build_dataset(train, lecture_words.vocabulary)
    assert X.shape == (182_625, 8)
