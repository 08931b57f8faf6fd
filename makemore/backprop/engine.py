"""Steps and gradients of a whole network, computed by hand.

``BackpropEngine`` computes the same as ``training.AutogradEngine``, for any network that begins with an
Embedding and whose layers have a derivative or are composite. At the lecture's sizes most of an autograd step
is overhead. Here a step has no graph, few allocations, and as few kernels as the formulas allow.

Departures from the lecture, besides those of the derivatives:

* On CUDA a step is recorded once for each batch shape as a CUDA graph, and replayed.
* The layers' ``out`` is not updated.
* The derivative of a frozen parameter is computed, since the layers before may need its other factors, but
  dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from makemore.backprop.derivatives import (
    DERIVATIVES,
    FullShapeDerivative,
    GradBuffer,
    Kernel,
    SumDerivative,
    derivative_class,
)
from makemore.core.fit import check_batch, check_logits
from makemore.core.graph import INPUT, Node, check_declarations, is_chain, node_values, trace, use_counts
from makemore.core.layer import (
    Layer,
    declared,
    index_outside,
    keeps_positions,
    label_sizes,
    layer_text,
    stochastic_layers,
    window_of,
)
from makemore.core.trained import enter_training, require_gradients
from makemore.lecture.layers import Embedding

CACHED_SHAPES = 8
"""The number of batch shapes whose buffers an engine keeps."""

PROBE_CONTEXTS = 2
"""The number of contexts on which the declarations of layers are checked."""

MAX_STORED_VALUES = 2**20
"""The largest number of log-probabilities that are stored before the losses of their steps are computed."""


class Step:
    """Forward and backward pass of a network at one batch shape, that of X (B, T) and Y (B,) or (B, V).

    ``keep_mask``, (B*T, 1), exists if embeddings are dropped: 0 for those dropped in the next step, else 1.
    ``note`` says why the step is not recorded although steps on its device are, or is None.
    """

    note: str | None = None

    def __init__(self, network: Layer, X: Tensor, Y: Tensor, drops: bool, grad_buffer: GradBuffer) -> None:
        nodes = known_nodes(network)
        values = values_of(network, nodes, X, Y)
        embedding = nodes[0].layer
        assert isinstance(embedding, Embedding)
        check_declarations(network, nodes, probe_contexts(embedding, X))
        make_embedding: Any = derivative_class(embedding)
        self.embedding = make_embedding(embedding, X, grad_buffer, inplace_ok=False)
        self.keep_mask = self.embedding.add_keep_mask() if drops else None
        counts = use_counts(nodes)
        derivatives: list[Any] = [self.embedding]
        for layer, inputs in nodes[1:]:
            read = [derivatives[j].y for j in inputs]
            inplace = [counts[j] == 1 and not derivatives[j].needs_output for j in inputs]
            if layer is None:
                derivatives.append(SumDerivative(*read, *inplace))
                continue
            make, shape = derivative_class(layer), values[inputs[0]].shape
            if window_of(layer):
                derivatives.append(make(layer, read[0].view(shape), grad_buffer, inplace[0]))
            elif keeps_positions(layer):
                derivatives.append(make(layer, read[0], grad_buffer, inplace[0]))
            else:
                derivative = make(layer, read[0].view(shape), grad_buffer, inplace[0])
                derivatives.append(FullShapeDerivative(derivative))
        self.forward: list[Kernel] = [kernel for each in derivatives for kernel in each.forward]
        self.backward = Backward(nodes, derivatives)
        self.logits = derivatives[-1].y.view(values[-1].shape)
        self.dlogits = torch.empty_like(self.logits)

    def __call__(self, X: Tensor, minus_Y: Tensor, logprobs: Tensor) -> None:
        """Add the gradients for indices X, (B*T,), to their buffers; writes the log-probabilities, (B, V).

        ``minus_Y``, (B, V), has the negative targets as distributions, times a factor: 1/B for the gradients
        of the mean loss, -lr/B for a step of SGD.
        """
        self.embedding.x = X
        for kernel in self.forward:
            kernel()
        self.backward(self.logit_derivative(self.logits, minus_Y, logprobs))

    # loss = -sum over i and v of Y[i, v] log softmax(logits[i])[v]:
    #   dlogits[i] = softmax(logits[i]) * (sum over v of Y[i, v]) - Y[i]
    def logit_derivative(self, logits: Tensor, minus_Y: Tensor, logprobs: Tensor) -> Tensor:
        """The derivative of the loss with respect to the logits; writes the log-probabilities."""
        torch.log_softmax(logits, 1, out=logprobs)
        dlogits: Tensor = torch._log_softmax_backward_data(
            minus_Y, logprobs, 1, minus_Y.dtype, out=self.dlogits
        )
        return dlogits


class Backward:
    """The backward passes of all nodes of a network, from the last to the first.

    If several nodes read a value, the derivative with respect to it is the sum of theirs. A layer whose
    derivative has ``add_to``, such as ``windows.TakeDerivative``, reads few positions only. Its share is
    added last.
    """

    def __init__(self, nodes: Sequence[Node], derivatives: Sequence[Any]) -> None:
        self.derivatives, self.inputs = derivatives, [node.inputs for node in nodes]
        self.partial = [hasattr(each, "add_to") for each in derivatives]
        self.late: list[list[int]] = [[] for _ in nodes]  # the partial readers of each node
        for j, inputs in enumerate(self.inputs):
            if self.partial[j]:
                self.late[inputs[0]].append(j)
        self.in_a_row = derivatives[::-1] if is_chain(nodes) and not any(self.partial) else None

    def __call__(self, dy: Tensor) -> None:
        if self.in_a_row is not None:  # saves 2.5 % of a step at batch 32
            for each in self.in_a_row:
                dy = each.backward(dy)
            return
        dys = {len(self.derivatives) - 1: dy}  # with respect to the outputs of the nodes
        for i in range(len(self.derivatives) - 1, -1, -1):
            for j in self.late[i]:
                if i in dys:
                    self.derivatives[j].add_to(dys[i], dys[j])
                else:
                    dys[i] = self.derivatives[j].backward(dys[j])
            if self.partial[i]:
                continue
            if len(self.inputs[i]) == 1:
                self._add(dys, self.inputs[i][0], self.derivatives[i].backward(dys[i]))
            else:  # a sum: each input gets a copy, as it is changed in place
                for j in self.inputs[i]:
                    self._add(dys, j, dys[i].clone())

    @staticmethod
    def _add(dys: dict[int, Tensor], i: int, dx: Tensor) -> None:
        dys[i] = dys[i].add_(dx) if i in dys else dx


def known_nodes(network: Layer) -> list[Node]:
    """The nodes of a network.

    Raises ValueError on a layer without a derivative, on a network that does not begin with its only
    Embedding, and on one in which a parameter is used twice.
    """
    nodes = trace(network)
    for layer in layers_of(nodes):
        if type(layer) not in DERIVATIVES:
            raise ValueError(
                f"there is no hand-derived gradient for {layer_text(layer)}: train with the autograd engine,"
                " or add a class to makemore.backprop.derivatives.DERIVATIVES"
            )
    first = [i for i, node in enumerate(nodes) if isinstance(node.layer, Embedding) or INPUT in node.inputs]
    if first != [0] or not isinstance(nodes[0].layer, Embedding):
        raise ValueError(
            "hand-derived gradients need a network with one Embedding, as its first layer: train with the"
            " autograd engine"
        )
    known: set[int] = set()
    for layer in layers_of(nodes):
        own = [p.untyped_storage().data_ptr() for p in layer.parameters() if p.numel()]
        if len(own) > len({*own} - known):
            raise ValueError(
                "hand-derived gradients need a network in which no parameter is used twice, and"
                f" {layer_text(layer)} has one that is: train with the autograd engine"
            )
        known.update(own)
    return nodes


def layers_of(nodes: Sequence[Node]) -> list[Layer]:
    """The layers of the nodes, in the order in which they are called."""
    return [node.layer for node in nodes if node.layer is not None]


def is_collective(network: Layer) -> bool:
    """Whether a layer that is in training communicates with other processes."""
    return any(declared(layer, "collective") and layer.training for layer in network.modules())


def values_of(network: Layer, nodes: Sequence[Node], X: Tensor, Y: Tensor) -> list[Tensor]:
    """The output of every node for a batch, computed by the layers, which are left as they were.

    Raises what the layers and the loss raise on a batch that does not fit.
    """
    if X.ndim == 2:
        check_batch(network, X.shape[1])
    if is_collective(network):  # other processes do not take part
        with network.evaluating():
            values = node_values(nodes, X)
            check_logits(values[-1], X)
            return values
    with unchanged(network):
        values = node_values(nodes, X)
        F.cross_entropy(check_logits(values[-1], X), Y)
    return values


def require_known(embedding: Embedding, X: Tensor) -> None:
    """Raise IndexError on symbols or labels of X (..., T) or (..., K + T) that an Embedding does not have."""
    K = len(label_sizes(embedding))
    outside = index_outside(X[..., K:], len(embedding.weight)) is not None
    if outside or K:
        embedding(X.flatten(0, -2) if K else X)  # raises


def probe_contexts(embedding: Embedding, X: Tensor) -> Tensor:
    """Contexts of random symbols, as long as those of X. A batch's own may consist of equal symbols."""
    generator = Generator().manual_seed(0)
    K = len(label_sizes(embedding))
    shape = (PROBE_CONTEXTS, X.shape[1] - K, *X.shape[2:])
    symbols = torch.randint(len(embedding.weight), shape, generator=generator)
    return F.pad(symbols, (K, 0)).to(X.device)  # without labels


@contextmanager
def unchanged(network: Layer) -> Iterator[None]:
    """Restore the tensors of a network and its random generators at the end of a ``with`` block."""
    before = [(tensor, tensor.clone()) for tensor in network.state_dict().values()]
    layers = stochastic_layers(network).values()
    generators = [layer.generator or torch.default_generator for layer in layers]
    states = [generator.get_state() for generator in generators]
    try:
        yield
    finally:
        for tensor, value in before:
            tensor.copy_(value)
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


Capture = Callable[[Kernel, Sequence[Tensor]], Kernel]
"""Records the kernels of a function and returns a function that repeats them.

The tensors given have the same values after the recording as before.
"""


def capture_cuda_graph(kernel: Kernel, tensors: Sequence[Tensor]) -> Kernel:
    """Record a kernel as a CUDA graph; returns its replay. Raises RuntimeError on failure.

    The graph stores addresses only, so all tensors that the kernels read and write must be kept alive and in
    place. The kernel is called a few times first, on another stream, as recording requires.
    """
    before = [tensor.clone() for tensor in tensors]
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.device(tensors[0].device):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    kernel()
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph):
                kernel()  # recorded, not executed
    finally:
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)
    return graph.replay


class _Recorded:
    """A step that has been recorded with its own input buffers, and is replayed."""

    def __init__(self, step: Step, X: Tensor, capture: Capture, tensors: Sequence[Tensor]) -> None:
        self.X, self.minus_Y = X.flatten().clone(), torch.zeros_like(step.logits)
        self.logprobs = torch.empty_like(self.minus_Y)
        self.step = partial(step, self.X, self.minus_Y, self.logprobs)  # keeps the step's buffers alive
        self.replay = capture(self.step, tensors)

    def __call__(self, X: Tensor, minus_Y: Tensor, logprobs: Tensor) -> None:
        self.X.copy_(X)
        self.minus_Y.copy_(minus_Y)
        self.replay()
        logprobs.copy_(self.logprobs)


class BackpropEngine:
    """The lecture's step with hand-derived gradients, in place of ``training.AutogradEngine``.

    ``note`` says why steps on CUDA are not replayed from a CUDA graph, or is None. ``capture`` records steps;
    the default is ``capture_cuda_graph`` on CUDA, and elsewhere steps are not recorded.

    Layers and tensors may be moved, loaded or replaced between steps, modes changed and parameters frozen,
    but the layers' settings (eps, momentum, n) may not be changed. Raises ValueError on a network that
    ``known_nodes`` refuses. Steps raise FalseDeclaration on a layer that computes something else than it
    declares, and what the layers raise on batches that do not fit.
    """

    def __init__(self, network: Layer, capture: Capture | None = None) -> None:
        known_nodes(network)
        require_gradients(network)
        self.network = network
        self.note: str | None = None
        self._capture = capture
        self._built_for: object = None
        self._first: Layer | None = None
        self._steps: dict[object, tuple[Step, Step | _Recorded]] = {}
        self._trained: list[Tensor] = []
        self._grads: list[Tensor] = []
        self._frozen: list[Tensor] = []
        self._dropped: dict[Tensor, Tensor] = {}

    def sgd_steps(self, X: Tensor, Y: Tensor, lrs: Sequence[float]) -> Tensor:
        """Steps of SGD, X (steps, B, T): see ``training.Engine``. Returns the batch losses, (steps,)."""
        if not len(X) == len(Y) == len(lrs):
            raise ValueError(f"got {len(X)} batches, {len(Y)} of targets and {len(lrs)} learning rates")
        losses = torch.empty(len(lrs), dtype=self.network.parameters()[0].dtype, device=X.device)
        if len(lrs) == 0:
            return losses
        with torch.inference_mode(False), torch.no_grad():
            self._prepare(X)
            step, compute = self._step(X[0], Y[0])
        many = max(1, MAX_STORED_VALUES // step.logits.numel())
        with torch.inference_mode():  # saves up to 2.5 % of the time
            for i in range(0, len(lrs), many):
                piece = slice(i, i + many)
                losses[piece] = self._sgd_piece(step, compute, X[piece], Y[piece], lrs[piece])
        return losses

    @staticmethod
    def _sgd_piece(
        step: Step, compute: Step | _Recorded, X: Tensor, Y: Tensor, lrs: Sequence[float]
    ) -> Tensor:
        minus_Y, logprobs = step.logits.new_empty(2, len(lrs), *step.logits.shape).unbind()
        write_distributions(Y, out=minus_Y)
        minus_Y.mul_(minus_Y.new_tensor([lr / Y.shape[1] for lr in lrs]).view(-1, 1, 1))
        rows = X.flatten(1)  # (steps, B, T) -> (steps, B*T)
        for batch in zip(rows.unbind(), minus_Y.unbind(), logprobs.unbind(), strict=True):
            compute(*batch)
        return mean_losses(logprobs, Y)

    def gradients(self, X: Tensor, Y: Tensor, keep_mask: Tensor | None = None) -> Tensor:
        """Gradients of a batch, X (B, T): see ``training.Engine``. ``p.grad`` stays the same tensors."""
        with torch.inference_mode(False), torch.no_grad():
            self._prepare(X)
            if keep_mask is not None:
                assert self._first is not None
                symbols = X.shape[0], X.shape[1] - len(label_sizes(self._first)), *X.shape[2:]
                if keep_mask.shape != symbols:
                    raise ValueError(f"keep_mask has the shape {tuple(keep_mask.shape)}, the batch {symbols}")
            step, compute = self._step(X, Y, drops=keep_mask is not None, gradients=True)
            if step.keep_mask is not None and keep_mask is not None:
                step.keep_mask.copy_(keep_mask.reshape(-1, 1))
            minus_Y, logprobs = step.logits.new_empty(2, *step.logits.shape).unbind()
            write_distributions(Y, out=minus_Y)
            minus_Y.div_(-len(Y))
            if self._grads:
                torch._foreach_zero_(self._grads)
            compute(X.flatten(), minus_Y, logprobs)
            for p, grad in zip(self._trained, self._grads, strict=True):
                p.grad = grad
            for p in self._frozen:
                p.grad = None
            return mean_losses(logprobs, Y)

    def describe(self, batch_size: int, block_size: int) -> str:
        """How batches of that shape are computed: see ``training.Engine``."""
        return ""

    def _prepare(self, X: Tensor) -> None:
        """Forget the steps built for other layers, tensors, modes or frozen parameters. Refuse bad indices.

        On CUDA the kernels assert the range themselves, as reading the indices here would wait for the
        device.
        """
        modules = [*self.network.modules()]  # one walk for all questions: it is 5 % of a step at batch 32
        enter_training(self.network, modules)
        own = [getattr(layer, name) for layer in modules for name in (*layer.PARAMETERS, *layer.BUFFERS)]
        built_for = [
            *modules,
            *[layer.training for layer in modules],
            *[
                (id(t), t.data_ptr(), t.dtype, t.shape, t.stride(), t.requires_grad)
                for t in own
                if t is not None
            ],
        ]
        if built_for != self._built_for:
            self._built_for = None
            nodes, parameters = known_nodes(self.network), self.network.parameters()
            read = {p for layer in layers_of(nodes) for p in layer.parameters()}
            self._first = nodes[0].layer
            self._steps = {}
            self._trained = [p for p in parameters if p.requires_grad and p in read]
            self._grads = [torch.zeros_like(p) for p in self._trained]
            self._frozen = [p for p in parameters if not p.requires_grad or p not in read]
            # A derivative that is dropped is written to memory that is not read.
            self._dropped = {p: torch.zeros_like(p) for p in self._frozen if p in read}
            self._built_for = built_for
        first = self._first
        if isinstance(first, Embedding) and not X.is_cuda:
            require_known(first, X)

    def _step(
        self, X: Tensor, Y: Tensor, drops: bool = False, gradients: bool = False
    ) -> tuple[Step, Step | _Recorded]:
        """The step for batches like X and Y, and the function to call. Builds them if there are none yet."""
        key = X.shape, X.dtype, Y.shape, Y.dtype, drops, gradients
        if key not in self._steps:
            if len(self._steps) == CACHED_SHAPES:
                del self._steps[next(iter(self._steps))]
            buffers = dict(zip(self._trained, self._grads, strict=True)) if gradients else {}
            buffers |= self._dropped
            step = self._new_step(
                X, Y, drops, buffers.__getitem__ if gradients else lambda p: buffers.get(p, p)
            )
            self._steps[key] = step, self._recorded(step, X)
        step, compute = self._steps[key]
        self.note = step.note
        return step, compute

    def _new_step(self, X: Tensor, Y: Tensor, drops: bool, grad_buffer: GradBuffer) -> Step:
        """A new step for batches like X and Y. With ``drops`` it drops embeddings."""
        return Step(self.network, X, Y, drops, grad_buffer)

    def _recorded(self, step: Step, X: Tensor) -> Step | _Recorded:
        """The step, recorded if steps on its device are and if that is possible."""
        capture = self._capture or (capture_cuda_graph if X.is_cuda else None)
        if capture is None:
            pass
        elif is_collective(self.network):
            step.note = "no CUDA graph: the steps wait for other processes"
        elif any(layer.training for layer in stochastic_layers(self.network).values()):
            step.note = "no CUDA graph: the steps draw random numbers on the CPU"
        else:
            try:
                return _Recorded(step, X, capture, list(self.network.state_dict().values()))
            except RuntimeError as error:
                step.note = f"no CUDA graph: {error}"
        return step


def write_distributions(Y: Tensor, out: Tensor) -> None:
    """Write targets as distributions, (..., V). They are symbols, (...), or distributions already.

    Raises IndexError on symbols outside 0 to V - 1.
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
