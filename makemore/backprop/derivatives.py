"""The derivative of each kind of layer, its formula above the code (beyond the lecture: its part 4).

Inside, every tensor is 2-d, (rows, channels), with rows = B*T; only a layer that looks at other positions is
given (B, T, channels). dy stands for the derivative of the loss by y. To give a layer of your own a
derivative, write a class like those below and put it in ``DERIVATIVES``. A layer made of others needs none.

Departures from the lecture, equal up to rounding:

* A FlattenConsecutive is a change of view.
* A parameter's derivative is added straight where it is wanted: ``into(p)`` is ``p`` itself for a step of
  SGD and ``p.grad``, zeroed before, for gradients. All derivatives are linear in that of the loss by the
  logits, which has the factor, ``-lr`` or 1, from the start.
* BatchNorm runs on torch's fused kernels, which normalise by the biased variance; see its derivative.
* The embedding's derivative is a product with one-hot rows.
* tanh x is computed as 2 sigmoid(2x) - 1; see ``TanhDerivative``. So it is in a GatedActivation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from makemore.layers import (
    BatchNorm1d,
    Embedding,
    FlattenConsecutive,
    FlattenDilated,
    GatedActivation,
    HistoricBatchNorm1d,
    Layer,
    Linear,
    Newest,
    ReLU,
    RMSNorm,
    Tanh,
    pooled,
)

ONEHOT_SYMBOLS = 128
"""The largest vocabulary whose one-hot rows are copied from the identity matrix."""

# No Python function of torch's own takes these.
_batch_norm_backward = torch.ops.aten.native_batch_norm_backward.default
_tanh_backward = torch.ops.aten.tanh_backward.grad_input
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_relu_backward = torch.ops.aten.threshold_backward.grad_input

Into = Callable[[Tensor], Tensor]
"""Where the derivative of a parameter is added to."""

Kernel = Callable[[], object]
"""A kernel, or some, with all that they read and write."""


class Derivative(Protocol):
    """A layer at a given batch shape, behind the one that fills the buffer ``x``.

    ``forward`` holds the kernels that fill the buffer ``y``; ``backward`` takes the derivative of the loss by
    ``y``, adds those by the parameters where they go, and returns the one by ``x``; it may overwrite what it
    is given. ``needs_output`` says that it reads ``y``, which the layer behind it must then leave as it is.
    """

    y: Tensor
    forward: list[Kernel]
    needs_output: bool

    def __init__(self, layer: Any, x: Tensor, into: Into, may_overwrite: bool) -> None:
        """``may_overwrite`` allows ``y`` to lie in the memory of ``x``."""

    def backward(self, dy: Tensor) -> Tensor: ...


class LinearDerivative(Derivative):
    """(rows, fan_in) -> (rows, fan_out)."""

    needs_output = False

    def __init__(self, layer: Linear, x: Tensor, into: Into, may_overwrite: bool) -> None:
        W, b = layer.weight, layer.bias
        self.y, self.dx = W.new_empty(len(x), W.shape[1]), torch.empty_like(x)
        self.forward = [partial(torch.mm, x, W, out=self.y)]  # (rows, fan_in) -> (rows, fan_out)
        self.W, self.W_t, self.x_t, self.into_W = W, W.t(), x.t(), into(W)
        self.into_b: Tensor | None = None
        if b is not None:
            self.forward.append(partial(self.y.add_, b))  # addmm takes longer: it copies b to each row first
            self.into_b, self.ones = into(b), W.new_ones(len(x))

    # y = x W + b:   dx = dy W'   dW = x' dy   db = the sum of dy's rows = dy' 1
    # dx comes first: W may be what dW is added to.
    def backward(self, dy: Tensor) -> Tensor:
        torch.mm(dy, self.W_t, out=self.dx)
        self.into_W.addmm_(self.x_t, dy)
        self.add_db(dy)
        return self.dx

    def add_db(self, dy: Tensor) -> None:
        if self.into_b is not None:
            self.into_b.addmv_(dy.t(), self.ones)


class BatchNormDerivative(Derivative):
    """BatchNorm of N rows by the fused kernels, which divide by the biased standard deviation.

    Biased variance = r * unbiased variance, with r = (N-1)/N. So
    sqrt(unbiased + eps) = sqrt(biased + r * eps) / sqrt(r): the kernel is given gamma * sqrt(r) and
    r * eps. Its running variance takes the unbiased one, as the lecture's. The historic BatchNorm
    normalises positions * dim channels, each ``dim`` of them by the same gamma and beta.
    """

    needs_output = False

    def __init__(self, layer: BatchNorm1d, x: Tensor, into: Into, may_overwrite: bool) -> None:
        gamma, beta = layer.gamma, layer.beta
        dim, channels = len(gamma), layer.running_mean.numel()
        self.shape, self.positions = x.shape, channels // dim
        x = x.view(-1, channels)
        N = len(x)
        self.root_r = ((N - 1) / N) ** 0.5
        root_r = gamma.new_full((), self.root_r)  # torch multiplies faster by a tensor than by a float
        scaled, mean, inverse_std = gamma.new_empty(3, channels).unbind()
        gammas = scaled.view(self.positions, dim)
        self.forward = [partial(torch.mul, gamma.expand_as(gammas), root_r, out=gammas)]
        if self.positions > 1:
            beta = torch.empty_like(scaled)
            self.forward.append(partial(beta.view_as(gammas).copy_, layer.beta))
        y = torch.empty_like(x)
        running = layer.running_mean.view(-1), layer.running_var.view(-1)
        eps = layer.eps * (N - 1) / N
        normalise = partial(torch.native_batch_norm, x, scaled, beta, *running, True, layer.momentum, eps)
        self.forward.append(partial(normalise, out=(y, mean, inverse_std)))
        self.x, self.y = x, y.view(self.shape)
        self.saved = scaled, *running, mean, inverse_std, True, eps, (True, True, True)
        self.into_gamma, self.into_beta = into(gamma), into(layer.beta)

    # y = gamma xhat + beta, xhat = (x - mean) / std, all sums and means over the N rows:
    #   dbeta = sum dy   dgamma = sum dy xhat
    #   dx = gamma / std * (dy - mean(dy) - xhat * mean(dy xhat))    (biased std; the constants do the rest)
    def backward(self, dy: Tensor) -> Tensor:
        dx: Tensor
        if self.positions == 1:
            dx, dgamma, dbeta = _batch_norm_backward(dy, self.x, *self.saved)
        else:
            dx, dgamma, dbeta = _batch_norm_backward(dy.view_as(self.x), self.x, *self.saved)
            dx = dx.view(self.shape)
            dgamma, dbeta = (d.view(self.positions, -1).sum(0) for d in (dgamma, dbeta))
        self.into_gamma.add_(dgamma, alpha=self.root_r)
        self.into_beta.add_(dbeta)
        return dx


class TotalBatchNormDerivative(Derivative):
    """BatchNorm of N rows in all, of which this process has some; ``layer.gathered`` asks all of them.

    The derivatives of gamma and beta are the own rows' part: they are added up with all other gradients.
    """

    needs_output = False

    def __init__(self, layer: BatchNorm1d, x: Tensor, into: Into, may_overwrite: bool) -> None:
        assert layer.gathered is not None
        self.layer, self.gathered, self.shape = layer, layer.gathered, x.shape
        self.x = x.view(-1, layer.running_mean.numel())
        self.centred, y = torch.empty_like(self.x), torch.empty_like(self.x)
        self.channels_first, self.y = y, y.view(self.shape)
        self.forward = [self.normalise]
        self.into_gamma, self.into_beta = into(layer.gamma), into(layer.beta)

    # mean = sum(x) / N   var = sum((x - mean)^2) / (N-1)   y = gamma (x - mean) / sqrt(var + eps) + beta
    def normalise(self) -> None:
        layer, dim = self.layer, len(self.layer.gamma)
        own_mean = self.x.mean(0)
        torch.sub(self.x, own_mean, out=self.centred)
        squares = (self.centred * self.centred).sum(0)
        self.N, mean, var = pooled(len(self.x), own_mean, squares, self.gathered)
        self.centred.add_(own_mean - mean)
        layer.running_mean.view(-1).lerp_(mean, layer.momentum)
        layer.running_var.view(-1).lerp_(var, layer.momentum)
        self.inverse_std = (var + layer.eps).rsqrt()
        positions = len(var) // dim
        self.scale = layer.gamma.repeat(positions) * self.inverse_std
        torch.addcmul(layer.beta.repeat(positions), self.centred, self.scale, out=self.channels_first)

    # All sums over the N rows: dbeta = sum dy   dgamma = sum dy xhat
    #   dx = gamma / std * (dy - dbeta / N - xhat * dgamma / (N-1))
    def backward(self, dy: Tensor) -> Tensor:
        dy, dim = dy.view_as(self.x), len(self.layer.gamma)
        own = torch.stack([(dy * self.centred).sum(0) * self.inverse_std, dy.sum(0)])  # (2, channels)
        dgamma, dbeta = own.view(2, -1, dim).sum(1)
        self.into_gamma.add_(dgamma)
        self.into_beta.add_(dbeta)
        dgamma, dbeta = self.gathered(own).sum(0)
        slope = self.inverse_std * dgamma / (self.N - 1)
        dx: Tensor = (dy - dbeta / self.N - self.centred * slope) * self.scale
        return dx.view(self.shape)


class TanhDerivative(Derivative):
    """tanh x as 2 sigmoid(2x) - 1, for which torch takes a fifth of the time.

    In float32 it is off by up to 2e-7. That is little beside the values behind a BatchNorm, but the digits of
    a value near 0 are lost.
    """

    needs_output = True

    def __init__(self, layer: Tanh, x: Tensor, into: Into, may_overwrite: bool) -> None:
        self.y = x if may_overwrite else torch.empty_like(x)
        y, minus_1 = self.y, x.new_tensor(-1.0)
        self.forward = [
            partial(torch.mul, x, 2, out=y),
            y.sigmoid_,
            partial(torch.add, minus_1, y, alpha=2, out=y),
        ]

    # y = tanh x:   dx = (1 - y^2) dy
    def backward(self, dy: Tensor) -> Tensor:
        _tanh_backward(dy, self.y, grad_input=dy)
        return dy


class ReLUDerivative(Derivative):
    """(rows, C) -> the same."""

    needs_output = True

    def __init__(self, layer: ReLU, x: Tensor, into: Into, may_overwrite: bool) -> None:
        self.y = x if may_overwrite else torch.empty_like(x)
        self.forward = [partial(torch.clamp_min, x, 0, out=self.y)]

    # y = max(x, 0):   dx = dy where y > 0, else 0
    def backward(self, dy: Tensor) -> Tensor:
        _relu_backward(dy, self.y, 0, grad_input=dy)
        return dy


class GatedActivationDerivative(Derivative):
    """(rows, 2*C) -> (rows, C). One sigmoid for all channels: a = tanh f = 2 sigmoid(2f) - 1."""

    needs_output = False

    def __init__(self, layer: GatedActivation, x: Tensor, into: Into, may_overwrite: bool) -> None:
        rows, channels = x.shape
        inner = x if may_overwrite else torch.empty_like(x)
        self.dx = x.new_empty(x.shape)
        (self.a, self.s), (self.df, self.dg) = inner.chunk(2, dim=1), self.dx.chunk(2, dim=1)
        self.y = x.new_empty(rows, channels // 2)  # (rows, 2*C) -> (rows, C)
        factors, minus_1 = x.new_ones(channels), x.new_tensor(-1.0)
        factors[: channels // 2] = 2
        self.forward = [
            partial(torch.mul, x, factors, out=inner),
            inner.sigmoid_,
            partial(torch.add, minus_1, self.a, alpha=2, out=self.a),
            partial(torch.mul, self.a, self.s, out=self.y),
        ]

    # y = a s, a = tanh f, s = sigmoid g:   df = (1 - a^2) s dy   dg = s (1 - s) a dy
    def backward(self, dy: Tensor) -> Tensor:
        torch.mul(dy, self.s, out=self.df)
        torch.mul(dy, self.a, out=self.dg)
        _tanh_backward(self.df, self.a, grad_input=self.df)
        _sigmoid_backward(self.dg, self.s, grad_input=self.dg)
        return self.dx


class RMSNormDerivative(Derivative):
    """(rows, dim) -> the same, row by row."""

    needs_output = False

    def __init__(self, layer: RMSNorm, x: Tensor, into: Into, may_overwrite: bool) -> None:
        self.gamma, self.into_gamma = layer.gamma, into(layer.gamma)
        self.y, self.xhat, self.dx = (x.new_empty(x.shape) for _ in range(3))
        self.r = x.new_empty(len(x), 1)
        self.forward = [
            partial(torch.mul, x, x, out=self.xhat),
            partial(torch.mean, self.xhat, 1, keepdim=True, out=self.r),
            partial(self.r.add_, layer.eps),
            self.r.rsqrt_,
            partial(torch.mul, x, self.r, out=self.xhat),
            partial(torch.mul, self.xhat, layer.gamma, out=self.y),
        ]

    # y = gamma xhat, xhat = r x, r = 1 / sqrt(mean(x^2) + eps), means over the channels of a row:
    #   dgamma = sum of the rows of dy xhat   dx = r (gamma dy - xhat mean(gamma dy xhat))
    # dgamma comes late: gamma may be what it is added to.
    def backward(self, dy: Tensor) -> Tensor:
        product = torch.mul(dy, self.xhat, out=self.y)
        mean = torch.mv(product, self.gamma).unsqueeze(1).div_(len(self.gamma))
        torch.mul(dy, self.gamma, out=self.dx)
        self.into_gamma.add_(product.sum(0))
        return self.dx.addcmul_(self.xhat, mean, value=-1).mul_(self.r)


class FlattenConsecutiveDerivative(Derivative):
    """The same memory in another shape: (B, T, C) -> (B*T//n, C*n)."""

    def __init__(self, layer: FlattenConsecutive, x: Tensor, into: Into, may_overwrite: bool) -> None:
        self.forward = []
        self.y = x.view(-1, x.shape[2] * layer.n)  # (B, T, C) -> (B*T//n, C*n)
        self.shape = x.shape[:2].numel(), x.shape[2]
        self.needs_output = not may_overwrite  # its output is the output of the layer before

    # The same numbers in another shape.
    def backward(self, dy: Tensor) -> Tensor:
        return dy.view(self.shape)


class PositionsDerivative(Derivative):
    """Copies of the n positions that ``looks_at`` names, side by side: (B, T, C) -> (B*T', C*n)."""

    needs_output = False

    def __init__(self, layer: FlattenDilated | Newest, x: Tensor, into: Into, may_overwrite: bool) -> None:
        B, T, C = x.shape
        stride, offsets = layer.looks_at()
        positions = [slice(offset, T - offsets[-1] + offset, stride) for offset in offsets]
        self.shape = B, -1, len(offsets), C
        self.y = torch.cat([x[:, some] for some in positions], dim=2).flatten(0, 1)
        places = self.y.view(self.shape).unbind(2)
        self.forward = [partial(y.copy_, x[:, some]) for y, some in zip(places, positions, strict=True)]
        self.dx = x.new_empty(B * T, C)
        self.dparts = [self.dx.view(x.shape)[:, some] for some in positions]

    # Each part of a row of dy is added to the position that it is of.
    def backward(self, dy: Tensor) -> Tensor:
        self.dx.zero_()
        for dpart, part in zip(self.dparts, dy.view(self.shape).unbind(2), strict=True):
            dpart.add_(part)
        return self.dx


class SumDerivative:
    """y = a + b, of one shape: (rows, C). Both have the derivative dy."""

    needs_output = False

    def __init__(self, a: Tensor, b: Tensor, may_overwrite_a: bool, may_overwrite_b: bool) -> None:
        self.y = a if may_overwrite_a else b if may_overwrite_b else torch.empty_like(a)
        self.forward: list[Kernel] = [partial(torch.add, a, b, out=self.y)]


class EmbeddingDerivative(Derivative):
    """(rows,) -> (rows, C). The indices ``x`` are other ones in each step."""

    needs_output = False

    def __init__(self, layer: Embedding, x: Tensor, into: Into, may_overwrite: bool) -> None:
        E, rows = layer.weight, len(x)
        self.x = x
        self.y = E.new_empty(rows, E.shape[1])
        self.E, self.into_E = E, into(E)
        self.keep: Tensor | None = None
        self.forward = [self.look_up]
        # On CUDA index_add_ adds in no fixed order. A product with one-hot rows does, so that runs repeat.
        # With few symbols it is the faster one on the CPU as well.
        few = len(E) <= ONEHOT_SYMBOLS
        self.onehot = E.new_empty(rows, len(E)) if few or E.is_cuda else None
        self.identity = torch.eye(len(E), dtype=E.dtype, device=E.device) if few else None

    def drop(self) -> Tensor:
        """From now on rows of y are multiplied by what stands in the tensor returned, (rows, 1): 0 or 1."""
        self.keep = self.E.new_ones(len(self.x), 1)
        self.forward.append(partial(self.y.mul_, self.keep))
        return self.keep

    def look_up(self) -> None:
        torch.index_select(self.E, 0, self.x, out=self.y)  # (B*T,) -> (B*T, C)

    # y = E[x] = onehot(x) E:   dE = onehot(x)' dy: each row of dy is added to row x of dE
    def backward(self, dy: Tensor) -> Tensor:
        if self.keep is not None:
            dy.mul_(self.keep)
        if self.onehot is None:
            self.into_E.index_add_(0, self.x, dy)
        else:
            if self.identity is None:
                self.onehot.zero_().scatter_(1, self.x.long().unsqueeze(1), 1.0)
            else:
                torch.index_select(self.identity, 0, self.x, out=self.onehot)  # (B*T,) -> (B*T, V)
            self.into_E.addmm_(self.onehot.t(), dy)
        return dy  # of indices there is no derivative


DERIVATIVES: dict[type[Layer], type[Derivative]] = {
    Embedding: EmbeddingDerivative,
    Linear: LinearDerivative,
    BatchNorm1d: BatchNormDerivative,
    HistoricBatchNorm1d: BatchNormDerivative,
    Tanh: TanhDerivative,
    ReLU: ReLUDerivative,
    GatedActivation: GatedActivationDerivative,
    RMSNorm: RMSNormDerivative,
    FlattenConsecutive: FlattenConsecutiveDerivative,
    FlattenDilated: PositionsDerivative,
    Newest: PositionsDerivative,
}
"""By the exact kind: a subclass may compute something else."""


def derivative_of(layer: Layer) -> type[Derivative]:
    """The derivative of a layer, by its kind and by whether other processes have a part of the batch."""
    shared = isinstance(layer, BatchNorm1d) and layer.gathered is not None
    return TotalBatchNormDerivative if shared else DERIVATIVES[type(layer)]
