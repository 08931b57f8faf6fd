"""Two networks in a browser side by side."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pages import (
    ODD,
    WIDTHS,
    assert_fits,
    checked_by_axe,
    labels_of,
    log_probs,
    model_of,
    texts,
    until,
    violations,
    write,
)

from makemore import Model, page_html

pytestmark = pytest.mark.full

WORDS_THERE = until("document.querySelectorAll('.words-of li').length === 24")
"""A script that waits until both networks have sampled their words."""


def both(path: Path, first: Model, second: Model) -> Path:
    path.write_text(page_html(first, compare=second, names=("trained", "step-0")), encoding="utf-8")
    return path


def next_probs(model: Model, word: str) -> dict[str, float]:
    """The probability of each next character after a word, and of the end."""
    probs = log_probs(model, word)[-1].exp().tolist()
    return {"end" if i == 0 else model.vocabulary.itos[i]: p for i, p in enumerate(probs)}


def told(page: Any) -> dict[str, list[str]]:
    """The rows of the table: the two texts of each character."""
    rows = page.execute_script(
        "return [...document.querySelectorAll('#networks-table tbody tr')].map((row) =>"
        " [...row.querySelectorAll('.char, .how')].map((e) => e.textContent))"
    )
    return {row[0]: row[1:] for row in rows}


def as_text(p: float | None) -> str:
    return "–" if p is None else f"{100 * p:.1f} %"


def test_the_probabilities_are_those_of_both_networks(open_page: Any, tmp_path: Path) -> None:
    first, second = model_of("abcde"), model_of("abcxy", "mlp", block_size=3, n_hidden=7)
    page = open_page(both(tmp_path / "page.html", first, second))
    page.execute_async_script(WORDS_THERE)
    for word, seen in (("", ""), ("abcab", "abcab"), ("abda", "aba")):
        write(page, word)
        expected = [next_probs(first, word), next_probs(second, seen)]
        shown = told(page)
        assert set(shown) == {*"abcdexy", "end"}
        for ch, two in shown.items():
            assert two == [as_text(p.get(ch)) for p in expected]
        note = re.sub("[\u2068\u2069]", "", texts(page, "#networks-note")[0])
        assert note == ("step-0 does not know d: it sees the word without." if "d" in word else "")
    names = [re.sub("[\u2068\u2069]", "", text) for text in texts(page, "#networks-table th")]
    assert names == ["Next", "trained", "step-0"]
    assert all(set(word) <= set("abcde") for word in texts(page, "#networks-first bdi"))
    assert all(set(word) <= set("abcxy") for word in texts(page, "#networks-second bdi"))


def test_labels_are_chosen_for_both_if_their_columns_are_equal(open_page: Any, tmp_path: Path) -> None:
    labels = labels_of({"kind": ["A", "B", "C"]}, {(1,): 5, (2,): 3, (3,): 2})
    others = labels_of({"other": ["A", "B"]}, {(1,): 5, (2,): 3})
    first = model_of("abc", labels=labels)
    same, different = model_of("abc", "mlp", labels=labels), model_of("abc", labels=others)
    probabilities = "return makemore.other.labels.columns.length"
    for second, note in [
        (same, "Both are for the labels that are chosen."),
        (different, "step-0 has other labels: its probabilities are for their mean."),
        (model_of("abc"), "step-0 takes no labels."),
    ]:
        page = open_page(both(tmp_path / "page.html", first, second))
        assert page.execute_script(probabilities) == (second.labels is not None)
        before = told(page)
        page.execute_script(
            "const field = document.querySelector('.column select'); field.value = 2;"
            "field.dispatchEvent(new Event('change', {bubbles: true}))"
        )
        assert re.sub("[\u2068\u2069]", "", texts(page, "#networks-note")[0]) == note
        changed = [ch for ch, two in told(page).items() if two[1] != before[ch][1]]
        assert bool(changed) == (second is same)


@pytest.mark.parametrize("dark", [False, True])
def test_every_width_and_accessibility(dark: bool, axe: str, open_page: Any, tmp_path: Path) -> None:
    page = open_page(both(tmp_path / "page.html", model_of("abcdefgh"), model_of(ODD)), WIDTHS[0], dark)
    page.execute_async_script(WORDS_THERE)
    for width in WIDTHS:
        assert_fits(page, width)
    assert violations(checked_by_axe(page, axe)) == []
