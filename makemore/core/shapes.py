"""Networks built for their shapes alone, without memory for their values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from makemore.core.layer import Layer


@contextmanager
def shapes_only() -> Iterator[None]:
    """Layers created within the ``with`` block have tensors with shapes, but without values or memory."""
    with torch.device("meta"), _WithoutValues():
        yield


def num_values(build: Callable[[], Layer]) -> int:
    """The number of values in all tensors of the network that ``build`` creates, without memory for them."""
    with shapes_only():
        return sum(tensor.numel() for tensor in build().state_dict().values())


class _WithoutValues(TorchFunctionMode):
    """Replaces what layers initialize their tensors with.

    On the meta device torch would import its compiler for random numbers and for divisions, which takes
    seconds.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.randn:
            return torch.empty(*args, **{name: kwargs[name] for name in kwargs if name != "generator"})
        same = func is Tensor.div and args[0].is_floating_point() and not isinstance(args[1], Tensor)
        return args[0] if same else func(*args, **kwargs)
