"""The processes of a run, as ``torchrun`` starts them (beyond the lecture).

Without torchrun there is one, and torch.distributed is not imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

RESTARTS = "TORCHELASTIC_RESTART_COUNT"
"""Where torchrun says how often it has started all processes anew."""


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
        summed: Tensor = _Total.apply(tensor)  # type: ignore[no-untyped-call]
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


class _Total(torch.autograd.Function):
    """A sum over all processes. All their losses depend on it, so that its derivative is a sum as well."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        summed = tensor.detach().clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _Total.forward(ctx, grads[0])


def number_of_processes() -> int:
    """How many torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def was_restarted() -> bool:
    """Whether torchrun has started this process in place of one that was lost."""
    return int(os.environ.get(RESTARTS, "0")) > 0


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
    store, rank, _ = next(torch.distributed.rendezvous("env://"))  # type: ignore[attr-defined]
    # After a restart the store still has the addresses of the processes before.
    attempt = torch.distributed.PrefixStore(  # type: ignore[attr-defined]
        os.environ.get(RESTARTS, "0"), store
    )
    torch.distributed.init_process_group(backend, store=attempt, rank=rank, world_size=number)
    yield Processes(number, rank, backend)
    torch.distributed.barrier()  # none leaves before the first one has written all
    torch.distributed.destroy_process_group()
