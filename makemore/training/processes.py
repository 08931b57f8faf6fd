"""The processes of a run, as a trainer sees them. Here there is one; see ``parallel/`` for several."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """The processes that share a run: how many, which of them this is, and how they communicate.

    Methods are named as in ``torch.distributed``. With one process there is nothing to communicate.
    ``restarted`` says that torchrun has started the processes again after a failure.
    """

    world_size: int = 1
    rank: int = 0
    backend: str = ""
    restarted: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints, saves and plots."""
        return self.rank == 0

    def split(self, length: int) -> list[slice]:
        """Which part of ``length`` items each process takes; the parts differ by one item at most."""
        ends = [length * rank // self.world_size for rank in range(self.world_size + 1)]
        return [slice(start, end) for start, end in pairwise(ends)]

    def all_reduce(self, tensor: Tensor) -> None:
        """Replace a contiguous tensor by the sum of all processes' tensors."""

    def all_gather(self, tensor: Tensor) -> Tensor:
        """All processes' tensors, the same bits in each: (...) -> (world_size, ...). Differentiable."""
        return tensor.unsqueeze(0)

    def broadcast(self, tensor: Tensor, src: int) -> None:
        """Replace a contiguous tensor by that of the process ``src``."""

    def broadcast_bytes(self, content: bytes, src: int = 0) -> bytes:
        """The bytes that the process ``src`` has."""
        return content

    def any(self, condition: bool) -> bool:
        """Whether the condition holds in any process."""
        return condition

    def mark_started(self) -> None:
        """Record that the run has written its first file, for processes that torchrun may start later."""

    def has_started(self) -> bool:
        """Whether earlier processes of the run have written a file, if torchrun's store tells."""
        return False


ONE_PROCESS = Processes()
