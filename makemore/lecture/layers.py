"""The lecture's layers (cell 7).

Departures from the lecture, without effect on its figures:

* The layers share a base class, ``Layer``, with torch's method names: ``state_dict()``, ``train()``,
  ``eval()``, ``to()``. Methods such as ``affine`` and attributes such as ``pointwise`` are declarations that
  other packages rely on, see ``Layer``.
* ``running_mean`` and ``running_var`` keep the shape (dim,). In the lecture ``keepdim`` turns them into
  (1, 1, dim) at the first 3-d batch.
* Shapes that cannot work raise an error that says what to do. The lecture gives nan, broadcasts, or fails
  while unpacking a shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from makemore.core.layer import (
    Layer,
    Window,
    drop_single_position,
    index_outside,
    nested_repr,
    require_indices,
    require_positions,
)


class Linear(Layer):
    """Affine map of the last dimension: (..., fan_in) -> (..., fan_out).

    ``weight``, (fan_in, fan_out), is drawn from a normal distribution of variance 1/fan_in; ``bias``,
    (fan_out,), is zeros, or None. Raises ValueError if the input's last dimension is not fan_in.
    """

    PARAMETERS = ("weight", "bias")

    def __init__(self, fan_in: int, fan_out: int, bias: bool = True) -> None:
        self.weight = torch.randn((fan_in, fan_out)) / fan_in**0.5
        self.bias = torch.zeros(fan_out) if bias else None

    def __call__(self, x: Tensor) -> Tensor:
        fan_in = self.weight.shape[0]
        if x.ndim == 0 or x.shape[-1] != fan_in:
            raise ValueError(f"{self} needs an input (..., {fan_in}), got {tuple(x.shape)}")
        self.out: Tensor = x @ self.weight  # (..., fan_in) -> (..., fan_out)
        if self.bias is not None:
            self.out = self.out + self.bias
        return self.out

    def affine(self) -> tuple[Tensor, Tensor]:
        """x @ scale + shift."""
        return self.weight, torch.zeros_like(self.weight[0]) if self.bias is None else self.bias

    def __repr__(self) -> str:
        fan_in, fan_out = self.weight.shape
        return f"{type(self).__name__}({fan_in}, {fan_out}{', bias=False' if self.bias is None else ''})"


class BatchNorm1d(Layer):
    """Normalize each channel over the batch and, for 3-d inputs, over the positions as well.

    (B, dim) or (B, T, dim) -> the same shape. In training, mean and *unbiased* variance are taken over
    dims (0,) or (0, 1), and the running statistics, (dim,) each, move towards them by ``momentum``.
    In evaluation the running statistics are used. ``torch.nn.BatchNorm1d`` differs twice: it
    normalizes by the biased variance (and stores the unbiased one), and it takes (B, dim, T).

    Raises ValueError on another rank or channel count, and in training on one value per channel, which has
    no variance (the lecture gives nan).
    """

    PARAMETERS = ("gamma", "beta")
    BUFFERS = ("running_mean", "running_var")

    def __init__(self, dim: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        self.eps = eps
        self.momentum = momentum
        self.gamma = torch.ones(dim)
        self.beta = torch.zeros(dim)
        self.running_mean = torch.zeros(dim)
        self.running_var = torch.ones(dim)

    def __call__(self, x: Tensor) -> Tensor:
        self.check_shape(x)
        if self.training:
            dim = 0 if x.ndim == 2 else (0, 1)
            xmean = x.mean(dim)  # (B, T, dim) -> (dim,)
            xvar = x.var(dim)
            with torch.no_grad():
                self.running_mean.mul_(1 - self.momentum).add_(xmean, alpha=self.momentum)
                self.running_var.mul_(1 - self.momentum).add_(xvar, alpha=self.momentum)
        else:
            xmean = self.running_mean
            xvar = self.running_var
        xhat = (x - xmean) / torch.sqrt(xvar + self.eps)
        self.out = self.gamma * xhat + self.beta
        return self.out

    def check_shape(self, x: Tensor) -> None:
        """Raise ValueError on an input that cannot be normalized."""
        dim = len(self.gamma)
        if x.ndim not in (2, 3) or x.shape[-1] != dim:
            raise ValueError(f"{self} needs (B, {dim}) or (B, T, {dim}), got {tuple(x.shape)}")
        if self.training and x.shape[:-1].numel() < 2:
            raise ValueError(
                f"{self} in training needs more than one value per channel, got"
                f" {tuple(x.shape)}: give it a larger batch, or switch to evaluation first"
            )

    def affine(self) -> tuple[Tensor, Tensor]:
        """x * scale + shift, by the running statistics."""
        scale = self.gamma / torch.sqrt(self.running_var + self.eps)
        return scale, self.beta - self.running_mean * scale

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.gamma)})"


class HistoricBatchNorm1d(BatchNorm1d):
    """The lecture's BatchNorm before its bug was found. It shows what the bug costs and nothing else.

    It reduces dim 0 whatever the rank, so that a 3-d batch is normalized at each position separately, by
    statistics of B values instead of B*T. The running statistics are (positions, dim), or (dim,) for a
    2-d input (``positions`` 1).
    """

    def __init__(self, dim: int, positions: int = 1, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(dim, eps, momentum)
        if positions > 1:
            self.running_mean = torch.zeros(positions, dim)
            self.running_var = torch.ones(positions, dim)

    def __call__(self, x: Tensor) -> Tensor:
        self.check_shape(x)
        if self.training:
            xmean = x.mean(0)  # the bug: (B, T, dim) -> (T, dim)
            xvar = x.var(0)
            with torch.no_grad():
                self.running_mean.mul_(1 - self.momentum).add_(xmean, alpha=self.momentum)
                self.running_var.mul_(1 - self.momentum).add_(xvar, alpha=self.momentum)
        else:
            xmean = self.running_mean
            xvar = self.running_var
        xhat = (x - xmean) / torch.sqrt(xvar + self.eps)
        self.out = self.gamma * xhat + self.beta
        return self.out

    def check_shape(self, x: Tensor) -> None:
        """Raise ValueError on an input that cannot be normalized."""
        if x.shape[1:] != self.running_mean.shape:
            needed = ", ".join(["B", *map(str, self.running_mean.shape)])
            raise ValueError(f"{self} needs ({needed}), got {tuple(x.shape)}")
        if self.training and len(x) < 2:
            raise ValueError(
                f"{self} in training needs more than one value per channel and position, got {tuple(x.shape)}"
            )

    def affine(self) -> tuple[Tensor, Tensor]:
        """As in BatchNorm1d. Raises ValueError if the statistics differ from position to position."""
        if self.running_mean.ndim > 1:
            raise ValueError(
                f"{self} has different statistics at each of {len(self.running_mean)} positions:"
                " no convolution is equal to it"
            )
        return super().affine()


class Tanh(Layer):
    """tanh of every element: (...) -> (...)."""

    pointwise = True
    output_range = (-1.0, 1.0)

    def __call__(self, x: Tensor) -> Tensor:
        self.out = torch.tanh(x)
        return self.out


class Embedding(Layer):
    """The row of a table for each index: (...) -> (..., embedding_dim).

    ``weight``, (num_embeddings, embedding_dim), is drawn from a standard normal distribution. Raises
    TypeError unless the indices are a tensor of int32 or int64, and IndexError on an index outside the table,
    negative ones included. On CUDA, where no kernel is waited for, the latter is a device-side assertion.
    """

    PARAMETERS = ("weight",)
    pointwise = True

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        self.weight = torch.randn((num_embeddings, embedding_dim))

    def __call__(self, IX: Tensor) -> Tensor:
        require_indices(self, IX)
        try:
            rows = self.weight.index_select(0, IX.flatten())  # as weight[IX], but refuses negative indices
        except IndexError as error:
            outside = index_outside(IX, len(self.weight))
            raise IndexError(f"{self} has rows 0 to {len(self.weight) - 1}, got index {outside}") from error
        self.out = rows.view(*IX.shape, self.weight.shape[1])  # (B, T) -> (B, T, C)
        return self.out

    def __repr__(self) -> str:
        num_embeddings, embedding_dim = self.weight.shape
        return f"{type(self).__name__}({num_embeddings}, {embedding_dim})"


class FlattenConsecutive(Layer):
    """Concatenate the channels of every n consecutive positions.

    (B, T, C) -> (B, T//n, C*n), or (B, C*n) if T == n. The output is a view of a contiguous input, equal to
    ``torch.cat([x[:, i::n] for i in range(n)], dim=2)``.

    Raises ValueError if the input is not 3-dimensional or n does not divide T.
    """

    def __init__(self, n: int) -> None:
        if n < 1:
            raise ValueError(f"FlattenConsecutive needs n of 1 or more, got {n}")
        self.n = n

    def __call__(self, x: Tensor) -> Tensor:
        require_positions(self, x)
        B, T, C = x.shape
        if T == 0 or T % self.n != 0:
            raise ValueError(f"{self} needs a length divisible by {self.n}, got {T}")
        x = x.reshape(B, T // self.n, C * self.n)  # (B, T, C) -> (B, T//n, C*n), a view if x is contiguous
        self.out = drop_single_position(x)  # (B, 1, C*n) -> (B, C*n)
        return self.out

    def concatenates(self) -> Window:
        """n neighbours, at every n-th position."""
        return Window(self.n, tuple(range(self.n)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.n})"


class Sequential(Layer):
    """Call the layers one after another. Raises TypeError on an element that is not a ``Layer``."""

    composite = True

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = list(layers)
        for layer in self.layers:
            if not isinstance(layer, Layer):
                raise TypeError(f"Sequential needs layers of classes derived from Layer, got {layer!r}")

    def __call__(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        self.out = x
        return self.out

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        for i, layer in enumerate(self.layers):
            yield str(i), layer

    def __repr__(self) -> str:
        return nested_repr(type(self).__name__, self.layers)
