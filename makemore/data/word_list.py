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
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from makemore.core.atomic_write import atomic_write
from makemore.core.errors import DataError, WriteError
from makemore.core.layer import LabelColumn
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
from makemore.data.labels import LabelEncoder, Labels, encode_labels
from makemore.data.membership import WordSet, isin, select, word_hashes
from makemore.data.shuffle import repeat_words, shuffle_positions, shuffled
from makemore.data.sources import WordSource
from makemore.data.tables import MAX_COUNT, Block, Columns
from makemore.lecture.words import STOP, Examples, Vocabulary

LECTURE_URL = "https://raw.githubusercontent.com/karpathy/makemore/master/names.txt"
LECTURE_SHA256 = "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"
"""Where the lecture's list is downloaded from, and its checksum."""

LECTURE_VARIABLE = "MAKEMORE_LECTURE_NAMES"
"""The environment variable with the path of the lecture's list, if it need not be downloaded."""

SHUFFLE_SEED = 42
"""The seed of the lecture's split."""

CHUNK_WORDS = 2**20
"""Words whose labels or counts are processed at a time."""

LEAST_WORDS = 6
"""The least number of words of a list: train, val and test have one each."""

MAX_TOTAL = 10_000_000
"""The total to which larger counts of a list are scaled down, since all examples are kept in memory."""


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
        return _data_of(self.vocabulary, moved, self.labels)


def _data_of(vocabulary: Vocabulary, splits: Sequence[Examples], labels: Labels | None) -> Data:
    train, val, test, unseen_val, unseen_test = splits
    return Data(vocabulary, train, val, test, unseen_val, unseen_test, labels)


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
    ``labels.rows``, in the order of ``symbols``. Of a list with ``counts``, (num_words,) in the same order, a
    word has as many examples as if it stood on that many lines, but is in one split only. ``notes`` say what
    files and columns were read, and what was left out, each in a line.
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
    counts: Tensor | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        words: Sequence[str],
        source: str = "words",
        labels: Mapping[str, Sequence[str | None]] | None = None,
        counts: Sequence[int] | None = None,
    ) -> WordList:
        """The word list of a file with these lines.

        ``labels`` has a label for each word, or None, by the name of the column, such as "country", and
        ``counts`` has a count for each word, from 1 on. Raises DataError if there are fewer than 6 words, and
        on labels or counts that do not fit the words, and TypeError on one text in place of words.
        """
        require_words(words, "WordList.of")
        text = "\n".join(words).replace("\r\n", "\n").replace("\r", "\n")
        if not labels and counts is None:
            return _word_list([Block(text)], source)
        if text.count("\n") != max(0, len(words) - 1) or not all(map(str.strip, words)):
            raise DataError(
                f"labels and counts need words of one line each without blank ones: {source} has others"
            )
        encoder, row_of = encode_labels(labels, len(words)) if labels else (None, None)
        if counts is not None and (len(counts) != len(words) or not all(map(_is_count, counts))):
            raise DataError(f"counts are whole numbers from 1 to {MAX_COUNT:,}, one for each word")
        numbers = None if counts is None else array("q", map(int, counts))
        return _word_list([Block(text, row_of, numbers)], source, encoder)

    def labelled(self, labels: Labels, row_of: Tensor, positions: Tensor | None = None) -> WordList:
        """The same words with labels; ``row_of``, (num_words,), is in the order of the list.

        ``positions`` are those of ``shuffle_positions`` if they are known already.
        """
        row = self._in_order_of_symbols(row_of.to(symbol_dtype(len(labels))), positions)
        digest = hashlib.sha256(self.fingerprint.encode())
        digest.update(repr(labels.columns).encode())
        for part in torch.split(row_of, CHUNK_WORDS):
            digest.update(labels.rows[part].numpy().tobytes())
        return replace(self, labels=labels, row=row, fingerprint=digest.hexdigest())

    def counted(self, counts: Tensor, positions: Tensor | None = None) -> WordList:
        """The same words with counts from 1 on; ``counts``, (num_words,), is in the order of the list.

        If their sum is larger than ``MAX_TOTAL``, they are scaled down to about that sum, each to at least 1.
        """
        digest = hashlib.sha256(self.fingerprint.encode() + b"counts")
        digest.update(counts.long().numpy().tobytes())
        total = int(counts.double().sum())
        note = f"{plural(total, 'word')} in all by their counts"
        if total > MAX_TOTAL:
            counts = (counts.double() * (MAX_TOTAL / total)).round().clamp(min=1)
            note += f", scaled down to {int(counts.sum()):,}, each to at least 1"
        counts = self._in_order_of_symbols(counts.int(), positions)
        labels = self.labels
        if labels is not None and self.row is not None:
            sums = torch.zeros(len(labels), dtype=torch.int64)
            for row, part in zip(
                torch.split(self.row, CHUNK_WORDS), torch.split(counts, CHUNK_WORDS), strict=True
            ):
                sums.index_add_(0, row.int(), part.long())
            labels = replace(labels, counts=sums)
        fingerprint, notes = digest.hexdigest(), (*self.notes, note)
        return replace(self, labels=labels, counts=counts, notes=notes, fingerprint=fingerprint)

    def _in_order_of_symbols(self, values: Tensor, positions: Tensor | None) -> Tensor:
        """Values of the words in the order of the list, (num_words,), in the order of ``symbols``."""
        if positions is None:
            positions = shuffle_positions(self.num_words, SHUFFLE_SEED)
        result = torch.empty_like(values)
        for part, value in zip(
            torch.split(positions, CHUNK_WORDS), torch.split(values, CHUNK_WORDS), strict=True
        ):
            result[part.long()] = value
        return result

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

    def labelled_by(self, columns: Sequence[LabelColumn]) -> WordList:
        """The same words with labels numbered by these columns, such as a model's; without labels for none.

        Columns are matched by name and labels by text. In a column that the list does not have, each word has
        the label 0, which means none. Raises DataError that names unknown columns and labels.
        """
        if not columns:
            return replace(self, labels=None, row=None)
        if self.labels is None or self.row is None:
            total = self.num_words if self.counts is None else int(self.counts.sum())
            rows = torch.zeros((1, len(columns)), dtype=torch.int64)
            labels = Labels(tuple(columns), rows, torch.tensor([total]))
            return replace(self, labels=labels, row=torch.zeros(self.num_words, dtype=torch.uint8))
        labels, new_row = self.labels.matched_to(columns, self.source)
        new_row = new_row.to(symbol_dtype(len(labels)))
        row = torch.cat([new_row[part.int()] for part in torch.split(self.row, CHUNK_WORDS)])
        return replace(self, labels=labels, row=row)

    def data(
        self,
        block_size: int,
        vocabulary: Vocabulary | None = None,
        labels: Sequence[LabelColumn] | None = None,
    ) -> Data:
        """The vocabulary and the examples of the splits, for contexts of ``block_size`` symbols.

        The vocabulary and the labels are the list's own unless they are given: those of the network which the
        examples are for. Raises DataError that names the characters and the labels missing from them.
        """
        if vocabulary is not None:
            return self.encoded_by(vocabulary).data(block_size, labels=labels)
        if labels is not None:
            return self.labelled_by(labels).data(block_size)
        train, val, test = self._splits()
        hashes = torch.cat([*word_hashes(self.symbols[self.cuts[0] :], "hashing val and test words")])
        in_train = isin(hashes, train).tensor_split([int((val == STOP).sum())])
        unseen = [select(symbols, ~mask) for symbols, mask in zip((val, test), in_train, strict=True)]
        splits = [train, val, test, *unseen]
        row, counts = (self._of_splits(values, in_train) for values in (self.row, self.counts))
        if counts is not None:
            splits = [repeat_words(*each) for each in zip(splits, counts, strict=True)]
            row = row and [rows.repeat_interleave(n) for rows, n in zip(row, counts, strict=True)]
        characters = self.vocabulary.characters
        if self.labels is None or row is None:
            plain = [Examples(symbols, block_size, characters) for symbols in splits]
            return _data_of(self.vocabulary, plain, None)
        labelled = [
            LabelledExamples(symbols, block_size, characters, self.labels, row_of_examples(symbols, rows))
            for symbols, rows in zip(splits, row, strict=True)
        ]
        return _data_of(self.vocabulary, labelled, self.labels)

    def _of_splits(self, values: Tensor | None, in_train: Sequence[Tensor]) -> list[Tensor] | None:
        """Numbers of the words, (num_words,), by splits: train, val, test, unseen val, unseen test."""
        if values is None:
            return None
        num_val, num_test = map(len, in_train)
        splits = list(torch.split(values, [len(values) - num_val - num_test, num_val, num_test]))
        return splits + [part[~mask] for part, mask in zip(splits[1:], in_train, strict=True)]

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


def _word_list(
    blocks: Iterable[Block],
    source: str,
    encoder: LabelEncoder | None = None,
    left_out: Callable[[], Sequence[str]] = tuple,
    case: str = "keep",
) -> WordList:
    """The word list of a text, given in blocks of whole lines; ``encoder`` is that of the labels' numbers.

    ``left_out`` gives what the blocks lack, for the message of a list with too few words. For ``case`` see
    ``read_words``.
    """
    stream, digest, number = StreamEncoder(), hashlib.sha256(), 0
    changed, dropped, characters = 0, 0, set[str]()
    first: list[str] = []
    row_of, counts = array("i"), array("q")
    for block, rows, numbers in blocks:
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
            stream.append(text + "\n")
            number += len(words)
            first += words[: LEAST_WORDS - len(first)]
        for collected, given in ((row_of, rows), (counts, numbers)):
            if given is not None:
                collected += given if len(given) == len(words) else _of_words(given, composed)
    if number < LEAST_WORDS:
        more = f" ({', '.join(left_out())} left out)" if left_out() else ""
        raise DataError(f"{source} has {_why_too_few(first)}{more}")
    slabs, vocabulary, table = stream.end()
    found = find_rule(slabs, stream.characters, number) if case == "auto" else None
    if found is not None:
        vocabulary, table = lower_table(stream.characters)
    n1, n2 = int(0.8 * number), int(0.9 * number)
    positions = shuffle_positions(number, SHUFFLE_SEED)
    symbols, (cut1, cut2) = shuffled(slabs, positions, table, (n1, n2))
    changes = Changes(changed, dropped, "".join(sorted(characters)))
    result = WordList(vocabulary, symbols, (cut1, cut2), number, source, digest.hexdigest(), changes, found)
    if encoder is not None:
        columns, combinations, position = encoder.end()
        row = torch.cat([position[part] for part in torch.split(_as_tensor(row_of), CHUNK_WORDS)])
        labels = Labels(columns, combinations, torch.bincount(row, minlength=len(combinations)))
        result = result.labelled(labels, row, positions)
    return result.counted(_as_tensor(counts), positions) if counts else result


def _of_words(values: array[int], text: str) -> array[int]:
    """The values of the lines of a text that have a word."""
    lines = text.split("\n")
    return array(values.typecode, (value for value, line in zip(values, lines, strict=False) if line.strip()))


def _as_tensor(values: array[int]) -> Tensor:
    return torch.frombuffer(values, dtype=torch.int32 if values.typecode == "i" else torch.int64)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and 1 <= value <= MAX_COUNT


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


Paths: TypeAlias = str | Path | Sequence[str | Path]
"""The path of one list, or those of several."""

Column: TypeAlias = str | int
"""A column of a table: its name, or its number, where 1 is the first."""


def read_words(
    source: Paths,
    word_column: Column | None = None,
    label_columns: Column | Sequence[Column] = (),
    count_column: Column | None = None,
    case: str = "keep",
) -> WordList:
    """Read a word list, or several: files, directories of files, and ``-``, which is stdin.

    A file is decompressed if its name ends in .gz, .bz2, .xz or .zst. It has one word a line, or it is a
    table, CSV or TSV, whose columns are chosen by their names or numbers. A row with the count n counts as n
    rows do. If there are several files and no ``label_columns``, the name of a file, without suffixes, is the
    label of its words, in the column "label".

    With ``case="auto"`` the words have no capitals where a rule gives them; ``WordList.capitals`` is the
    rule, whose ``restore`` puts them back into a word.

    Raises DataError if a list cannot be read, is not text, looks like a table but no ``word_column`` is given
    (0 takes its lines as words), does not have the columns, or has too few words.
    """
    paths = [source] if isinstance(source, str | Path) else source
    labels = [label_columns] if isinstance(label_columns, Column) else label_columns
    word, count = (None if column is None else str(column) for column in (word_column, count_column))
    lists = WordSource([*map(str, paths)], Columns(word, tuple(map(str, labels)), count))
    words = _word_list(lists.blocks(), lists.name, lists.encoder, lists.left_out, case)
    return replace(words, notes=(*lists.notes(), *words.notes))


def load_words(
    source: Paths | None = None,
    word_column: Column | None = None,
    label_columns: Column | Sequence[Column] = (),
    count_column: Column | None = None,
    case: str = "keep",
) -> WordList:
    """Read the word lists at one or more paths, see ``read_words``; by default the bundled one.

    ``"lecture"`` is the name of the lecture's list. Raises DataError if a list cannot be read or downloaded.
    """
    columns = (word_column, label_columns, count_column)
    if source is None:
        if columns != (None, (), None):
            raise DataError("the bundled list has no columns to choose: give the path of a table with --data")
        return read_words(bundled_path(), case=case)
    paths = [source] if isinstance(source, str | Path) else source
    return read_words([lecture_path() if path == "lecture" else path for path in paths], *columns, case)


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
