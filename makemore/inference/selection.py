"""Which whole words are accepted by ``generate``: new ones, not near a listed one, of a usual length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from importlib.util import find_spec
from itertools import compress

from makemore.core.errors import UsageError
from makemore.core.text import normalize
from makemore.data.shuffle import word_lengths
from makemore.data.word_list import WordList
from makemore.inference.generation import Accept

USUAL_SHARE = 0.96
"""The share of a list's words whose lengths are usual; half of the others are shorter, half are longer."""

DISTANCES_AT_ONCE = 2**22
"""The largest number of distances in a table, each of a byte."""


def all_of(conditions: Sequence[Accept]) -> Accept:
    """Accept the words that all conditions accept. Each is asked about the words that passed those before."""

    def accept(words: Sequence[str]) -> list[bool]:
        accepted = [True] * len(words)
        for condition in conditions:
            answers = iter(condition(list(compress(words, accepted))))
            accepted = [passed and bool(next(answers)) for passed in accepted]
        return accepted

    return accept


def novel(listed: Container[str]) -> Accept:
    """Accept the words that are not listed."""
    return lambda words: [normalize(word) not in listed for word in words]


def of_length(lengths: Container[int]) -> Accept:
    """Accept the words with one of these numbers of characters."""
    return lambda words: [len(word) in lengths for word in words]


def usual_lengths(words: WordList) -> range:
    """The lengths that are usual in a list: between the quantiles that leave ``USUAL_SHARE`` of the words."""
    lengths = (word_lengths(words.symbols) - 1).sort().values  # without the stops
    rest = int((1 - USUAL_SHARE) / 2 * len(lengths))
    return range(int(lengths[rest]), int(lengths[-1 - rest]) + 1)


class NotNear:
    """Accept the words that are more than ``edits`` edits away from every listed word.

    An edit inserts, deletes or replaces one character: this is the Levenshtein distance. Up to one edit, all
    words that near are looked up in the list; for more, the package rapidfuzz computes the distances. Raises
    UsageError if it is needed and not installed.
    """

    def __init__(self, listed: Iterable[str], edits: int) -> None:
        self.edits = edits
        self._listed = set(listed)
        if edits > 1:
            if find_spec("rapidfuzz") is None:
                raise UsageError(
                    f"words within {edits} edits are found by the package rapidfuzz: pip install rapidfuzz; 1"
                    " edit needs no package"
                )
            self._by_length: dict[int, list[str]] = defaultdict(list)
            for word in self._listed:
                self._by_length[len(word)].append(word)
        elif edits == 1:
            self._characters = sorted(set().union(*self._listed))

    def __call__(self, words: Sequence[str]) -> list[bool]:
        words = [normalize(word) for word in words]
        if self.edits == 0:
            return [word not in self._listed for word in words]
        if self.edits == 1:
            return [self._listed.isdisjoint(self._within_one_edit(word)) for word in words]
        near: set[str] = set()
        for length in set(map(len, words)):
            near |= self._near([word for word in words if len(word) == length], length)
        return [word not in near for word in words]

    def _within_one_edit(self, word: str) -> Iterator[str]:
        """The word and all words that are one edit away, of the characters of the list."""
        yield word
        for i in range(len(word) + 1):
            start, rest = word[:i], word[i + 1 :]
            if i < len(word):
                yield start + rest
                yield from (start + ch + rest for ch in self._characters)
            yield from (start + ch + word[i:] for ch in self._characters)

    def _near(self, words: Sequence[str], length: int) -> set[str]:
        """Those of some words of one length that are near a listed word."""
        import numpy as np
        from rapidfuzz.distance import Levenshtein
        from rapidfuzz.process import cdist

        lengths = range(length - self.edits, length + self.edits + 1)
        listed = [word for n in lengths for word in self._by_length.get(n, ())]
        if not listed:
            return set()
        near: set[str] = set()
        rows = max(1, DISTANCES_AT_ONCE // len(listed))
        for some in (words[start : start + rows] for start in range(0, len(words), rows)):
            # A larger distance than the cutoff is given as one more than that.
            distances = cdist(
                some, listed, scorer=Levenshtein.distance, score_cutoff=self.edits, dtype=np.uint8
            )
            is_near: list[bool] = np.any(distances <= self.edits, axis=1).tolist()
            near |= set(compress(some, is_near))
        return near
