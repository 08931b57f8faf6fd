"""Text that people type and files have: one form for words, and characters that can be seen in a message.

The same word can be written in several ways: é is one code point (NFC) or an e followed by an accent (NFD, as
in file names of a Mac), and invisible characters get into lists by copying. Words are compared and counted in
one form, that of ``normalize``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Container, Iterable

SEPARATORS = "\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029"
"""Control characters that separate, such as a form feed: they are read as blanks."""

KEPT = "\t\n"
"""Control characters that stay: ``\\n`` ends a word, a tab may separate the columns of a table."""

CONTROLS = "".join(ch for ch in map(chr, [*range(0x20), *range(0x7F, 0xA0)]) if ch not in SEPARATORS + KEPT)
"""The other control characters: C0, DEL and C1."""

INVISIBLE = (
    "\u00ad"  # soft hyphen
    "\u200b\u2060\ufeff"  # zero width space, word joiner, byte-order mark
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # direction of writing
    "\u2061\u2062\u2063\u2064\u206a\u206b\u206c\u206d\u206e\u206f\ufff9\ufffa\ufffb\U000e0001"
    "\U0001d173\U0001d174\U0001d175\U0001d176\U0001d177\U0001d178\U0001d179\U0001d17a"  # musical notation
)
"""Format characters that have no use in a word.

Others do: Persian and Indic scripts and emoji need U+200C and U+200D, Mongolian U+180E, flags the tags.
"""

DROPPED = frozenset(CONTROLS + INVISIBLE)
"""The characters that ``normalize`` drops."""

_TABLE = {ord(ch): None for ch in DROPPED} | {ord(ch): " " for ch in SEPARATORS}
_IN_TABLE = re.compile(f"[{re.escape(''.join(map(chr, _TABLE)))}]")
_TERMINAL_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_FILLERS = "\u115f\u1160\u2800\u3164\uffa0"  # of Hangul and Braille: they count as letters and are blank
_CONTROL_NAMES = {"\0": "NULL", "\t": "TAB", "\n": "LINE FEED", "\r": "CARRIAGE RETURN", "\x1b": "ESCAPE"}

MAX_QUOTED, MAX_NAMED = 80, 5
"""The largest numbers of characters of a vocabulary that a message quotes, and names by their code points."""


def normalize(text: str) -> str:
    """The text in the form that all words have: NFC, without ``DROPPED``; ``SEPARATORS`` become blanks.

    >>> normalize("Zoe\\u0301"), normalize("so\\u00adfa\\ufeff")
    ('Zoé', 'sofa')
    """
    return unicodedata.normalize("NFC", drop_invisible(text))


def drop_invisible(text: str) -> str:
    """The text without ``DROPPED``, with blanks in place of ``SEPARATORS``."""
    # The search is slow, so the common cases come first. None of the characters is printable.
    if text.isprintable():
        return text
    if text.isascii():
        return text.translate(_TABLE)
    if text.replace("\n", " ").isprintable():
        return text
    return _IN_TABLE.sub(lambda match: _TABLE[ord(match[0])] or "", text)


def known_form(word: str, known: Container[str]) -> str:
    """The first form of a word all of whose characters are known: NFC, NFD, or as given; else NFC.

    A character that ``normalize`` drops or replaces stays if it is known.

    >>> known_form("Zoe\\u0301", "Zoé"), known_form("Zoé\\u200b", "Zoe\\u0301") == "Zoe\\u0301"
    ('Zoé', True)
    """
    if word.isascii() and word.isprintable():
        return word  # it has no other form
    if all(ch in known for ch in word) and unicodedata.is_normalized("NFC", word):
        return word
    kept = "".join(ch if ch in known else drop_invisible(ch) for ch in word)
    composed = unicodedata.normalize("NFC", kept)
    for form in (composed, unicodedata.normalize("NFD", kept), kept):
        if all(ch in known for ch in form):
            return form
    return composed


def quote(ch: str) -> str:
    """A character as a message shows it: in quotes, or if it cannot be seen there, by code point and name.

    >>> quote("é"), quote("\\u200b"), quote("\\u0301")
    ("'é'", 'U+200B ZERO WIDTH SPACE', 'U+0301 COMBINING ACUTE ACCENT')
    """
    if _is_visible(ch):
        return repr(ch)
    return f"U+{ord(ch):04X} {unicodedata.name(ch, _CONTROL_NAMES.get(ch, ''))}".rstrip()


def quote_all(characters: str) -> str:
    """Some characters as a message shows them, such as those of a vocabulary; not all if there are many.

    >>> quote_all("abc\\u0301")
    "'abc', U+0301 COMBINING ACUTE ACCENT"
    """
    hidden = [ch for ch in characters if not _is_visible(ch)]
    visible = "".join(ch for ch in characters if _is_visible(ch))
    texts = [repr(visible[:MAX_QUOTED])] if visible or not hidden else []
    texts += [quote(ch) for ch in hidden[:MAX_NAMED]]
    cut = len(visible) > MAX_QUOTED or len(hidden) > MAX_NAMED
    return ", ".join([*texts, *(["..."] if cut else [])])


def _is_visible(ch: str) -> bool:
    """Whether a character in quotes can be seen: combining ones merge with the quote before them."""
    return ch.isprintable() and ch not in _FILLERS and unicodedata.category(ch)[0] != "M"


def show_controls(text: str) -> str:
    r"""The text with its control characters as escapes, so that a terminal does not obey them.

    >>> show_controls("a\x1b[31mb\tc")
    'a\\x1b[31mb\tc'
    """
    return _TERMINAL_CONTROLS.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def shortened(text: str, most: int = 40) -> str:
    """A text as a message shows it: not more than that many characters of it.

    >>> shortened("a very long label", 10)
    'a very ...'
    """
    return text if len(text) <= most else text[: most - 3] + "..."


def plural(number: int, noun: str) -> str:
    """A number of things.

    >>> plural(1, "word"), plural(2000, "word")
    ('1 word', '2,000 words')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"


def require_words(words: Iterable[str], what: str) -> None:
    """Raise TypeError if one text is given in place of words: its letters would be taken for words."""
    if isinstance(words, str | bytes):
        raise TypeError(f"{what} needs a list of words, not one text: give it text.split() or [text]")
