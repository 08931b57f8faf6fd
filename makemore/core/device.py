"""Devices by name, and what the processor computes fast."""

import re

import torch

from makemore.core.errors import UsageError
from makemore.core.system import is_intel
from makemore.core.text import plural


def resolve_device(name: str) -> torch.device:
    """The device named "auto", "cpu", "cuda" or "cuda:n". Raises UsageError if torch does not have it.

    An Apple GPU, "mps", is refused: it lacks float64, in which words are sampled and losses are summed.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.split(":")[0] == "mps":
        raise UsageError(f"device {name} is not supported, and networks this small do not need it: use cpu")
    if re.fullmatch(r"cpu|cuda(:\d{1,3})?", name) is None:
        raise UsageError(f"unknown device {name!r}: choose auto, cpu, cuda or cuda:n")
    device, count = torch.device(name), torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UsageError(f"device {name} does not exist: torch finds {plural(count, 'CUDA device')}; use cpu")
    return device


def has_fast_tanh(device: torch.device) -> bool:
    """Whether torch's tanh is faster than its sigmoid and two more passes: on CUDA and by MKL on Intel.

    On other processors MKL takes five times as long for a tanh as torch for a sigmoid.
    """
    if device.type == "cuda":
        return True
    return bool(torch.backends.mkl.is_available()) and is_intel()  # type: ignore[no-untyped-call]
