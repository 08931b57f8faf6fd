"""Which rows of some columns of indices are equal.

What a network computes for a window of symbols depends on these symbols alone. Equal windows are therefore
computed once: in evaluation and generation by ``inference``, in training by ``backprop.windows``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

TABLE_SHARE = 4
"""Codes are counted in a table if the table has at most that many entries for each row."""

LARGEST_CODE = 2**62
"""The upper bound of a code, so that it fits into int64."""


def unique_rows(columns: Sequence[Tensor], sizes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct rows of a table given by its columns, (N,) int64 each, with values below ``sizes``.

    Returns index, inverse and counts, as ``numpy.unique`` does: ``index``, (D,), is the index of one row that
    equals each distinct row; ``inverse``, (N,), the distinct row of each row; and ``counts``, (D,),
    how often each distinct row occurs. The distinct rows are in ascending order, the first column first.

    >>> _, inverse, _ = unique_rows([torch.tensor([5, 5, 2, 5]), torch.tensor([0, 1, 0, 0])], [6, 2])
    >>> inverse
    tensor([1, 2, 0, 1])
    """
    codes, size = columns[0], sizes[0]
    for column, below in zip(columns[1:], sizes[1:], strict=True):
        if size * below > LARGEST_CODE:
            codes, counts = _unique_codes(codes, size)
            size = len(counts)
        codes, size = codes * below + column, size * below
    inverse, counts = _unique_codes(codes, size)
    rows = torch.arange(len(inverse), device=inverse.device)
    return torch.empty_like(counts).scatter_(0, inverse, rows), inverse, counts


def _unique_codes(codes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The rank of each code among the distinct codes, (N,), and how often each of these occurs, (D,)."""
    if size > TABLE_SHARE * len(codes):
        _, inverse, counts = torch.unique(codes, return_inverse=True, return_counts=True)
        return inverse, counts
    counts = torch.bincount(codes, minlength=size)
    ranks = counts.sign().cumsum(0) - 1
    return ranks.index_select(0, codes), counts.index_select(0, counts.nonzero().squeeze(1))
