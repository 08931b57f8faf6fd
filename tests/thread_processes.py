"""Threads in place of processes, so that a test need not start Python several times."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from makemore.training.processes import Processes

T = TypeVar("T")


class Exchange:
    """Gives each thread the tensors of all."""

    def __init__(self, world_size: int) -> None:
        self.barrier = threading.Barrier(world_size, timeout=60)
        self.tensors: list[Any] = [None] * world_size

    def __call__(self, rank: int, tensor: Tensor) -> list[Tensor]:
        self.tensors[rank] = tensor.detach().clone()
        self.barrier.wait()
        tensors = list(self.tensors)
        self.barrier.wait()
        return tensors


@dataclass(frozen=True)
class ThreadProcesses(Processes):
    """One of the threads."""

    exchange: Exchange = field(kw_only=True)

    def all_reduce(self, tensor: Tensor) -> None:
        tensor.copy_(torch.stack(self.exchange(self.rank, tensor)).sum(0))

    def all_gather(self, tensor: Tensor) -> Tensor:
        return Gathered.apply(tensor, self)

    def broadcast(self, tensor: Tensor, src: int) -> None:
        tensor.copy_(self.exchange(self.rank, tensor)[src])


class Gathered(torch.autograd.Function):
    """The losses of all threads depend on each tensor, so its derivative is a sum."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, processes: ThreadProcesses) -> Tensor:
        ctx.processes = processes
        return torch.stack(processes.exchange(processes.rank, tensor))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        processes = ctx.processes
        return torch.stack(processes.exchange(processes.rank, grads[0])).sum(0)[processes.rank], None


def in_threads(world_size: int, run: Callable[[ThreadProcesses], T]) -> list[T]:
    """What ``run`` returns in each of ``world_size`` threads. An exception in one ends the others."""
    exchange = Exchange(world_size)

    def one(rank: int) -> T:
        try:
            return run(ThreadProcesses(world_size, rank, exchange=exchange))
        except BaseException:
            exchange.barrier.abort()
            raise

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(one, range(world_size)))
