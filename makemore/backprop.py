"""The lecture's training step with gradients derived by hand, several times faster (beyond it: lecture 4).

``BackpropEngine`` does what ``training.AutogradEngine`` does, for any ``Sequential`` of our layers that
starts with an Embedding and ends in cross-entropy. At the lecture's sizes a step is mostly overhead; here
it has no graph, few allocations, and as few kernels as the formulas allow. Each kind of layer has one
small class below: its kernels ``forward``, and ``backward`` with the derivative's formula above it.

Departures from the lecture, equal up to rounding:

* Inside, every tensor is 2-d, (rows, channels), with rows = B*T: a FlattenConsecutive is a change of view.
* A derivative is added straight where it is wanted: ``into(p)`` is ``p`` itself for a step of SGD and
  ``p.grad``, zeroed before, for gradients. All derivatives are linear in that of the loss by the logits,
  which has the factor, ``-lr`` or 1, from the start.
* BatchNorm runs on torch's fused kernels, which normalise by the biased variance; see ``_BatchNorm``.
* The embedding's derivative is a product with one-hot rows, or comes from a table; see ``_Table``.
* On CUDA a step is recorded once per batch shape as a CUDA graph, and replayed.
* The layers' ``out`` does not follow the steps; every parameter is trained, whatever its ``requires_grad``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

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
    index_outside,
)

KEPT_SHAPES = 8
"""Batch shapes whose buffers an engine keeps."""

KEPT_VALUES = 2**20
"""Log-probabilities in memory at most, until the losses of their steps are taken all at once."""

ONEHOT_SYMBOLS = 128
"""The largest vocabulary whose one-hot rows are copied from the identity matrix."""

# No Python function of torch's own takes these.
_batch_norm_backward = torch.ops.aten.native_batch_norm_backward.default
_tanh_backward = torch.ops.aten.tanh_backward.grad_input

Into = Callable[[Tensor], Tensor]
"""Where the derivative of a parameter is added to."""

Run = Callable[[], object]
"""A kernel, or some, with all that they read and write."""

Capture = Callable[[Run, Sequence[Tensor]], Run]
"""Records the kernels of a function, which it does not keep alive, and returns what repeats them.

The given tensors are the same after the recording as before.
"""


class _Part(Protocol):
    """A layer at a given batch shape, behind the one that fills the buffer ``x``.

    ``forward`` holds the kernels that fill the buffer ``y``. ``backward`` takes the derivative of the loss by
    ``y``, adds those by the parameters where they go, and returns the one by ``x``. Both may overwrite what
    they read, except what ``backward`` still needs.
    """

    y: Tensor
    forward: list[Run]

    def backward(self, dy: Tensor) -> Tensor: ...


class _Linear:
    def __init__(self, layer: Linear, x: Tensor, into: Into) -> None:
        W, b = layer.weight, layer.bias
        self.y, self.dx = W.new_empty(len(x), W.shape[1]), torch.empty_like(x)
        self.forward: list[Run] = [partial(torch.mm, x, W, out=self.y)]  # (rows, fan_in) -> (rows, fan_out)
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


class _BatchNorm:
    """BatchNorm of N rows by the fused kernels, which divide by the biased standard deviation.

    Biased variance = r * unbiased variance, with r = (N-1)/N. So
    sqrt(unbiased + eps) = sqrt(biased + r * eps) / sqrt(r): the kernel is given gamma * sqrt(r) and
    r * eps. Its running variance takes the unbiased one, as the lecture's. The historic BatchNorm
    normalises positions * dim channels, each ``dim`` of them by the same gamma and beta.
    """

    def __init__(self, layer: BatchNorm1d, x: Tensor, into: Into) -> None:
        gamma, beta = layer.gamma, layer.beta
        dim, channels = len(gamma), layer.running_mean.numel()
        self.shape, self.positions = x.shape, channels // dim
        x = x.view(-1, channels)
        N = len(x)
        self.root_r = ((N - 1) / N) ** 0.5
        root_r = gamma.new_full((), self.root_r)  # torch multiplies faster by a tensor than by a float
        scaled, mean, inverse_std = gamma.new_empty(3, channels).unbind()
        gammas = scaled.view(self.positions, dim)
        self.forward: list[Run] = [partial(torch.mul, gamma.expand_as(gammas), root_r, out=gammas)]
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


class _Tanh:
    def __init__(self, x: Tensor, in_place: bool) -> None:
        self.y = x if in_place else torch.empty_like(x)
        self.forward: list[Run] = [partial(torch.tanh, x, out=self.y)]

    # y = tanh x:   dx = (1 - y^2) dy
    def backward(self, dy: Tensor) -> Tensor:
        _tanh_backward(dy, self.y, grad_input=dy)
        return dy


class _FlattenConsecutive:
    def __init__(self, layer: FlattenConsecutive, x: Tensor) -> None:
        self.shape = x.shape
        self.y = x.view(len(x) // layer.n, -1)  # (rows, C) -> (rows//n, C*n)
        self.forward: list[Run] = []
        self.dy: Tensor | None = None

    # The same numbers in another shape.
    def backward(self, dy: Tensor) -> Tensor:
        if dy is not self.dy:  # as a rule it is the same buffer in each step
            self.dy, self.dx = dy, dy.view(self.shape)
        return self.dx


class _Embedding:
    def __init__(self, layer: Embedding, rows: int, keep: Tensor | None, into: Into) -> None:
        E = layer.weight
        self.x: Tensor  # the indices, (rows,): other ones in each step
        self.y = E.new_empty(rows, E.shape[1])
        self.E, self.into_E, self.keep = E, into(E), keep
        self.forward: list[Run] = [self.look_up]
        if keep is not None:
            self.forward.append(partial(self.y.mul_, keep))
        # On CUDA index_add_ adds in no fixed order. A product with one-hot rows does, so that runs repeat.
        # With few symbols it is the faster one on the CPU as well.
        few = len(E) <= ONEHOT_SYMBOLS
        self.onehot = E.new_empty(rows, len(E)) if few or E.is_cuda else None
        self.identity = torch.eye(len(E), dtype=E.dtype, device=E.device) if few else None

    def look_up(self) -> None:
        torch.index_select(self.E, 0, self.x, out=self.y)  # (B*T,) -> (B*T, C)

    def fill(self, onehot: Tensor) -> None:
        if self.identity is None:
            onehot.zero_().scatter_(1, self.x.long().unsqueeze(1), 1.0)
        else:
            torch.index_select(self.identity, 0, self.x, out=onehot)  # (B*T,) -> (B*T, V)

    # y = E[x] = onehot(x) E:   dE = onehot(x)' dy: each row of dy is added to row x of dE
    def backward(self, dy: Tensor) -> Tensor:
        if self.keep is not None:
            dy.mul_(self.keep)
        if self.onehot is None:
            self.into_E.index_add_(0, self.x, dy)
        else:
            self.fill(self.onehot)
            self.into_E.addmm_(self.onehot.t(), dy)
        return dy  # of indices there is no derivative


class _Table:
    """The backward pass of Embedding, FlattenConsecutive(n) and the Linear behind them, all three.

    With W in n pieces W_j, one for each fused position, a row of x W is the sum of the rows E[x_j] W_j of a
    table that has n * V rows, for V symbols. The derivatives of E and W follow from that of the table,
    without going back to the examples. The forward pass has no use for it.
    """

    @staticmethod
    def of(embedding: _Embedding, linear: _Linear) -> _Table | None:
        """None where the table's derivative is a larger product than W's and x's together."""
        V, C = embedding.E.shape
        return None if embedding.onehot is None or V > 2 * C else _Table(embedding, embedding.onehot, linear)

    def __init__(self, embedding: _Embedding, onehot: Tensor, linear: _Linear) -> None:
        self.embedding, self.onehot, self.linear = embedding, onehot, linear
        V, C = embedding.E.shape
        rows, H = linear.y.shape
        self.onehot_t = onehot.view(rows, -1).t()  # (n*V, rows)
        self.dtable = linear.y.new_empty(len(self.onehot_t), H)
        self.E_before = torch.empty_like(embedding.E)
        dtable, W, into_W = self.dtable.view(-1, V, H), linear.W.view(-1, C, H), linear.into_W.view(-1, C, H)
        self.add: list[Run] = []
        for dtable_j, W_j in zip(dtable, W, strict=True):
            self.add.append(partial(embedding.into_E.addmm_, dtable_j, W_j.t()))
        for dtable_j, into_W_j in zip(dtable, into_W, strict=True):
            self.add.append(partial(into_W_j.addmm_, self.E_before.t(), dtable_j))

    # y = onehot(x) table, table_j = E W_j:
    #   dtable = onehot(x)' dy   dE = sum over j of dtable_j W_j'   dW_j = E' dtable_j
    # The sums may go to E and W themselves: dE takes W before it changes, dW_j a copy of E from before.
    def backward(self, dy: Tensor) -> Tensor:
        self.embedding.fill(self.onehot)
        if self.embedding.keep is not None:
            self.onehot.mul_(self.embedding.keep)
        torch.mm(self.onehot_t, dy, out=self.dtable)
        self.E_before.copy_(self.embedding.E)
        for run in self.add:
            run()
        self.linear.add_db(dy)
        return dy  # of indices there is no derivative


class _Step:
    """Forward and backward pass of a network at one batch shape, that of X (B, T) and Y (B,) or (B, V).

    ``keep``, (B*T, 1), is there if embeddings are dropped: 0 for those of the step to come, 1 for the others.
    ``note`` says why the step is not recorded where steps are.
    """

    note: str | None = None

    def __init__(self, network: Sequential, X: Tensor, Y: Tensor, drops: bool, into: Into) -> None:
        layers = _known_layers(network)
        logits = _logits_of(network, layers, X, Y)
        embedding, *rest = layers
        assert isinstance(embedding, Embedding)
        self.keep = embedding.weight.new_ones(X.numel(), 1) if drops else None
        self.first = _Embedding(embedding, X.numel(), self.keep, into)
        parts: list[_Part] = [self.first]
        made_by: Layer = embedding  # the layer that wrote what the next one reads
        for layer in rest:
            x = parts[-1].y
            if isinstance(layer, FlattenConsecutive):
                parts.append(_FlattenConsecutive(layer, x))
                continue
            if isinstance(layer, Linear):
                parts.append(_Linear(layer, x, into))
            elif isinstance(layer, BatchNorm1d):
                parts.append(_BatchNorm(layer, x, into))
            else:
                assert isinstance(layer, Tanh)  # overwrites its input, unless another Tanh needs that
                parts.append(_Tanh(x, in_place=not isinstance(made_by, Tanh)))
            made_by = layer
        self.forward = [run for part in parts for run in part.forward]
        self.backward = [part.backward for part in reversed(parts)]
        match parts:
            case [_, _FlattenConsecutive(), _Linear() as linear, *_] if table := _Table.of(
                self.first, linear
            ):
                self.backward[-3:] = [table.backward]
        self.logits = parts[-1].y.view(logits.shape)
        self.dlogits = torch.empty_like(self.logits)
        self.blocks = self.logits.new_empty(2, 0, *self.logits.shape)

    def block(self, steps: int) -> tuple[Tensor, Tensor]:
        """Memory for ``minus_Y`` and ``logprobs`` of many steps, (steps, B, V): the same memory every time.

        Pages that are new to the process cost more than what is done with them, 5 % of the time in all.
        """
        if self.blocks.shape[1] < steps:
            self.blocks = self.logits.new_empty(2, steps, *self.logits.shape)
        return self.blocks[0, :steps], self.blocks[1, :steps]

    # loss = -sum over i and v of Y[i, v] log softmax(logits[i])[v]:
    #   dlogits[i] = softmax(logits[i]) * (sum over v of Y[i, v]) - Y[i]
    def __call__(self, X: Tensor, minus_Y: Tensor, logprobs: Tensor) -> None:
        """Add the gradients for indices X, (B*T,), where they go; leaves the log-probabilities, (B, V).

        ``minus_Y``, (B, V), are minus the targets as distributions, times the factor of the gradients: 1/B
        for those of the mean loss, -lr/B for a step of SGD.
        """
        self.first.x = X
        for run in self.forward:
            run()
        torch.log_softmax(self.logits, 1, out=logprobs)
        dy = torch._log_softmax_backward_data(minus_Y, logprobs, 1, minus_Y.dtype, out=self.dlogits)
        for backward in self.backward:
            dy = backward(dy)


def _known_layers(network: Sequential) -> list[Layer]:
    """The layers with nested Sequentials opened. Raises ValueError on what the engine cannot do."""
    layers = network.flattened()
    for layer in layers:
        if type(layer) not in _KINDS:
            raise ValueError(f"backprop by hand knows no derivative of {layer}: train it by autograd")
    return layers


_KINDS = (Embedding, Linear, BatchNorm1d, HistoricBatchNorm1d, Tanh, FlattenConsecutive)


def _logits_of(network: Sequential, layers: Sequence[Layer], X: Tensor, Y: Tensor) -> Tensor:
    """The logits, by running the plain layers on a batch once.

    So that everything that they, or the loss, refuse is refused in their words. Beyond that raises
    ValueError on a network that does not start with its only Embedding, or has a parameter twice.
    """
    if [i for i, layer in enumerate(layers) if isinstance(layer, Embedding)] != [0]:
        raise ValueError("backprop by hand needs a network with one Embedding, as its first layer")
    parameters = network.parameters()
    if len({p.untyped_storage().data_ptr() for p in parameters}) < len(parameters):
        raise ValueError("backprop by hand needs each layer to have parameters of its own")
    before = [(tensor, tensor.clone()) for tensor in network.named_tensors().values()]
    try:
        logits = network(X)
        F.cross_entropy(logits, Y)
    finally:
        for tensor, value in before:
            tensor.copy_(value)  # the running statistics have moved
    return logits


def capture_cuda_graph(run: Run, tensors: Sequence[Tensor]) -> Run:
    """Record the kernels of ``run`` as a CUDA graph; returns its replay. Raises RuntimeError if it cannot.

    All that they read and write must stay where it is, and alive: the graph has but addresses. ``run`` is
    called a few times first, on a stream of its own as the recording asks for; ``tensors`` are put back to
    what they were before.
    """
    before = [tensor.clone() for tensor in tensors]
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.device(tensors[0].device):
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


class _Recorded:
    """A step recorded once, on buffers of its own, and replayed from then on."""

    def __init__(self, step: _Step, X: Tensor, capture: Capture, tensors: Sequence[Tensor]) -> None:
        self.X, self.minus_Y = X.flatten().clone(), torch.zeros_like(step.logits)
        self.logprobs = torch.empty_like(self.minus_Y)
        self.run = partial(step, self.X, self.minus_Y, self.logprobs)  # keeps the step's buffers alive
        self.replay = capture(self.run, tensors)

    def __call__(self, X: Tensor, minus_Y: Tensor, logprobs: Tensor) -> None:
        self.X.copy_(X)
        self.minus_Y.copy_(minus_Y)
        self.replay()
        logprobs.copy_(self.logprobs)


class BackpropEngine:
    """The lecture's step with hand-derived gradients, in place of ``training.AutogradEngine``.

    ``note`` says why the steps are not replayed from a CUDA graph on CUDA, or is None. ``capture`` records
    steps; by default that is ``capture_cuda_graph`` on CUDA and nothing elsewhere.

    Raises ValueError on a layer it does not know, and on batches that do not fit whatever the layers raise.
    Tensors may be moved, loaded or exchanged; the layers' settings (eps, momentum, n) are to stay.
    """

    def __init__(self, network: Sequential, capture: Capture | None = None) -> None:
        _known_layers(network)
        self.network = network
        self.note: str | None = None
        self._capture = capture
        self._built_for: object = None
        self._steps: dict[object, tuple[_Step, _Step | _Recorded]] = {}
        self._grads: list[Tensor] = []

    def sgd_steps(self, X: Tensor, Y: Tensor, lrs: Sequence[float]) -> Tensor:
        """A step of SGD on each batch; returns the batch losses.

        X is (steps, B, T), Y is (steps, B), or (steps, B, vocab_size) for distributions in place of symbols,
        ``lrs`` the learning rate of each step; (steps,) comes back.
        """
        if not len(X) == len(Y) == len(lrs):
            raise ValueError(f"got {len(X)} batches, {len(Y)} of targets and {len(lrs)} learning rates")
        losses = torch.empty(len(lrs), dtype=self.network.parameters()[0].dtype, device=X.device)
        if len(lrs) == 0:
            return losses
        with torch.inference_mode(False), torch.no_grad():
            self._prepare(X)
            step, run = self._step(X[0], Y[0])
        many = max(1, KEPT_VALUES // step.logits.numel())
        with torch.inference_mode():  # spares a tenth of the time beyond no_grad
            for i in range(0, len(lrs), many):
                piece = slice(i, i + many)
                losses[piece] = self._sgd_piece(step, run, X[piece], Y[piece], lrs[piece])
        return losses

    @staticmethod
    def _sgd_piece(step: _Step, run: _Step | _Recorded, X: Tensor, Y: Tensor, lrs: Sequence[float]) -> Tensor:
        minus_Y, logprobs = step.block(len(lrs))
        write_distributions(Y, out=minus_Y)
        minus_Y.mul_(minus_Y.new_tensor([lr / Y.shape[1] for lr in lrs]).view(-1, 1, 1))
        rows = X.flatten(1)  # (steps, B, T) -> (steps, B*T)
        for batch in zip(rows.unbind(), minus_Y.unbind(), logprobs.unbind(), strict=True):
            run(*batch)
        return mean_losses(logprobs, Y)

    def gradients(self, X: Tensor, Y: Tensor, keep: Tensor | None = None) -> Tensor:
        """Put the gradients of one batch into ``p.grad``, the same tensors each time; returns its loss, ().

        X is (B, T); Y is (B,), or (B, vocab_size) for distributions in place of symbols; ``keep``, (B, T) and
        floating, is 0 for the positions whose embedding is dropped.
        """
        if keep is not None and keep.shape != X.shape:
            raise ValueError(f"keep has the shape {tuple(keep.shape)}, the batch {tuple(X.shape)}")
        with torch.inference_mode(False), torch.no_grad():
            self._prepare(X)
            step, run = self._step(X, Y, drops=keep is not None, gradients=True)
            if step.keep is not None and keep is not None:
                step.keep.copy_(keep.reshape(-1, 1))
            minus_Y, logprobs = (block[0] for block in step.block(1))
            write_distributions(Y, out=minus_Y)
            minus_Y.div_(-len(Y))
            torch._foreach_zero_(self._grads)
            run(X.flatten(), minus_Y, logprobs)
            for p, grad in zip(self.network.parameters(), self._grads, strict=True):
                p.grad = grad
            return mean_losses(logprobs, Y)

    def _prepare(self, X: Tensor) -> None:
        """Check the indices, and drop what was built for layers or tensors that are no longer there."""
        layers = _known_layers(self.network)
        tensors = self.network.named_tensors().values()
        built_for = [*layers, *((t.data_ptr(), t.dtype, t.shape, t.stride()) for t in tensors)]
        if built_for != self._built_for:
            self._steps = {}
            self._grads = [torch.zeros_like(p) for p in self.network.parameters()]
            self._built_for = built_for
        self.network.train()
        if isinstance(layers[0], Embedding):
            layers[0].check(X)

    def _step(
        self, X: Tensor, Y: Tensor, drops: bool = False, gradients: bool = False
    ) -> tuple[_Step, _Step | _Recorded]:
        """The step for batches like X and Y, and what is to be called; made if need be, for the oldest."""
        key = X.shape, X.dtype, Y.shape, Y.dtype, drops, gradients
        if key not in self._steps:
            if len(self._steps) == KEPT_SHAPES:
                del self._steps[next(iter(self._steps))]
            into = dict(zip(self.network.parameters(), self._grads, strict=True)) if gradients else {}
            step = _Step(self.network, X, Y, drops, lambda p: into.get(p, p))
            self._steps[key] = step, self._recorded(step, X)
        step, run = self._steps[key]
        self.note = step.note
        return step, run

    def _recorded(self, step: _Step, X: Tensor) -> _Step | _Recorded:
        """The step recorded, where steps are and if it can be."""
        capture = self._capture or (capture_cuda_graph if X.is_cuda else None)
        if capture is not None:
            try:
                return _Recorded(step, X, capture, list(self.network.named_tensors().values()))
            except RuntimeError as error:
                step.note = f"no CUDA graph, the steps run kernel by kernel: {error}"
        return step


def write_distributions(Y: Tensor, out: Tensor) -> None:
    """Write targets as distributions, (..., V); they are symbols, (...), or distributions already.

    Raises IndexError on symbols that are not below V.
    """
    if Y.is_floating_point():
        out.copy_(Y)
        return
    V = out.shape[-1]
    outside = index_outside(Y, V)
    if outside is not None:
        raise IndexError(f"targets are symbols 0 to {V - 1}, got {outside}")
    out.zero_().scatter_(-1, Y.long().unsqueeze(-1), 1.0)


def mean_losses(logprobs: Tensor, Y: Tensor) -> Tensor:
    """Cross-entropy of batches: log-probabilities (..., B, V), targets (..., B) or (..., B, V) -> (...)."""
    if Y.is_floating_point():
        of_examples = (Y * logprobs).sum(-1)
    else:
        of_examples = logprobs.gather(-1, Y.long().unsqueeze(-1)).squeeze(-1)
    return -of_examples.mean(-1)
