"""Which words are accepted: against plain definitions, on lists of any words."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import makemore.inference.selection
from makemore.core.errors import UsageError
from makemore.data.word_list import WordList
from makemore.inference.selection import NotNear, all_of, novel, of_length, usual_lengths

words = st.lists(st.text("abé", max_size=6), min_size=1, max_size=12)


def distance(a: str, b: str) -> int:
    """The Levenshtein distance, from its definition."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a):
        before, row = row, [i + 1]
        for j, y in enumerate(b):
            row.append(min(before[j] + (x != y), before[j + 1] + 1, row[j] + 1))
    return row[-1]


@settings(max_examples=200, derandomize=True, database=None, deadline=None)
@given(listed=words, asked=words, edits=st.integers(0, 4), at_once=st.sampled_from([1, 5, 2**22]))
def test_words_near_a_listed_one_are_refused(
    listed: list[str], asked: list[str], edits: int, at_once: int
) -> None:
    pytest.importorskip("rapidfuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(makemore.inference.selection, "DISTANCES_AT_ONCE", at_once)
        accepted = NotNear(listed, edits)(asked)
    assert accepted == [all(distance(word, other) > edits for other in listed) for word in asked]


def test_one_edit_needs_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(makemore.inference.selection, "find_spec", lambda name: None)
    assert NotNear(["anna"], 1)(["anne", "hanna", "ana", "anna", "hannah", "nana"]) == [
        *[False] * 4,
        True,
        True,
    ]
    with pytest.raises(
        UsageError, match=r"^words within 2 edits are found .* rapidfuzz: pip install rapidfuzz"
    ):
        NotNear(["anna"], 2)


@pytest.mark.parametrize("edits", [0, 1, 2])
def test_words_are_compared_in_one_unicode_form(edits: int) -> None:
    pytest.importorskip("rapidfuzz")
    assert NotNear(["zoé", "x" * 9], edits)(["zoe\u0301", "zoé", "zo\u200bé", "zoltan"]) == [
        *[False] * 3,
        True,
    ]
    assert novel({"zoé"})(["zoe\u0301", "zoé", "zoe"]) == [False, False, True]


def test_conditions_are_asked_in_order_about_the_words_that_are_left() -> None:
    asked: list[list[str]] = []

    def recorded(some: Sequence[str]) -> list[bool]:
        asked.append(list(some))
        return [word != "b" for word in some]

    accept = all_of([of_length(range(1, 3)), recorded, novel({"aa"})])
    assert accept(["a", "bbb", "b", "aa", "ab"]) == [True, False, False, False, True]
    assert asked == [["a", "b", "aa", "ab"]]
    assert all_of([])(["a"]) == [True]
    assert accept([]) == []


def test_usual_lengths_leave_out_the_rare_ones() -> None:
    """Two words in a hundred at each end."""
    lengths = [1] * 2 + [2, 20] + [5] * 50 + [8] * 44 + [40] * 2
    assert usual_lengths(WordList.of(["a" * n for n in lengths])) == range(2, 21)
    assert usual_lengths(WordList.of(["anna"] * 6)) == range(4, 5)
