"""An index of any kind as a tensor of positions, as torch indexes a tensor of one dimension."""

from __future__ import annotations

from collections.abc import Sequence
from types import EllipsisType, NoneType

import torch
from torch import Tensor


def as_positions(
    index: Tensor | Sequence[int] | slice | int, length: int, device: torch.device | str
) -> Tensor:
    """The positions that an index selects out of ``length``: those of ``torch.arange(length)[index]``, int64.

    The index is a number, numbers of any shape as a tensor, list or array, a slice, or a mask. The positions
    of numbers are these numbers: negative ones count from the end, and their range is not checked. Departures
    from torch: a slice may go backwards, and numbers in a list may be nested, but not fractional.

    Raises IndexError on a mask of another length and on anything that is not an index.

    >>> as_positions(slice(None, None, 2), 5, "cpu"), as_positions([True, False, True], 3, "cpu")
    (tensor([0, 2, 4]), tensor([0, 2]))
    """
    if isinstance(index, slice):
        selected = range(length)[index]
        return selected.start + selected.step * torch.arange(len(selected), device=device)
    if isinstance(index, NoneType | EllipsisType | bool | float | tuple | str):
        raise IndexError(f"an index is a number, numbers, a slice or a mask, got {index!r}")
    positions = torch.as_tensor(index, device=device)
    if positions.dtype == torch.bool:
        if positions.shape != (length,):
            raise IndexError(f"a mask of shape {tuple(positions.shape)} does not fit {length} elements")
        return positions.nonzero().squeeze(1)
    numbers = positions.dtype in (torch.int64, torch.int32, torch.int16, torch.int8)
    empty_list = positions.numel() == 0 and not isinstance(index, Tensor)  # which becomes a float tensor
    if not numbers and not empty_list:
        raise IndexError(f"an index needs integers or bools, got {positions.dtype}")
    return positions.long()
