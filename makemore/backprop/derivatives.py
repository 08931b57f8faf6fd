"""The derivative of each kind of layer, with its formula above the code (lecture 4, "backprop ninja").

dy is the derivative of the loss with respect to y. A layer that computes each position on its own is given
rows, (B*T, channels). One that concatenates positions is given (B, T, channels), and one that declares
nothing is given the shape that its ``__call__`` is given. To give your own layer a derivative, write a
class like those below and add it to ``DERIVATIVES``, and to ``EVALUATION_DERIVATIVES`` another one if the
layer computes something else in evaluation. A composite layer needs none.

Departures from the lecture, equal up to rounding:

* A FlattenConsecutive is a view.
* The derivative of a parameter p is added to ``grad_buffer(p)``. That is p itself in a step of SGD, and
  ``p.grad``, zeroed before, for gradients; if p is frozen, it is memory that is not read. All derivatives are
  linear in that of the loss with respect to the logits, which is multiplied by ``-lr`` or 1 at the start.
* BatchNorm uses torch's fused kernels, which normalize by the biased variance; see its derivative.
* The embedding's derivative is a product with one-hot rows.
* Where that is faster, tanh x is computed as 2 sigmoid(2x) - 1; see ``TanhDerivative``. In a GatedActivation
  it always is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from makemore.core.device import has_fast_tanh
from makemore.core.layer import Layer, declared
from makemore.lecture.layers import (
    BatchNorm1d,
    Embedding,
    FlattenConsecutive,
    HistoricBatchNorm1d,
    Linear,
    Tanh,
)
from makemore.paper.layers import (
    Dropout,
    FlattenDilated,
    GatedActivation,
    LabelledEmbedding,
    LayerNorm,
    ReLU,
    RMSNorm,
    TakeLast,
)

ONEHOT_SYMBOLS = 128
"""The largest vocabulary whose one-hot rows are copied from the identity matrix."""

# torch has no public Python functions for these.
_batch_norm_backward = torch.ops.aten.native_batch_norm_backward.default
_tanh_backward = torch.ops.aten.tanh_backward.grad_input
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_relu_backward = torch.ops.aten.threshold_backward.grad_input

GradBuffer = Callable[[Tensor], Tensor]
"""The tensor to which the derivative of a parameter is added."""

Kernel = Callable[[], object]
"""One or more kernels, bound to the tensors that they read and write."""


class Derivative(Protocol):
    """A layer at a given batch shape, whose input is in the buffer ``x``.

    ``forward`` has the kernels that fill the buffer ``y``. ``backward`` takes the derivative with respect to
    ``y``, adds those with respect to the parameters to their buffers, and returns the one with respect to
    ``x``. It may overwrite its argument. If ``needs_output`` is true, ``backward`` reads ``y``, and the next
    layer does not overwrite it.
    """

    y: Tensor
    forward: list[Kernel]
    needs_output: bool

    def __init__(self, layer: Any, x: Tensor, grad_buffer: GradBuffer, inplace_ok: bool) -> None:
        """``inplace_ok`` allows ``y`` to share memory with ``x``."""

    def backward(self, dy: Tensor) -> Tensor: ...


class LinearDerivative(Derivative):
    """(rows, fan_in) -> (rows, fan_out)."""

    needs_output = False

    def __init__(self, layer: Linear, x: Tensor, grad_buffer: GradBuffer, inplace_ok: bool) -> None:
        W, b = layer.weight, layer.bias
        self.y, self.dx = W.new_empty(len(x), W.shape[1]), torch.empty_like(x)
        self.forward = [partial(torch.mm, x, W, out=self.y)]  # (rows, fan_in) -> (rows, fan_out)
        self.W, self.W_t, self.x_t, self.W_buffer = W, W.t(), x.t(), grad_buffer(W)
        self.b_buffer: Tensor | None = None
        if b is not None:
            self.forward.append(partial(self.y.add_, b))  # addmm is slower: it first copies b to each row
            self.b_buffer, self.ones = grad_buffer(b), W.new_ones(len(x))

    # y = x W + b:   dx = dy W'   dW = x' dy   db = the sum of dy's rows = dy' 1
    # dx comes first, as dW may be added to W itself.
    def backward(self, dy: Tensor) -> Tensor:
        torch.mm(dy, self.W_t, out=self.dx)
        self.W_buffer.addmm_(self.x_t, dy)
        self.add_db(dy)
        return self.dx

    def add_db(self, dy: Tensor) -> None:
        if self.b_buffer is not None:
            self.b_buffer.addmv_(dy.t(), self.ones)


class BatchNormDerivative(Derivative):
    """BatchNorm of N rows by the fused kernels, which divide by the biased standard deviation.

    Biased variance = r * unbiased variance, with r = (N-1)/N. So
    sqrt(unbiased + eps) = sqrt(biased + r * eps) / sqrt(r): the kernel is given gamma * sqrt(r) and
    r * eps. It updates the running variance by the unbiased one, as the lecture does. The historic BatchNorm
    normalizes positions * dim channels, with the same gamma and beta at each position.
    """

    needs_output = False

    def __init__(self, layer: BatchNorm1d, x: Tensor, grad_buffer: GradBuffer, inplace_ok: bool) -> None:
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
        normalize = partial(torch.native_batch_norm, x, scaled, beta, *running, True, layer.momentum, eps)
        self.forward.append(partial(normalize, out=(y, mean, inverse_std)))
        self.x, self.y = x, y.view(self.shape)
        self.saved = scaled, *running, mean, inverse_std, True, eps, (True, True, True)
        self.gamma_buffer, self.beta_buffer = grad_buffer(gamma), grad_buffer(layer.beta)

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
        self.gamma_buffer.add_(dgamma, alpha=self.root_r)
        self.beta_buffer.add_(dbeta)
        return dx


class RunningBatchNormDerivative(Derivative):
    """BatchNorm in evaluation, by its running statistics, which stay as they are: each row on its own."""

    needs_output = False

    def __init__(self, layer: BatchNorm1d, x: Tensor, grad_buffer: GradBuffer, inplace_ok: bool) -> None:
        channels = layer.running_mean.numel()
        self.shape, self.positions = x.shape, channels // len(layer.gamma)
        x = x.view(-1, channels)
        mean, var = layer.running_mean.view(-1), layer.running_var.view(-1)
        inverse_std, self.scale, shift = layer.gamma.new_empty(3, channels).unbind()
        # gamma and beta are the same at each position: (channels,) -> (positions, dim)
        inverse_stds, scales, shifts = (
            each.view(self.positions, -1) for each in (inverse_std, self.scale, shift)
        )
        self.xhat, y = torch.empty_like(x), torch.empty_like(x)
        self.forward = [
            partial(torch.add, var, layer.eps, out=inverse_std),
            inverse_std.rsqrt_,
            partial(torch.mul, inverse_stds, layer.gamma, out=scales),
            partial(shifts.copy_, layer.beta),
            partial(torch.sub, x, mean, out=y),
            partial(torch.mul, y, inverse_std, out=self.xhat),
            partial(torch.addcmul, shift, y, self.scale, out=y),
        ]
        self.y = y.view(self.shape)
        self.gamma_buffer, self.beta_buffer = grad_buffer(layer.gamma), grad_buffer(layer.beta)

    # y = gamma xhat + beta, xhat = (x - mean) / std with constant mean and std:
    #   dgamma = sum dy xhat   dbeta = sum dy   dx = gamma / std * dy
    def backward(self, dy: Tensor) -> Tensor:
        if self.positions > 1:
            dy = dy.view_as(self.xhat)
        self.gamma_buffer.add_((dy * self.xhat).sum(0).view(self.positions, -1).sum(0))
        self.beta_buffer.add_(dy.sum(0).view(self.positions, -1).sum(0))
        return dy.mul_(self.scale).view(self.shape)


class BatchNormFormulas:
    """BatchNorm written out, for rows that count several times each.

    ``w``, (rows,), is how often each row counts, and N is its sum. In ``parallel/`` the sums are over all
    processes.
    """

    def __init__(self, layer: BatchNorm1d, grad_buffer: GradBuffer) -> None:
        self.layer = layer
        self.gamma_buffer, self.beta_buffer = grad_buffer(layer.gamma), grad_buffer(layer.beta)
        self.running_mean, self.running_var = layer.running_mean.view(-1), layer.running_var.view(-1)
        self.positions = len(self.running_mean) // len(layer.gamma)  # 1, except in the historic BatchNorm

    # mean = sum(w x) / N   var = sum(w (x - mean)^2) / (N-1)   y = gamma (x - mean) / sqrt(var + eps) + beta
    def normalize(self, x: Tensor, w: Tensor, count: int, y: Tensor, inplace_ok: bool) -> Tensor:
        """Fill and return ``y``; ``count`` is the sum of ``w``."""
        layer = self.layer
        mean = torch.mv(x.t(), w) / count
        self.centered = x.sub_(mean) if inplace_ok else x - mean
        torch.mul(self.centered, self.centered, out=y)
        m2 = torch.mv(y.t(), w)
        self.N, total_mean, var = self.total_statistics(count, mean, m2)
        if total_mean is not mean:
            self.centered.add_(mean - total_mean)
        self.running_mean.lerp_(total_mean, layer.momentum)
        self.running_var.lerp_(var, layer.momentum)
        self.inverse_std = var.add_(layer.eps).rsqrt_()
        gamma, beta = layer.gamma, layer.beta
        if self.positions > 1:
            gamma, beta = gamma.repeat(self.positions), beta.repeat(self.positions)
        self.scale = gamma * self.inverse_std
        return torch.addcmul(beta, self.centered, self.scale, out=y)

    # y = gamma xhat + beta, xhat = (x - mean) / std; dy is already summed over equal rows:
    #   dbeta = sum dy   dgamma = sum dy xhat
    #   dx = gamma / std * (dy - w * (dbeta / N + xhat * dgamma / (N-1)))
    def derivative(self, dy: Tensor, w: Tensor, scratch: Tensor) -> Tensor:
        """The derivative with respect to x, in place of ``dy``; overwrites ``scratch``."""
        dbeta = dy.sum(0)
        dgamma = torch.mul(dy, self.centered, out=scratch).sum(0).mul_(self.inverse_std)
        if self.positions > 1:
            self.gamma_buffer.add_(dgamma.view(self.positions, -1).sum(0))
            self.beta_buffer.add_(dbeta.view(self.positions, -1).sum(0))
        else:
            self.gamma_buffer.add_(dgamma)
            self.beta_buffer.add_(dbeta)
        dgamma, dbeta = self.total_derivatives(dgamma, dbeta)
        slope = dgamma * self.inverse_std / (self.N - 1)
        torch.addcmul(dbeta / self.N, self.centered, slope, out=scratch).mul_(w.unsqueeze(1))
        return dy.sub_(scratch).mul_(self.scale)

    def total_statistics(self, count: int, mean: Tensor, m2: Tensor) -> tuple[int | Tensor, Tensor, Tensor]:
        """N, mean and unbiased variance; ``m2`` is the sum of squared distances from the mean."""
        return count, mean, m2 / (count - 1)

    def total_derivatives(self, dgamma: Tensor, dbeta: Tensor) -> tuple[Tensor, Tensor]:
        """The derivatives of gamma and beta, summed over all rows."""
        return dgamma, dbeta


class TanhDerivative(Derivative):
    """tanh x, or where torch's tanh is slow 2 sigmoid(2x) - 1.

    In float32 the error of the latter is at most 2e-7. That is small compared with the values after a
    BatchNorm, but values near 0 lose relative accuracy.
    """

    needs_output = True

    def __init__(self, layer: Tanh, x: Tensor, grad_buffer: GradBuffer, inplace_ok: bool) -> None:
        self.y = x if inplace_ok else torch.empty_like(x)
        if has_fast_tanh(x.device):
            self.forward = [partial(torch.tanh, x, out=self.y)]
            return
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

    def __init__(self, layer: ReLU, x: Tensor, grad_buffer: GradBuffer, inplace_ok: bool) -> None:
        self.y = x if inplace_ok else torch.empty_like(x)
        self.forward = [partial(torch.clamp_min, x, 0, out=self.y)]

    # y = max(x, 0):   dx = dy where y > 0, else 0
    def backward(self, dy: Tensor) -> Tensor:
        _relu_backward(dy, self.y, 0, grad_input=dy)
        return dy


class GatedActivationDerivative(Derivative):
    """(rows, 2*C) -> (rows, C), by one sigmoid over all channels: a = tanh f = 2 sigmoid(2f) - 1."""

    needs_output = False

    def __init__(self, layer: GatedActivation, x: Tensor, grad_buffer: GradBuffer, inplace_ok: bool) -> None:
        rows, channels = x.shape
        inner = x if inplace_ok else torch.empty_like(x)
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

    def __init__(self, layer: RMSNorm, x: Tensor, grad_buffer: GradBuffer, inplace_ok: bool) -> None:
        self.gamma, self.gamma_buffer = layer.gamma, grad_buffer(layer.gamma)
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
    # dgamma comes last, as it may be added to gamma itself.
    def backward(self, dy: Tensor) -> Tensor:
        product = torch.mul(dy, self.xhat, out=self.y)
        mean = torch.mv(product, self.gamma).unsqueeze(1).div_(len(self.gamma))
        torch.mul(dy, self.gamma, out=self.dx)
        self.gamma_buffer.add_(product.sum(0))
        return self.dx.addcmul_(self.xhat, mean, value=-1).mul_(self.r)


class LayerNormDerivative(Derivative):
    """(rows, dim) -> the same, row by row."""

    needs_output = False

    def __init__(self, layer: LayerNorm, x: Tensor, grad_buffer: GradBuffer, inplace_ok: bool) -> None:
        self.gamma, beta = layer.gamma, layer.beta
        self.gamma_buffer, self.beta_buffer = grad_buffer(layer.gamma), grad_buffer(beta)
        self.y, self.xhat, self.dx = (x.new_empty(x.shape) for _ in range(3))
        mean, self.r = x.new_empty(len(x), 1), x.new_empty(len(x), 1)
        self.forward = [
            partial(torch.mean, x, 1, keepdim=True, out=mean),
            partial(torch.sub, x, mean, out=self.xhat),
            partial(torch.mul, self.xhat, self.xhat, out=self.y),
            partial(torch.mean, self.y, 1, keepdim=True, out=self.r),
            partial(self.r.add_, layer.eps),
            self.r.rsqrt_,
            partial(self.xhat.mul_, self.r),
            partial(torch.addcmul, beta, self.xhat, self.gamma, out=self.y),
        ]

    # y = gamma xhat + beta, xhat = r (x - mean), r = 1 / sqrt(var + eps), means over the channels of a row:
    #   dgamma = sum of the rows of dy xhat   dbeta = sum of the rows of dy
    #   dx = r (gamma dy - mean(gamma dy) - xhat mean(gamma dy xhat))
    # dgamma comes last, as it may be added to gamma itself.
    def backward(self, dy: Tensor) -> Tensor:
        product = torch.mul(dy, self.xhat, out=self.y)
        slope = torch.mv(product, self.gamma).unsqueeze(1).div_(len(self.gamma))
        torch.mul(dy, self.gamma, out=self.dx)
        self.dx.sub_(self.dx.mean(1, keepdim=True)).addcmul_(self.xhat, slope, value=-1).mul_(self.r)
        self.beta_buffer.add_(dy.sum(0))
        self.gamma_buffer.add_(product.sum(0))
        return self.dx


class DropoutDerivative(Derivative):
    """(rows, C) -> the same. Each step draws a new mask for every row."""

    needs_output = False

    def __init__(self, layer: Dropout, x: Tensor, grad_buffer: GradBuffer, inplace_ok: bool) -> None:
        self.layer, self.x = layer, x
        self.y = x if inplace_ok else torch.empty_like(x)
        self.forward = [self.drop]

    def drop(self) -> None:
        self.mask = self.layer.mask(self.x)
        torch.mul(self.x, self.mask, out=self.y)

    # y = mask x:   dx = mask dy
    def backward(self, dy: Tensor) -> Tensor:
        return dy.mul_(self.mask)


class IdentityDerivative(Derivative):
    """A layer that returns its input, as random layers do in evaluation: the same memory."""

    needs_output = True  # the next layer may not overwrite what others may read

    def __init__(self, layer: Layer, x: Tensor, grad_buffer: GradBuffer, inplace_ok: bool) -> None:
        self.y, self.forward = x, []

    # dx is dy.
    def backward(self, dy: Tensor) -> Tensor:
        return dy


class FlattenConsecutiveDerivative(Derivative):
    """The same memory in another shape: (B, T, C) -> (B*T//n, C*n)."""

    def __init__(
        self, layer: FlattenConsecutive, x: Tensor, grad_buffer: GradBuffer, inplace_ok: bool
    ) -> None:
        self.forward = []
        self.y = x.view(-1, x.shape[2] * layer.n)  # (B, T, C) -> (B*T//n, C*n)
        self.shape = x.shape[:2].numel(), x.shape[2]
        self.needs_output = not inplace_ok  # its output is the output of the layer before

    # dx is dy in another shape.
    def backward(self, dy: Tensor) -> Tensor:
        return dy.view(self.shape)


class PositionsDerivative(Derivative):
    """The concatenation of n positions, copied: (B, T, C) -> (B*T', C*n)."""

    needs_output = False

    def __init__(
        self, layer: FlattenDilated | TakeLast, x: Tensor, grad_buffer: GradBuffer, inplace_ok: bool
    ) -> None:
        B, T, C = x.shape
        stride, offsets = layer.concatenates()
        positions = [slice(offset, T - offsets[-1] + offset, stride) for offset in offsets]
        self.shape = B, -1, len(offsets), C
        parts = [x[:, each] for each in positions]
        self.y = torch.cat(parts, dim=2).flatten(0, 1)
        y_parts = self.y.view(self.shape).unbind(2)
        self.forward = [partial(y.copy_, part) for y, part in zip(y_parts, parts, strict=True)]
        self.dx = x.new_empty(B * T, C)
        self.dparts = [self.dx.view(x.shape)[:, each] for each in positions]

    # Each part of a row of dy is added to the position that it comes from.
    def backward(self, dy: Tensor) -> Tensor:
        self.dx.zero_()
        for dpart, part in zip(self.dparts, dy.view(self.shape).unbind(2), strict=True):
            dpart.add_(part)
        return self.dx


class SumDerivative:
    """y = a + b, both (rows, C). The derivative with respect to each is dy."""

    needs_output = False

    def __init__(self, a: Tensor, b: Tensor, inplace_a: bool, inplace_b: bool) -> None:
        self.y = a if inplace_a else b if inplace_b else torch.empty_like(a)
        self.forward: list[Kernel] = [partial(torch.add, a, b, out=self.y)]


class EmbeddingDerivative(Derivative):
    """(B, T) -> (B*T, C). The indices ``x``, flattened to (B*T,), are replaced in each step."""

    needs_output = False

    def __init__(self, layer: Embedding, x: Tensor, grad_buffer: GradBuffer, inplace_ok: bool) -> None:
        E, rows = layer.weight, x.numel()
        self.x = self.symbols = x.flatten()
        self.y = E.new_empty(rows, E.shape[1])
        self.E, self.E_buffer = E, grad_buffer(E)
        self.keep_mask: Tensor | None = None
        self.forward = [self.look_up]
        # On CUDA the order in which index_add_ adds is not fixed. That of a product with one-hot rows is, so
        # that runs can be repeated. With few symbols the product is also faster on the CPU.
        few = len(E) <= ONEHOT_SYMBOLS
        self.onehot = E.new_empty(rows, len(E)) if few or E.is_cuda else None
        self.identity = torch.eye(len(E), dtype=E.dtype, device=E.device) if few else None

    def add_keep_mask(self) -> Tensor:
        """Multiply the rows of y by a mask from now on; returns the mask, (rows, 1), initially ones."""
        self.keep_mask = self.E.new_ones(len(self.y), 1)
        self.forward.insert(1, partial(self.y.mul_, self.keep_mask))
        return self.keep_mask

    def look_up(self) -> None:
        self.symbols = self.x
        torch.index_select(self.E, 0, self.symbols, out=self.y)  # (B*T,) -> (B*T, C)

    # y = E[x] = onehot(x) E:   dE = onehot(x)' dy: each row of dy is added to row x of dE
    def backward(self, dy: Tensor) -> Tensor:
        if self.keep_mask is not None:
            dy.mul_(self.keep_mask)
        if self.onehot is None:
            self.E_buffer.index_add_(0, self.symbols, dy)
        else:
            if self.identity is None:
                self.onehot.zero_().scatter_(1, self.symbols.long().unsqueeze(1), 1.0)
            else:
                torch.index_select(self.identity, 0, self.symbols, out=self.onehot)  # (B*T,) -> (B*T, V)
            self.E_buffer.addmm_(self.onehot.t(), dy)
        return dy  # there is no derivative with respect to indices


class LabelledEmbeddingDerivative(EmbeddingDerivative):
    """(B, K + T) -> (B*T, C). The rows of a context's labels are added at all its positions."""

    def __init__(
        self, layer: LabelledEmbedding, x: Tensor, grad_buffer: GradBuffer, inplace_ok: bool
    ) -> None:
        B, K = len(x), len(layer.label_sizes)
        super().__init__(layer, x[:, K:], grad_buffer, inplace_ok)
        self.layer, self.x, self.shape = layer, x.flatten(), x.shape
        self.L_buffer = grad_buffer(layer.label_weight)
        # See above: on CUDA the order in which index_add_ adds is not fixed.
        rows, C = layer.label_weight.shape
        self.labels_onehot = layer.label_weight.new_empty(B, rows) if x.is_cuda else None
        self.forward.append(self.add_condition)
        self.y_contexts = self.y.view(B, -1, C)

    def look_up(self) -> None:
        self.rows, symbols = self.layer.split(self.x.view(self.shape))
        self.symbols = symbols.flatten()  # (B, T) -> (B*T,)
        torch.index_select(self.E, 0, self.symbols, out=self.y)

    def add_condition(self) -> None:
        self.y_contexts.add_(self.layer.condition(self.rows))  # (B, T, C) + (B, 1, C)

    # y = E[x] + the sum of L[label] over the labels of the context:
    #   dL: the sum of dy over the positions of a context is added to the row of each of its labels
    def backward(self, dy: Tensor) -> Tensor:
        dcondition = dy.view_as(self.y_contexts).sum(1)  # (B*T, C) -> (B, C)
        if self.labels_onehot is None:
            for rows in self.rows.unbind(1):
                self.L_buffer.index_add_(0, rows, dcondition)
        else:
            self.L_buffer.addmm_(
                self.labels_onehot.zero_().scatter_(1, self.rows.long(), 1.0).t(), dcondition
            )
        return super().backward(dy)


DERIVATIVES: dict[type[Layer], type[Derivative]] = {
    Embedding: EmbeddingDerivative,
    LabelledEmbedding: LabelledEmbeddingDerivative,
    Linear: LinearDerivative,
    BatchNorm1d: BatchNormDerivative,
    HistoricBatchNorm1d: BatchNormDerivative,
    LayerNorm: LayerNormDerivative,
    Dropout: DropoutDerivative,
    Tanh: TanhDerivative,
    ReLU: ReLUDerivative,
    GatedActivation: GatedActivationDerivative,
    RMSNorm: RMSNormDerivative,
    FlattenConsecutive: FlattenConsecutiveDerivative,
    FlattenDilated: PositionsDerivative,
    TakeLast: PositionsDerivative,
}
"""By the exact class, as a subclass may compute something else."""

EVALUATION_DERIVATIVES: dict[type[Layer], type[Derivative]] = {
    BatchNorm1d: RunningBatchNormDerivative,
    HistoricBatchNorm1d: RunningBatchNormDerivative,
}
"""Those of layers in evaluation, where they differ. A stochastic layer then returns its input."""


def derivative_class(layer: Layer) -> type[Derivative]:
    """The derivative of a layer in its mode. Raises KeyError if it has none."""
    kind = DERIVATIVES[type(layer)]
    if layer.training:
        return kind
    return (
        IdentityDerivative if declared(layer, "stochastic") else EVALUATION_DERIVATIVES.get(type(layer), kind)
    )


class FullShapeDerivative:
    """A derivative given the shape that its layer is given, for a layer that may read any position."""

    def __init__(self, derivative: Derivative) -> None:
        self.derivative = derivative
        self.forward, self.needs_output = derivative.forward, derivative.needs_output
        self.y = derivative.y.view(-1, derivative.y.shape[-1])

    def backward(self, dy: Tensor) -> Tensor:
        dx = self.derivative.backward(dy.view_as(self.derivative.y))
        return dx.reshape(-1, dx.shape[-1])
