"""The lecture's training step with gradients derived by hand, several times faster (beyond it: lecture 4).

``BackpropEngine`` does what ``training.AutogradEngine`` does, for any ``Sequential`` of our layers that
starts with an Embedding and ends in cross-entropy. At the lecture's sizes a step is mostly overhead; here
it has no graph, few allocations, and as few kernels as the formulas allow. Each kind of layer has one
small class below: ``forward``, and ``backward`` with the derivative's formula above it.

Departures from the lecture, equal up to rounding:

* Inside, every tensor is 2-d, (rows, channels), with rows = B*T: a FlattenConsecutive is a change of view.
* A derivative goes straight where it is wanted: ``into(p)`` is ``p`` itself for a step of SGD
  (``p += -lr * dp``), and ``p.grad``, zeroed, for gradients (``p.grad += 1 * dp``).
* BatchNorm runs on torch's fused kernels, which normalise by the biased variance; see ``_BatchNorm``.
* On CUDA a step is recorded once per batch shape as a CUDA graph, and replayed.
* The layers' ``out`` is left alone, and every parameter is trained, whatever its ``requires_grad``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore.layers import (
    BatchNorm1d,
    Embedding,
    FlattenConsecutive,
    HistoricBatchNorm1d,
    Layer,
    Linear,
    Sequential,
    Tanh,
)

KEPT_SHAPES = 8
"""Batch shapes whose buffers an engine keeps."""

KEPT_VALUES = 2**22
"""Log-probabilities that are kept at a time, of as many steps."""

TABLE_SYMBOLS = 128
"""The largest vocabulary whose first Linear is applied to the table of symbols, see ``_First``."""

Into = Callable[[Tensor], Tensor]
"""Where the derivative of a parameter is added to."""

Run = Callable[[], object]
Capture = Callable[[Run, Sequence[Tensor]], Run]
"""Turns a function into one that repeats its kernels; the tensors are as before when it returns."""


class _Part(Protocol):
    """A layer at a given batch shape. ``backward`` adds ``alpha`` times its parameters' derivatives.

    ``dy`` is the derivative of the loss by the output, of the output's shape; by the input comes back.
    Both may overwrite what they are given, except what ``backward`` still needs.
    """

    def forward(self, x: Tensor) -> Tensor: ...
    def backward(self, dy: Tensor, alpha: float) -> Tensor: ...


class _Linear:
    def __init__(self, layer: Linear, rows: int, into: Into) -> None:
        self.weight, self.bias = layer.weight, layer.bias
        self.into_weight = into(layer.weight)
        self.into_bias = None if layer.bias is None else into(layer.bias)
        fan_in, fan_out = layer.weight.shape
        self.ones = layer.weight.new_ones(rows)
        self.y: Tensor = layer.weight.new_empty(rows, fan_out)
        self.dx: Tensor = layer.weight.new_empty(rows, fan_in)
        self.x, self.x_t, self.weight_t = self.dx, self.dx.t(), layer.weight.t()

    def forward(self, x: Tensor) -> Tensor:
        if x is not self.x:  # as a rule it is the same buffer in each step
            self.x, self.x_t = x, x.t()
        if self.bias is None:
            torch.mm(x, self.weight, out=self.y)  # (rows, fan_in) -> (rows, fan_out)
        else:
            torch.addmm(self.bias, x, self.weight, out=self.y)
        return self.y

    # y = x W + b:   dx = dy W'   dW = x' dy   db = the sum of dy's rows = dy' 1
    # dx comes first: W may be what dW is added to.
    def backward(self, dy: Tensor, alpha: float) -> Tensor:
        torch.mm(dy, self.weight_t, out=self.dx)
        self.into_weight.addmm_(self.x_t, dy, alpha=alpha)
        if self.into_bias is not None:
            self.into_bias.addmv_(dy.t(), self.ones, alpha=alpha)
        return self.dx


class _BatchNorm:
    """BatchNorm of N rows by the fused kernels, which divide by the biased standard deviation.

    Biased variance = r * unbiased variance, with r = (N-1)/N. So
    sqrt(unbiased + eps) = sqrt(biased + r * eps) / sqrt(r): the kernel is given gamma * sqrt(r) and
    r * eps. Its running variance takes the unbiased one, as the lecture's. The historic BatchNorm
    normalises positions * dim channels, each ``dim`` of them by the same gamma and beta.
    """

    def __init__(self, layer: BatchNorm1d, rows: int, into: Into) -> None:
        self.layer = layer
        self.into_gamma, self.into_beta = into(layer.gamma), into(layer.beta)
        self.running = layer.running_mean.view(-1), layer.running_var.view(-1)
        dim, channels = len(layer.gamma), layer.running_mean.numel()
        self.rows, self.positions = rows, channels // dim
        n = rows // self.positions
        self.root = ((n - 1) / n) ** 0.5
        self.root_tensor = layer.gamma.new_full((), self.root)  # torch multiplies by it faster
        self.eps = layer.eps * (n - 1) / n
        self.gamma, self.mean, self.inverse_std = layer.gamma.new_empty(3, channels).unbind()
        self.beta = layer.beta if self.positions == 1 else torch.empty_like(self.gamma)
        self.y = layer.gamma.new_empty(n, channels)

    def forward(self, x: Tensor) -> Tensor:
        gamma = self.layer.gamma
        if self.positions > 1:
            x = x.view(self.y.shape)
            gamma = gamma.repeat(self.positions)
            self.beta.view(self.positions, -1).copy_(self.layer.beta)
        self.x = x
        torch.mul(gamma, self.root_tensor, out=self.gamma)
        torch.native_batch_norm(
            x,
            self.gamma,
            self.beta,
            *self.running,
            True,
            self.layer.momentum,
            self.eps,
            out=(self.y, self.mean, self.inverse_std),
        )
        return self.y if self.positions == 1 else self.y.view(self.rows, -1)

    # y = gamma xhat + beta, xhat = (x - mean) / std, all sums over the N rows, kept as means:
    #   dbeta = sum dy   dgamma = sum dy xhat
    #   dx = gamma / std * (dy - mean(dy) - xhat * mean(dy xhat))    (biased std; the constants do the rest)
    def backward(self, dy: Tensor, alpha: float) -> Tensor:
        dx: Tensor
        dx, dgamma, dbeta = torch.ops.aten.native_batch_norm_backward.default(
            dy if self.positions == 1 else dy.view(self.y.shape),
            self.x,
            self.gamma,
            *self.running,
            self.mean,
            self.inverse_std,
            True,
            self.eps,
            (True, True, True),
        )
        if self.positions > 1:
            dx = dx.view(self.rows, -1)
            dgamma, dbeta = (d.view(self.positions, -1).sum(0) for d in (dgamma, dbeta))
        self.into_gamma.add_(dgamma, alpha=alpha * self.root)
        self.into_beta.add_(dbeta, alpha=alpha)
        return dx


class _Tanh:
    def __init__(self, in_place: bool) -> None:
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        self.y = x.tanh_() if self.in_place else x.tanh()
        return self.y

    # y = tanh x:   dx = (1 - y^2) dy
    def backward(self, dy: Tensor, alpha: float) -> Tensor:
        torch.ops.aten.tanh_backward.grad_input(dy, self.y, grad_input=dy)
        return dy


class _FlattenConsecutive:
    def __init__(self, layer: FlattenConsecutive, rows: int) -> None:
        self.rows, self.fused_rows = rows, rows // layer.n
        self.x: Tensor | None = None
        self.dy: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if x is not self.x:  # as a rule it is the same buffer in each step
            self.x, self.y = x, x.view(self.fused_rows, -1)  # (rows, C) -> (rows//n, C*n)
        return self.y

    # The same numbers in another shape.
    def backward(self, dy: Tensor, alpha: float) -> Tensor:
        if dy is not self.dy:
            self.dy, self.dx = dy, dy.view(self.rows, -1)
        return self.dx


class _First:
    """Embedding, FlattenConsecutive(n) and the Linear behind them, as one product with one-hot rows.

    With W in n pieces W_j, one for each fused position, a row of the Linear's output is the sum of the
    rows E[s_j] W_j of a table that has n * V rows, for V symbols. A small vocabulary makes the table small,
    and the derivatives of E and W come from the table's, without going back to every example. A
    dropped position (``keep`` 0) has an empty one-hot row.
    """

    def __init__(self, embedding: Embedding, linear: Linear, n: int, rows: int, into: Into) -> None:
        V, C = embedding.weight.shape
        H = linear.weight.shape[1]
        like = embedding.weight
        self.E, self.into_E = like.expand(n, V, C), into(like)
        self.E_t = like.t().expand(n, C, V)
        self.W, self.into_W = linear.weight.view(n, C, H), into(linear.weight).view(n, C, H)
        self.W_t = self.W.transpose(1, 2)
        self.bias = linear.bias
        self.into_bias = None if linear.bias is None else into(linear.bias)
        self.symbols = torch.eye(V, dtype=like.dtype, device=like.device)
        self.onehot = like.new_empty(rows * n, V)
        self.rows_onehot = self.onehot.view(rows, n * V)
        self.columns_onehot = self.rows_onehot.t()
        self.table, self.dtable = like.new_empty(2, n, V, H).unbind()
        self.table_rows, self.dtable_rows = self.table.view(n * V, H), self.dtable.view(n * V, H)
        self.dE = like.new_empty(n, V, C)
        self.dE_pieces = self.dE.unbind()
        self.y, self.ones = like.new_empty(rows, H), like.new_ones(rows)
        self.keep: Tensor | float = 1.0

    def forward(self, x: Tensor) -> Tensor:
        torch.index_select(self.symbols, 0, x, out=self.onehot)  # (B*T,) -> (B*T, V)
        if isinstance(self.keep, Tensor):
            self.onehot.mul_(self.keep)
        torch.bmm(self.E, self.W, out=self.table)  # (n, V, C) -> (n, V, H)
        if self.bias is None:
            torch.mm(self.rows_onehot, self.table_rows, out=self.y)
        else:
            torch.addmm(self.bias, self.rows_onehot, self.table_rows, out=self.y)
        return self.y

    # y = onehot table, table_j = E W_j:
    #   dtable = onehot' dy   dE = sum over j of dtable_j W_j'   dW_j = E' dtable_j
    def backward(self, dy: Tensor, alpha: float) -> Tensor:
        torch.mm(self.columns_onehot, dy, out=self.dtable_rows)
        torch.bmm(self.dtable, self.W_t, out=self.dE)
        self.into_W.baddbmm_(self.E_t, self.dtable, alpha=alpha)
        for dE in self.dE_pieces:
            self.into_E.add_(dE, alpha=alpha)
        if self.into_bias is not None:
            self.into_bias.addmv_(dy.t(), self.ones, alpha=alpha)
        return dy  # of indices there is no derivative


class _Embedding:
    def __init__(self, layer: Embedding, rows: int, into: Into) -> None:
        self.weight = layer.weight
        self.into_weight = into(layer.weight)
        num_embeddings, embedding_dim = layer.weight.shape
        self.y = layer.weight.new_empty(rows, embedding_dim)
        # On CUDA index_add_ adds in no fixed order. A product with one-hot rows does, so that runs repeat.
        self.onehot = layer.weight.new_empty(rows, num_embeddings) if layer.weight.is_cuda else None
        self.keep: Tensor | float = 1.0

    def forward(self, x: Tensor) -> Tensor:
        self.ix = x
        torch.index_select(self.weight, 0, x, out=self.y)  # (B*T,) -> (B*T, C)
        return self.y if isinstance(self.keep, float) else self.y.mul_(self.keep)

    # y = E[ix] = onehot(ix) E:   dE = onehot(ix)' dy: each row of dy is added to row ix of dE
    def backward(self, dy: Tensor, alpha: float) -> Tensor:
        if isinstance(self.keep, Tensor):
            dy = dy * self.keep
        if self.onehot is None:
            self.into_weight.index_add_(0, self.ix, dy, alpha=alpha)
        else:
            self.onehot.zero_().scatter_(1, self.ix.unsqueeze(1), 1.0)
            self.into_weight.addmm_(self.onehot.t(), dy, alpha=alpha)
        return dy  # of indices there is no derivative


class _CrossEntropy:
    """The loss of the logits, (B, V), and of targets that are distributions over the symbols, (B, V).

    A symbol as target is the distribution that has nothing else. The targets come with a minus.
    """

    def __init__(self, logits: Tensor) -> None:
        self.dlogits = torch.empty_like(logits)

    # loss = -mean over i of sum over v of Y[i, v] log softmax(logits[i])[v]:
    #   dlogits = (softmax(logits) - Y) / B
    # The 1/B is left to alpha. The log-probabilities are kept, to tell the losses of many steps at once.
    def forward_backward(self, logits: Tensor, minus_Y: Tensor, logprobs: Tensor) -> Tensor:
        torch.log_softmax(logits, 1, out=logprobs)
        torch.ops.aten._log_softmax_backward_data.out(
            minus_Y, logprobs, 1, minus_Y.dtype, out=self.dlogits
        )  # minus_Y - softmax * (sum of minus_Y = -1)
        return self.dlogits


class _Step:
    """Forward and backward pass of a network at one batch shape, that of X (B, T) and Y (B,)."""

    def __init__(self, network: Sequential, X: Tensor, Y: Tensor, into: Into) -> None:
        layers = list(_flat(network))
        shapes = _shapes(network, layers, X, Y)
        embedding, *rest = layers
        assert isinstance(embedding, Embedding)
        self.first: _First | _Embedding
        match rest:
            case [FlattenConsecutive(n=n), Linear() as linear, *_] if len(embedding.weight) <= TABLE_SYMBOLS:
                self.first = _First(embedding, linear, n, X.numel() // n, into)
                done = 3
            case _:
                self.first = _Embedding(embedding, X.numel(), into)
                done = 1
        parts: list[_Part] = [self.first]
        made_by: Layer = layers[done - 1]  # the layer that wrote what the next one reads
        for layer, shape in zip(layers[done:], shapes[done:], strict=False):
            count = shape[:-1].numel()
            if isinstance(layer, Linear):
                parts.append(_Linear(layer, count, into))
            elif isinstance(layer, BatchNorm1d):
                parts.append(_BatchNorm(layer, count, into))
            elif isinstance(layer, Tanh):  # overwrites its input, unless another Tanh needs that
                parts.append(_Tanh(in_place=not isinstance(made_by, Tanh)))
            elif isinstance(layer, FlattenConsecutive):
                parts.append(_FlattenConsecutive(layer, count))
                continue
            made_by = layer
        self.loss = _CrossEntropy(embedding.weight.new_empty(shapes[-1]))
        self.forward = [part.forward for part in parts]
        self.backward = [part.backward for part in reversed(parts)]

    def __call__(
        self, X: Tensor, minus_Y: Tensor, logprobs: Tensor, alpha: float, keep: Tensor | float = 1.0
    ) -> None:
        """Add ``alpha`` times the gradients where they go; leaves the log-probabilities, (B, V).

        X is (B*T,), ``minus_Y`` (B, V). ``keep``, (B*T, 1), is 0 for positions whose embedding is dropped,
        1 for the others.
        """
        self.first.keep = keep
        x = X
        for forward in self.forward:
            x = forward(x)
        dy = self.loss.forward_backward(x, minus_Y, logprobs)
        alpha /= len(minus_Y)
        for backward in self.backward:
            dy = backward(dy, alpha)


def _flat(network: Sequential) -> Iterator[Layer]:
    """The layers with nested Sequentials opened. Raises ValueError on what the engine cannot do."""
    for layer in network.layers:
        if type(layer) is Sequential:
            yield from _flat(layer)
        elif type(layer) in _KINDS:
            yield layer
        else:
            raise ValueError(f"backprop by hand knows no derivative of {layer}: train it by autograd")


_KINDS = (Embedding, Linear, BatchNorm1d, HistoricBatchNorm1d, Tanh, FlattenConsecutive)


def _shapes(network: Sequential, layers: Sequence[Layer], X: Tensor, Y: Tensor) -> list[torch.Size]:
    """The shapes of each layer's input and of the logits, by running the plain layers on a batch once.

    So that everything that they, or the loss, refuse is refused in their words. Beyond that raises
    ValueError on a network that does not start with its only Embedding, or has a parameter twice.
    """
    if [i for i, layer in enumerate(layers) if isinstance(layer, Embedding)] != [0]:
        raise ValueError("backprop by hand needs a network with one Embedding, as its first layer")
    parameters = network.parameters()
    if len(set(map(id, parameters))) < len(parameters):
        raise ValueError("backprop by hand needs each layer to have parameters of its own")
    before = [(tensor, tensor.clone()) for tensor in network.named_tensors().values()]
    shapes, x = [], X
    try:
        for layer in layers:
            shapes.append(x.shape)
            x = layer(x)
        F.cross_entropy(x, Y)
    finally:
        for tensor, value in before:
            tensor.copy_(value)  # the running statistics have moved
    return [*shapes, x.shape]


def capture_cuda_graph(run: Run, tensors: Sequence[Tensor]) -> Run:
    """Record the kernels of ``run`` as a CUDA graph; returns its replay. Raises RuntimeError if it cannot.

    The tensors it reads and writes must stay where they are. It is run a few times first, on a stream of
    its own as the recording asks for; ``tensors`` are put back to what they were before.
    """
    before = [tensor.clone() for tensor in tensors]
    graph = torch.cuda.CUDAGraph()
    try:
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


class _GradientStep:
    """Steps that leave the gradients in ``grads``. All buffers stay in place, so that it can be recorded."""

    def __init__(
        self,
        network: Sequential,
        X: Tensor,
        Y: Tensor,
        keep: Tensor | None,
        grads: list[Tensor],
        capture: Capture | None,
    ) -> None:
        into = {id(p): grad for p, grad in zip(network.parameters(), grads, strict=True)}
        self.step = _Step(network, X, Y, lambda p: into[id(p)])
        self.grads = grads
        self.X = X.flatten().clone()
        self.keep = 1.0 if keep is None else keep.reshape(-1, 1).clone()
        self.minus_Y = self.step.loss.dlogits.new_zeros(self.step.loss.dlogits.shape)
        self.logprobs = torch.empty_like(self.minus_Y)
        self.note: str | None = None
        self.replay: Run = self.run
        if capture is not None:
            try:
                self.replay = capture(self.run, list(network.named_tensors().values()))
            except RuntimeError as error:
                self.note = f"no CUDA graph, the steps run kernel by kernel: {error}"

    def run(self) -> None:
        torch._foreach_zero_(self.grads)
        self.step(self.X, self.minus_Y, self.logprobs, 1.0, self.keep)

    def __call__(self, X: Tensor, Y: Tensor, keep: Tensor | None = None) -> Tensor:
        self.X.copy_(X.flatten())
        minus_distributions(Y, out=self.minus_Y)
        if isinstance(self.keep, Tensor) and keep is not None:
            self.keep.copy_(keep.reshape(-1, 1))
        self.replay()
        return (self.minus_Y * self.logprobs).sum() / len(Y)


class BackpropEngine:
    """The lecture's step with hand-derived gradients, in place of ``training.AutogradEngine``.

    ``note`` says why the steps are not replayed from a CUDA graph on CUDA, or is None. ``capture`` records
    steps; by default that is ``capture_cuda_graph`` on CUDA and nothing elsewhere.

    Raises ValueError on a layer it does not know; on batches that do not fit, what the layers would raise.
    Tensors may be moved or loaded at any time; the layers' settings (eps, momentum, n) are to stay.
    """

    def __init__(self, network: Sequential, capture: Capture | None = None) -> None:
        list(_flat(network))
        self.network = network
        self.note: str | None = None
        self._capture = capture
        self._built_for: object = None

    def sgd_steps(self, X: Tensor, Y: Tensor, lrs: Sequence[float]) -> Tensor:
        """A step of SGD on each batch; returns the batch losses.

        X is (steps, B, T), Y is (steps, B), ``lrs`` the learning rate of each step; (steps,) comes back.
        """
        if not len(X) == len(Y) == len(lrs):
            raise ValueError(f"got {len(X)} batches, {len(Y)} of targets and {len(lrs)} learning rates")
        losses = torch.empty(len(lrs), dtype=self.network.parameters()[0].dtype, device=X.device)
        if len(lrs) == 0:
            return losses
        with torch.no_grad():
            self._prepare(X)
            if X.device.type == "cpu" and self._capture is None:
                step = self._sgd_step(X[0], Y[0])
                with torch.inference_mode():  # spares a tenth of the time beyond no_grad
                    many = max(1, KEPT_VALUES // step.loss.dlogits.numel())
                    for i in range(0, len(lrs), many):
                        piece = slice(i, i + many)
                        losses[piece] = self._sgd_piece(step, X[piece], Y[piece], lrs[piece])
            else:  # a recorded step is the same each time: the learning rate stays outside
                gradient_step, parameters = self._gradient_step(X[0], Y[0]), self.network.parameters()
                for i, lr in enumerate(lrs):
                    losses[i] = gradient_step(X[i], Y[i])
                    torch._foreach_add_(parameters, self._grads, alpha=-lr)
        return losses

    @staticmethod
    def _sgd_piece(step: _Step, X: Tensor, Y: Tensor, lrs: Sequence[float]) -> Tensor:
        minus_Y = step.loss.dlogits.new_zeros(len(X), *step.loss.dlogits.shape)
        minus_distributions(Y, out=minus_Y)
        logprobs = torch.empty_like(minus_Y)
        rows = X.flatten(1)  # (steps, B, T) -> (steps, B*T)
        for x, y, out, lr in zip(rows.unbind(), minus_Y.unbind(), logprobs.unbind(), lrs, strict=True):
            step(x, y, out, -lr)
        return (minus_Y * logprobs).sum((1, 2)) / Y.shape[1]

    def gradients(self, X: Tensor, Y: Tensor, keep: Tensor | None = None) -> Tensor:
        """Put the gradients of one batch into ``p.grad``, the same tensors each time; returns its loss, ().

        X is (B, T); Y is (B,), or (B, vocab_size) for distributions in place of symbols; ``keep``, (B, T) and
        floating, is 0 for the positions whose embedding is dropped.
        """
        with torch.no_grad():
            self._prepare(X)
            loss = self._gradient_step(X, Y, keep)(X, Y, keep)
            for p, grad in zip(self.network.parameters(), self._grads, strict=True):
                p.grad = grad
            return loss

    def _prepare(self, X: Tensor) -> None:
        """Check the indices, and drop what was built for layers or tensors that are no longer there."""
        layers = list(_flat(self.network))
        tensors = self.network.named_tensors().values()
        built_for = [*layers, *((tensor.data_ptr(), tensor.dtype) for tensor in tensors)]
        if built_for != self._built_for:
            self._built_for = built_for
            self._sgd_steps: dict[object, _Step] = {}
            self._gradient_steps: dict[object, _GradientStep] = {}
            self._grads = [torch.zeros_like(p) for p in self.network.parameters()]
        self.network.train()
        if isinstance(layers[0], Embedding) and X.numel() > 0:
            layers[0](torch.stack(X.aminmax()))  # raises on indices outside the table

    def _sgd_step(self, X: Tensor, Y: Tensor) -> _Step:
        return _kept(self._sgd_steps, X, Y, partial(_Step, self.network, X, Y, lambda p: p))

    def _gradient_step(self, X: Tensor, Y: Tensor, keep: Tensor | None = None) -> _GradientStep:
        capture = self._capture or (capture_cuda_graph if X.is_cuda else None)
        make = partial(_GradientStep, self.network, X, Y, keep, self._grads, capture)
        step = _kept(self._gradient_steps, X, Y, make, keep is None)
        self.note = step.note
        return step


_Kept = TypeVar("_Kept")


def minus_distributions(Y: Tensor, out: Tensor) -> None:
    """Write targets as distributions with a minus: symbols (...) or distributions (..., V) -> (..., V)."""
    if Y.is_floating_point():
        torch.neg(Y, out=out)
    else:
        out.zero_().scatter_(-1, Y.unsqueeze(-1), -1.0)


def _kept(
    steps: dict[object, _Kept], X: Tensor, Y: Tensor, make: Callable[[], _Kept], *more: object
) -> _Kept:
    """The step for batches like X and Y, made if need be in place of the oldest."""
    key = X.shape, X.dtype, Y.shape, Y.dtype, *more
    if key not in steps:
        if len(steps) == KEPT_SHAPES:
            del steps[next(iter(steps))]
        steps[key] = make()
    return steps[key]
