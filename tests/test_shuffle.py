"""The shuffle in place against Python's own, over slabs and buckets of any size."""

from __future__ import annotations

import random

import pytest
import torch

from makemore import shuffle
from makemore.shuffle import places, shuffled, stretches
from makemore.words import Vocabulary

KINDS = [torch.uint8, torch.uint8, torch.int16, torch.int32]


@pytest.mark.parametrize("number", [0, 1, 2, 3, 6, 100, 1023, 1024, 1025, 30_000])
@pytest.mark.parametrize("seed", [42, 7])
def test_places_are_where_python_puts_things(number: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shuffle, "DRAWN", 1000)
    things = list(range(number))
    random.Random(seed).shuffle(things)
    found = places(number, seed)
    assert found.dtype == torch.int32
    assert [things[place] for place in found.tolist()] == list(range(number))


@pytest.mark.parametrize(
    ("stretch", "bucket", "most"), [(2**20, 2**18, 64), (7, 3, 64), (1, 1, 5), (64, 50, 3)]
)
def test_shuffled_words_are_pythons(
    stretch: int, bucket: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shuffle, "STRETCH", stretch)
    monkeypatch.setattr(shuffle, "BUCKET_WORDS", bucket)
    monkeypatch.setattr(shuffle, "MOST_BUCKETS", most)
    rng = random.Random(stretch)
    words = ["".join(rng.choices("abcé", k=rng.randint(1, 30))) for _ in range(500)]
    vocabulary = Vocabulary("abcé")
    run = vocabulary.encode_all(words)
    ends = [sum(len(word) + 1 for word in words[:n]) for n in (123, 124, 400)]
    slabs = [slab.to(dtype) for slab, dtype in zip(run.tensor_split(ends), KINDS, strict=True)]
    assert torch.equal(torch.cat([symbols for symbols, _ in stretches(run)]), run)
    table = torch.tensor([0, 4, 3, 2, 1], dtype=torch.int32)
    whole, cuts = shuffled(slabs, 500, 42, table, (400, 450))
    random.Random(42).shuffle(words)
    expected = table[vocabulary.encode_all(words).long()]
    assert torch.equal(whole, expected)
    assert cuts == [sum(len(word) + 1 for word in words[:n]) for n in (400, 450)]
    assert not slabs, "they are given back"
