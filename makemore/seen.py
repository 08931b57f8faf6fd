"""Which words stand in a list of any length, without a set of strings (beyond the lecture).

A word is known by 64 bits of its symbols: the sum of a random number for each symbol at each place. Two
words have the same bits once in 10^19 pairs, so that of a list of 10^7 words one new word in 10^12 is taken
for one that stands in it. One that does stand in it is always found.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from functools import cache

import torch
from torch import Tensor

from makemore.bars import bar
from makemore.shuffle import STRETCH, stretches

PLACE = 2**32
"""Number of symbols that there may be: what a place counts in the number of a symbol at it."""


def hashes(run: Tensor, doing: str) -> Iterator[Tensor]:
    """The bits of each word of a run, some at a time: int64, (words,) in all."""
    with bar(len(run), "symbol", doing) as shown:
        for symbols, lengths in stretches(run):
            ends = lengths.cumsum(0)
            at = torch.arange(len(symbols)) - (ends - lengths).repeat_interleave(lengths)
            sums = _mixed(symbols.long() + PLACE * at).cumsum(0)[ends - 1]
            yield torch.diff(sums, prepend=sums.new_zeros(1))
            shown.update(len(symbols))


def _mixed(x: Tensor) -> Tensor:
    """The random numbers of splitmix64 (Steele, Lea and Flood 2014) for some numbers, as int64."""
    x = x * _signed(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ ((x >> shift) & (2 ** (64 - shift) - 1))) * _signed(factor)
    return x ^ ((x >> 31) & (2**33 - 1))


def _signed(x: int) -> int:
    return (x + 2**63) % 2**64 - 2**63


def found(wanted: Tensor, run: Tensor) -> Tensor:
    """Which of some words, by their bits, (N,), stand in a run: bool, (N,)."""
    if len(wanted) == 0:
        return torch.empty(0, dtype=torch.bool)
    kinds = wanted.sort().values  # of those that are there twice the first one counts
    there = torch.zeros(len(kinds), dtype=torch.bool)
    for bits in hashes(run, "looking for known words"):
        place = torch.searchsorted(kinds, bits).clamp_(max=len(kinds) - 1)
        there[place[kinds[place] == bits]] = True
    return torch.cat([there[torch.searchsorted(kinds, bits)] for bits in torch.split(wanted, STRETCH)])


def kept(run: Tensor, mask: Tensor) -> Tensor:
    """The words of a run for which the mask, (words,), holds."""
    parts, seen = [run[:0]], 0
    for symbols, lengths in stretches(run):
        here = mask[seen : seen + len(lengths)]
        parts.append(symbols[here.repeat_interleave(lengths)])
        seen += len(lengths)
    return torch.cat(parts)


class KnownWords:
    """The words of a run, to ask of one word at a time whether it is among them: 8 bytes a word."""

    def __init__(self, run: Tensor, stoi: Mapping[str, int]) -> None:
        bits = torch.unique(torch.cat([*hashes(run, "noting the known words")]))
        self._bits = memoryview(bits.numpy())
        self._stoi = stoi

    def __contains__(self, word: object) -> bool:
        assert isinstance(word, str)
        try:
            symbols = [self._stoi[ch] for ch in word]
        except KeyError:
            return False
        bits = _signed(sum(map(_number, range(len(word) + 1), [*symbols, 0])))
        place = bisect_left(self._bits, bits)
        return place < len(self._bits) and self._bits[place] == bits


@cache
def _number(place: int, symbol: int) -> int:
    """The random number of one symbol at one place."""
    return int(_mixed(torch.tensor(PLACE * place + symbol)))
