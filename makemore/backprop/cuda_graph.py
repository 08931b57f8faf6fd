"""Steps recorded as CUDA graphs (beyond the lecture): launched as one, where each was some forty kernels."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from makemore.backprop.derivatives import Kernel

Capture = Callable[[Kernel, Sequence[Tensor]], Kernel]
"""Records the kernels of a function, which it does not keep alive, and returns what repeats them.

The given tensors are the same after the recording as before.
"""


def capture_cuda_graph(run: Kernel, tensors: Sequence[Tensor]) -> Kernel:
    """Record the kernels of ``run`` as a CUDA graph; returns its replay. Raises KerneltimeError if it cannot.

    All that they read and write must stay where it is, and alive: the graph has but addresses. ``run`` is
    called a few times first, on a stream of its own as the recording asks for; ``tensors`` are put back to
    what they were before.
    """
    before = [tensor.clone() for tensor in tensors]
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.device(tensors[0].device):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    run()
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph):
                run()  # recorded, not executed
    finally:
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)
    return graph.replay
