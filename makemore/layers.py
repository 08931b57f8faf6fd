"""The lecture's layers as plain classes on torch tensors (lecture cell 7).

Every layer has ``__call__``, ``parameters()`` and ``out``, its last output. Batches come first and
channels last: (B, C) or (B, T, C), for batch size B, sequence length T and channel count C.

Departures from the lecture, each without effect on its figures:

* ``running_mean`` and ``running_var`` keep the shape (dim,); in the lecture ``keepdim`` turns them
  into (1, 1, dim) at the first 3-d batch.
* Shapes that cannot work raise an error that says what to do; the lecture gives nan, broadcasts, or
  fails while unpacking a shape.
* ``named_tensors()`` lists what a saved network consists of; ``Sequential`` switches between
  training and evaluation as a whole and moves to a device or dtype.
* Initial values are drawn from a ``torch.Generator`` if one is handed in, else from torch's own.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Generator, Tensor


class Layer(Protocol):
    """What ``Sequential`` composes: anything callable on a tensor that lists its tensors."""

    out: Tensor

    def __call__(self, x: Tensor, /) -> Tensor: ...
    def parameters(self) -> list[Tensor]: ...
    def named_tensors(self) -> dict[str, Tensor]: ...


class Linear:
    """Affine map of the last dimension: (..., fan_in) -> (..., fan_out).

    ``weight``, (fan_in, fan_out), starts as normal values of variance 1/fan_in; ``bias``, (fan_out,),
    as zeros, or is None. Raises ValueError on an input whose last dimension is not fan_in.
    """

    def __init__(
        self, fan_in: int, fan_out: int, bias: bool = True, *, generator: Generator | None = None
    ) -> None:
        self.weight = torch.randn((fan_in, fan_out), generator=generator) / fan_in**0.5
        self.bias = torch.zeros(fan_out) if bias else None

    def __call__(self, x: Tensor) -> Tensor:
        fan_in = self.weight.shape[0]
        if x.ndim == 0 or x.shape[-1] != fan_in:
            raise ValueError(f"{self} needs an input (..., {fan_in}), got {tuple(x.shape)}")
        self.out: Tensor = x @ self.weight  # (..., fan_in) -> (..., fan_out)
        if self.bias is not None:
            self.out = self.out + self.bias
        return self.out

    def parameters(self) -> list[Tensor]:
        return list(self.named_tensors().values())

    def named_tensors(self) -> dict[str, Tensor]:
        return {"weight": self.weight} | ({} if self.bias is None else {"bias": self.bias})

    def __repr__(self) -> str:
        fan_in, fan_out = self.weight.shape
        return f"Linear({fan_in}, {fan_out}{', bias=False' if self.bias is None else ''})"


class BatchNorm1d:
    """Normalises each channel over the batch and, for 3-d inputs, over the positions as well.

    (B, dim) or (B, T, dim) -> the same shape. In training, mean and *unbiased* variance are taken over
    dims (0,) or (0, 1), and the running statistics, (dim,) each, move towards them by ``momentum``;
    in evaluation the running statistics are used. ``torch.nn.BatchNorm1d`` differs twice: it
    normalises by the biased variance (and stores the unbiased one), and it takes (B, dim, T).

    Raises ValueError on another rank or channel count, and in training on one value per channel, which
    has no variance (the lecture gives nan).
    """

    def __init__(self, dim: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        self.eps = eps
        self.momentum = momentum
        self.training = True
        self.gamma = torch.ones(dim)
        self.beta = torch.zeros(dim)
        self.running_mean = torch.zeros(dim)
        self.running_var = torch.ones(dim)

    def reduced_dims(self, x: Tensor) -> tuple[int, ...]:
        """The dims of an input (B, dim) or (B, T, dim) that the statistics are taken over."""
        return (0,) if x.ndim == 2 else (0, 1)

    def __call__(self, x: Tensor) -> Tensor:
        dim = len(self.gamma)
        if x.ndim not in (2, 3) or x.shape[-1] != dim:
            raise ValueError(f"{self} needs (B, {dim}) or (B, T, {dim}), got {tuple(x.shape)}")
        if self.training:
            dims = self.reduced_dims(x)
            if x.shape[: len(dims)].numel() < 2:
                raise ValueError(
                    f"{self} in training needs more than one value per channel, got"
                    f" {tuple(x.shape)}: give it a larger batch, or switch to evaluation first"
                )
            xmean = x.mean(dims)  # (B, T, dim) -> (dim,)
            xvar = x.var(dims)
            with torch.no_grad():
                self.running_mean.mul_(1 - self.momentum).add_(xmean, alpha=self.momentum)
                self.running_var.mul_(1 - self.momentum).add_(xvar, alpha=self.momentum)
        else:
            xmean, xvar = self.running_mean, self.running_var
        xhat = (x - xmean) / torch.sqrt(xvar + self.eps)
        self.out = self.gamma * xhat + self.beta
        return self.out

    def parameters(self) -> list[Tensor]:
        return [self.gamma, self.beta]

    def named_tensors(self) -> dict[str, Tensor]:
        return {
            "gamma": self.gamma,
            "beta": self.beta,
            "running_mean": self.running_mean,
            "running_var": self.running_var,
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.gamma)})"


class HistoricBatchNorm1d(BatchNorm1d):
    """The lecture's BatchNorm before its bug was found. For showing what the bug costs, nothing else.

    It reduces dim 0 whatever the rank, so that a 3-d batch is normalised at each position apart, by
    statistics of B values instead of B*T. The running statistics are (positions, dim), or (dim,) for a
    2-d input (``positions`` 1).
    """

    def __init__(self, dim: int, positions: int = 1, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(dim, eps, momentum)
        if positions > 1:
            self.running_mean = torch.zeros(positions, dim)
            self.running_var = torch.ones(positions, dim)

    def reduced_dims(self, x: Tensor) -> tuple[int, ...]:
        return (0,)

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[1:] != self.running_mean.shape:
            needed = ", ".join(["B", *map(str, self.running_mean.shape)])
            raise ValueError(f"{self} needs ({needed}), got {tuple(x.shape)}")
        return super().__call__(x)


class Tanh:
    """tanh of every element: (...) -> (...)."""

    def __call__(self, x: Tensor) -> Tensor:
        self.out = torch.tanh(x)
        return self.out

    def parameters(self) -> list[Tensor]:
        return []

    def named_tensors(self) -> dict[str, Tensor]:
        return {}

    def __repr__(self) -> str:
        return "Tanh()"


class Embedding:
    """A row of the table for each index: (...) -> (..., embedding_dim).

    ``weight``, (num_embeddings, embedding_dim), starts as standard normal values. Raises IndexError on
    an index outside the table, negative ones included, and TypeError on anything but int32 or int64.
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, generator: Generator | None = None
    ) -> None:
        self.weight = torch.randn((num_embeddings, embedding_dim), generator=generator)

    def __call__(self, IX: Tensor) -> Tensor:
        self.check(IX)
        self.out = self.weight[IX]  # (B, T) -> (B, T, C)
        return self.out

    def check(self, IX: Tensor) -> None:
        """Raise what a call with these indices would."""
        if IX.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"{self} needs int64 indices, got {IX.dtype}")
        outside = index_outside(IX, len(self.weight))
        if outside is not None:
            raise IndexError(f"{self} has rows 0 to {len(self.weight) - 1}, got index {outside}")

    def parameters(self) -> list[Tensor]:
        return [self.weight]

    def named_tensors(self) -> dict[str, Tensor]:
        return {"weight": self.weight}

    def __repr__(self) -> str:
        return "Embedding({}, {})".format(*self.weight.shape)


class FlattenConsecutive:
    """Concatenates the channels of every n consecutive positions, as a view.

    (B, T, C) -> (B, T//n, C*n), and (B, C*n) where T equals n: a dimension of length 1 is dropped.
    The same as ``torch.cat([x[:, 0::n], x[:, 1::n], ...], dim=2)``. Raises ValueError on a T that n
    does not divide, and on a 2-d input: one FlattenConsecutive too many.
    """

    def __init__(self, n: int) -> None:
        if n < 1:
            raise ValueError(f"FlattenConsecutive needs n of 1 or more, got {n}")
        self.n = n

    def __call__(self, x: Tensor) -> Tensor:
        if x.ndim != 3:
            raise ValueError(
                f"{self} needs (B, T, C), got {tuple(x.shape)}"
                + (": the positions are already fused into one" if x.ndim == 2 else "")
            )
        B, T, C = x.shape
        if T == 0 or T % self.n != 0:
            raise ValueError(f"{self} needs a length divisible by {self.n}, got {T}")
        x = x.view(B, T // self.n, C * self.n)  # (B, T, C) -> (B, T//n, C*n)
        self.out = x.squeeze(1)
        return self.out

    def parameters(self) -> list[Tensor]:
        return []

    def named_tensors(self) -> dict[str, Tensor]:
        return {}

    def __repr__(self) -> str:
        return f"FlattenConsecutive({self.n})"


class Sequential:
    """The layers one after another; itself a layer.

    Beyond the lecture: ``train()`` and ``eval()`` switch every layer, ``to()`` moves every tensor, and
    ``named_tensors()`` names them by position, "1.weight", parameters and running statistics alike.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = list(layers)

    def __call__(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        self.out = x
        return self.out

    def flattened(self) -> list[Layer]:
        """The layers, with those of a Sequential among them in its place.

        One of a subclass stays whole: it may do something else with its layers.
        """
        nested = [layer.flattened() if type(layer) is Sequential else [layer] for layer in self.layers]
        return [layer for group in nested for layer in group]

    def parameters(self) -> list[Tensor]:
        return [p for layer in self.layers for p in layer.parameters()]

    def named_tensors(self) -> dict[str, Tensor]:
        return {
            f"{i}.{name}": tensor
            for i, layer in enumerate(self.layers)
            for name, tensor in layer.named_tensors().items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy values in by name. Raises ValueError unless names and shapes are just the network's."""
        own = self.named_tensors()
        require_like(tensors, own)
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors[name])

    def train(self, mode: bool = True) -> Sequential:
        """Switch every layer to training, or to evaluation with ``mode=False``."""
        for layer in self.layers:
            if isinstance(layer, BatchNorm1d):
                layer.training = mode
            elif isinstance(layer, Sequential):
                layer.train(mode)
        return self

    def eval(self) -> Sequential:
        """Switch every layer to evaluation."""
        return self.train(False)

    @property
    def training(self) -> bool:
        """Whether any layer would take statistics from its batch."""
        return any(layer.training for layer in self.layers if isinstance(layer, BatchNorm1d | Sequential))

    @contextmanager
    def evaluating(self) -> Iterator[Sequential]:
        """Evaluation without gradients for a ``with`` block; the mode before it comes back."""
        training = self.training
        try:
            with torch.no_grad():
                yield self.eval()
        finally:
            self.train(training)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Sequential:
        """Move every tensor, in place, to a device or a floating dtype or both."""
        for tensor in self.named_tensors().values():
            tensor.data = tensor.data.to(device=device, dtype=dtype)
        return self

    def __repr__(self) -> str:
        rows = "".join(f"{layer},\n" for layer in self.layers)
        return "Sequential([\n" + textwrap.indent(rows, "    ") + "])"


def index_outside(IX: Tensor, size: int) -> int | None:
    """The lowest index if that is negative, else the highest if it is not below ``size``, else None."""
    if IX.numel() == 0:
        return None
    low, high = (int(bound) for bound in IX.aminmax())
    return low if low < 0 else high if high >= size else None


def require_like(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless names and shapes are the same."""
    if tensors.keys() != own.keys():
        raise ValueError(f"tensors differ by name: {sorted(tensors.keys() ^ own.keys())}")
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, got {tuple(tensors[name].shape)}")
