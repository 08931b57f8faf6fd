"""Devices by name."""

import re

import torch

from makemore.core.errors import UsageError
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
