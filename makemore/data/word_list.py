"""A word list: its vocabulary, its words in the lecture's order, and the examples of its three splits.

Departures from the lecture (cells 2 to 6), without effect on the examples of its list:

* Words are read in blocks (``reading.py``) and shuffled without a second copy (``shuffle.py``). They are not
  kept as strings, so a list may have hundreds of millions of words.
* The list is any utf-8 text, one word a line, in any alphabet, compressed or on stdin. A byte-order mark,
  line ends of any system, blanks around a word and blank lines are left out; duplicates are kept. A ``.``
  inside a word is a character like any other.
* Where a rule gives the capitals of the words, they may be left out: see ``capitals.py`` and ``read_words``.
* All words are brought into the form of ``core.text.normalize``; ``WordList.changes`` says what that changed.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from makemore.core.atomic_write import atomic_write
from makemore.core.errors import DataError, WriteError
from makemore.core.text import DROPPED, drop_invisible, known_form, plural, quote, quote_all, require_words
from makemore.data.capitals import Capitals, Found, find_rule, lower_table
from makemore.data.encoding import (
    SLAB,
    StreamEncoder,
    decode_words,
    encode_words,
    recoding_table,
    symbol_dtype,
)
from makemore.data.examples import LabelledExamples, row_of_examples
from makemore.data.labels import Labels, number_labels
from makemore.data.membership import WordSet, isin, select, word_hashes
from makemore.data.reading import WordFile
from makemore.data.shuffle import shuffle_positions, shuffled
from makemore.lecture.words import STOP, Examples, Vocabulary

LECTURE_URL = "https://raw.githubusercontent.com/karpathy/makemore/master/names.txt"
LECTURE_SHA256 = "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"
"""Where the lecture's list is downloaded from, and its checksum."""

LECTURE_VARIABLE = "MAKEMORE_LECTURE_NAMES"
"""The environment variable with the path of the lecture's list, if it need not be downloaded."""

SHUFFLE_SEED = 42
"""The seed of the lecture's split."""

LEAST_WORDS = 6
"""The least number of words of a list: train, val and test have one each."""


class Data(NamedTuple):
    """A word list ready for training: its vocabulary and the examples of the splits.

    ``unseen_val`` and ``unseen_test`` are the examples of the words that are not also in the training split.
    The examples of a list with ``labels`` are ``LabelledExamples``.
    """

    vocabulary: Vocabulary
    train: Examples
    val: Examples
    test: Examples
    unseen_val: Examples
    unseen_test: Examples
    labels: Labels | None = None

    def to(self, device: torch.device | str) -> Data:
        """The same data with the examples on another device."""
        splits = (self.train, self.val, self.test, self.unseen_val, self.unseen_test)
        moved = [examples.to(device) for examples in splits]
        return Data(self.vocabulary, *moved, self.labels)  # type: ignore[arg-type]


class Changes(NamedTuple):
    """What ``normalize`` changed in a list: words brought into NFC, characters dropped, and which ones."""

    words: int = 0
    dropped: int = 0
    characters: str = ""

    def describe(self) -> list[str]:
        """The changes, each in a line of text."""
        texts = []
        if self.words:
            texts.append(f"{plural(self.words, 'word')} brought into Unicode's composed form (NFC)")
        if self.dropped:
            texts.append(
                f"{plural(self.dropped, 'invisible character')} dropped: {quote_all(self.characters)}"
            )
        return texts


UNCHANGED = Changes()


@dataclass(frozen=True)
class WordList:
    """The words of a list, shuffled as in the lecture.

    ``symbols``, (N,), are the symbols of all words, each word followed by its stop. ``cuts`` are the numbers
    of symbols before the val and before the test split, ``source`` is the name of the list,
    ``fingerprint`` is the sha256 of its words joined by newlines, and ``changes`` are those of ``normalize``.
    If the list was read with ``case="auto"`` and a rule gives the capitals of its words, ``found`` is the
    rule; the words are then those that a network learns, without capitals.
    Of a list with ``labels``, ``row``, (num_words,), is the combination of labels of each word, an index into
    ``labels.rows``, in the order of ``symbols``.
    """

    vocabulary: Vocabulary
    symbols: Tensor
    cuts: tuple[int, int]
    num_words: int
    source: str
    fingerprint: str
    changes: Changes = UNCHANGED
    found: Found | None = None
    labels: Labels | None = None
    row: Tensor | None = None

    @classmethod
    def of(
        cls,
        words: Sequence[str],
        source: str = "words",
        labels: Mapping[str, Sequence[str | None]] | None = None,
    ) -> WordList:
        """The word list of a file with these lines.

        ``labels`` has a label for each word, or None, by the name of the column, such as "country". Raises
        DataError if there are fewer than 6 words, and on labels that do not fit the words, and TypeError on
        one text in place of words.
        """
        require_words(words, "WordList.of")
        plain = _word_list(["\n".join(words).replace("\r\n", "\n").replace("\r", "\n")], source)
        if labels is None:
            return plain
        if len(plain) != len(words):
            raise DataError(f"labels need words of one line each without blank ones: {source} has others")
        numbered, row_of = number_labels(labels, len(words))
        return plain.labelled(numbered, row_of)

    def labelled(self, labels: Labels, row_of: Tensor) -> WordList:
        """The same words with labels; ``row_of``, (num_words,), is in the order of the list."""
        row = torch.empty_like(row_of, dtype=symbol_dtype(len(labels)))
        row[shuffle_positions(self.num_words, SHUFFLE_SEED).long()] = row_of.to(row.dtype)
        digest = hashlib.sha256(self.fingerprint.encode())
        digest.update(repr(labels.columns).encode())
        digest.update(labels.rows[row_of].numpy().tobytes())
        return replace(self, labels=labels, row=row, fingerprint=digest.hexdigest())

    @property
    def capitals(self) -> Capitals | None:
        """The rule that puts back the capitals of the words: ``capitals.restore(word)``; None without one."""
        return None if self.found is None else self.found.rule

    def __len__(self) -> int:
        return self.num_words

    @property
    def words(self) -> list[str]:
        """The words as strings, in the order of the list."""
        words = decode_words(self.vocabulary, self.symbols)
        return [words[position] for position in shuffle_positions(self.num_words, SHUFFLE_SEED).tolist()]

    def split(self) -> tuple[list[str], list[str], list[str]]:
        """Train, val and test words as strings, as ``lecture.words.split_words`` gives them."""
        train, val, test = (decode_words(self.vocabulary, symbols) for symbols in self._splits())
        return train, val, test

    def encoded_by(self, vocabulary: Vocabulary) -> WordList:
        """The same words with the symbols of another vocabulary, such as a model's.

        Raises DataError that names the characters missing from it.
        """
        if vocabulary.characters == self.vocabulary.characters:
            return self
        missing = [ch for ch in self.vocabulary.characters if ch not in vocabulary.stoi]
        if missing:
            names = ", ".join(map(quote, missing[:10])) + (", ..." if len(missing) > 10 else "")
            raise DataError(
                f"{self.source} has characters that are missing from the vocabulary"
                f" {quote_all(vocabulary.characters)}: {names}"
            )
        table = recoding_table(self.vocabulary.characters, vocabulary)
        symbols = torch.empty(len(self.symbols), dtype=table.dtype)
        for old, new in zip(torch.split(self.symbols, SLAB), torch.split(symbols, SLAB), strict=True):
            torch.index_select(table, 0, old.int(), out=new)
        return replace(self, vocabulary=vocabulary, symbols=symbols)

    def data(self, block_size: int, vocabulary: Vocabulary | None = None) -> Data:
        """The vocabulary and the examples of the splits, for contexts of ``block_size`` symbols.

        The vocabulary is the list's own unless one is given: that of the network which the examples are for.
        Raises DataError that names the characters missing from it.
        """
        if vocabulary is not None:
            return self.encoded_by(vocabulary).data(block_size)
        train, val, test = self._splits()
        hashes = torch.cat([*word_hashes(self.symbols[self.cuts[0] :], "hashing val and test words")])
        in_train = isin(hashes, train).tensor_split([int((val == STOP).sum())])
        unseen = [select(symbols, ~mask) for symbols, mask in zip((val, test), in_train, strict=True)]
        splits = (train, val, test, *unseen)
        characters = self.vocabulary.characters
        if self.labels is None:
            plain = [Examples(symbols, block_size, characters) for symbols in splits]
            return Data(self.vocabulary, *plain)  # type: ignore[arg-type]
        assert self.row is not None
        sizes = [int((symbols == STOP).sum()) for symbols in (train, val, test)]
        rows = list(torch.split(self.row, sizes))
        rows += [row[~mask] for row, mask in zip(rows[1:], in_train, strict=True)]
        labelled = [
            LabelledExamples(symbols, block_size, characters, self.labels, row_of_examples(symbols, row))
            for symbols, row in zip(splits, rows, strict=True)
        ]
        return Data(self.vocabulary, *labelled, self.labels)  # type: ignore[arg-type]

    def word_set(self) -> WordSet:
        """The words as a set, for membership tests."""
        return WordSet(self.symbols, self.vocabulary.stoi)

    def number_in_training(self, words: Iterable[str]) -> int:
        """The number of different words among ``words`` that are in the training split."""
        require_words(words, "number_in_training")
        stoi = self.vocabulary.stoi
        forms = dict.fromkeys(known_form(word, stoi) for word in words)
        symbols = encode_words(self.vocabulary, [word for word in forms if all(ch in stoi for ch in word)])
        hashes = torch.cat([*word_hashes(symbols, "hashing words"), torch.empty(0, dtype=torch.int64)])
        return int(isin(hashes, self._splits()[0]).sum())

    def _splits(self) -> tuple[Tensor, ...]:
        return self.symbols.tensor_split(self.cuts)


def _word_list(texts: Iterable[str], source: str, case: str = "keep") -> WordList:
    """The word list of a text, given in blocks of whole lines; for ``case`` see ``read_words``."""
    encoder, digest, number = StreamEncoder(), hashlib.sha256(), 0
    changed, dropped, characters = 0, 0, set[str]()
    first: list[str] = []
    for block in texts:
        clean = drop_invisible(block)
        if len(clean) < len(block):
            dropped += len(block) - len(clean)
            characters |= DROPPED.intersection(block)
        composed = unicodedata.normalize("NFC", clean)
        words = _words_of(composed)
        if composed != clean:
            changed += sum(new != old for new, old in zip(words, _words_of(clean), strict=True))
        if words:
            text = "\n".join(words)
            digest.update(("\n" * (number > 0) + text).encode())
            encoder.append(text + "\n")
            number += len(words)
            first += words[: LEAST_WORDS - len(first)]
    if number < LEAST_WORDS:
        raise DataError(f"{source} has {_why_too_few(first)}")
    slabs, vocabulary, table = encoder.end()
    found = find_rule(slabs, encoder.characters, number) if case == "auto" else None
    if found is not None:
        vocabulary, table = lower_table(encoder.characters)
    n1, n2 = int(0.8 * number), int(0.9 * number)
    symbols, (cut1, cut2) = shuffled(slabs, number, SHUFFLE_SEED, table, (n1, n2))
    changes = Changes(changed, dropped, "".join(sorted(characters)))
    return WordList(vocabulary, symbols, (cut1, cut2), number, source, digest.hexdigest(), changes, found)


def _words_of(text: str) -> list[str]:
    """The words of a text: its lines without blanks around them, without blank lines."""
    return [word for line in text.split("\n") if (word := line.strip())]


SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", " ": "blank"}
"""What separates the words of a list that has them all in one line."""


def _why_too_few(words: Sequence[str]) -> str:
    """Why a list with no other words than these cannot be used, to follow "the list has"."""
    counts = {ch: sum(word.count(ch) for word in words) for ch in SEPARATORS if ch != " " or len(words) == 1}
    most = max(counts, key=counts.__getitem__)  # of equal ones the first, and commas have blanks after them
    if len(words) and counts[most] + len(words) >= LEAST_WORDS:
        separators = plural(counts[most], SEPARATORS[most])
        lines = "one line" if len(words) == 1 else plural(len(words), "line")
        return f"{lines} with {separators}: put each word on a line of its own"
    empty = "" if words else ": it is empty"
    return f"{plural(len(words), 'word')}; at least {LEAST_WORDS} are needed for train, val and test{empty}"


def read_words(path: str | Path, case: str = "keep") -> WordList:
    """Read a word list. It is decompressed if its name ends in .gz, .bz2, .xz or .zst; ``-`` is stdin.

    With ``case="auto"`` the words have no capitals where a rule gives them; ``WordList.capitals`` is the
    rule, whose ``restore`` puts them back into a word. Raises DataError if the list cannot be read, is not
    text, or has too few words.
    """
    with WordFile(str(path)) as file:
        return _word_list(file.texts(), file.name, case)


def load_words(source: str | None = None, case: str = "keep") -> WordList:
    """Read the word list at a path; the lecture's own for ``"lecture"``, the bundled one by default.

    For ``case`` see ``read_words``. Raises DataError if the list cannot be read or downloaded.
    """
    if source is None:
        return read_words(bundled_path(), case)
    return read_words(lecture_path() if source == "lecture" else source, case)


def bundled_path() -> Path:
    """The path of the bundled ``names.txt``: in the package of a wheel, above the package in a clone."""
    here = Path(__file__).resolve().parents[1]
    installed = here / "names.txt"
    return installed if installed.exists() else here.parent / "names.txt"


def lecture_path() -> Path:
    """The path of the lecture's own list, whose sha256 is checked.

    It is the value of the environment variable ``MAKEMORE_LECTURE_NAMES`` if that is set. Otherwise the list
    is downloaded once into the user's cache directory. Raises DataError if the file cannot be read or
    downloaded, or if its sha256 differs.
    """
    given = os.environ.get(LECTURE_VARIABLE)
    if given:
        return _checked(Path(given), f"{LECTURE_VARIABLE} should be the path of the lecture's names.txt")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "makemore"
    path = cache / "lecture-names.txt"
    if not path.exists():
        advice = (
            f"get {LECTURE_URL} by other means and set {LECTURE_VARIABLE} to its path,"
            " or train without --data on the bundled list"
        )
        try:
            with urllib.request.urlopen(LECTURE_URL, timeout=30) as response:
                content = response.read(10_000_000)
            cache.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as file:
                file.write(content)
        except (OSError, WriteError) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            raise DataError(f"cannot download the lecture's names.txt ({reason}): {advice}") from error
    return _checked(path, "delete it to download it again")


def _checked(path: Path, advice: str) -> Path:
    """The path, if it is that of the lecture's list."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}): {advice}") from error
    if hashlib.sha256(content).hexdigest() != LECTURE_SHA256:
        raise DataError(f"{path} is not the lecture's names.txt (its sha256 differs): {advice}")
    return path
