"""Capitals that a rule gives, such as the first letter of every name: they need not be learnt.

A network that learns "Anna" has to learn 26 more characters, and samples words such as "ChedwilT". Where a
rule gives the capitals of a list, the network learns the words in small letters, and the rule puts the
capitals back into the words that are sampled. The rule is found in the list:

* every letter of a word is a capital, or
* the first letter is, and each letter after certain characters of the list, such as a blank or a hyphen.
  Parts that are mostly written small stay small, such as "on" in "Fenwick-on-Sea".

Up to ``MOST_EXCEPTIONS`` of the words may break the rule, such as "McDonald". They are learnt as the rule
writes them. Only letters with one capital that has no other small letter count, so "ß" and "İ" stay as they
are, as do scripts that do not begin a word with a capital.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore.core.text import plural, quote
from makemore.data.encoding import code_points, recoding_table
from makemore.data.membership import hashes_of
from makemore.data.shuffle import word_chunks
from makemore.lecture.words import STOP, Vocabulary

MOST_EXCEPTIONS = 0.02
"""The largest share of a list's words that may break a rule."""

FEW_EXCEPTIONS = 1e-4
"""The share of exceptions up to which no other rule is tried."""

MOST_SMALL = 100
"""The largest number of parts that a rule leaves small, the most frequent ones."""

MOST_CANDIDATES = 10_000
"""The number of different small parts from which on no part is an exception of its own."""


@cache
def small_letter(ch: str) -> str:
    """The small letter of a capital; any other character as it is.

    >>> small_letter("É"), small_letter("İ"), small_letter("ß")
    ('é', 'İ', 'ß')
    """
    small = ch.lower()
    return small if len(small) == 1 and small.upper() == small.title() == ch else ch


@cache
def capital_letter(ch: str) -> str:
    """The capital of a small letter; any other character as it is."""
    capital = ch.upper()
    return capital if len(capital) == 1 and small_letter(capital) == ch else ch


def has_capitals(text: str) -> bool:
    """Whether a text has a letter that ``small_letter`` changes."""
    return any(small_letter(ch) != ch for ch in text)


@dataclass(frozen=True)
class Capitals:
    """A rule for the capitals of words: those of every letter, or of the first letters of words and parts.

    A part begins after one of the characters ``after``. The parts ``small`` stay small, unless a word is
    nothing else.

    >>> rule = Capitals(after=" -", small=("on",))
    >>> rule.lower("Fenwick-on-Sea"), rule.restore("fenwick-on-sea")
    ('fenwick-on-sea', 'Fenwick-on-Sea')
    """

    everywhere: bool = False
    after: str = ""
    small: tuple[str, ...] = ()

    def lower(self, word: str) -> str:
        """The word in small letters, as the network learns it. It has as many characters."""
        return "".join(map(small_letter, word))

    def restore(self, word: str) -> str:
        """A word in small letters with the capitals of the rule. It has as many characters."""
        if self.everywhere:
            return "".join(map(capital_letter, word))

        def capitalized(match: re.Match[str]) -> str:
            part = match[0]
            if part != word and part in self.small:
                return part
            return capital_letter(part[0]) + part[1:]

        return re.sub(f"[^{re.escape(self.after)}]+" if self.after else "(?s).+", capitalized, word)

    def describe(self) -> str:
        """The rule in words, to follow "capitals"."""
        if self.everywhere:
            return "every letter"
        text = "the first letter" + (f", and after {_listed(self.after)}" if self.after else "")
        if self.small:
            more = ", ..." if len(self.small) > 5 else ""
            text += f"; small: {', '.join(self.small[:5])}{more}"
        return text


def _listed(characters: str) -> str:
    """Characters as a message shows them, with "or" before the last one."""
    names = ["a blank" if ch == " " else quote(ch) for ch in characters]
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


class Found(NamedTuple):
    """The rule of a list, how many of its words break it, and one of them, such as "McDonald"."""

    rule: Capitals
    exceptions: int
    example: str

    def describe(self) -> str:
        """The rule, and what becomes of the words that break it, in one or two lines of text."""
        text = f"{self.rule.describe()}: put back after sampling, not learnt (--case keep learns them)"
        if self.exceptions:
            written = self.rule.restore(self.rule.lower(self.example))
            count = plural(self.exceptions, "word")
            others = f" and {self.exceptions - 1:,} more" if self.exceptions > 1 else ""
            text += f"\n{count} learnt with the capitals of the rule: {self.example} as {written}{others}"
        return text


def find_rule(slabs: Sequence[Tensor], characters: str, num_words: int) -> Found | None:
    """The rule that gives the capitals of a list; None if no rule does, or if the list has no capitals.

    Code i in the slabs is character i of ``characters``, counted from 1, and 0 ends a word. A slab has whole
    words. The slabs are read chunk by chunk, up to ten times.
    """
    if not has_capitals(characters):
        return None
    text = _Text(slabs, characters)
    found: Found | None = None
    for rule in text.likely_rules():
        exceptions, example = text.exceptions(rule)
        costs = exceptions + len(rule.small)  # a part that stays small is an exception, too
        if exceptions <= MOST_EXCEPTIONS * num_words:
            if found is None or costs < found.exceptions + len(found.rule.small):
                found = Found(rule, exceptions, example)
            if costs <= FEW_EXCEPTIONS * num_words:
                break
    return found


def lower_table(characters: str) -> tuple[Vocabulary, Tensor]:
    """The vocabulary of characters in small letters, and the symbol in it of each code, see ``find_rule``."""
    lowered = "".join(map(small_letter, characters))
    vocabulary = Vocabulary(lowered)
    return vocabulary, recoding_table(lowered, vocabulary)


class _Chunk(NamedTuple):
    """Some words in small letters: for each of N characters its symbol, whether it was a capital, whether it
    has one, and the symbol before it, which is the stop at the beginning of a word."""

    symbols: Tensor
    is_capital: Tensor
    is_cased: Tensor
    before: Tensor


class _Parts(NamedTuple):
    """The parts of a chunk's words: hash, position of the first character, length, whether it is a word."""

    hashes: Tensor
    starts: Tensor
    lengths: Tensor
    is_word: Tensor


class _Text:
    """The words of a list, for counts of their capitals."""

    def __init__(self, slabs: Sequence[Tensor], characters: str) -> None:
        self.slabs, self.characters = slabs, characters
        self.vocabulary, self.table = lower_table(characters)
        self.is_capital = torch.tensor([False, *(small_letter(ch) != ch for ch in characters)])
        cased = [capital_letter(ch) != ch for ch in self.vocabulary.characters]
        self.is_cased = torch.tensor([False, *cased])

    def chunks(self) -> Iterator[tuple[Tensor, _Chunk]]:
        """The codes of some words, and what they are in small letters."""
        for slab in self.slabs:
            for chunk, _ in word_chunks(slab):
                codes = chunk.long()
                symbols = self.table[codes].long()
                before = F.pad(symbols[:-1], (1, 0), value=STOP)
                yield codes, _Chunk(symbols, self.is_capital[codes], self.is_cased[symbols], before)

    def likely_rules(self) -> list[Capitals]:
        """The rules that may give the capitals: one, or some that differ in ``after``."""
        size = len(self.vocabulary)
        capitals, small = torch.zeros(size, dtype=torch.int64), torch.zeros(size, dtype=torch.int64)
        for _, chunk in self.chunks():  # by the symbol before the letter
            capitals += torch.bincount(chunk.before[chunk.is_capital], minlength=size)
            small += torch.bincount(chunk.before[chunk.is_cased & ~chunk.is_capital], minlength=size)
        if capitals[self.is_cased].sum() > small[self.is_cased].sum():
            return [Capitals(everywhere=True)]
        if capitals[STOP] <= small[STOP]:
            return []
        others = [(ch, s) for ch, s in self.vocabulary.stoi.items() if not _belongs_to_a_part(ch)]
        sets = ["".join(ch for ch, s in others if capitals[s] > least * small[s]) for least in (0, 1)]
        rules = []
        for after in dict.fromkeys([*sets, ""]):
            rule = Capitals(after=after)
            if any(small[self.vocabulary.stoi[ch]] for ch in after):
                rule = replace(rule, small=self.small_parts(rule))
            rules.append(rule)
        return rules

    def small_parts(self, rule: Capitals) -> tuple[str, ...]:
        """The parts of words that are more often written small than with a capital, in sorted order."""
        counts, texts = Counter[int](), dict[int, str]()
        for _, chunk in self.chunks():
            parts = self.parts(chunk, rule)
            at = chunk.is_cased & ~chunk.is_capital
            chosen = at[parts.starts] & ~parts.is_word
            for part_hash, start, length in zip(*(x[chosen].tolist() for x in parts[:3]), strict=True):
                counts[part_hash] += 1
                if part_hash not in texts:
                    symbols = chunk.symbols[start : start + length - 1]
                    texts[part_hash] = self.vocabulary.decode(symbols.tolist())
            if len(texts) > MOST_CANDIDATES:
                return ()
        known = torch.tensor(sorted(texts))
        for _, chunk in self.chunks():
            parts = self.parts(chunk, rule)
            chosen = chunk.is_capital[parts.starts] & ~parts.is_word
            counts.subtract(parts.hashes[chosen & torch.isin(parts.hashes, known)].tolist())
        most = sorted((-count, texts[part_hash]) for part_hash, count in counts.items() if count > 0)
        return tuple(sorted(text for _, text in most[:MOST_SMALL]))

    def parts(self, chunk: _Chunk, rule: Capitals) -> _Parts:
        """The parts of words, with those of no characters."""
        cuts = self.after_table(rule)[chunk.symbols]
        ends = cuts.nonzero().flatten()
        lengths = torch.diff(ends, prepend=ends.new_full((1,), -1))
        starts = ends - lengths + 1
        is_word = (chunk.before[starts] == STOP) & (chunk.symbols[ends] == STOP)
        return _Parts(hashes_of(chunk.symbols.masked_fill(cuts, STOP), lengths), starts, lengths, is_word)

    def after_table(self, rule: Capitals) -> Tensor:
        """Whether a part begins after each symbol: bool, (symbols,)."""
        return torch.tensor([True, *(ch in rule.after for ch in self.vocabulary.characters)])

    def exceptions(self, rule: Capitals) -> tuple[int, str]:
        """How many words have other capitals than the rule gives, and the first of them."""
        number, example = 0, ""
        small = sorted(hashes_of_texts(self.vocabulary, rule.small))
        points = code_points("\n" + self.characters)
        for codes, chunk in self.chunks():
            expected = chunk.is_cased
            if not rule.everywhere:
                expected = expected & self.after_table(rule)[chunk.before]
                if small:
                    parts = self.parts(chunk, rule)
                    stays = torch.isin(parts.hashes, torch.tensor(small)) & ~parts.is_word
                    expected[parts.starts[stays]] = False
            wrong = expected != chunk.is_capital
            if not wrong.any():
                continue
            is_stop = chunk.symbols == STOP
            word = is_stop.cumsum(0) - is_stop.long()
            breaking = torch.unique(word[wrong])
            number += len(breaking)
            if not example:
                found = points[codes[word == breaking[0]]].numpy().tobytes().decode("utf-32-le")
                example = found.removesuffix("\n")
        return number, example


def hashes_of_texts(vocabulary: Vocabulary, texts: Sequence[str]) -> list[int]:
    """The hash of each text as a word."""
    found = []
    for text in texts:
        symbols = torch.tensor([*vocabulary.encode(text), STOP])
        found += hashes_of(symbols, torch.tensor([len(symbols)])).tolist()
    return found


def _belongs_to_a_part(ch: str) -> bool:
    """Whether a character is a letter, a digit or an accent, after which no part begins."""
    return ch.isalnum() or unicodedata.category(ch)[0] == "M"
