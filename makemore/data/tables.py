"""Tables of words, as spreadsheets and databases write them: CSV and TSV, with or without a header.

The separator of the columns (comma, semicolon or tab) and whether the first row is a header follow from the
beginning of the table. Quotation marks and line ends within them are those of Python's csv module.
"""

from __future__ import annotations

import csv
import io
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from makemore.core.errors import DataError
from makemore.core.shell import quoted
from makemore.core.text import normalize, plural, shortened
from makemore.data.labels import LabelEncoder, nearest
from makemore.data.reading import display_name, is_compressed

WHOLE_LINES = "0"
"""The word column of a list whose lines are the words, whatever is in them."""

SEPARATORS = {"\t": "tabs", ";": "semicolons", ",": "commas"}
"""What may separate the columns of a table."""

TABLE_SUFFIXES = (".csv", ".tsv", ".tab")
"""The suffixes of files that are tables even if only most of their lines look so."""

LEAST_ROWS, TABLE_SHARE, NAMED_TABLE_SHARE = 6, 0.9, 0.5
"""A list looks like a table if it begins with this number of rows or more, of which this share has the same
number of columns; the other share is for a file with one of ``TABLE_SUFFIXES``, of any number of rows."""

SAMPLE = 2**16
"""The characters at the beginning of a list from which its kind and its separator are known."""

QUOTE = '"'
"""The quotation mark of tables."""

MAX_COLUMNS, MAX_SUGGESTED = 10, 3
"""How many columns a message names, and how many columns of labels it suggests."""

MAX_COUNT = 10**12
"""The largest count of a row."""

ROWS_AT_A_TIME = 2**14
"""The rows whose words make one block of text."""

WORD_NAMES = frozenset("name names word words term token title surname lastname firstname forename".split())
COUNT_NAMES = frozenset("count counts births freq frequency number n total occurrences".split())
LABEL_NAMES = frozenset(
    "label labels gender sex country language lang origin region type class genre".split()
)
HEADER_NAMES = WORD_NAMES | COUNT_NAMES | LABEL_NAMES | {"year", "rank"}
"""Usual names of columns: a first row with one of them is a header."""

CSV_ERRORS = {
    "unexpected end of data": "a quotation mark is opened and not closed",
    "expected after": "text follows a closing quotation mark: write a quotation mark within quotes twice",
    "field larger than": f"a field has more than {csv.field_size_limit():,} characters: is there a quotation"
    " mark that is not closed?",
}
"""Parts of the messages of the csv module, and what they say to a person."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are read: each by its name, or by its number, where "1" is the first.

    Without ``word``, a list has one word a line; one that looks like a table is then refused. With
    ``WHOLE_LINES`` it is not.
    """

    word: str | None = None
    labels: tuple[str, ...] = ()
    count: str | None = None

    def __post_init__(self) -> None:
        """Raises DataError if there are columns of labels or counts, but none of words."""
        if not self.is_table and (self.labels or self.count is not None):
            raise DataError(
                "labels and counts are read from a table: name the column of its words, with --word-column"
            )

    @property
    def is_table(self) -> bool:
        """Whether the columns are those of a table."""
        return self.word not in (None, WHOLE_LINES)

    @property
    def chosen(self) -> list[str]:
        """All columns that are read."""
        return [column for column in (self.word, *self.labels, self.count) if column is not None]


class Block(NamedTuple):
    """Words of a list, each followed by ``\\n``, and what else a table says of them, a number for each word.

    ``rows`` are the numbers of their labels, see ``LabelEncoder``.
    """

    text: str
    rows: array[int] | None = None
    counts: array[int] | None = None


@dataclass
class Notes:
    """What is to be said about the files that were read, and the numbers of rows that were left out."""

    files: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    without_word: int = 0
    with_count_0: int = 0

    def left_out(self) -> list[str]:
        """The rows that were left out, each kind in a text."""
        kinds = ((self.without_word, "without a word"), (self.with_count_0, "with the count 0"))
        return [f"{plural(number, 'row')} {why}" for number, why in kinds if number]

    def describe(self) -> list[str]:
        """The notes, each in a line of text."""
        return [*self.files, *dict.fromkeys(self.tables), *(f"left out: {text}" for text in self.left_out())]


def sample_rows(text: str, separator: str) -> list[list[str]]:
    """The rows at the beginning of a table, without blank ones, as far as they can be read."""
    rows: list[list[str]] = []
    with suppress(csv.Error):
        rows.extend(_csv_reader(io.StringIO(text, newline="\n"), separator))
    return [row for row in rows if any(map(str.strip, row))]


def _csv_reader(lines: Iterable[str], separator: str) -> Any:
    return csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True)


def separator_of(text: str) -> str:
    """The separator with which most rows have the same number of columns, two or more; else a comma."""
    best = max(SEPARATORS, key=lambda separator: _most_common_width(sample_rows(text, separator))[1])
    return best if _most_common_width(sample_rows(text, best))[1] else ","


def _most_common_width(rows: Sequence[Sequence[str]]) -> tuple[int, int]:
    """The most common number of columns from two on, and the number of rows that have it."""
    widths = Counter(len(row) for row in rows if len(row) > 1)
    return widths.most_common(1)[0] if widths else (1, 0)


def has_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first of these rows is a header.

    In a column of numbers it has text or nothing, never a number, and it has such a text or a usual name.
    """
    first, others = rows[0], rows[1:]
    of_numbers = [
        text
        for i, text in enumerate(first)
        if others and all(_is_number(row[i]) for row in others if len(row) > i)
    ]
    if any(map(_is_number, of_numbers)):
        return False
    usual = any(normalize(text).strip().lower() in HEADER_NAMES for text in first)
    return usual or any(map(str.strip, of_numbers))


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\s*[-+]?[0-9]+([.,][0-9]+)*\s*", text) is not None


def check_is_list(text: str, path: str, paths: Sequence[str]) -> None:
    """Raise DataError if a list that begins with this text looks like a table, with a command that reads it.

    ``paths`` are the paths of all lists, ``path`` that of this one. Ordinary words may have separators: a
    name such as "Saint-Jean, Marie" is a word, and so are lines of which fewer than ``TABLE_SHARE`` have
    the same number of columns.
    """
    name = path.removesuffix(Path(path).suffix) if is_compressed(path) else path
    by_name = Path(name).suffix.lower() in TABLE_SUFFIXES
    if not by_name and not any(ch in text for ch in [*SEPARATORS, QUOTE]):
        return
    separator = separator_of(text)
    rows = sample_rows(text, separator)
    if not rows or (len(rows) < LEAST_ROWS and not by_name):
        return
    share = NAMED_TABLE_SHARE if by_name else TABLE_SHARE
    width, number = _most_common_width(rows)
    last_name_first = separator == "," and width == 2 and text.count(", ") >= 0.5 * number
    if number >= share * len(rows) and (by_name or not last_name_first):
        what = f"{width} columns separated by {SEPARATORS[separator]}"
    elif _is_quoted(text, share) or (by_name and len(rows[0]) == 1 and has_header(rows[:1])):
        what, width = "one column", 1
    else:
        return
    header = [" ".join(normalize(text).split()) for text in rows[0]] if has_header(rows) else None
    names = f" ({listed(header)})" if header else ""
    raise DataError(
        f"{display_name(path)} looks like a table of {what}{names}: name the columns to read, for example"
        f" makemore-train --data {' '.join(map(quoted, paths))} {_suggestion(rows, header, width)}; if its"
        f" lines are the words as they are, say --word-column {WHOLE_LINES}"
    )


def _is_quoted(text: str, share: float) -> bool:
    """Whether that share of the lines of a text is in quotation marks."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return sum(line[:1] == line[-1:] == QUOTE and len(line) > 1 for line in lines) >= share * len(lines)


def listed(names: Sequence[str]) -> str:
    """The names of columns in quotes, the first ``MAX_COLUMNS`` of them."""
    texts = [repr(shortened(name)) for name in names[:MAX_COLUMNS]]
    return ", ".join([*texts, *(["..."] if len(names) > MAX_COLUMNS else [])])


def _suggestion(rows: list[list[str]], header: list[str] | None, width: int) -> str:
    """Flags that choose columns of a table: that of the words, those of labels, and that of counts."""
    body = [row for row in rows[header is not None :] if len(row) == width] or [[""] * width]
    fields = [[row[i].strip() for row in body] for i in range(width)]
    lower = [name.lower() for name in header] if header else [""] * width
    name_of = [
        name if header and header.count(name) == 1 and _can_be_typed(name) else i
        for i, name in enumerate(header or [""] * width, start=1)
    ]
    different = [len({text for text in column if text}) for column in fields]
    is_number = [all(_is_number(text) for text in column if text) for column in fields]
    texts = [i for i in range(width) if not is_number[i]] or [0]
    word = max(texts, key=lambda i: (lower[i] in WORD_NAMES, different[i], -i))
    labels = [i for i in texts if i != word and 0 < different[i] <= max(1, len(body) // 2)]
    numbers = [i for i in range(width) if is_number[i] and i != word and different[i]]
    named = [i for i in numbers if lower[i] in COUNT_NAMES]
    counts = named or ([] if header or len(numbers) > 1 else [i for i in numbers if not _is_rank(fields[i])])
    return " ".join(
        f"{flag} {' '.join(quoted(name_of[i]) for i in chosen)}"
        for flag, chosen in (
            ("--word-column", [word]),
            ("--label-column", labels[:MAX_SUGGESTED]),
            ("--count-column", counts[:1]),
        )
        if chosen
    )


def _is_rank(texts: Sequence[str]) -> bool:
    """Whether a column counts its rows: 1, 2, 3, or from another number on."""
    return all(map(_is_whole, texts)) and all(int(b) == int(a) + 1 for a, b in pairwise(texts))


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= len(str(MAX_COUNT))


def _can_be_typed(name: str) -> bool:
    """Whether a column can be chosen by its name as an argument of a command: not if it looks like a flag."""
    return name.isprintable() and not name.isdigit() and name[:1] not in ("", "-") and name == shortened(name)


class _Rows:
    """The rows of a table. ``line`` is the number of the line in which the current one begins.

    Raises DataError, which names it, on a row that the csv module cannot read.
    """

    def __init__(self, lines: Iterable[str], separator: str, name: str) -> None:
        self._reader = _csv_reader(lines, separator)
        self._name = name
        self.line = 0

    def __iter__(self) -> Iterator[list[str]]:
        reader, end = self._reader, StopIteration
        while True:
            self.line = reader.line_num + 1
            try:
                row = next(reader)
            except end:
                return
            except csv.Error as error:
                why = next((text for part, text in CSV_ERRORS.items() if part in str(error)), str(error))
                raise DataError(f"{self._name}, line {self.line:,}: {why}") from error
            yield row


class TableReader:
    """Read the words of tables, with their labels and counts.

    ``encoder`` numbers the labels. It has the names of their columns: those given, or for a number the name
    in the header of the first table.
    """

    def __init__(self, columns: Columns, notes: Notes) -> None:
        self._columns, self._notes = columns, notes
        self.encoder = LabelEncoder(columns.labels) if columns.labels else None
        self._is_first = True

    def blocks(self, texts: Iterable[str], start: str, name: str) -> Iterator[Block]:
        """The words of a table that is given as blocks of whole lines and begins with ``start``.

        Rows without a word or with the count 0 are left out. Raises DataError, which names the line and the
        column, on a table that is broken or does not have the columns.
        """
        columns, notes = self._columns, self._notes
        separator = separator_of(start)
        lines = chain.from_iterable(io.StringIO(text, newline="\n") for text in texts)
        rows = _Rows(lines, separator, name)
        each = iter(rows)
        first = next((row for row in each if any(map(str.strip, row))), None)
        if first is None:
            return
        by_name = any(_position(column, len(first)) is None for column in columns.chosen)
        header = by_name or has_header([first, *sample_rows(start, separator)[1:]])
        found = _Found(first, header, columns, name)
        notes.tables.append(found.describe())
        if self.encoder is not None and self._is_first:
            self.encoder.names[:] = found.names(found.labels)
        self._is_first = False

        width, w, c = len(first), found.word, found.count
        labels_of = _getter(found.labels)
        encode = None if self.encoder is None else self.encoder.encode
        words: list[str] = []
        row_of, counts = array("i"), array("q")
        num_rows = 0
        for row in each if header else chain([first], each):
            if len(row) != width and _is_ragged(row, width):
                if not any(map(str.strip, row)):
                    continue  # a blank line
                raise DataError(
                    f"{name}, line {rows.line:,}: the row has {plural(len(row), 'column')}, the first row has"
                    f" {width}: put quotation marks around a text with {SEPARATORS[separator]} in it"
                )
            num_rows += 1
            word = row[w]
            if not word or word.isspace():
                notes.without_word += 1
                continue
            if c is not None:
                digits = row[c].strip()
                count = int(digits) if _is_whole(digits) else MAX_COUNT + 1
                if count > MAX_COUNT:
                    raise DataError(
                        f"{name}, line {rows.line:,}, column {found.title(c)}: a count is a whole number from"
                        f" 0 to {MAX_COUNT:,}, not {shortened(row[c])!r}"
                    )
                if count == 0:
                    notes.with_count_0 += 1
                    continue
                counts.append(count)
            if encode is not None:
                try:
                    row_of.append(encode(labels_of(row)))
                except DataError as error:
                    raise DataError(f"{name}, line {rows.line:,}: {error}") from error
            words.append(word)
            if len(words) == ROWS_AT_A_TIME:
                yield _block(words, row_of, counts)
                words, row_of, counts = [], array("i"), array("q")
        if words:
            yield _block(words, row_of, counts)
        if num_rows == 0:
            raise DataError(f"{name} has only a header, no rows: {listed(found.header or [])}")


class _Found:
    """The columns of a table, by their positions from 0 on: ``word``, ``labels``, and ``count`` or None.

    Raises DataError on a column that the table does not have, or that is chosen twice.
    """

    def __init__(self, first: Sequence[str], has_header: bool, columns: Columns, table: str) -> None:
        self.width, self.table = len(first), table
        self.header = [" ".join(normalize(text).split()) for text in first] if has_header else None
        self.word = self._position(columns.word or "")
        self.labels = [self._position(column) for column in columns.labels]
        self.count = None if columns.count is None else self._position(columns.count)
        chosen = [self.word, *self.labels, *([] if self.count is None else [self.count])]
        for position, times in Counter(chosen).items():
            if times > 1:
                raise DataError(
                    f"the column {self.title(position)} of {table} is chosen twice: choose it once"
                )

    def _position(self, column: str) -> int:
        position = _position(column, self.width)
        if position is not None:
            return position
        header = self.header or []
        name = " ".join(normalize(column).split())
        positions = [i for i, other in enumerate(header) if other == name]
        if len(positions) == 1:
            return positions[0]
        if positions:
            numbers = " and ".join(str(i + 1) for i in positions)
            raise DataError(
                f"{self.table} has {len(positions)} columns {listed([name])}: choose by number, {numbers}"
            )
        names = f": {listed(header)}" if header else ""
        which = f"number {shortened(column)}" if column.isdigit() else listed([column])
        raise DataError(
            f"{self.table} has no column {which}{nearest(name, header)}; it has"
            f" {plural(self.width, 'column')}{names}"
        )

    def title(self, position: int) -> str:
        """The name of a column in quotes, or its number."""
        name = self.header[position] if self.header else ""
        return listed([name]) if name else f"{position + 1}"

    def names(self, positions: Sequence[int]) -> list[str]:
        """The names of columns, all different: those of the header, or "column 3"."""
        header = self.header or [""] * self.width
        names = [header[i] or f"column {i + 1}" for i in positions]
        return [
            name if names.count(name) == 1 else f"{name} ({i + 1})"
            for name, i in zip(names, positions, strict=True)
        ]

    def describe(self) -> str:
        """The columns that are read, in a line of text."""
        parts = [f"words {self.title(self.word)}"]
        if self.labels:
            parts.append(f"labels {', '.join(map(self.title, self.labels))}")
        if self.count is not None:
            parts.append(f"counts {self.title(self.count)}")
        return f"columns: {', '.join(parts)}; {'the first row is' if self.header else 'without'} a header"


def _position(column: str, width: int) -> int | None:
    """The position from 0 on of a column that is given by its number; None if it is given by its name."""
    is_number = column.isascii() and column.isdigit() and len(column) <= len(str(width))
    return int(column) - 1 if is_number and 1 <= int(column) <= width else None


def _is_ragged(row: Sequence[str], width: int) -> bool:
    """Whether a row has fewer columns, or texts in further ones; some programs write empty ones there."""
    return len(row) < width or any(map(str.strip, row[width:]))


def _getter(positions: Sequence[int]) -> Callable[[list[str]], tuple[str, ...]]:
    """What takes the labels from a row."""
    if len(positions) == 1:
        only = positions[0]
        return lambda row: (row[only],)
    return itemgetter(*positions) if positions else lambda row: ()


def _block(words: list[str], row_of: array[int], counts: array[int]) -> Block:
    text = "\n".join([*words, ""])
    if text.count("\n") > len(words):  # line ends within quotes
        text = "\n".join([" ".join(word.split()) if "\n" in word else word for word in words] + [""])
    return Block(text, row_of or None, counts or None)
