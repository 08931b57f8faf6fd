"""One form for words, and characters that a message or a terminal can show."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from makemore.core.text import (
    DROPPED,
    SEPARATORS,
    drop_invisible,
    known_form,
    normalize,
    plural,
    quote,
    quote_all,
    show_controls,
)

NEEDED = [
    "می\u200cخواهم",  # a Persian word with a zero width non-joiner
    "क्\u200dष",  # Devanagari with a joiner
    "👩\u200d💻",
    "❤\ufe0f",
    "🏴\U000e0067\U000e0062\U000e007f",  # a flag made of tags
    "ᠠ\u180e",  # the Mongolian vowel separator
    "x\u0302",  # a letter with a mark for which there is no composed form
    "a\tb",
    "de la Cruz",
    "a\xa0b",
]


@pytest.mark.parametrize("word", NEEDED)
def test_what_words_need_stays(word: str) -> None:
    assert normalize(word) == word


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ("Zoe\u0301", "Zoé"),
        ("\u1112\u1161\u11ab", "한"),  # letters of a Korean syllable
        ("so\xadfa", "sofa"),
        ("\ufeffanna\u200b", "anna"),
        ("שרה\u200f", "שרה"),
        ("\u202aanna\u202c", "anna"),
        ("\u2066anna\u2069", "anna"),
        ("a\x00\x07\x1b[1mb\x7f\x9b", "a[1mb"),
        ("e\u200b\u0301", "é"),  # what is between a letter and its accent
        ("anna\x0bberta", "anna berta"),
        ("anna\u2028berta\x85", "anna berta "),
    ],
)
def test_a_word_in_another_form(given: str, word: str) -> None:
    assert normalize(given) == word


def test_every_character_is_kept_dropped_or_read_as_a_blank() -> None:
    """One by one, in ASCII text and in others, which take different paths."""
    for ch in map(chr, [*range(0xD800), *range(0xE000, 0x110000, 7), *map(ord, DROPPED)]):
        wanted = "" if ch in DROPPED else " " if ch in SEPARATORS else ch
        assert drop_invisible(f"a{ch}b\n") == f"a{wanted}b\n", hex(ord(ch))
        assert drop_invisible(f"é{ch}b\n") == f"é{wanted}b\n", hex(ord(ch))
    assert {unicodedata.category(ch) for ch in DROPPED} == {"Cc", "Cf"}


@settings(max_examples=500, derandomize=True, database=None, deadline=None)
@given(st.text(st.characters() | st.sampled_from(sorted(DROPPED | {*SEPARATORS, *"eE\u0301\u0308한가 \n"}))))
def test_a_normal_form_stays(text: str) -> None:
    once = normalize(text)
    assert normalize(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert not set(once) & DROPPED.union(SEPARATORS)
    assert normalize(unicodedata.normalize("NFD", text)) == once
    assert known_form(text, set(once)) in (once, text)
    assert once.count("\n") == text.count("\n"), "lines stay lines"
    parts = text.split("\n")
    assert [normalize(part) for part in parts] == once.split("\n"), "and may be normalized one by one"


def test_a_form_that_is_known_is_found() -> None:
    composed, decomposed = set("Zoé"), set("Zoe\u0301")
    for word in ("Zoé", "Zoe\u0301", "Zo\u200bé"):
        assert known_form(word, composed) == "Zoé"
        assert known_form(word, decomposed) == "Zoe\u0301"
        assert known_form(word, composed | decomposed) == "Zoé"
    assert known_form("Noe\u0308l", composed) == "Noël", "unknown in all forms: NFC"
    assert known_form("a\u202eb", set("ab\u202e")) == "a\u202eb", "a character that is known stays"
    assert known_form("", composed) == ""


@pytest.mark.parametrize(
    ("ch", "shown"),
    [
        ("a", "'a'"),
        ("'", '"\'"'),
        (" ", "' '"),
        ("é", "'é'"),
        ("漢", "'漢'"),
        ("😀", "'😀'"),
        ("\u200b", "U+200B ZERO WIDTH SPACE"),
        ("\u0301", "U+0301 COMBINING ACUTE ACCENT"),
        ("\ufe0f", "U+FE0F VARIATION SELECTOR-16"),
        ("\xa0", "U+00A0 NO-BREAK SPACE"),
        ("\u3164", "U+3164 HANGUL FILLER"),
        ("\x1b", "U+001B ESCAPE"),
        ("\n", "U+000A LINE FEED"),
        ("\x07", "U+0007"),
        ("\udcff", "U+DCFF"),
        ("\uffff", "U+FFFF"),
    ],
)
def test_a_quoted_character_can_be_seen(ch: str, shown: str) -> None:
    assert quote(ch) == shown


def test_quoted_characters_can_be_seen() -> None:
    assert quote_all("ab\u200bc\u0301") == "'abc', U+200B ZERO WIDTH SPACE, U+0301 COMBINING ACUTE ACCENT"
    assert quote_all("") == "''"
    assert quote_all("\u200b") == "U+200B ZERO WIDTH SPACE"
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 100)))
    assert quote_all(many) == f"'{many[:80]}', ..."
    marks = "".join(map(chr, range(0x300, 0x340)))
    assert quote_all("a" + marks).count("U+") == 5
    assert quote_all("a" + marks).endswith(", ...")


def test_controls_are_shown() -> None:
    for code in [*range(0x20), *range(0x7F, 0xA0)]:
        ch = chr(code)
        assert show_controls(f"a{ch}b") == (f"a{ch}b" if ch in "\t\n" else f"a\\x{code:02x}b")
    assert show_controls("é\u202e漢") == "é\u202e漢"


def test_plural() -> None:
    assert [plural(n, "word") for n in (0, 1, 2, 1000)] == ["0 words", "1 word", "2 words", "1,000 words"]
