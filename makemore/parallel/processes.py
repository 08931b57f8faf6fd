"""The processes of a run, started by ``torchrun``. Without torchrun, torch.distributed is not imported."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from makemore.core.errors import UsageError
from makemore.core.system import allowed_cores, keep_to_cores, prefer_batch_scheduling
from makemore.training.processes import ONE_PROCESS, Processes

RESTARTS = "TORCHELASTIC_RESTART_COUNT"
"""The environment variable in which torchrun counts how often it restarted the processes of this host."""

ATTEMPT, STARTED = "makemore/attempt", "makemore/started"
"""Keys in torchrun's store, which outlives the processes: the attempt's name, and that the run has files."""

_store: Any = None
"""torchrun's store, once the processes are connected."""

_attempt = ""
"""The name of this attempt."""


@dataclass(frozen=True)
class DistributedProcesses(Processes):
    """Several processes, connected by torch.distributed."""

    def all_reduce(self, tensor: Tensor) -> None:
        torch.distributed.all_reduce(tensor)

    def all_gather(self, tensor: Tensor) -> Tensor:
        tensors: Tensor = _AllGather.apply(tensor, self)  # type: ignore[no-untyped-call]
        return tensors

    def broadcast(self, tensor: Tensor, src: int) -> None:
        torch.distributed.broadcast(tensor, src)

    def broadcast_bytes(self, content: bytes, src: int = 0) -> bytes:
        length = torch.tensor([len(content)], device=self._device())
        self.broadcast(length, src)
        whole = torch.empty(int(length), dtype=torch.uint8, device=self._device())
        if self.rank == src and content:
            whole.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        self.broadcast(whole, src)
        return bytes(whole.cpu().numpy())

    def any(self, condition: bool) -> bool:
        return bool(self.all_gather(torch.tensor(float(condition), device=self._device())).any())

    def mark_started(self) -> None:
        if _store is not None and self.is_first:
            _store.set(STARTED, "")

    def has_started(self) -> bool:
        return _store is not None and bool(_store.check([STARTED]))

    def _device(self) -> torch.device:
        if self.backend == "nccl":
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")


class _AllGather(torch.autograd.Function):
    """The tensors of all processes. The losses of all depend on each, so its derivative is a sum."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, processes: Processes) -> Tensor:
        ctx.processes = processes
        tensors = tensor.new_empty(processes.world_size, *tensor.shape)
        torch.distributed.all_gather(list(tensors.unbind()), tensor.detach().contiguous())
        return tensors

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = grads[0].clone(memory_format=torch.contiguous_format)
        ctx.processes.all_reduce(grad)
        return grad[ctx.processes.rank], None


def number_of_processes() -> int:
    """How many processes torchrun has started; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _rendezvous(store: Any, rank: int, world_size: int) -> tuple[str, bool]:
    """Wait for all processes. Returns a name for this attempt, and whether an earlier attempt had started.

    torchrun's store still has what earlier processes wrote, including their addresses, and its counts of
    restarts differ between hosts. So the first process makes up a name, and answers each process that asks
    for it. If there is a new store for each attempt, only torchrun's count shows that it is a restart.
    """
    own_name = uuid.uuid4().hex
    if rank == 0:
        lasting = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        restarted = store.check([STARTED]) if lasting else os.environ.get(RESTARTS, "0") != "0"
        store.set(ATTEMPT, own_name)
        for other in range(1, world_size):
            store.set(f"{own_name}/{store.get(f'{own_name}/{other}').decode()}", "again" * restarted)
        return own_name, restarted
    attempt = ""
    while not attempt or not store.check([f"{attempt}/{own_name}"]):
        attempt = store.get(ATTEMPT).decode()
        store.set(f"{attempt}/{rank}", own_name)
        time.sleep(0.02)
    return attempt, store.get(f"{attempt}/{own_name}") == b"again"


def is_reporter() -> bool:
    """Whether this process prints the error of its host: the first one that asks does."""
    try:
        if _store is not None:
            return bool(_store.add(f"{_attempt}/reporters of host {os.environ.get('GROUP_RANK')}", 1) == 1)
    except RuntimeError:
        pass  # the store has ended with its host
    # torchrun ends the other processes as soon as one has ended: each waits for those before it.
    time.sleep(10 * int(os.environ.get("LOCAL_RANK", "0")))
    return True


def _pin_cores() -> None:
    """Keep gloo's threads from waiting for the scheduler's tick (4 ms) several times a step.

    A thread woken by a message would interrupt another that holds a lock, and spin while it waits for the
    lock; the threads of a batch process let each other finish. It could also wake on a core where another
    process computes; so each process keeps to its share of the cores, if there is a core for each and the
    user has not chosen any.
    """
    prefer_batch_scheduling()
    if "LOCAL_WORLD_SIZE" in os.environ:  # set by torchrun, perhaps not by other launchers
        local = Processes(int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]))
        cores = allowed_cores()
        if local.world_size <= len(cores) == os.cpu_count():
            keep_to_cores(cores[local.split(len(cores))[local.rank]])


@contextmanager
def connected(device: str) -> Iterator[Processes]:
    """The processes of the run within a ``with`` block: connected by NCCL on "cuda", by gloo elsewhere.

    Raises UsageError if this torch was built without torch.distributed, which connects them.
    """
    world_size = number_of_processes()
    if world_size == 1:
        yield ONE_PROCESS
        return
    import torch.distributed

    if not torch.distributed.is_available():
        raise UsageError(
            f"torchrun started {world_size} processes, but this torch was built without torch.distributed:"
            " start the run without torchrun"
        )
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        _pin_cores()
    backend = "nccl" if device == "cuda" else "gloo"
    store, rank, _ = next(torch.distributed.rendezvous("env://"))  # type: ignore[attr-defined]
    global _store, _attempt
    _attempt, restarted = _rendezvous(store, rank, world_size)
    _store = store
    own_store = torch.distributed.PrefixStore(_attempt, store)  # type: ignore[attr-defined]
    torch.distributed.init_process_group(backend, store=own_store, rank=rank, world_size=world_size)
    yield DistributedProcesses(world_size, rank, backend, restarted)
    torch.distributed.barrier()  # none ends before the first one has written everything
    torch.distributed.destroy_process_group()
