"""The lecture's layers as plain classes on torch tensors (lecture cell 7), and those of its paper.

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

Beyond the lecture, from the paper that it is after (van den Oord et al. 2016, arXiv:1609.03499):
``GatedActivation``, ``ReLU``, ``FlattenDilated``, ``Newest``, ``ResidualBlock`` and ``SkipConnections``; and
``RMSNorm``, which the paper has not. A 1x1 convolution is a ``Linear``.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Generator, Tensor


class Layer:
    """What the layers share: their tensors by name, their mode, copies. Named as in ``torch.nn.Module``.

    A layer lists the attributes that are trained in ``PARAMETERS`` (one that is None is not there), and those
    that are kept with them in ``BUFFERS``; a layer made of others names these in ``named_children``.

    What other rooms must know of a layer, its class declares, see ``declared``:

    * ``looks_at(layer)``: which positions become one, see ``Looks``;
    * ``acts_per_position = True``: an output depends on its own position alone, in no affine way;
    * ``affine(layer)``: in evaluation the layer is x * scale + shift, or x @ scale + shift for a 2-d scale;
    * ``bounds = (low, high)``: its outputs lie between, and next to a bound its gradient is next to none;
    * ``made_of_layers = True``: all that ``__call__`` does is to call layers that are attributes, or in a
      list that is one, and to add up what they give; so whoever knows these knows it, see ``wiring.py``.
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
        """The trained tensors with their names, "1.weight" for one of a Sequential's second layer.

        One that stands at several places is there once, by its first name.
        """
        once: dict[Tensor, str] = {}  # a tensor is a key as the object that it is
        for name, tensor, trained in self._tensors():
            if trained:
                once.setdefault(tensor, name)
        return ((name, tensor) for tensor, name in once.items())

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors that are kept with the trained ones, with their names."""
        return ((name, tensor) for name, tensor, trained in self._tensors() if not trained)

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

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move every tensor and gradient, in place, to a device, a floating dtype or both: see torch's."""
        for _, tensor, _ in self._tensors():
            grad, tensor.grad = tensor.grad, None
            moved = tensor.data.to(*args, **kwargs)
            tensor.data = moved if tensor.is_floating_point() else tensor.data.to(moved.device)
            if grad is not None:
                tensor.grad = grad.to(*args, **kwargs)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: not the last output, which may hang on a graph, nor ``gathered``."""
        return {name: value for name, value in vars(self).items() if name not in ("out", "gathered")}

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def declared(layer: Layer, name: str) -> Any:
    """What the layer's own class declares under that name, or None.

    A subclass inherits no declaration, since it may compute something else.
    """
    return vars(type(layer)).get(name)


class Looks(NamedTuple):
    """Which positions become one: output p is made of the inputs at stride * p + offset for each offset.

    The oldest comes first, side by side along the channels.
    """

    stride: int
    offsets: tuple[int, ...]

    def needed(self, positions: int) -> int:
        """How many input positions give that many output positions.

        >>> Looks(2, (0, 1)).needed(4), Looks(1, (0, 4)).needed(4)
        (8, 8)
        """
        return self.stride * (positions - 1) + self.offsets[-1] + 1


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

    ``gathered`` is None, or gives the tensors, (P, ...), of P processes that have a part of the batch each.
    Raises ValueError on another rank or channel count, and in training on one value per channel, which has
    no variance (the lecture gives nan).
    """

    PARAMETERS = ("gamma", "beta")
    BUFFERS = ("running_mean", "running_var")
    gathered: Callable[[Tensor], Tensor] | None = None

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
        if self.gathered is not None:
            xmean = x.mean(dims)
            return pooled(values, xmean, ((x - xmean) ** 2).sum(dims), self.gathered)[1:]
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


def pooled(
    values: float, mean: Tensor, squares: Tensor, gathered: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Number, mean and unbiased variance of the values that several processes have.

    Each process tells of its own how many there are, their mean, and the sum of their squared distances from
    it (Chan, Golub and LeVeque 1979).
    """
    own = torch.stack([torch.full_like(mean, values), mean, squares])
    counts, means, own_squares = gathered(own).unbind(1)  # (P, 3, ...) -> (P, ...)
    N = counts.sum(0)
    total_mean = (counts * means).sum(0) / N
    total_squares = own_squares.sum(0) + (counts * (means - total_mean) ** 2).sum(0)
    return N, total_mean, total_squares / (N - 1)


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


class ReLU(Layer):
    """The larger of every element and 0: (...) -> (...)."""

    acts_per_position = True
    bounds = (0.0, math.inf)

    def __call__(self, x: Tensor) -> Tensor:
        self.out = torch.relu(x)
        return self.out


class GatedActivation(Layer):
    """The paper's gated activation unit, tanh of the one half of the channels times sigmoid of the other.

    (..., 2*C) -> (..., C). Behind a Linear with 2*C outputs, W_f and W_g side by side, it is
    tanh(W_f x) * sigmoid(W_g x) (paper eq. 2). Raises ValueError on an odd number of channels.
    """

    acts_per_position = True
    bounds = (-1.0, 1.0)

    def __call__(self, x: Tensor) -> Tensor:
        if x.ndim == 0 or x.shape[-1] % 2 != 0:
            raise ValueError(f"{self} needs an even number of channels, got {tuple(x.shape)}")
        f, g = x.chunk(2, dim=-1)  # (..., 2*C) -> (..., C) twice
        self.out = torch.tanh(f) * torch.sigmoid(g)
        return self.out


class RMSNorm(Layer):
    """Divides the channels of each position by their root mean square (Zhang and Sennrich 2019).

    (..., dim) -> (..., dim): gamma * x / sqrt(mean(x**2) + eps), with ``gamma``, (dim,), ones at first. It
    knows no batch: in training and in evaluation it does the same. Raises ValueError on another channel
    count.
    """

    PARAMETERS = ("gamma",)
    acts_per_position = True

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        self.eps = eps
        self.gamma = torch.ones(dim)

    def __call__(self, x: Tensor) -> Tensor:
        if x.ndim == 0 or x.shape[-1] != len(self.gamma):
            raise ValueError(f"{self} needs (..., {len(self.gamma)}), got {tuple(x.shape)}")
        mean_square = (x**2).mean(dim=-1, keepdim=True)  # (..., dim) -> (..., 1)
        self.out = self.gamma * (x / torch.sqrt(mean_square + self.eps))
        return self.out

    def __repr__(self) -> str:
        return f"RMSNorm({len(self.gamma)})"


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

    def looks_at(self) -> Looks:
        """Every n-th window of n neighbours."""
        return Looks(self.n, tuple(range(self.n)))

    def __call__(self, x: Tensor) -> Tensor:
        require_positions(self, x)
        B, T, C = x.shape
        if T == 0 or T % self.n != 0:
            raise ValueError(f"{self} needs a length divisible by {self.n}, got {T}")
        x = x.view(B, T // self.n, C * self.n)  # (B, T, C) -> (B, T//n, C*n)
        self.out = x.squeeze(1)
        return self.out

    def __repr__(self) -> str:
        return f"FlattenConsecutive({self.n})"


class FlattenDilated(Layer):
    """Concatenates the channels of n positions that lie ``dilation`` apart, for every position that has them.

    (B, T, C) -> (B, T - (n-1)*dilation, C*n), and (B, C*n) where one position is left; n = 2 with dilation 4
    is ``torch.cat([x[:, :-4], x[:, 4:]], dim=2)``. With a Linear behind it this is the paper's dilated causal
    convolution (section 2.1). Raises ValueError on an input with too few positions.
    """

    def __init__(self, n: int, dilation: int) -> None:
        if n < 1 or dilation < 1:
            raise ValueError(f"FlattenDilated needs n and dilation of 1 or more, got {n} and {dilation}")
        self.n = n
        self.dilation = dilation

    def looks_at(self) -> Looks:
        """At every position n that lie ``dilation`` apart, itself the newest."""
        return Looks(1, tuple(j * self.dilation for j in range(self.n)))

    def __call__(self, x: Tensor) -> Tensor:
        require_positions(self, x)
        T = x.shape[1] - (self.n - 1) * self.dilation
        if T < 1:
            needed = (self.n - 1) * self.dilation + 1
            raise ValueError(f"{self} needs a length of {needed} or more, got {x.shape[1]}")
        parts = [x[:, j * self.dilation :][:, :T] for j in range(self.n)]
        self.out = torch.cat(parts, dim=2).squeeze(1)  # (B, T, C) -> (B, T - (n-1)*dilation, C*n)
        return self.out

    def __repr__(self) -> str:
        return f"FlattenDilated({self.n}, {self.dilation})"


class Newest(Layer):
    """The newest of every n positions, as a view; the first ``skipped`` positions are left out before.

    (B, T, C) -> (B, (T-skipped)//n, C), and (B, C) where one position is left. The positions that a
    ``FlattenConsecutive(n)`` makes one have their newest in ``Newest(n)``; those of a
    ``FlattenDilated(n, dilation)`` in ``Newest(1, skipped=(n-1)*dilation)``. Raises ValueError on a length
    that does not fit.
    """

    def __init__(self, n: int, skipped: int = 0) -> None:
        if n < 1 or skipped < 0:
            raise ValueError(f"Newest needs n of 1 or more, skipped of 0 or more, got {n} and {skipped}")
        self.n = n
        self.skipped = skipped

    def looks_at(self) -> Looks:
        """At every n-th position."""
        return Looks(self.n, (self.skipped + self.n - 1,))

    def __call__(self, x: Tensor) -> Tensor:
        require_positions(self, x)
        T = x.shape[1] - self.skipped
        if T < 1 or T % self.n != 0:
            behind = f" behind the first {self.skipped}" if self.skipped else ""
            raise ValueError(f"{self} needs a length divisible by {self.n}{behind}, got {x.shape[1]}")
        self.out = x[:, self.skipped + self.n - 1 :: self.n].squeeze(1)  # (B, T, C) -> (B, T//n, C)
        return self.out

    def __repr__(self) -> str:
        return f"Newest({self.n}{f', skipped={self.skipped}' if self.skipped else ''})"


class Sequential(Layer):
    """The layers one after another; itself a layer. Raises TypeError on what is no ``Layer``."""

    made_of_layers = True

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

    def flattened(self) -> list[Layer]:
        """The layers, with those of a Sequential among them in its place.

        One of a subclass stays whole: it may do something else with its layers.
        """
        nested = [layer.flattened() if type(layer) is Sequential else [layer] for layer in self.layers]
        return [layer for group in nested for layer in group]

    def __repr__(self) -> str:
        return _nested("Sequential", self.layers)


class ResidualBlock(Layer):
    """Fuses positions by some layers, and adds what they find to what was there (paper fig. 4).

    (B, T, C) -> (B, T', C): ``fuse``, a FlattenConsecutive or FlattenDilated, then ``layers``, as a rule
    Linear, norm and GatedActivation, give ``z``, (B, T', H); ``residual``, as a rule Linear(H, C), a 1x1
    convolution, maps it back to C channels:

        out = newest(x) + residual(z)

    What is the residual of a node that fuses two? In the paper's causal convolution the output at time t is
    added to the input at time t. The newest character that a node sees is its time, and of the two nodes
    that it fuses the right one, the newer, has the same; so that one is its residual. The left one reaches
    it through ``z`` alone. The block behind which nobody looks at the residual has None: there out is ``z``.
    """

    made_of_layers = True
    z: Tensor

    def __init__(self, fuse: Layer, layers: Sequence[Layer], residual: Layer | None) -> None:
        looks: Looks = declared(fuse, "looks_at")(fuse)
        self.gated = Sequential([fuse, *layers])
        self.newest = Newest(looks.stride, looks.offsets[-1] - looks.stride + 1)
        self.residual = residual

    def __call__(self, x: Tensor) -> Tensor:
        self.z = self.out = self.gated(x)  # (B, T, C) -> (B, T', H)
        if self.residual is not None:
            self.out = self.newest(x) + self.residual(self.z)  # (B, T', H) -> (B, T', C)
        return self.out

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        yield "gated", self.gated
        if self.residual is not None:
            yield "newest", self.newest
            yield "residual", self.residual

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "z"}

    def __repr__(self) -> str:
        return _nested("ResidualBlock", [child for _, child in self.named_children()])


class SkipConnections(Layer):
    """Blocks one after another, and the sum of what each has to say at once (paper fig. 4).

    (B, T, C) -> (B, S): the ``z`` of each block goes through its layer in ``skips``, as a rule a 1x1
    convolution, Linear(H, S). The output of the network belongs to one time, that of the newest character, so
    only the newest node of a block is asked; where a block gives more, its skip begins with a ``Newest``.
    """

    made_of_layers = True

    def __init__(self, blocks: Sequence[ResidualBlock], skips: Sequence[Layer]) -> None:
        if not blocks or len(blocks) != len(skips):
            raise ValueError(f"SkipConnections need a skip for each block, got {len(blocks)}, {len(skips)}")
        self.blocks = list(blocks)
        self.skips = list(skips)

    def __call__(self, x: Tensor) -> Tensor:
        for i, (block, skip) in enumerate(zip(self.blocks, self.skips, strict=True)):
            x = block(x)  # (B, T, C) -> (B, T', C)
            own = skip(block.z)  # (B, T', H) -> (B, S)
            self.out = own if i == 0 else self.out + own
        return self.out

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        for i, (block, skip) in enumerate(zip(self.blocks, self.skips, strict=True)):
            yield f"blocks.{i}", block
            yield f"skips.{i}", skip

    def __repr__(self) -> str:
        return _nested("SkipConnections", [child for _, child in self.named_children()])


def _nested(name: str, layers: Sequence[object]) -> str:
    """A layer made of others, each on lines of its own."""
    return f"{name}([\n" + "".join(textwrap.indent(f"{layer},\n", "    ") for layer in layers) + "])"


def require_positions(layer: Layer, x: Tensor) -> None:
    """Raise ValueError unless the input has positions, (B, T, C)."""
    if x.ndim != 3:
        raise ValueError(
            f"{layer} needs (B, T, C), got {tuple(x.shape)}"
            + (": the positions are already fused into one" if x.ndim == 2 else "")
        )


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
