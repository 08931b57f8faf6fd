"""Membership tests for words by 64-bit hashes, in place of a set of strings.

The hash of a word is a sum over its symbols: a random number for each symbol at each position. Two different
words have the same hash with probability 2^-64. So a new word is mistaken for one of 10^7 words with
probability 10^-12. A word that is among them is always found.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from functools import cache

import torch
from torch import Tensor

from makemore.core.progress import progress_bar
from makemore.core.text import known_form
from makemore.data.shuffle import CHUNK_SYMBOLS, word_chunks
from makemore.lecture.words import STOP

MAX_SYMBOLS = 2**32
"""More symbols than a vocabulary has. Symbol s at position p has the number ``s + MAX_SYMBOLS * p``."""


def word_hashes(symbols: Tensor, doing: str) -> Iterator[Tensor]:
    """The hash of each word, in chunks: int64, (words,) in all.

    ``symbols``, (N,), are those of the words, each word followed by its stop. ``doing`` is the text of the
    progress bar.
    """
    with progress_bar(len(symbols), "symbol", doing) as progress:
        for chunk, lengths in word_chunks(symbols):
            yield hashes_of(chunk, lengths)
            progress.update(len(chunk))


def hashes_of(symbols: Tensor, lengths: Tensor) -> Tensor:
    """The hash of each word of ``symbols``, (N,), given their lengths, stops included: int64, (words,)."""
    ends = lengths.cumsum(0)
    positions = torch.arange(len(symbols)) - (ends - lengths).repeat_interleave(lengths)
    sums = _splitmix64(symbols.long() + MAX_SYMBOLS * positions).cumsum(0)[ends - 1]
    return torch.diff(sums, prepend=sums.new_zeros(1))


def _splitmix64(x: Tensor) -> Tensor:
    """A random number for each number, as int64: splitmix64 of Steele, Lea and Flood (2014)."""
    x = x * _as_int64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ ((x >> shift) & (2 ** (64 - shift) - 1))) * _as_int64(factor)
    return x ^ ((x >> 31) & (2**33 - 1))


def _as_int64(x: int) -> int:
    """The number with the same 64 low bits that fits into int64."""
    return (x + 2**63) % 2**64 - 2**63


def isin(hashes: Tensor, symbols: Tensor) -> Tensor:
    """Whether each word, given by its hash, (M,), is among the words of ``symbols``, (N,): bool, (M,)."""
    if len(hashes) == 0:
        return torch.empty(0, dtype=torch.bool)
    values = hashes.sort().values  # may have equal ones: searchsorted finds the first of them
    found = torch.zeros(len(values), dtype=torch.bool)
    for known in word_hashes(symbols, "looking up words"):
        index = torch.searchsorted(values, known).clamp_(max=len(values) - 1)
        found[index[values[index] == known]] = True
    return torch.cat([found[torch.searchsorted(values, part)] for part in torch.split(hashes, CHUNK_SYMBOLS)])


def select(symbols: Tensor, mask: Tensor) -> Tensor:
    """The symbols, (M,), of the words for which ``mask``, (words,), is True."""
    parts, num_words = [symbols[:0]], 0
    for chunk, lengths in word_chunks(symbols):
        chosen = mask[num_words : num_words + len(lengths)]
        parts.append(chunk[chosen.repeat_interleave(lengths)])
        num_words += len(lengths)
    return torch.cat(parts)


class WordSet:
    """The words of ``symbols``, (N,), as a set for tests of one word at a time: 8 bytes a word."""

    def __init__(self, symbols: Tensor, stoi: Mapping[str, int]) -> None:
        hashes = torch.unique(torch.cat([*word_hashes(symbols, "hashing words")]))
        self._hashes = memoryview(hashes.numpy())
        self._stoi = stoi

    def __contains__(self, word: object) -> bool:
        assert isinstance(word, str)
        try:
            symbols = [*(self._stoi[ch] for ch in known_form(word, self._stoi)), STOP]
        except KeyError:
            return False
        word_hash = _as_int64(sum(_symbol_hash(symbol, i) for i, symbol in enumerate(symbols)))
        index = bisect_left(self._hashes, word_hash)
        return index < len(self._hashes) and self._hashes[index] == word_hash


@cache
def _symbol_hash(symbol: int, position: int) -> int:
    """The random number of one symbol at one position of a word."""
    return int(_splitmix64(torch.tensor(symbol + MAX_SYMBOLS * position)))
