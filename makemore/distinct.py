"""Which rows of some columns of indices are equal (beyond the lecture).

What a network computes of a window of symbols depends on nothing but those symbols. So equal windows need
to be computed but once: in evaluation and generation by ``convolution``, in training by ``backprop.windows``.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

TABLE_SHARE = 4
"""Codes are counted in a table if there can be at most that many times as many as there are rows."""

LARGEST_CODE = 2**62
"""What a code may grow to, in int64."""


class Distinct(NamedTuple):
    """The kinds of rows that occur, in the order of their values, the first column first.

    ``members``, (D,), has where one of each kind stands, ``kinds``, (N,), of which kind each row is, and
    ``counts``, (D,), how often each kind occurs.
    """

    members: Tensor
    kinds: Tensor
    counts: Tensor


def distinct(columns: Sequence[Tensor], sizes: Sequence[int]) -> Distinct:
    """The distinct rows of some columns of indices, (N,) int64 each, which lie below ``sizes``.

    >>> distinct([torch.tensor([5, 5, 2, 5]), torch.tensor([0, 1, 0, 0])], [6, 2]).kinds
    tensor([1, 2, 0, 1])
    """
    codes, size = columns[0], sizes[0]
    for column, below in zip(columns[1:], sizes[1:], strict=True):
        if size * below > LARGEST_CODE:
            codes, counts = _numbered(codes, size)
            size = len(counts)
        codes, size = codes * below + column, size * below
    kinds, counts = _numbered(codes, size)
    rows = torch.arange(len(kinds), device=kinds.device)
    return Distinct(torch.empty_like(counts).scatter_(0, kinds, rows), kinds, counts)


def _numbered(codes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The place of each code among the codes that occur, (N,), and how often each of these does, (D,)."""
    if size > TABLE_SHARE * len(codes):
        _, numbers, counts = torch.unique(codes, return_inverse=True, return_counts=True)
        return numbers, counts
    counts = torch.bincount(codes, minlength=size)
    numbers = counts.sign().cumsum(0) - 1
    return numbers.index_select(0, codes), counts.index_select(0, counts.nonzero().squeeze(1))
