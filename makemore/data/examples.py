"""Examples of labelled words, examples in shards, and the position of each example in its word."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from makemore.core.indexing import as_positions
from makemore.data.labels import Labels
from makemore.data.shuffle import word_chunks
from makemore.lecture.words import STOP, Examples


class LabelledExamples(Examples):
    """Examples of words that have labels: a context begins with the labels of its word.

    ``row``, (N,), is the combination of labels of each example's word, an index into ``labels.rows``.
    """

    def __init__(
        self,
        symbols: Tensor,
        block_size: int,
        characters: str | None,
        labels: Labels,
        row: Tensor,
    ) -> None:
        super().__init__(symbols, block_size, characters)
        self.labels = labels
        self.row = row
        self.rows = labels.rows.to(symbols.device)

    def __getitem__(self, index: Tensor | Sequence[int] | slice | int) -> tuple[Tensor, Tensor]:
        """Labels with contexts, and targets: (..., K + block_size) and (...), int64, for an index (...).

        The K labels come first, one for each column.
        """
        index = as_positions(index, len(self), self.symbols.device)
        X, Y = super().__getitem__(index)
        labels = self.rows[self.row[index].long()]  # (...) -> (..., K)
        return torch.cat([labels, X], dim=-1), Y

    def replaced(self, symbols: Tensor, row: Tensor) -> LabelledExamples:
        """Examples of other words with the same labels, vocabulary and block size."""
        return LabelledExamples(symbols, self.block_size, self.characters, self.labels, row)

    def to(self, device: torch.device | str) -> LabelledExamples:
        """The same examples on another device."""
        return self.replaced(self.symbols.to(device), self.row.to(device))


def row_of_examples(symbols: Tensor, row: Tensor) -> Tensor:
    """The label combination of each symbol's word, (N,), for that of each word, (words,)."""
    parts, num_words = [row[:0]], 0
    for _, lengths in word_chunks(symbols):
        parts.append(row[num_words : num_words + len(lengths)].repeat_interleave(lengths))
        num_words += len(lengths)
    return torch.cat(parts)


def word_offsets(symbols: Tensor) -> Tensor:
    """The position of each symbol in its word, from 0: int64, (N,)."""
    index = torch.arange(len(symbols), device=symbols.device)
    starts = torch.zeros_like(index)
    starts[1:] = (symbols[:-1] == STOP) * index[1:]
    return index - starts.cummax(0).values


def shards(examples: Examples, max_examples: int) -> list[Examples]:
    """Split examples into shards of whole words, of nearly equal size and about ``max_examples`` at most."""
    number = max(1, -(-len(examples) // max_examples))
    # A cut inside a word is moved to the end of that word.
    lasts = [len(examples) * i // number - 1 for i in range(1, number)]
    cuts = {last + int(next(word_chunks(examples.symbols[last:]))[1][0]) for last in lasts} - {len(examples)}
    parts = examples.symbols.tensor_split(sorted(cuts))
    if isinstance(examples, LabelledExamples):
        rows = examples.row.tensor_split(sorted(cuts))
        return [examples.replaced(part, row) for part, row in zip(parts, rows, strict=True)]
    return [Examples(part, examples.block_size, examples.characters) for part in parts]
