"""The labels of words, such as a gender or a country: which columns there are, and which labels occur.

A word has one label in each column, or none. A label is a number: 1 is the first label of its column in
sorted order, and 0 means that the word has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from makemore.core.errors import DataError
from makemore.core.layer import LabelColumn
from makemore.core.text import plural


@dataclass(frozen=True)
class Labels:
    """The label columns of a list, and the combinations of labels that its words have.

    ``rows``, (D, K) int64, are the distinct combinations of labels in the K columns, in ascending order, and
    ``counts``, (D,) int64, is the number of words with each.
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


def number_labels(labels: Mapping[str, Sequence[str | None]], num_words: int) -> tuple[Labels, Tensor]:
    """The labels of words given by column, and the combination of each word: int64, (num_words,).

    Raises DataError unless every column has a label, or None, for each word.
    """
    columns, numbers = [], []
    for name, given in labels.items():
        if len(given) != num_words:
            raise DataError(f"the column {name!r} has {plural(len(given), 'label')} for {num_words:,} words")
        texts = [label or "" for label in given]
        column = LabelColumn(name, tuple(sorted({*texts} - {""})))
        number = {text: i for i, text in enumerate(column.values, start=1)} | {"": 0}
        columns.append(column)
        numbers.append(torch.tensor([number[text] for text in texts]))
    rows, row_of, counts = torch.unique(
        torch.stack(numbers, dim=1), dim=0, return_inverse=True, return_counts=True
    )
    return Labels(tuple(columns), rows, counts), row_of
