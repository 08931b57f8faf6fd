"""Steps and gradients of a whole network by hand (beyond the lecture).

``BackpropEngine`` does what ``training.AutogradEngine`` does, for any network that starts with an Embedding,
of layers that have a derivative or are made of such. At the lecture's sizes a step is mostly overhead; here
it has no graph, few allocations, and as few kernels as the formulas allow.

Departures from the lecture, beside those of the derivatives:

* On CUDA a step is recorded once per batch shape as a CUDA graph, and replayed.
* The layers' ``out`` does not follow the steps; every parameter is trained, whatever its ``requires_grad``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore.backprop.derivatives import (
    DERIVATIVES,
    EmbeddingDerivative,
    Into,
    Kernel,
    SumDerivative,
    derivative_of,
)
from makemore.layers import BatchNorm1d, Embedding, Layer, Sequential, declared, index_outside
from makemore.wiring import INPUT, Wire, readers_of, wires_of

KEPT_SHAPES = 8
"""Batch shapes whose buffers an engine keeps."""

KEPT_VALUES = 2**20
"""Log-probabilities in memory at most, until the losses of their steps are taken all at once."""


class Step:
    """Forward and backward pass of a network at one batch shape, that of X (B, T) and Y (B,) or (B, V).

    ``keep``, (B*T, 1), is there if embeddings are dropped: 0 for those of the step to come, 1 for the others.
    ``note`` says why the step is not recorded where steps are.
    """

    note: str | None = None

    def __init__(self, network: Sequential, X: Tensor, Y: Tensor, drops: bool, into: Into) -> None:
        wires = known_wires(network)
        logits = logits_of(network, wires, X, Y)
        embedding = wires[0].layer
        assert isinstance(embedding, Embedding)
        self.embedding = EmbeddingDerivative(embedding, X.flatten(), into, may_overwrite=False)
        self.keep = self.embedding.drop() if drops else None
        readers = readers_of(wires)
        parts: list[Any] = [self.embedding]
        for layer, sources in wires[1:]:
            read = [parts[source].y for source in sources]
            may = [readers[source] == 1 and not parts[source].needs_output for source in sources]
            if layer is None:
                parts.append(SumDerivative(*read, *may))
            else:
                x = read[0].unflatten(0, (len(X), -1)) if declared(layer, "looks_at") else read[0]
                parts.append(derivative_of(layer)(layer, x, into, may[0]))
        self.forward: list[Kernel] = [run for part in parts for run in part.forward]
        self.backward = Backward(wires, parts)
        self.logits = parts[-1].y.view(logits.shape)
        self.dlogits = torch.empty_like(self.logits)

    def __call__(self, X: Tensor, minus_Y: Tensor, logprobs: Tensor) -> None:
        """Add the gradients for indices X, (B*T,), where they go; leaves the log-probabilities, (B, V).

        ``minus_Y``, (B, V), are minus the targets as distributions, times the factor of the gradients: 1/B
        for those of the mean loss, -lr/B for a step of SGD.
        """
        self.embedding.x = X
        for run in self.forward:
            run()
        self.backward(self.by_logits(self.logits, minus_Y, logprobs))

    # loss = -sum over i and v of Y[i, v] log softmax(logits[i])[v]:
    #   dlogits[i] = softmax(logits[i]) * (sum over v of Y[i, v]) - Y[i]
    def by_logits(self, logits: Tensor, minus_Y: Tensor, logprobs: Tensor) -> Tensor:
        """The derivative of the loss by the logits; leaves the log-probabilities."""
        torch.log_softmax(logits, 1, out=logprobs)
        dlogits: Tensor = torch._log_softmax_backward_data(
            minus_Y, logprobs, 1, minus_Y.dtype, out=self.dlogits
        )
        return dlogits


class Backward:
    """The backward passes of all wires of a network, from the last one to the first.

    What several wires have read has the sum of what they find as its derivative. A part with ``add_to``, as
    ``windows.PartDerivative``, knows but few positions of it, which are added to what the others have found.
    """

    def __init__(self, wires: Sequence[Wire], parts: Sequence[Any]) -> None:
        self.parts, self.sources = parts, [wire.sources for wire in wires]
        self.partial = [hasattr(part, "add_to") for part in parts]
        self.late = [
            [j for j, sources in enumerate(self.sources) if self.partial[j] and sources == (i,)]
            for i in range(len(wires))
        ]
        in_a_row = all(sources == (i - 1,) for i, sources in enumerate(self.sources))
        self.in_a_row = parts[::-1] if in_a_row and not any(self.partial) else None

    def __call__(self, dy: Tensor) -> None:
        if self.in_a_row is not None:  # a fortieth of a step at batch 32 less
            for part in self.in_a_row:
                dy = part.backward(dy)
            return
        found = {len(self.parts) - 1: dy}  # the derivatives by the outputs of the wires
        for i in range(len(self.parts) - 1, -1, -1):
            for j in self.late[i]:
                if i in found:
                    self.parts[j].add_to(found[i], found[j])
                else:
                    found[i] = self.parts[j].backward(found[j])
            if self.partial[i]:
                continue
            if len(self.sources[i]) == 1:
                self._add(found, self.sources[i][0], self.parts[i].backward(found[i]))
            else:  # a sum: each has its derivative, as a copy, which may be changed
                for source in self.sources[i]:
                    self._add(found, source, found[i].clone())

    @staticmethod
    def _add(found: dict[int, Tensor], source: int, dx: Tensor) -> None:
        found[source] = found[source].add_(dx) if source in found else dx


def known_wires(network: Sequential) -> list[Wire]:
    """The wires of a network. Raises ValueError on a layer that the engine does not know."""
    wires = wires_of(network)
    for layer in layers_of(wires):
        if type(layer) not in DERIVATIVES:
            raise ValueError(f"backprop by hand knows no derivative of {layer}: train it by autograd")
    return wires


def layers_of(wires: Sequence[Wire]) -> list[Layer]:
    """The layers that are not made of others, in the order in which they are called."""
    return [wire.layer for wire in wires if wire.layer is not None]


def is_shared(network: Sequential) -> bool:
    """Whether other processes have a part of each batch."""
    return any(isinstance(layer, BatchNorm1d) and layer.gathered is not None for layer in network.modules())


def logits_of(network: Sequential, wires: Sequence[Wire], X: Tensor, Y: Tensor) -> Tensor:
    """The logits, by running the plain layers on a batch once.

    So that everything that they, or the loss, refuse is refused in their words. Beyond that raises
    ValueError on a network that does not start with its only Embedding, or has a parameter twice.
    """
    first = [i for i, wire in enumerate(wires) if isinstance(wire.layer, Embedding) or INPUT in wire.sources]
    if first != [0] or not isinstance(wires[0].layer, Embedding):
        raise ValueError("backprop by hand needs a network with one Embedding, as its first layer")
    parameters = [p for layer in layers_of(wires) for p in layer.parameters()]
    if len({p.untyped_storage().data_ptr() for p in parameters}) < len(parameters):
        raise ValueError("backprop by hand needs each layer to have parameters of its own")
    if is_shared(network):  # what needs the other processes is not tried
        with network.evaluating():
            return network(X)
    before = [(tensor, tensor.clone()) for tensor in network.state_dict().values()]
    try:
        logits = network(X)
        F.cross_entropy(logits, Y)
    finally:
        for tensor, value in before:
            tensor.copy_(value)  # the running statistics have moved
    return logits


Capture = Callable[[Kernel, Sequence[Tensor]], Kernel]
"""Records the kernels of a function, which it does not keep alive, and returns what repeats them.

The given tensors are the same after the recording as before.
"""


def capture_cuda_graph(run: Kernel, tensors: Sequence[Tensor]) -> Kernel:
    """Record the kernels of ``run`` as a CUDA graph; returns its replay. Raises RuntimeError if it cannot.

    All that they read and write must stay where it is, and alive: the graph has but addresses. ``run`` is
    called a few times first, on a stream of its own as the recording asks for.
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

    def __init__(self, step: Step, X: Tensor, capture: Capture, tensors: Sequence[Tensor]) -> None:
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
        known_wires(network)
        self.network = network
        self.note: str | None = None
        self._capture = capture
        self._built_for: object = None
        self._first: Layer | None = None
        self._steps: dict[object, tuple[Step, Step | _Recorded]] = {}
        self._grads: list[Tensor] = []

    def sgd_steps(self, X: Tensor, Y: Tensor, lrs: Sequence[float]) -> Tensor:
        """Steps of SGD, X (steps, B, T): see ``training.Engine``. Returns the batch losses, (steps,)."""
        if not len(X) == len(Y) == len(lrs):
            raise ValueError(f"got {len(X)} batches, {len(Y)} of targets and {len(lrs)} learning rates")
        losses = torch.empty(len(lrs), dtype=self.network.parameters()[0].dtype, device=X.device)
        if len(lrs) == 0:
            return losses
        with torch.inference_mode(False), torch.no_grad():
            self._prepare(X)
            step, run = self._step(X[0], Y[0])
        many = max(1, KEPT_VALUES // step.logits.numel())
        with torch.inference_mode():  # spares up to a fortieth of the time
            for i in range(0, len(lrs), many):
                piece = slice(i, i + many)
                losses[piece] = self._sgd_piece(step, run, X[piece], Y[piece], lrs[piece])
        return losses

    @staticmethod
    def _sgd_piece(step: Step, run: Step | _Recorded, X: Tensor, Y: Tensor, lrs: Sequence[float]) -> Tensor:
        minus_Y, logprobs = step.logits.new_empty(2, len(lrs), *step.logits.shape).unbind()
        write_distributions(Y, out=minus_Y)
        minus_Y.mul_(minus_Y.new_tensor([lr / Y.shape[1] for lr in lrs]).view(-1, 1, 1))
        rows = X.flatten(1)  # (steps, B, T) -> (steps, B*T)
        for batch in zip(rows.unbind(), minus_Y.unbind(), logprobs.unbind(), strict=True):
            run(*batch)
        return mean_losses(logprobs, Y)

    def gradients(self, X: Tensor, Y: Tensor, keep: Tensor | None = None) -> Tensor:
        """Gradients of a batch, X (B, T): see ``training.Engine``. ``p.grad`` stays the same tensors."""
        if keep is not None and keep.shape != X.shape:
            raise ValueError(f"keep has the shape {tuple(keep.shape)}, the batch {tuple(X.shape)}")
        with torch.inference_mode(False), torch.no_grad():
            self._prepare(X)
            step, run = self._step(X, Y, drops=keep is not None, gradients=True)
            if step.keep is not None and keep is not None:
                step.keep.copy_(keep.reshape(-1, 1))
            minus_Y, logprobs = step.logits.new_empty(2, *step.logits.shape).unbind()
            write_distributions(Y, out=minus_Y)
            minus_Y.div_(-len(Y))
            torch._foreach_zero_(self._grads)
            run(X.flatten(), minus_Y, logprobs)
            for p, grad in zip(self.network.parameters(), self._grads, strict=True):
                p.grad = grad
            return mean_losses(logprobs, Y)

    def _prepare(self, X: Tensor) -> None:
        """Drop what was built for layers or tensors that are no longer there; refuse indices outside.

        On CUDA nothing waits to look at the indices: the kernels have assertions of their own.
        """
        tensors = [*self.network.named_parameters(), *self.network.named_buffers()]
        built_for = [
            *self.network.modules(),
            *((t.data_ptr(), t.dtype, t.shape, t.stride()) for _, t in tensors),
        ]
        if built_for != self._built_for:
            self._first = known_wires(self.network)[0].layer
            self._steps = {}
            self._grads = [torch.zeros_like(p) for p in self.network.parameters()]
            self._built_for = built_for
        self.network.train()
        first = self._first
        if isinstance(first, Embedding) and not X.is_cuda and index_outside(X, len(first.weight)) is not None:
            first(X)  # raises

    def _step(
        self, X: Tensor, Y: Tensor, drops: bool = False, gradients: bool = False
    ) -> tuple[Step, Step | _Recorded]:
        """The step for batches like X and Y, and what is to be called; made if need be, for the oldest."""
        key = X.shape, X.dtype, Y.shape, Y.dtype, drops, gradients
        if key not in self._steps:
            if len(self._steps) == KEPT_SHAPES:
                del self._steps[next(iter(self._steps))]
            into = dict(zip(self.network.parameters(), self._grads, strict=True)) if gradients else {}
            step = self._new_step(X, Y, drops, lambda p: into.get(p, p))
            self._steps[key] = step, self._recorded(step, X)
        step, run = self._steps[key]
        self.note = step.note
        return step, run

    def _new_step(self, X: Tensor, Y: Tensor, drops: bool, into: Into) -> Step:
        """A step for batches like X and Y, with ``drops`` for such of which embeddings are dropped."""
        return Step(self.network, X, Y, drops, into)

    def _recorded(self, step: Step, X: Tensor) -> Step | _Recorded:
        """The step recorded, where steps are and if it can be."""
        capture = self._capture or (capture_cuda_graph if X.is_cuda else None)
        if is_shared(self.network):
            step.note = "no CUDA graph, the steps run kernel by kernel: they wait for other processes"
        elif capture is not None:
            try:
                return _Recorded(step, X, capture, list(self.network.state_dict().values()))
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
    outside = None if Y.is_cuda else index_outside(Y, V)
    if outside is not None:
        raise IndexError(f"targets are symbols 0 to {V - 1}, got {outside}")
    out.zero_().scatter_(-1, Y.long().unsqueeze(-1), 1.0)


def mean_losses(logprobs: Tensor, Y: Tensor) -> Tensor:
    """Cross-entropy of batches: log-probabilities (..., B, V), targets (..., B) or (..., B, V) -> (...)."""
    if Y.is_floating_point():
        losses = (Y * logprobs).sum(-1)
    else:
        losses = logprobs.gather(-1, Y.long().unsqueeze(-1)).squeeze(-1)
    return -losses.mean(-1)
