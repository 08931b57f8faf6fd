"""The processes of a run, as ``torchrun`` starts them (beyond the lecture).

Without torchrun there is one, and torch.distributed is not imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """How many processes a run has, which of them this is, and what they tell each other."""

    number: int = 1
    rank: int = 0
    backend: str = ""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints, saves and plots."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """The rows of a batch that are this process's: as many for each as can be."""
        return slice(rows * self.rank // self.number, rows * (self.rank + 1) // self.number)

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of all processes' tensors, the same bits in each; autograd goes through."""
        from torch.distributed.nn.functional import all_reduce

        if tensor.requires_grad:
            summed: Tensor = all_reduce(tensor)  # type: ignore[no-untyped-call]
            return summed
        summed = tensor.clone()
        torch.distributed.all_reduce(summed)
        return summed

    def any(self, here: bool) -> bool:
        """Whether it is so in any process."""
        if self.number == 1:
            return here
        return bool(self.total(torch.tensor([float(here)], device=self._device())) > 0)

    def first_ones(self, content: bytes) -> bytes:
        """The bytes that the first process has, in all of them."""
        if self.number == 1:
            return content
        length = torch.tensor([len(content)], device=self._device())
        torch.distributed.broadcast(length, 0)
        whole = torch.empty(int(length), dtype=torch.uint8, device=self._device())
        if content:
            whole.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        torch.distributed.broadcast(whole, 0)
        return bytes(whole.cpu().numpy())

    def _device(self) -> torch.device:
        return (
            torch.device("cuda", torch.cuda.current_device())
            if self.backend == "nccl"
            else torch.device("cpu")
        )


def number_of_processes() -> int:
    """How many torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def was_restarted() -> bool:
    """Whether torchrun has started this process in place of one that was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """The processes of the run within a ``with`` block: NCCL on CUDA, gloo elsewhere."""
    number = number_of_processes()
    if number == 1:
        yield Processes()
        return
    import torch.distributed

    on_cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "nccl" if on_cuda else "gloo"
    torch.distributed.init_process_group(backend)
    try:
        yield Processes(number, int(os.environ["RANK"]), backend)
    finally:
        torch.distributed.destroy_process_group()
