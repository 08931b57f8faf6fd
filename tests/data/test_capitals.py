"""The rule that gives the capitals of a list: found in tensors, it is what plain strings say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from makemore.data import shuffle
from makemore.data.capitals import MOST_EXCEPTIONS, Capitals
from makemore.data.word_list import WordList, load_words, read_words

TOWNS = ["Amberfield", "Castle Hythe", "Fenwick-on-Sea", "Long Ashby", "Oakhurst", "Upper Wick", "Wych Green"]


def read(words: list[str], tmp_path: Path, case: str = "auto") -> WordList:
    path = tmp_path / "words.txt"
    path.write_text("\n".join(words), encoding="utf-8")
    return read_words(path, case=case)


def rule_of(words: list[str], tmp_path: Path) -> Capitals | None:
    return read(words, tmp_path).capitals


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        ("Anna Bert Clara Dora Emil Fritz", Capitals()),
        ("ANNA BERT CLARA DORA EMIL FRITZ", Capitals(everywhere=True)),
        ("anna bert clara dora emil fritz", None),
        ("Anna bert Clara dora Emil fritz", None),
        ("Anna-Maria Bert Clara Dora-Lou Emil Fritz", Capitals(after="-")),
        ("O'Brien O'Neil Byrne Moran Nolan Quinn", Capitals(after="'")),
        ("O'Brien King's Queen's Moran Nolan Quinn", Capitals(after="'", small=("s",))),
        ("Élan Zoé Über Ærø Žiga Ødegård", Capitals()),
        ("Анна Борис Вера Глеб Дарья Ева", Capitals()),
        ("Άννα Βασίλης Γιώργος Δήμητρα Ελένη Ζωή", Capitals()),
        ("İpek Anna Bert Clara Dora Emil", Capitals()),  # a capital that has no small letter of its own
        ("3M Anna Bert Clara Dora Emil", None),  # one of six words breaks the rule
        ("ნინო გია ანა დათო ლია ზურა", None),  # Georgian begins no word with a capital
        ("安 李 王 张 刘 陈", None),
        ("A B C D E F", Capitals()),
    ],
)
def test_rules(words: str, rule: Capitals | None, tmp_path: Path) -> None:
    found = rule_of(words.split(), tmp_path)
    assert found == rule
    if rule is not None:
        learnt = read(words.split(), tmp_path)
        plain = read(words.split(), tmp_path, "keep")
        assert [rule.restore(word) for word in learnt.words] == plain.words
        assert [rule.lower(word) for word in plain.words] == learnt.words
        assert learnt.fingerprint == plain.fingerprint


def test_parts_after_blanks_and_hyphens_and_those_that_stay_small(tmp_path: Path) -> None:
    rule = rule_of(TOWNS, tmp_path)
    assert rule == Capitals(after=" -", small=("on",))
    assert rule.restore("on on-on on") == "on on-on on"
    assert rule.restore("on") == "On"
    assert rule.restore("--x") == "--X"
    assert rule.restore("") == ""
    assert rule.restore("ab\ncd") == "Ab\ncd"
    assert rule.describe() == "the first letter, and after a blank or '-'; small: on"
    assert Capitals(after="-").restore("ǆ-ß-éa-ıa") == "ǆ-ß-Éa-ıa"


def test_a_few_words_may_break_the_rule_and_are_told(tmp_path: Path) -> None:
    names = [name.capitalize() for name in load_words().words[:1000]]
    names[7] = "McDonald"
    found = read(names, tmp_path).found
    assert found is not None
    assert (found.rule, found.exceptions, found.example) == (Capitals(), 1, "McDonald")
    assert "1 word learnt with the capitals of the rule: McDonald as Mcdonald" in found.describe()
    assert "mcdonald" in read(names, tmp_path).words

    most = int(MOST_EXCEPTIONS * len(names))
    for i in range(most + 1):
        names[i] = names[i][:-1] + "X"
        found = read(names, tmp_path).found
        assert (found is not None) == (i < most)


def test_lists_without_capitals_are_read_as_ever(tmp_path: Path) -> None:
    words = load_words().words[:50]
    plain, auto = read(words, tmp_path, "keep"), read(words, tmp_path)
    assert auto.capitals is None
    assert auto.symbols.equal(plain.symbols)
    assert auto.vocabulary.characters == plain.vocabulary.characters


LETTERS = st.text("abAB- 'éÉßİ1", min_size=1, max_size=8).map(str.strip).filter(bool)


@pytest.mark.full
@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.one_of(LETTERS, LETTERS.map(str.title), LETTERS.map(str.upper)), min_size=6, max_size=30))
def test_words_and_exceptions_are_those_of_plain_strings(
    tmp_path_factory: pytest.TempPathFactory, words: list[str]
) -> None:
    tmp_path = tmp_path_factory.mktemp("list")
    auto, plain = read(words, tmp_path), read(words, tmp_path, "keep")
    if auto.found is None:
        assert auto.words == plain.words
        return
    rule, exceptions, example = auto.found
    assert auto.words == [rule.lower(word) for word in plain.words]
    breaking = [word for word in plain.words if rule.restore(rule.lower(word)) != word]
    assert len(breaking) == exceptions
    assert example in [*breaking, ""]
    assert not any(re.search("[ABÉ]", word) for word in auto.words)
    for word in auto.words:
        assert len(rule.restore(word)) == len(word)
        assert rule.lower(rule.restore(word)) == word


def test_in_many_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name.capitalize() for name in load_words().words[:300]]
    words = [f"{a} de {b}" if len(a) % 2 else f"{a}-{b}" for a, b in zip(names, names[::-1], strict=True)]
    words[20] = "McDonald"
    whole = read(words, tmp_path).found
    monkeypatch.setattr(shuffle, "CHUNK_SYMBOLS", 40)
    assert read(words, tmp_path).found == whole
    assert whole is not None
    assert whole[:2] == (Capitals(after=" -", small=("de",)), 1)
