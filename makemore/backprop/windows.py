"""Steps and gradients by hand that compute equal windows of symbols once (beyond the lecture).

In a large batch most windows are the same: of the 4,096 pairs in 1,024 contexts of 8 characters a tenth is
distinct. Here a layer has a node for each distinct window, where the lecture computes each window of each
context, and a derivative is summed over equal windows before it goes on. Whole contexts seldom repeat: from
there up a step is the plain one.

A node that is the first part of a wider window meets other rows of the weight than one that is its second
part. So windows count as equal only if they take the same place in the wider window. The nodes of a place lie
one after another: each is multiplied by the rows of the weight for its place, and a wider window is a sum of
such products.

Departure from the lecture, beside those of the other derivatives: a dropped symbol is one more symbol, whose
embedding is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore.backprop.derivatives import DERIVATIVES, Derivative, Into, LinearDerivative
from makemore.backprop.engine import BackpropEngine, Step, known_wires, layers_of, logits_of
from makemore.distinct import distinct
from makemore.layers import (
    BatchNorm1d,
    Embedding,
    FlattenConsecutive,
    Layer,
    Linear,
    Sequential,
    declared,
)
from makemore.wiring import wires_of

LEAST_WORK = 4_000_000
"""Multiplications of a plain forward pass, for each fusing of positions, from which it is faster."""

LEAST_SAVING = 2.0
"""How many times fewer multiplications distinct windows must need for a step to be computed on them."""

NARROW = 32
"""Outputs up to which a Linear's lie column by column."""

COUNTING_DTYPES = {torch.float32, torch.float64}
"""The dtypes that hold any count of windows exactly."""


class Level:
    """The windows of one width in a batch, (B, P), and the distinct ones among them, its D nodes.

    ``below``, (D, n), tells which nodes of the level below a window consists of, ``counts``, (D,) and
    floating, how often it occurs among ``total`` windows. ``places`` are the nodes that come first in a
    window of the level above, those that come second, and so on.
    """

    below: Tensor
    counts: Tensor
    places: list[slice]

    def __init__(self, batch_size: int, positions: int, parts_above: int, dtype: torch.dtype) -> None:
        self.total = batch_size * positions
        self.place = (torch.arange(positions) % parts_above).repeat(batch_size)  # (B*P,)
        self.parts_above = parts_above
        self.dtype = dtype

    def find(self, windows: Tensor, nodes_below: int) -> Tensor:
        """Find the nodes among all windows, (B*P, n); returns what those above consist of, (B*P/n', n')."""
        sizes = [self.parts_above] + [nodes_below] * windows.shape[1]
        members, nodes, counts = distinct([self.place, *windows.unbind(1)], sizes)
        self.below = windows.index_select(0, members)
        self.counts = counts.to(self.dtype)
        self._set_places(self.place.index_select(0, members))
        return nodes.view(-1, self.parts_above)

    def find_symbols(self, upper: Level, vocab_size: int) -> None:
        """Find the nodes of the lowest level, single symbols, among those in the nodes of the next level."""
        symbols = upper.below.t().flatten()  # (D, n) -> (n*D,)
        place = torch.arange(self.parts_above).repeat_interleave(len(upper.below))
        members, nodes, _ = distinct([place, symbols], [self.parts_above, vocab_size])
        self.below = symbols.index_select(0, members).unsqueeze(1)
        self.counts = torch.bincount(nodes, upper.counts.repeat(self.parts_above)).to(self.dtype)
        self._set_places(place.index_select(0, members))
        upper.below = nodes.view(self.parts_above, -1).t().contiguous()

    def _set_places(self, place: Tensor) -> None:
        nodes = torch.bincount(place, minlength=self.parts_above).tolist()
        self.places = [slice(start, end) for start, end in pairwise(accumulate(nodes, initial=0))]

    def __len__(self) -> int:
        return len(self.below)


class Contexts(Level):
    """The whole contexts, all of them, in the order of the batch."""

    def __init__(self, batch_size: int, dtype: torch.dtype) -> None:
        super().__init__(batch_size, 1, 1, dtype)
        self.counts = torch.ones(batch_size, dtype=dtype)


class Rows:
    """Memory for a value of each channel of each node, as many nodes as a batch has needed so far."""

    def __init__(self, like: Tensor, channels: int) -> None:
        self.memory = like.new_empty(0, channels)

    def __call__(self, nodes: int) -> Tensor:
        """Room for that many: (nodes, channels)."""
        if nodes > len(self.memory):
            self.memory = self.memory.new_empty(nodes + nodes // 4, self.memory.shape[1])
        return self.memory[:nodes]


class NodesDerivative(Protocol):
    """A layer, or two, on the nodes of a level, whose number is another one in each batch.

    ``forward`` takes x, (D, C), and returns y. ``backward`` takes the derivative of the loss by y, summed
    over equal windows, adds those by the parameters where they go, and returns the one by x, summed
    likewise. Both may overwrite what they are given, ``forward`` only where ``may_overwrite`` allows it.
    ``needs_output`` says that ``backward`` reads y, which the layer behind must then leave as it is.
    """

    needs_output: bool

    def forward(self, x: Tensor) -> Tensor: ...
    def backward(self, dy: Tensor) -> Tensor: ...


class SymbolsDerivative(NodesDerivative):
    """An Embedding: the rows of the distinct symbols. The one after all others is the dropped one."""

    needs_output = False

    def __init__(self, layer: Embedding, level: Level, into: Into) -> None:
        self.E, self.into_E, self.level = layer.weight, into(layer.weight), level

    def forward(self, x: Tensor) -> Tensor:
        """Asks the level for the symbols, not ``x``."""
        symbols = self.level.below.squeeze(1)
        self.kept = (symbols < len(self.E)).to(self.E.dtype).unsqueeze(1)
        self.symbols = symbols.clamp(max=len(self.E) - 1)
        return self.E.index_select(0, self.symbols).mul_(self.kept)  # (D,) -> (D, C)

    # y = E[symbol], 0 if dropped:   dE: each row of dy that is not dropped is added to the symbol's row
    def backward(self, dy: Tensor) -> Tensor:
        self.into_E.index_add_(0, self.symbols, dy.mul_(self.kept))
        return dy  # of symbols there is no derivative


class FuseDerivative(NodesDerivative):
    """A FlattenConsecutive and the Linear behind it, from the nodes of one level to those of the next."""

    needs_output = False

    def __init__(self, layer: Linear, lower: Level, upper: Level, into: Into) -> None:
        W, b = layer.weight, layer.bias
        self.lower, self.upper = lower, upper
        self.W, self.into_W = (w.unflatten(0, (lower.parts_above, -1)) for w in (W, into(W)))  # (n, C, H)
        self.b, self.into_b = b, None if b is None else into(b)
        self.products, self.dx = Rows(W, W.shape[1]), Rows(W, W.shape[0] // lower.parts_above)

    # With W in n pieces W_j, one for each part of a window, and x_i the node that is the window's part j:
    #   y = sum over j of p_i + b   p_i = x_i W_j   A node is part j of some windows for one j alone.
    def forward(self, x: Tensor) -> Tensor:
        products = self.products(len(x))
        self.x = x
        for W_j, place in zip(self.W, self.lower.places, strict=True):
            torch.mm(x[place], W_j, out=products[place])  # (D_j, C) -> (D_j, H)
        y: Tensor = F.embedding_bag(self.upper.below, products, mode="sum")  # (D, n) -> (D, H)
        return y if self.b is None else y.add_(self.b)

    #   dp_i = the sum of dy over the windows that node i is part of
    #   dx_i = dp_i W_j'   dW_j = sum over i of x_i' dp_i   db = the sum of dy's rows
    # dx comes first: W may be what dW is added to.
    def backward(self, dy: Tensor) -> Tensor:
        dx = self.dx(len(self.x))
        dproducts = self.products(len(self.x)).zero_()
        for nodes in self.upper.below.unbind(1):
            dproducts.index_add_(0, nodes, dy)
        for W_j, into_W_j, place in zip(self.W, self.into_W, self.lower.places, strict=True):
            torch.mm(dproducts[place], W_j.t(), out=dx[place])
            into_W_j.addmm_(self.x[place].t(), dproducts[place])
        if self.into_b is not None:
            self.into_b.add_(dy.sum(0))
        return dx


class ConcatenateDerivative(NodesDerivative):
    """A FlattenConsecutive with no Linear behind it: a window's row is its nodes' rows, side by side."""

    needs_output = False

    def __init__(self, lower: Level, upper: Level) -> None:
        self.lower, self.upper = lower, upper

    def forward(self, x: Tensor) -> Tensor:
        return x[self.upper.below].flatten(1)  # (D, n) -> (D, n, C) -> (D, n*C)

    # Each part of a row of dy is added to its node's row of dx.
    def backward(self, dy: Tensor) -> Tensor:
        nodes = self.upper.below.flatten()
        dparts = dy.view(len(nodes), -1)  # (D, n*C) -> (D*n, C)
        return dy.new_zeros(len(self.lower), dparts.shape[1]).index_add_(0, nodes, dparts)


class WeightedBatchNormDerivative(NodesDerivative):
    """BatchNorm over N windows as D rows, each of which counts w times."""

    needs_output = False

    def __init__(self, layer: BatchNorm1d, level: Level, into: Into, may_overwrite: bool) -> None:
        self.layer, self.level, self.may_overwrite = layer, level, may_overwrite
        self.into_gamma, self.into_beta = into(layer.gamma), into(layer.beta)
        self.y = Rows(layer.gamma, len(layer.gamma))

    # mean = sum(w x) / N   var = sum(w (x - mean)^2) / (N-1)   y = gamma (x - mean) / sqrt(var + eps) + beta
    def forward(self, x: Tensor) -> Tensor:
        layer, w = self.layer, self.level.counts
        N: int | Tensor = self.level.total
        y = squares = self.y(len(x))
        sums = torch.mv(x.t(), w)
        if layer.total is not None:
            sums, N = torch.tensor_split(layer.total(torch.cat([sums, sums.new_full((1,), float(N))])), [-1])
        mean = sums / N
        self.centred = x.sub_(mean) if self.may_overwrite else x - mean
        torch.mul(self.centred, self.centred, out=squares)
        sums = torch.mv(squares.t(), w)
        var = (sums if layer.total is None else layer.total(sums)) / (N - 1)
        layer.running_mean.lerp_(mean, layer.momentum)
        layer.running_var.lerp_(var, layer.momentum)
        self.N, self.inverse_std = N, var.add_(layer.eps).rsqrt_()
        self.scale = layer.gamma * self.inverse_std
        return torch.addcmul(layer.beta, self.centred, self.scale, out=y)

    # y = gamma xhat + beta, xhat = (x - mean) / std; dy is summed over equal windows already:
    #   dbeta = sum dy   dgamma = sum dy xhat
    #   dx = gamma / std * (dy - w * (dbeta / N + xhat * dgamma / (N-1)))
    def backward(self, dy: Tensor) -> Tensor:
        N, w, scratch = self.N, self.level.counts.unsqueeze(1), self.y(len(dy))
        dbeta = dy.sum(0)
        dgamma = torch.mul(dy, self.centred, out=scratch).sum(0).mul_(self.inverse_std)
        self.into_gamma.add_(dgamma)
        self.into_beta.add_(dbeta)
        if self.layer.total is not None:
            dgamma, dbeta = self.layer.total(torch.stack([dgamma, dbeta]))
        slope = dgamma * self.inverse_std / (N - 1)
        torch.addcmul(dbeta / N, self.centred, slope, out=scratch).mul_(w)
        return dy.sub_(scratch).mul_(self.scale)


class NarrowLinearDerivative(LinearDerivative):
    """A Linear with few outputs: they lie column by column, as does dW, in half the time for the BLAS."""

    def __init__(self, layer: Linear, x: Tensor, into: Into, may_overwrite: bool) -> None:
        super().__init__(layer, x, into, may_overwrite)
        fan_in, fan_out = layer.weight.shape
        self.y, self.dW = x.new_empty(fan_out, len(x)).t(), x.new_empty(fan_out, fan_in).t()
        self.forward[0] = partial(torch.mm, x, layer.weight, out=self.y)
        if layer.bias is not None:
            self.forward[1] = partial(self.y.add_, layer.bias)

    def backward(self, dy: Tensor) -> Tensor:
        torch.mm(dy, self.W_t, out=self.dx)
        self.into_W.add_(torch.mm(self.x_t, dy, out=self.dW))
        self.add_db(dy)
        return self.dx


class EachNodeDerivative(NodesDerivative):
    """A layer that takes each node for itself: its plain derivative, made anew for the nodes of a batch."""

    def __init__(self, layer: Layer, into: Into, may_overwrite: bool) -> None:
        kind = DERIVATIVES[type(layer)]
        if type(layer) is Linear and layer.weight.shape[1] <= NARROW:
            kind = NarrowLinearDerivative
        self.needs_output = kind.needs_output
        self.derivative_at: Callable[[Tensor], Derivative] = lambda x: kind(layer, x, into, may_overwrite)

    def forward(self, x: Tensor) -> Tensor:
        self.derivative = self.derivative_at(x)
        for run in self.derivative.forward:
            run()
        return self.derivative.y

    def backward(self, dy: Tensor) -> Tensor:
        return self.derivative.backward(dy)


class Stage(NamedTuple):
    """How many positions a FlattenConsecutive fuses, and the layers behind it, up to the next one."""

    fused: int
    layers: list[Layer]


def stages_of(network: Sequential) -> list[Stage]:
    """The layers behind the Embedding, those on single symbols first. FlattenConsecutive(1) is left out."""
    stages = [Stage(1, [])]
    for layer in layers_of(wires_of(network))[1:]:
        if not isinstance(layer, FlattenConsecutive):
            stages[-1].layers.append(layer)
        elif layer.n > 1:
            stages.append(Stage(layer.n, []))
    return stages


class WindowsStep(Step):
    """A step on distinct windows at one batch shape, or on all windows where that would save too little."""

    def __init__(self, network: Sequential, X: Tensor, Y: Tensor, drops: bool, into: Into) -> None:
        rows = slice(2) if len(X) == len(Y) else slice(None)  # two are enough to see what does not fit
        logits = logits_of(network, known_wires(network), X[rows], Y[rows])
        self.logits = self.dlogits = logits.new_empty(len(X), logits.shape[1])
        self.keep = logits.new_ones(X.numel(), 1) if drops else None
        self.plain_step = partial(Step, network, X, Y, drops, into)
        self.plain: Step | None = None
        embedding, (symbols, *stages) = wires_of(network)[0].layer, stages_of(network)
        assert isinstance(embedding, Embedding)
        dtype = embedding.weight.dtype
        self.vocab_size = len(embedding.weight) + drops
        self.levels: list[Level] = []
        positions = X.shape[1]
        for n, _ in stages:
            self.levels.append(Level(len(X), positions, n, dtype))
            positions //= n
        self.levels.append(Contexts(len(X), dtype))
        self.parts: list[NodesDerivative] = [SymbolsDerivative(embedding, self.levels[0], into)]
        self._append(symbols.layers, self.levels[0], into)
        for (_, layers), (lower, upper) in zip(stages, pairwise(self.levels), strict=True):
            if layers and isinstance(layers[0], Linear):
                self.parts.append(FuseDerivative(layers[0], lower, upper, into))
                self._append(layers[1:], upper, into)
            else:
                self.parts.append(ConcatenateDerivative(lower, upper))
                self._append(layers, upper, into)

    def _append(self, layers: Sequence[Layer], level: Level, into: Into) -> None:
        """Add what the layers do to the nodes of a level."""
        for layer in layers:
            may_overwrite = not self.parts[-1].needs_output
            if isinstance(layer, BatchNorm1d):
                self.parts.append(WeightedBatchNormDerivative(layer, level, into, may_overwrite))
            else:
                self.parts.append(EachNodeDerivative(layer, into, may_overwrite))

    def __call__(self, X: Tensor, minus_Y: Tensor, logprobs: Tensor) -> None:
        with torch.inference_mode():
            if not self.find_nodes(X):
                self.plain = self.plain or self.plain_step()
                if self.keep is not None and self.plain.keep is not None:
                    self.plain.keep.copy_(self.keep)
                self.plain(X, minus_Y, logprobs)
                return
            y = X
            for part in self.parts:
                y = part.forward(y)
            dy = self.by_logits(y, minus_Y, logprobs)
            for part in reversed(self.parts):
                dy = part.backward(dy)

    def find_nodes(self, X: Tensor) -> bool:
        """Find the nodes of all levels for the indices X, (B*T,); returns whether they are few enough."""
        symbols = X.long()
        if self.keep is not None:
            kept = self.keep != 0
            if not torch.equal(kept.to(self.keep.dtype), self.keep):
                return False  # there are embeddings kept in part
            symbols = symbols.masked_fill(~kept.view(-1), self.vocab_size - 1)
        lowest, *between, contexts = self.levels
        windows, nodes_below = symbols.view(-1, lowest.parts_above), self.vocab_size
        for level in between:
            windows = level.find(windows, nodes_below)
            nodes_below = len(level)
        contexts.below = windows
        lowest.find_symbols(self.levels[1], self.vocab_size)
        fused = [(part.lower, part.W[0].numel()) for part in self.parts if isinstance(part, FuseDerivative)]
        plain_work = sum(level.total * a_node for level, a_node in fused)
        return bool(plain_work >= LEAST_SAVING * sum(len(level) * a_node for level, a_node in fused))


class WindowsEngine(BackpropEngine):
    """``BackpropEngine`` on distinct windows, wherever that is faster.

    Steps are plain ones where batch or network are so small that nothing is gained, and for a batch whose
    windows seldom repeat. Also where the idea does not apply: on CUDA, which would have to wait for the
    numbers of nodes; for values of ``keep`` other than 0 and 1; for statistics kept for each position
    apart; and for layers that have a derivative but do not declare that they act on each position alone.
    """

    def _new_step(self, X: Tensor, Y: Tensor, drops: bool, into: Into) -> Step:
        kind = WindowsStep if self._gains(X) else Step
        return kind(self.network, X, Y, drops, into)

    def _gains(self, X: Tensor) -> bool:
        """Whether steps for batches of that shape are faster on distinct windows, if these are few enough."""
        wires = known_wires(self.network)
        if any(wire.sources != (i - 1,) for i, wire in enumerate(wires)):
            return False
        stages = stages_of(self.network)[1:]
        positions = math.prod(stage.fused for stage in stages)
        dtypes = {p.dtype for p in self.network.parameters()}
        if not stages or X.shape[1:] != (positions,) or X.is_cuda or not dtypes <= COUNTING_DTYPES:
            return False
        if not all(_is_by_node(layer) for layer in layers_of(wires)[1:]):
            return False
        windows, work = X.numel(), 0
        for n, layers in stages:
            windows //= n
            if layers and isinstance(layers[0], Linear):
                work += windows * layers[0].weight.numel()
        return work >= LEAST_WORK * len(stages)


def _is_by_node(layer: Layer) -> bool:
    """Whether a layer that has a derivative can do with the nodes alone."""
    if isinstance(layer, BatchNorm1d):
        return layer.running_mean.ndim == 1
    return isinstance(layer, FlattenConsecutive | Linear) or bool(declared(layer, "acts_per_position"))
