"""The labels of words, such as a gender or a country: which columns there are, and which labels occur.

A word has one label in each column, or none. A label is a number: 1 is the first label of its column in
sorted order, and 0 means that the word has none. The text of a label is in the form that words have.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor

from makemore.core.errors import DataError
from makemore.core.layer import LabelColumn
from makemore.core.text import normalize, plural, shortened

MAX_LABELS = 10_000
"""The largest number of different labels in a column."""

MAX_COMBINATIONS = 1_000_000
"""The largest number of different combinations of labels in a list."""

MAX_NAMED = 3
"""The largest number of unknown labels that a message names."""


@dataclass(frozen=True)
class Labels:
    """The label columns of a list, and the combinations of labels that its words have.

    ``rows``, (D, K) int64, are the distinct combinations of labels in the K columns, in ascending order, and
    ``counts``, (D,) int64, is the number of words with each, where a word of a list with counts counts as
    often as its count says.
    """

    columns: tuple[LabelColumn, ...]
    rows: Tensor
    counts: Tensor

    def __len__(self) -> int:
        """The number of distinct combinations."""
        return len(self.rows)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of labels of each column, with the one that means none."""
        return tuple(len(column.values) + 1 for column in self.columns)

    def names(self, row: int) -> tuple[str, ...]:
        """The labels of a combination as texts, "" where there is none."""
        labels = self.rows[row].tolist()
        return tuple(column.text(label) for column, label in zip(self.columns, labels, strict=True))

    def numbers_of_words(self, column: int) -> list[int]:
        """The number of words with each label of a column; that of words without one comes first."""
        numbers = torch.zeros(self.sizes[column], dtype=torch.int64)
        return numbers.index_add_(0, self.rows[:, column], self.counts).tolist()

    def matched_to(self, columns: Sequence[LabelColumn], source: str) -> tuple[Labels, Tensor]:
        """The same labels numbered by other columns, such as a model's, and each row's new number: (D,).

        Columns are matched by name and labels by text. A column that the list does not have is 0 throughout.
        Raises DataError that names unknown columns and labels of the list, which is called ``source``.
        """
        known = {column.name: column for column in columns}
        for column in self.columns:
            if column.name not in known:
                names = ", ".join(repr(shortened(name)) for name in known) or "none"
                raise DataError(
                    f"{source} has labels in the column {shortened(column.name)!r}, which the model does not"
                    f" have; its columns: {names}{nearest(column.name, known)}"
                )
        own = {column.name: i for i, column in enumerate(self.columns)}
        rows = torch.zeros((len(self.rows), len(columns)), dtype=torch.int64)
        for k, column in enumerate(columns):
            if column.name in own:
                i = own[column.name]
                rows[:, k] = _renumbered(self.columns[i], column, source)[self.rows[:, i]]
        rows, new_row = torch.unique(rows, dim=0, return_inverse=True)
        counts = torch.zeros(len(rows), dtype=torch.int64).index_add_(0, new_row, self.counts)
        return Labels(tuple(columns), rows, counts), new_row


def _renumbered(old: LabelColumn, new: LabelColumn, source: str) -> Tensor:
    """The labels in ``new`` of the labels in ``old``, from 0 on: int64. Raises DataError on unknown ones."""
    number = {text: i for i, text in enumerate(new.values, start=1)}
    unknown = [text for text in old.values if text not in number]
    if unknown:
        texts = ", ".join(f"{shortened(text)!r}{nearest(text, number)}" for text in unknown[:MAX_NAMED])
        more = f" and {len(unknown) - MAX_NAMED:,} more" if len(unknown) > MAX_NAMED else ""
        raise DataError(
            f"{source} has labels in the column {shortened(old.name)!r} that the model does not know:"
            f" {texts}{more}"
        )
    return torch.tensor([0, *(number[text] for text in old.values)])


def nearest(text: str, known: Mapping[str, object] | Sequence[str]) -> str:
    """The most similar of the known texts as a hint that follows an unknown one; "" if none is similar."""
    by_small_letters = {name.casefold(): name for name in known}
    similar = get_close_matches(text.casefold(), by_small_letters, 1)
    return f" (did you mean {shortened(by_small_letters[similar[0]])!r}?)" if similar else ""


class LabelEncoder:
    """Number the labels of words while they are read, before all labels are known.

    ``names`` are the names of the columns, which may be changed until ``end``.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = [*names]
        self._numbers: list[dict[str, int]] = [{"": 0} for _ in names]  # by text, in order of occurrence
        self._combinations: dict[tuple[int, ...], int] = {}
        self._known: dict[tuple[str | None, ...], int] = {}  # by the texts as they are given

    def encode(self, labels: tuple[str | None, ...]) -> int:
        """The number of a combination of labels, one for each column, in order of occurrence.

        Raises DataError if there are more than ``MAX_LABELS`` labels in a column or ``MAX_COMBINATIONS``.
        """
        number = self._known.get(labels)
        if number is None:
            number = self._new(labels)
            if len(self._known) > MAX_COMBINATIONS:  # the same label with blanks around it and without
                self._known.clear()
            self._known[labels] = number
        return number

    def _new(self, labels: tuple[str | None, ...]) -> int:
        key = []
        for name, numbers, label in zip(self.names, self._numbers, labels, strict=True):
            text = normalize(label or "").strip()
            if "\n" in text:
                text = " ".join(text.split())  # as in words
            if text not in numbers and len(numbers) > MAX_LABELS:
                raise DataError(
                    f"the column {shortened(name)!r} has more than {MAX_LABELS:,} different labels: choose"
                    " a column whose labels are shared by many words"
                )
            key.append(numbers.setdefault(text, len(numbers)))
        number = self._combinations.setdefault(tuple(key), len(self._combinations))
        if number >= MAX_COMBINATIONS:
            raise DataError(
                f"the columns {', '.join(map(repr, map(shortened, self.names)))} have more than"
                f" {MAX_COMBINATIONS:,} different combinations of labels: choose fewer of them"
            )
        return number

    def end(self) -> tuple[tuple[LabelColumn, ...], Tensor, Tensor]:
        """The columns, the combinations in ascending order, and the position there of each number: (D,).

        Raises DataError if a column has no label at all.
        """
        columns, tables = [], []
        for name, numbers in zip(self.names, self._numbers, strict=True):
            values = tuple(sorted(numbers.keys() - {""}))
            if not values:
                raise DataError(f"the column {shortened(name)!r} has no labels: all its fields are empty")
            columns.append(LabelColumn(name, values))
            new = {text: i for i, text in enumerate(values, start=1)} | {"": 0}
            tables.append([new[text] for text in numbers])
        combinations = [
            tuple(table[i] for table, i in zip(tables, key, strict=True)) for key in self._combinations
        ]
        order = sorted(range(len(combinations)), key=combinations.__getitem__)
        position = torch.empty(len(order), dtype=torch.int32)
        position[torch.tensor(order)] = torch.arange(len(order), dtype=torch.int32)
        return tuple(columns), torch.tensor([combinations[i] for i in order]), position


def encode_labels(
    labels: Mapping[str, Sequence[str | None]], num_words: int
) -> tuple[LabelEncoder, array[int]]:
    """The encoder and the numbers of labels given by column, with a label or None for each word.

    Raises DataError unless every column has one for each word.
    """
    for name, given in labels.items():
        if len(given) != num_words:
            raise DataError(
                f"the column {shortened(name)!r} has {plural(len(given), 'label')} for {num_words:,} words"
            )
    encoder = LabelEncoder([*labels])
    return encoder, array("i", map(encoder.encode, zip(*labels.values(), strict=True)))
