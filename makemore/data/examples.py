"""Split examples into shards, and find the position of each example in its word."""

from __future__ import annotations

import torch
from torch import Tensor

from makemore.data.shuffle import word_chunks
from makemore.lecture.words import STOP, Examples


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
    return [
        Examples(part, examples.block_size, examples.characters)
        for part in examples.symbols.tensor_split(sorted(cuts))
    ]
