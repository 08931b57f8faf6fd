"""The processes of a run, as ``torchrun`` starts them (beyond the lecture).

Without torchrun there is one, and torch.distributed is not imported.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

RESTARTS = "TORCHELASTIC_RESTART_COUNT"
"""Where torchrun says how often it has started this host's processes anew, unless others were the reason."""

ATTEMPT, BEGUN = "makemore/attempt", "makemore/begun"
"""Keys of torchrun's store, which outlives the processes: what they call their start; their run has files."""

_store: Any = None
"""torchrun's store, once the processes have met."""

_attempt = ""
"""What they call this start."""


@dataclass(frozen=True)
class Processes:
    """How many processes a run has, which of them this is, and what they tell each other.

    ``restarted`` says whether torchrun has started them in place of others, whose run had begun.
    """

    number: int = 1
    rank: int = 0
    backend: str = ""
    restarted: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints, saves and plots."""
        return self.rank == 0

    def shares(self, things: int) -> list[slice]:
        """Which of some things in a row are which process's: as many for each as can be."""
        ends = [things * rank // self.number for rank in range(self.number + 1)]
        return [slice(start, end) for start, end in pairwise(ends)]

    def gathered(self, tensor: Tensor) -> Tensor:
        """All processes' tensors, the same bits in each: (...) -> (processes, ...). Autograd goes through."""
        tensors: Tensor = _Gathered.apply(tensor, self)  # type: ignore[no-untyped-call]
        return tensors

    def add_up(self, tensor: Tensor) -> None:
        """Put the sum of all processes' tensors, which lie in one piece, in place of each."""
        if self.number > 1:
            torch.distributed.all_reduce(tensor)

    def tell(self, tensor: Tensor, teller: int) -> None:
        """Put one process's tensor, which lies in one piece, in place of all others'."""
        if self.number > 1:
            torch.distributed.broadcast(tensor, teller)

    def any(self, here: bool) -> bool:
        """Whether it is so in any process."""
        if self.number == 1:
            return here
        return bool(self.gathered(torch.tensor(float(here), device=self._device())).any())

    def told(self, content: bytes, teller: int = 0) -> bytes:
        """The bytes that one process has, in all of them."""
        if self.number == 1:
            return content
        length = torch.tensor([len(content)], device=self._device())
        self.tell(length, teller)
        whole = torch.empty(int(length), dtype=torch.uint8, device=self._device())
        if self.rank == teller and content:
            whole.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        self.tell(whole, teller)
        return bytes(whole.cpu().numpy())

    def begin(self) -> None:
        """Let those who may be started in place of these know that the first one has written a file."""
        if _store is not None and self.is_first:
            _store.set(BEGUN, "")

    def _device(self) -> torch.device:
        return (
            torch.device("cuda", torch.cuda.current_device())
            if self.backend == "nccl"
            else torch.device("cpu")
        )


ALONE = Processes()
"""Of a run without torchrun."""


class _Gathered(torch.autograd.Function):
    """The tensors of all processes. All their losses depend on each, so that its derivative is a sum."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, processes: Processes) -> Tensor:
        ctx.processes = processes
        tensors = tensor.new_empty(processes.number, *tensor.shape)
        torch.distributed.all_gather(list(tensors.unbind()), tensor.detach().contiguous())
        return tensors

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = grads[0].clone(memory_format=torch.contiguous_format)
        ctx.processes.add_up(grad)
        return grad[ctx.processes.rank], None


def number_of_processes() -> int:
    """How many torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _met(store: Any, rank: int, number: int) -> tuple[str, bool]:
    """A name for this start of the processes, once all are there, and whether one before it had begun.

    torchrun's store still has what the processes before wrote, their addresses too, and its counts of
    restarts differ between hosts. So the first process thinks of a name, and answers all that call it by it.
    Only if there is a new store for each start, torchrun's count has to do.
    """
    own_name = uuid.uuid4().hex
    if rank == 0:
        lasting = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        restarted = store.check([BEGUN]) if lasting else os.environ.get(RESTARTS, "0") != "0"
        store.set(ATTEMPT, own_name)
        for other in range(1, number):
            store.set(f"{own_name}/{store.get(f'{own_name}/{other}').decode()}", "again" * restarted)
        return own_name, restarted
    attempt = ""
    while not attempt or not store.check([f"{attempt}/{own_name}"]):
        attempt = store.get(ATTEMPT).decode()
        store.set(f"{attempt}/{rank}", own_name)
        time.sleep(0.02)
    return attempt, store.get(f"{attempt}/{own_name}") == b"again"


def speaks() -> bool:
    """Whether this process is the one that tells the user of a host what went wrong: the first to ask."""
    try:
        if _store is not None:
            return bool(_store.add(f"{_attempt}/told on host {os.environ.get('GROUP_RANK')}", 1) == 1)
    except RuntimeError:
        pass  # the store went with its host
    # Torchrun ends the others as soon as one that has spoken has ended: each waits for those before it.
    time.sleep(10 * int(os.environ.get("LOCAL_RANK", "0")))
    return True


def _keep_apart() -> None:
    """On Linux, keep gloo's threads from waiting for the scheduler's tick, 4 ms, several times a step.

    Woken by what has come, one would stop another that holds a lock, and spin for it: those of a batch
    process let each other end. And it would wake on a core where another process computes: each process
    keeps to its share of the cores, if there is one for each and nobody has chosen any.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError):  # where it is not allowed, all goes on more slowly
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        if "LOCAL_WORLD_SIZE" in os.environ:  # torchrun tells, others need not
            local = Processes(int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]))
            cores = sorted(os.sched_getaffinity(0))
            if local.number <= len(cores) == os.cpu_count():
                os.sched_setaffinity(0, cores[local.shares(len(cores))[local.rank]])


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """The processes of the run within a ``with`` block: NCCL on "cuda", gloo elsewhere."""
    number = number_of_processes()
    if number == 1:
        yield ALONE
        return
    import torch.distributed

    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        _keep_apart()
    backend = "nccl" if device == "cuda" else "gloo"
    store, rank, _ = next(torch.distributed.rendezvous("env://"))  # type: ignore[attr-defined]
    global _store, _attempt
    _attempt, restarted = _met(store, rank, number)
    _store = store
    own_store = torch.distributed.PrefixStore(_attempt, store)  # type: ignore[attr-defined]
    torch.distributed.init_process_group(backend, store=own_store, rank=rank, world_size=number)
    yield Processes(number, rank, backend, restarted)
    torch.distributed.barrier()  # none leaves before the first one has written all
    torch.distributed.destroy_process_group()
