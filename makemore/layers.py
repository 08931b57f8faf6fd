"""The lecture's layers as plain classes on torch tensors (lecture cell 7).

Every layer has ``__call__``, ``parameters()`` and ``out``, its last output. Batches come first and
channels last: (B, C) or (B, T, C), for batch size B, sequence length T and channel count C.

Departures from the lecture, each without effect on its figures:

* The layers share a small base, ``Layer``, with torch's names for torch's things: ``state_dict()``,
  ``train()``, ``eval()``, ``to()``. There each declares what a convolution or a picture must know of it.
* ``running_mean`` and ``running_var`` keep the shape (dim,); in the lecture ``keepdim`` turns them
  into (1, 1, dim) at the first 3-d batch.
* Shapes that cannot work raise an error that says what to do; the lecture gives nan, broadcasts, or
  fails while unpacking a shape.
* Initial values are drawn from a ``torch.Generator`` if one is handed in, else from torch's own.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import torch
from torch import Generator, Tensor


class Layer:
    """What the layers share: their tensors by name, their mode, copies. Named as in ``torch.nn.Module``.

    A layer lists the attributes that are trained in ``PARAMETERS`` (one that is None is not there), and those
    that are kept with them in ``BUFFERS``; a layer made of others names these in ``named_children``.

    What other rooms must know of a layer, its class declares, see ``declared``:

    * ``positions_fused(layer)``: how many consecutive positions become one;
    * ``acts_per_position = True``: an output depends on its own position alone, in no affine way;
    * ``affine(layer)``: in evaluation the layer is x * scale + shift, or x @ scale + shift for a 2-d scale;
    * ``bounds = (low, high)``: its outputs lie between, and next to a bound its gradient is next to none.
    """

    PARAMETERS: ClassVar[tuple[str, ...]] = ()
    BUFFERS: ClassVar[tuple[str, ...]] = ()
    training = True
    out: Tensor

    def __call__(self, x: Tensor, /) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no __call__")

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        """The layers this one is made of, by name."""
        return iter(())

    def modules(self) -> Iterator[Layer]:
        """This layer and all those within it, from the outside in."""
        yield self
        for _, child in self.named_children():
            yield from child.modules()

    def parameters(self) -> list[Tensor]:
        """The trained tensors, in the order of the layers."""
        return [p for _, p in self.named_parameters()]

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """The trained tensors with their names, "1.weight" for one of a Sequential's second layer."""
        for name, tensor, trained in self._tensors():
            if trained:
                yield name, tensor

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors that are kept with the trained ones, with their names."""
        for name, tensor, trained in self._tensors():
            if not trained:
                yield name, tensor

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors by name, parameters and running statistics alike: detached, in the same memory."""
        return {name: tensor.detach() for name, tensor, _ in self._tensors()}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Copy values in by name. Raises ValueError unless names and shapes are just the layer's."""
        own = self.state_dict()
        require_like(state_dict, own)
        for name, tensor in own.items():
            tensor.copy_(state_dict[name])

    def _tensors(self) -> Iterator[tuple[str, Tensor, bool]]:
        """Name, tensor, and whether it is trained."""
        for name in (*self.PARAMETERS, *self.BUFFERS):
            if (tensor := getattr(self, name)) is not None:
                yield name, tensor, name in self.PARAMETERS
        for prefix, child in self.named_children():
            for name, tensor, trained in child._tensors():
                yield f"{prefix}.{name}", tensor, trained

    def train(self, mode: bool = True) -> Self:
        """Switch this layer and all within it to training, or to evaluation with ``mode=False``."""
        for layer in self.modules():
            layer.training = mode
        return self

    def eval(self) -> Self:
        """Switch this layer and all within it to evaluation."""
        return self.train(False)

    @contextmanager
    def evaluating(self) -> Iterator[Self]:
        """Evaluation without gradients for a ``with`` block; each layer's mode before it comes back."""
        before = [(layer, layer.training) for layer in self.modules()]
        try:
            with torch.no_grad():
                yield self.eval()
        finally:
            for layer, training in before:
                layer.training = training

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move every tensor and gradient, in place, to a device or a floating dtype or both."""
        for _, tensor, _ in self._tensors():
            grad, tensor.grad = tensor.grad, None
            tensor.data = tensor.data.to(device=device, dtype=dtype)
            if grad is not None:
                tensor.grad = grad.to(device=device, dtype=dtype)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: not the last output, which may hang on a graph, nor ``total``."""
        return {name: value for name, value in vars(self).items() if name not in ("out", "total")}

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def declared(layer: Layer, name: str) -> Any:
    """What the layer's own class declares under that name, or None.

    A subclass inherits no declaration, since it may compute something else.
    """
    return vars(type(layer)).get(name)


class Linear(Layer):
    """Affine map of the last dimension: (..., fan_in) -> (..., fan_out).

    ``weight``, (fan_in, fan_out), starts as normal values of variance 1/fan_in; ``bias``, (fan_out,),
    as zeros, or is None. Raises ValueError on an input whose last dimension is not fan_in.
    """

    PARAMETERS = ("weight", "bias")

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

    def affine(self) -> tuple[Tensor, Tensor]:
        """x @ scale + shift."""
        return self.weight, torch.zeros_like(self.weight[0]) if self.bias is None else self.bias

    def __repr__(self) -> str:
        fan_in, fan_out = self.weight.shape
        return f"Linear({fan_in}, {fan_out}{', bias=False' if self.bias is None else ''})"


class BatchNorm1d(Layer):
    """Normalises each channel over the batch and, for 3-d inputs, over the positions as well.

    (B, dim) or (B, T, dim) -> the same shape. In training, mean and *unbiased* variance are taken over
    dims (0,) or (0, 1), and the running statistics, (dim,) each, move towards them by ``momentum``;
    in evaluation the running statistics are used. ``torch.nn.BatchNorm1d`` differs twice: it
    normalises by the biased variance (and stores the unbiased one), and it takes (B, dim, T).

    ``total`` is None, or adds up a tensor over processes that have a part of the batch each. Raises
    ValueError on another rank or channel count, and in training on one value per channel, which has no
    variance (the lecture gives nan).
    """

    PARAMETERS = ("gamma", "beta")
    BUFFERS = ("running_mean", "running_var")
    total: Callable[[Tensor], Tensor] | None = None

    def __init__(self, dim: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        self.eps = eps
        self.momentum = momentum
        self.gamma = torch.ones(dim)
        self.beta = torch.zeros(dim)
        self.running_mean = torch.zeros(dim)
        self.running_var = torch.ones(dim)

    def reduced_dims(self, x: Tensor) -> tuple[int, ...]:
        """The dims of an input (B, dim) or (B, T, dim) that the statistics are taken over."""
        return (0,) if x.ndim == 2 else (0, 1)

    def batch_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and unbiased variance of a batch, or of all processes' parts of it."""
        dims = self.reduced_dims(x)
        values = x.shape[: len(dims)].numel()
        if self.total is not None:
            N = self.total(x.new_tensor(float(values)))
            xmean = self.total(x.sum(dims)) / N
            return xmean, self.total(((x - xmean) ** 2).sum(dims)) / (N - 1)
        if values < 2:
            raise ValueError(
                f"{self} in training needs more than one value per channel, got"
                f" {tuple(x.shape)}: give it a larger batch, or switch to evaluation first"
            )
        return x.mean(dims), x.var(dims)

    def __call__(self, x: Tensor) -> Tensor:
        dim = len(self.gamma)
        if x.ndim not in (2, 3) or x.shape[-1] != dim:
            raise ValueError(f"{self} needs (B, {dim}) or (B, T, {dim}), got {tuple(x.shape)}")
        if self.training:
            xmean, xvar = self.batch_statistics(x)  # (B, T, dim) -> (dim,)
            with torch.no_grad():
                self.running_mean.mul_(1 - self.momentum).add_(xmean, alpha=self.momentum)
                self.running_var.mul_(1 - self.momentum).add_(xvar, alpha=self.momentum)
        else:
            xmean, xvar = self.running_mean, self.running_var
        xhat = (x - xmean) / torch.sqrt(xvar + self.eps)
        self.out = self.gamma * xhat + self.beta
        return self.out

    def affine(self) -> tuple[Tensor, Tensor]:
        """x * scale + shift, by the running statistics."""
        scale = self.gamma / torch.sqrt(self.running_var + self.eps)
        return scale, self.beta - self.running_mean * scale

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

    def affine(self) -> tuple[Tensor, Tensor]:
        """As BatchNorm1d. Raises ValueError if the statistics differ from position to position."""
        if self.running_mean.ndim > 1:
            raise ValueError(
                f"{self} has other statistics at each of {len(self.running_mean)} positions:"
                " no convolution is equal to it"
            )
        return super().affine()


class Tanh(Layer):
    """tanh of every element: (...) -> (...)."""

    acts_per_position = True
    bounds = (-1.0, 1.0)

    def __call__(self, x: Tensor) -> Tensor:
        self.out = torch.tanh(x)
        return self.out


class Embedding(Layer):
    """A row of the table for each index: (...) -> (..., embedding_dim).

    ``weight``, (num_embeddings, embedding_dim), starts as standard normal values. Raises TypeError on
    anything but int32 or int64, and IndexError on an index outside the table, negative ones included; on
    CUDA, where nothing waits for the indices, that is a device-side assertion.
    """

    PARAMETERS = ("weight",)

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, generator: Generator | None = None
    ) -> None:
        self.weight = torch.randn((num_embeddings, embedding_dim), generator=generator)

    def __call__(self, IX: Tensor) -> Tensor:
        if IX.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"{self} needs int64 indices, got {IX.dtype}")
        try:
            rows = self.weight.index_select(0, IX.flatten())  # as weight[IX], but no index counts backwards
        except IndexError as error:
            outside = index_outside(IX, len(self.weight))
            raise IndexError(f"{self} has rows 0 to {len(self.weight) - 1}, got index {outside}") from error
        self.out = rows.view(*IX.shape, self.weight.shape[1])  # (B, T) -> (B, T, C)
        return self.out

    def __repr__(self) -> str:
        return "Embedding({}, {})".format(*self.weight.shape)


class FlattenConsecutive(Layer):
    """Concatenates the channels of every n consecutive positions, as a view.

    (B, T, C) -> (B, T//n, C*n), and (B, C*n) where T equals n: a dimension of length 1 is dropped.
    The same as ``torch.cat([x[:, 0::n], x[:, 1::n], ...], dim=2)``. Raises ValueError on a T that n
    does not divide, and on a 2-d input: one FlattenConsecutive too many.
    """

    def __init__(self, n: int) -> None:
        if n < 1:
            raise ValueError(f"FlattenConsecutive needs n of 1 or more, got {n}")
        self.n = n

    def positions_fused(self) -> int:
        """How many consecutive positions become one."""
        return self.n

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

    def __repr__(self) -> str:
        return f"FlattenConsecutive({self.n})"


class Sequential(Layer):
    """The layers one after another; itself a layer."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = list(layers)

    def __call__(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        self.out = x
        return self.out

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        for i, layer in enumerate(self.layers):
            yield str(i), layer

    def flattened(self) -> list[Layer]:
        """The layers, with those of a Sequential among them in its place.

        One of a subclass stays whole: it may do something else with its layers.
        """
        nested = [layer.flattened() if type(layer) is Sequential else [layer] for layer in self.layers]
        return [layer for group in nested for layer in group]

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
