"""The shuffle equals Python's, with slabs, chunks and buckets of any size."""

from __future__ import annotations

import random

import pytest
import torch

from makemore.data import shuffle
from makemore.data.encoding import encode_words
from makemore.data.shuffle import shuffle_positions, shuffled, word_chunks
from makemore.lecture.words import Vocabulary

DTYPES = [torch.uint8, torch.uint8, torch.int16, torch.int32]


@pytest.mark.parametrize("number", [0, 1, 2, 3, 6, 100, 1023, 1024, 1025, 30_000])
@pytest.mark.parametrize("seed", [42, 7])
def test_positions_are_those_of_pythons_shuffle(
    number: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shuffle, "CHUNK_SWAPS", 1000)
    items = list(range(number))
    random.Random(seed).shuffle(items)
    positions = shuffle_positions(number, seed)
    assert positions.dtype == torch.int32
    assert [items[position] for position in positions.tolist()] == list(range(number))


@pytest.mark.parametrize(
    ("chunk", "bucket", "max_buckets"), [(2**20, 2**18, 64), (7, 3, 64), (1, 1, 5), (64, 50, 3)]
)
def test_shuffled_words_are_those_of_pythons_shuffle(
    chunk: int, bucket: int, max_buckets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shuffle, "CHUNK_SYMBOLS", chunk)
    monkeypatch.setattr(shuffle, "BUCKET_WORDS", bucket)
    monkeypatch.setattr(shuffle, "MAX_BUCKETS", max_buckets)
    rng = random.Random(chunk)
    words = ["".join(rng.choices("abcé", k=rng.randint(1, 30))) for _ in range(500)]
    vocabulary = Vocabulary("abcé")
    symbols = encode_words(vocabulary, words)
    ends = [sum(len(word) + 1 for word in words[:n]) for n in (123, 124, 400)]
    slabs = [slab.to(dtype) for slab, dtype in zip(symbols.tensor_split(ends), DTYPES, strict=True)]
    assert torch.equal(torch.cat([chunk for chunk, _ in word_chunks(symbols)]), symbols)
    table = torch.tensor([0, 4, 3, 2, 1], dtype=torch.int32)
    result, cuts = shuffled(slabs, shuffle_positions(500, 42), table, (400, 450))
    random.Random(42).shuffle(words)
    expected = table[encode_words(vocabulary, words).long()]
    assert torch.equal(result, expected)
    assert cuts == [sum(len(word) + 1 for word in words[:n]) for n in (400, 450)]
    assert not slabs, "their memory is freed"
