"""The lecture's shuffle (cell 4) for a word list that does not fit into memory twice.

The result is that of ``random.Random(seed).shuffle`` on a list of strings. Here the symbols of all words,
each word followed by its stop, are given in slabs, which are tensors of a limited size. The shuffle needs 4
bytes per word, and a slab is freed as soon as its words are copied. Departure from the lecture: it computes
for each word its new position, not for each position the word that comes there.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from makemore.core.progress import progress_bar
from makemore.lecture.words import STOP

CHUNK_SYMBOLS = 2**18
"""Symbols that are processed at a time."""

BUCKET_WORDS = 2**17
"""Words in a bucket, which are ordered at a time, unless that makes more than ``MAX_BUCKETS`` buckets."""

MAX_BUCKETS = 64
"""The largest number of buckets."""

CHUNK_SWAPS = 2**20
"""Swaps of a shuffle that are computed at a time."""


def shuffle_positions(number: int, seed: int) -> Tensor:
    """The position to which ``random.Random(seed).shuffle`` moves each item of a list: int32, (number,).

    >>> items = list("abcdef")
    >>> random.Random(42).shuffle(items)
    >>> [items[position] for position in shuffle_positions(6, 42).tolist()]
    ['a', 'b', 'c', 'd', 'e', 'f']
    """
    getrandbits = random.Random(seed).getrandbits
    chunks: list[array[int]] = []
    positions = array("I", [0])
    with progress_bar(2 * number, "word", "shuffling") as progress:
        # As in Python: each item, from the last to the second, is swapped with one at or before its position.
        for last in range(number - 1, 0, -CHUNK_SWAPS):
            partners = array("I")
            for i in range(last, max(last - CHUNK_SWAPS, 0), -1):
                bits = (i + 1).bit_length()
                partner = getrandbits(bits)
                while partner > i:
                    partner = getrandbits(bits)
                partners.append(partner)
            chunks.append(partners)
            progress.update(len(partners))
        # The same swaps in reverse order give the inverse permutation.
        while chunks:
            for i, partner in enumerate(reversed(chunks.pop()), start=len(positions)):
                positions.append(i)
                positions[i] = positions[partner]
                positions[partner] = i
            progress.update(number + len(positions) - progress.n)
    return torch.frombuffer(positions, dtype=torch.int32)[:number]


def word_chunks(symbols: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of whole words: the symbols of each chunk, and the lengths of its words, stops included.

    A chunk has up to ``CHUNK_SYMBOLS`` symbols, or one longer word.
    """
    start = 0
    while start < len(symbols):
        size = CHUNK_SYMBOLS
        stops = (symbols[start : start + size] == STOP).nonzero().flatten()
        while len(stops) == 0:
            size *= 2
            stops = (symbols[start : start + size] == STOP).nonzero().flatten()
        lengths = torch.diff(stops, prepend=stops.new_full((1,), -1))
        end = start + int(stops[-1]) + 1
        yield symbols[start:end], lengths
        start = end


def word_lengths(symbols: Tensor) -> Tensor:
    """The lengths of all words, stops included: int64, (words,)."""
    return torch.cat([lengths for _, lengths in word_chunks(symbols)])


def take_words(symbols: Tensor, lengths: Tensor, index: Tensor) -> Tensor:
    """The symbols of the words with these numbers, one word after the other.

    ``lengths`` are the lengths of all words of ``symbols``, stops included.
    """
    starts = lengths.cumsum(0) - lengths
    taken = lengths[index]
    new_starts = taken.cumsum(0) - taken
    symbol_index = (starts[index] - new_starts).repeat_interleave(taken)
    symbol_index += torch.arange(len(symbol_index))
    return symbols[symbol_index]


def reorder_words(symbols: Tensor, lengths: Tensor, order: Tensor) -> None:
    """Put the words of ``symbols`` into another order in place, as ``take_words`` does in a copy."""
    copy, end = symbols.clone(), 0
    for index in torch.split(order, BUCKET_WORDS):
        part = take_words(copy, lengths, index)
        symbols[end : end + len(part)] = part
        end += len(part)


def repeat_words(symbols: Tensor, counts: Tensor) -> Tensor:
    """The symbols, (N,), of words each of which is repeated as often as ``counts``, (words,), says."""
    lengths = word_lengths(symbols)
    result = symbols.new_empty(int((lengths * counts).sum()))
    num_words = end = 0
    for chunk, chunk_lengths in word_chunks(symbols):
        repeated = torch.arange(len(chunk_lengths), dtype=torch.int32)
        repeated = repeated.repeat_interleave(counts[num_words : num_words + len(chunk_lengths)])
        for index in torch.split(repeated, BUCKET_WORDS):
            part = take_words(chunk, chunk_lengths, index)
            result[end : end + len(part)] = part
            end += len(part)
        num_words += len(chunk_lengths)
    return result


def shuffled(
    slabs: list[Tensor], positions: Tensor, table: Tensor, cuts: Sequence[int]
) -> tuple[Tensor, list[int]]:
    """The symbols ``table[slab]`` of all words in another order, and the number of symbols before each cut.

    ``positions``, (words,), are the new positions of the words, see ``shuffle_positions``. The list of slabs
    is emptied. A cut is a number of words.
    """
    num_words = len(positions)
    num_buckets = max(1, min(MAX_BUCKETS, -(-num_words // BUCKET_WORDS)))
    bucket_words = -(-num_words // num_buckets)
    num_buckets = -(-num_words // bucket_words)

    # Count the symbols of each bucket, and those before each cut.
    sizes = torch.zeros(num_buckets, dtype=torch.int64)
    symbols_before = [0 for _ in cuts]
    start = 0
    for slab in slabs:
        for _, lengths in word_chunks(slab):
            here = positions[start : start + len(lengths)]
            sizes.index_add_(0, (here // bucket_words).long(), lengths)
            symbols_before = [
                n + int(lengths[here < cut].sum()) for n, cut in zip(symbols_before, cuts, strict=True)
            ]
            start += len(lengths)

    # Copy each word into its bucket. In a bucket the words keep the order of the list.
    ends = sizes.cumsum(0)
    result = torch.empty(int(ends[-1]), dtype=table.dtype)
    free = (ends - sizes).tolist()
    start = 0
    with progress_bar(2 * len(result), "symbol", "ordering") as progress:
        slabs.reverse()
        while slabs:
            slab = slabs.pop()
            for chunk, lengths in word_chunks(slab):
                buckets = positions[start : start + len(lengths)] // bucket_words
                order = buckets.argsort(stable=True)
                counts = torch.zeros(num_buckets, dtype=torch.int64)
                counts.index_add_(0, buckets.long(), lengths)
                moved = table[take_words(chunk, lengths, order).long()]
                for k, part in enumerate(torch.split(moved, counts.tolist())):
                    result[free[k] : free[k] + len(part)] = part
                    free[k] += len(part)
                start += len(lengths)
                progress.update(len(chunk))
            del slab, chunk  # frees the memory

        # Move each word to its position in the bucket.
        for k, (end, size) in enumerate(zip(ends.tolist(), sizes.tolist(), strict=True)):
            low = k * bucket_words
            inside = [p[(p >= low) & (p < low + bucket_words)] for p in torch.split(positions, 2**20)]
            bucket = result[end - size : end]
            reorder_words(bucket, word_lengths(bucket), torch.cat(inside).argsort())
            progress.update(size)
    return result, symbols_before
