"""The lecture's shuffle (cell 4) of a list that need not fit into memory twice.

``random.shuffle`` on a list of Python's own is the plain way. Here words are a run of symbols, each word
followed by a 0, in slabs; the shuffle takes 4 bytes a word, and the slabs are given back as their words find
their places. Departure from the lecture: what is computed is where each word goes, not which one comes.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from makemore.bars import bar

STRETCH = 2**18
"""Symbols that are looked at at a time."""

BUCKET_WORDS = 2**17
"""Words that are put in order at a time, unless a list has more than ``MOST_BUCKETS`` times as many."""

MOST_BUCKETS = 64

DRAWN = 2**20
"""Numbers that are drawn for a shuffle at a time."""


def places(number: int, seed: int) -> Tensor:
    """Where ``random.Random(seed).shuffle`` puts each of so many things: int32, (number,).

    >>> things = list("abcdef")
    >>> random.Random(42).shuffle(things)
    >>> [things[place] for place in places(6, 42).tolist()]
    ['a', 'b', 'c', 'd', 'e', 'f']
    """
    getrandbits = random.Random(seed).getrandbits
    partners: list[array[int]] = []
    result = array("I", [0])
    with bar(2 * number, "word", "shuffling") as shown:
        # What Python does: from the last thing to the second, each changes places with one up to itself.
        for last in range(number - 1, 0, -DRAWN):
            partners.append(array("I"))
            for i in range(last, max(last - DRAWN, 0), -1):
                bits = (i + 1).bit_length()
                partner = getrandbits(bits)
                while partner > i:
                    partner = getrandbits(bits)
                partners[-1].append(partner)
            shown.update(len(partners[-1]))
        # The same exchanges from the last one back give the inverse.
        while partners:
            for i, partner in enumerate(reversed(partners.pop()), start=len(result)):
                result.append(i)
                result[i] = result[partner]
                result[partner] = i
            shown.update(number + len(result) - shown.n)
    return torch.frombuffer(result, dtype=torch.int32)[:number]


def stretches(run: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The words of a run, some ``STRETCH`` symbols at a time: symbols, and the words' lengths with stop."""
    begin = 0
    while begin < len(run):
        size = STRETCH
        stops = (run[begin : begin + size] == 0).nonzero().flatten()
        while len(stops) == 0:
            size *= 2
            stops = (run[begin : begin + size] == 0).nonzero().flatten()
        lengths = torch.diff(stops, prepend=stops.new_full((1,), -1))
        yield run[begin : begin + int(stops[-1]) + 1], lengths
        begin += int(stops[-1]) + 1


def lengths_of(run: Tensor) -> Tensor:
    """The lengths of a run's words, their stops included: int64, (words,)."""
    return torch.cat([lengths for _, lengths in stretches(run)])


def rearranged(run: Tensor, lengths: Tensor, order: Tensor) -> Tensor:
    """Some words of a run, by their numbers, one after the other."""
    starts = lengths.cumsum(0) - lengths
    chosen = lengths[order]
    skipped = starts[order] - (chosen.cumsum(0) - chosen)
    index = skipped.repeat_interleave(chosen)
    index += torch.arange(len(index))
    return run[index]


def shuffled(
    slabs: list[Tensor], number: int, seed: int, table: Tensor, cuts: Sequence[int]
) -> tuple[Tensor, list[int]]:
    """The shuffled words in one run of ``table[symbols]``, and where in it each of the ``cuts`` lies.

    The slabs, which hold so many words in all, are emptied. A cut is a number of words.
    """
    place = places(number, seed)
    buckets = max(1, min(MOST_BUCKETS, -(-number // BUCKET_WORDS)))
    size = -(-number // buckets)  # words of a bucket
    buckets = -(-number // size)

    # How many symbols each bucket gets, and lie in front of each cut.
    symbols = torch.zeros(buckets, dtype=torch.int64)
    before = [0 for _ in cuts]
    seen = 0
    for slab in slabs:
        for _, lengths in stretches(slab):
            here = place[seen : seen + len(lengths)]
            symbols.index_add_(0, (here // size).long(), lengths)
            before = [n + int(lengths[here < cut].sum()) for n, cut in zip(before, cuts, strict=True)]
            seen += len(lengths)

    # Every word goes into its bucket, in the order of the list.
    ends = symbols.cumsum(0)
    whole = torch.empty(int(ends[-1]), dtype=table.dtype)
    free = (ends - symbols).tolist()
    seen = 0
    with bar(2 * len(whole), "symbol", "ordering") as shown:
        slabs.reverse()
        while slabs:
            slab = slabs.pop()
            for run, lengths in stretches(slab):
                bucket = place[seen : seen + len(lengths)] // size
                order = bucket.argsort(stable=True)
                sizes = torch.zeros(buckets, dtype=torch.int64).index_add_(0, bucket.long(), lengths)
                moved = table[rearranged(run, lengths, order).long()]
                for k, part in enumerate(torch.split(moved, sizes.tolist())):
                    whole[free[k] : free[k] + len(part)] = part
                    free[k] += len(part)
                seen += len(lengths)
                shown.update(len(run))
            del slab, run

        # And in its bucket to its place.
        for k, (end, count) in enumerate(zip(ends.tolist(), symbols.tolist(), strict=True)):
            low = k * size
            inside = [p[(p >= low) & (p < low + size)] for p in torch.split(place, 2**20)]
            order = torch.cat(inside).argsort()
            part = whole[end - count : end]
            reorder(part, lengths_of(part), order)
            shown.update(count)
    return whole, before


def reorder(run: Tensor, lengths: Tensor, order: Tensor) -> None:
    """Put the words of a run into another order, in place."""
    copy, end = run.clone(), 0
    for some in torch.split(order, BUCKET_WORDS):
        part = rearranged(copy, lengths, some)
        run[end : end + len(part)] = part
        end += len(part)
