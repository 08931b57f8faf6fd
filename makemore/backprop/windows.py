"""Steps and gradients by hand that compute equal windows of symbols once (beyond the lecture).

In a large batch most windows are the same: of the 4,096 pairs in 1,024 contexts of 8 characters a tenth is
distinct. Here a layer has a node for each distinct window, where the lecture computes each window of each
context, and a derivative is summed over equal windows before it goes on. Whole contexts seldom repeat: from
there up a step is the plain one.

A node that is the first part of a wider window meets other rows of the weight than one that is its second
part. So windows count as equal only if they take the same place in the wider window. The nodes of a place lie
one after another: each is multiplied by the rows of the weight for its place, and a wider window is a sum of
such products. Where wider windows overlap (a ``FlattenDilated``), a node takes every place, and is multiplied
by all rows.

Departure from the lecture, beside those of the other derivatives: a dropped symbol is one more symbol, whose
embedding is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore.backprop.derivatives import DERIVATIVES, Derivative, Into, LinearDerivative
from makemore.backprop.engine import BackpropEngine, Backward, Step, known_wires, layers_of, logits_of
from makemore.distinct import distinct
from makemore.layers import BatchNorm1d, Embedding, Layer, Linear, Looks, Sequential, declared, pooled
from makemore.wiring import INPUT, Wire, looks_at, positions_of, readers_of

LEAST_WORK = 6_000_000
"""Multiplications of a plain forward pass, for each fusing of positions, from which it is faster."""

LEAST_SAVING = 2.0
"""How many times fewer multiplications distinct windows must need for a step to be computed on them."""

NARROW = 32
"""Outputs up to which a Linear's lie column by column."""

SAME = Looks(1, (0,))
"""What looks at each position alone."""

COUNTING_DTYPES = {torch.float32, torch.float64}
"""The dtypes that hold any count of windows exactly."""


class Level:
    """The windows of one width in a batch, (B, P), and the distinct ones among them, its D nodes.

    ``below``, (D, n), tells which nodes of the level below a window consists of, ``counts``, (D,) and
    floating, how often it occurs among ``total`` windows; ``ids``, (B*P,), are the nodes of all windows.
    ``looks`` says of which windows those of the level above consist. ``places`` are the nodes that come first
    in such a window, those that come second, and so on; if the windows overlap that is every node each time.
    """

    below: Tensor
    counts: Tensor
    ids: Tensor
    places: list[slice]

    def __init__(self, batch_size: int, positions: int, looks: Looks, dtype: torch.dtype) -> None:
        self.total = batch_size * positions
        self.positions, self.looks, self.dtype = positions, looks, dtype
        self.parts_above = len(looks.offsets)
        self.overlaps = looks.offsets != tuple(range(looks.stride))
        kinds = 1 if self.overlaps else self.parts_above
        self.kinds, self.place = kinds, (torch.arange(positions) % kinds).repeat(batch_size)  # (B*P,)

    def find(self, windows: Tensor, nodes_below: int) -> None:
        """Find the nodes among all windows, (B*P, n)."""
        sizes = [self.kinds] + [nodes_below] * windows.shape[1]
        members, self.ids, counts = distinct([self.place, *windows.unbind(1)], sizes)
        self.below = windows.index_select(0, members)
        self.counts = counts.to(self.dtype)
        self._set_places(self.place.index_select(0, members))

    def windows_above(self, ids: Tensor) -> Tensor:
        """Of which of this level's windows, (B*P,), those above consist: (B*P', n')."""
        if not self.overlaps:
            return ids.view(-1, self.parts_above)
        rows, last = ids.view(-1, self.positions), self.looks.offsets[-1]
        parts = [rows[:, o : self.positions - last + o : self.looks.stride] for o in self.looks.offsets]
        return torch.stack(parts, dim=2).view(-1, self.parts_above)

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
        nodes = torch.bincount(place, minlength=self.kinds).tolist()
        self.places = [slice(start, end) for start, end in pairwise(accumulate(nodes, initial=0))]
        if self.overlaps:
            self.places *= self.parts_above

    def products(self) -> tuple[list[slice], int]:
        """Where the products of each place lie, and how many products there are in all."""
        nodes = len(self)
        if not self.overlaps:
            return self.places, nodes
        return [slice(j * nodes, (j + 1) * nodes) for j in range(self.parts_above)], self.parts_above * nodes

    def __len__(self) -> int:
        return len(self.below)


class Contexts(Level):
    """The whole contexts, all of them, in the order of the batch."""

    def __init__(self, batch_size: int, dtype: torch.dtype) -> None:
        super().__init__(batch_size, 1, SAME, dtype)
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
    """What fuses positions and the Linear behind it, from the nodes of one level to those of the next."""

    needs_output = False

    def __init__(self, layer: Linear, lower: Level, upper: Level, into: Into) -> None:
        W, b = layer.weight, layer.bias
        self.lower, self.upper = lower, upper
        self.W, self.into_W = (w.unflatten(0, (lower.parts_above, -1)) for w in (W, into(W)))  # (n, C, H)
        self.b, self.into_b = b, None if b is None else into(b)
        self.products, self.dx = Rows(W, W.shape[1]), Rows(W, W.shape[0] // lower.parts_above)

    # With W in n pieces W_j, one for each part of a window, and x_i a node that is part j of some windows:
    #   y = sum over j of p_ij + b   p_ij = x_i W_j
    def forward(self, x: Tensor) -> Tensor:
        places, number = self.lower.products()
        products, self.x = self.products(number), x
        for W_j, nodes, place in zip(self.W, self.lower.places, places, strict=True):
            torch.mm(x[nodes], W_j, out=products[place])  # (D_j, C) -> (D_j, H)
        self.rows = self.upper.below
        if self.lower.overlaps:  # the products by W_j lie behind all those by the W before
            self.rows = self.rows + torch.arange(0, number, len(x))
        y: Tensor = F.embedding_bag(self.rows, products, mode="sum")  # (D, n) -> (D, H)
        return y if self.b is None else y.add_(self.b)

    #   dp_ij = the sum of dy over the windows that node i is part j of
    #   dx_i = sum over j of dp_ij W_j'   dW_j = sum over i of x_i' dp_ij   db = the sum of dy's rows
    # dx comes first: W may be what dW is added to.
    def backward(self, dy: Tensor) -> Tensor:
        places, number = self.lower.products()
        dx, dproducts = self.dx(len(self.x)), self.products(number).zero_()
        for rows in self.rows.unbind(1):
            dproducts.index_add_(0, rows, dy)
        for j, (nodes, place) in enumerate(zip(self.lower.places, places, strict=True)):
            if j > 0 and self.lower.overlaps:
                dx.addmm_(dproducts[place], self.W[j].t())
            else:
                torch.mm(dproducts[place], self.W[j].t(), out=dx[nodes])
        for into_W_j, nodes, place in zip(self.into_W, self.lower.places, places, strict=True):
            into_W_j.addmm_(self.x[nodes].t(), dproducts[place])
        if self.into_b is not None:
            self.into_b.add_(dy.sum(0))
        return dx


class ConcatenateDerivative(NodesDerivative):
    """What fuses positions with no Linear behind it: a window's row is its nodes' rows, side by side."""

    needs_output = False

    def __init__(self, lower: Level, upper: Level) -> None:
        self.lower, self.upper = lower, upper

    def forward(self, x: Tensor) -> Tensor:
        return x[self.upper.below].flatten(1)  # (D, n) -> (D, n, C) -> (D, n*C)

    # Each part of a row of dy is added to its node's row of dx.
    def backward(self, dy: Tensor) -> Tensor:
        nodes = self.upper.below.flatten()
        dparts = dy.reshape(len(nodes), -1)  # (D, n*C) -> (D*n, C)
        return dy.new_zeros(len(self.lower), dparts.shape[1]).index_add_(0, nodes, dparts)


class PartDerivative(NodesDerivative):
    """A Newest: one part of each window of the next level, or of each whole context one window far below."""

    needs_output = False

    def __init__(self, lower: Level, upper: Level, looks: Looks) -> None:
        self.lower, self.upper = lower, upper
        self.offset, offsets = looks.offsets[0], lower.looks.offsets
        is_next = looks.stride == lower.looks.stride and self.offset in offsets
        self.part = offsets.index(self.offset) if is_next else None

    def nodes(self) -> Tensor:
        """Which nodes are looked at, (D,)."""
        if self.part is None:
            return self.lower.ids.view(-1, self.lower.positions)[:, self.offset]
        return self.upper.below[:, self.part]

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(0, self.nodes())

    # Each row of dy is added to its node's row of dx.
    def backward(self, dy: Tensor) -> Tensor:
        dx = dy.new_zeros(len(self.lower), dy.shape[1])
        self.add_to(dx, dy)
        return dx

    def add_to(self, dx: Tensor, dy: Tensor) -> None:
        """Add the derivative by x to what others have found of it."""
        dx.index_add_(0, self.nodes(), dy)


class SumOfNodesDerivative:
    """y = a + b, of one level. Both have the derivative dy."""

    needs_output = False

    def __init__(self, may_overwrite_a: bool, may_overwrite_b: bool) -> None:
        self.may_a, self.may_b = may_overwrite_a, may_overwrite_b

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a.add_(b) if self.may_a else b.add_(a) if self.may_b else a + b


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
        mean = torch.mv(x.t(), w) / N
        self.centred = x.sub_(mean) if self.may_overwrite else x - mean
        torch.mul(self.centred, self.centred, out=squares)
        sums = torch.mv(squares.t(), w)
        if layer.gathered is None:
            var = sums / (N - 1)
        else:
            own_mean = mean
            N, mean, var = pooled(self.level.total, own_mean, sums, layer.gathered)
            self.centred.add_(own_mean - mean)
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
        if self.layer.gathered is not None:
            dgamma, dbeta = self.layer.gathered(torch.stack([dgamma, dbeta])).sum(0)
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


def needed_wires(network: Sequential) -> list[Wire]:
    """The wires of a network without those that look at each position alone, as FlattenConsecutive(1)."""
    kept, number = list[Wire](), {INPUT: INPUT}
    for i, (layer, sources) in enumerate(known_wires(network)):
        sources = tuple(number[source] for source in sources)
        if looks_at(layer) == SAME:
            number[i] = sources[0]
        else:
            number[i] = len(kept)
            kept.append(Wire(layer, sources))
    return kept


def levels_of(wires: Sequence[Wire]) -> dict[int, Looks] | None:
    """What fuses the positions of each level, by how many these are, from the symbols up.

    None if the nodes do not lie in levels: if what fuses the positions of one level does not do so alike, or
    a ``Newest`` looks neither at a part of what is fused nor at one position of each whole context.
    """
    positions, block_size = positions_of(wires)
    looking = [
        (looks, positions[wire.sources[0]], above)
        for wire, above in zip(wires, positions, strict=True)
        if (looks := looks_at(wire.layer))
    ]
    levels: dict[int, Looks] = {}
    for looks, below, _ in looking:
        if len(looks.offsets) > 1 and levels.setdefault(below, looks) != looks:
            return None
    sizes = sorted({block_size, *positions}, reverse=True)
    if sorted(levels, reverse=True) != sizes[:-1]:
        return None
    if any(levels[below].needed(above) != below for below, above in pairwise(sizes)):
        return None
    for looks, below, above in looking:
        is_part = looks.stride == levels[below].stride and set(looks.offsets) <= set(levels[below].offsets)
        if not is_part and (above != 1 or below == block_size):
            return None
    return {size: levels[size] for size in sizes[:-1]}


class WindowsStep(Step):
    """A step on distinct windows at one batch shape, or on all windows where that would save too little."""

    def __init__(self, network: Sequential, X: Tensor, Y: Tensor, drops: bool, into: Into) -> None:
        rows = slice(2) if len(X) == len(Y) else slice(None)  # two are enough to see what does not fit
        wires = needed_wires(network)
        logits = logits_of(network, wires, X[rows], Y[rows])
        self.logits = self.dlogits = logits.new_empty(len(X), logits.shape[1])
        self.keep = logits.new_ones(X.numel(), 1) if drops else None
        self.plain_step = partial(Step, network, X, Y, drops, into)
        self.plain: Step | None = None
        embedding, levels = wires[0].layer, levels_of(wires)
        assert isinstance(embedding, Embedding)
        assert levels is not None
        self.vocab_size, dtype = len(embedding.weight) + drops, embedding.weight.dtype
        found = [Level(len(X), positions, looks, dtype) for positions, looks in levels.items()]
        self.levels = [*found, Contexts(len(X), dtype)]
        self.parts: list[Any] = [SymbolsDerivative(embedding, self.levels[0], into)]
        self.wires = [Wire(embedding, (INPUT,))]
        self._append_parts(wires, into)
        self.back = Backward(self.wires, self.parts)

    def _append_parts(self, wires: Sequence[Wire], into: Into) -> None:
        """Add what each wire does to the nodes of its level."""
        readers, part_of = readers_of(wires), [0]  # which part gives the output of each wire
        level_of = {level.positions: level for level in self.levels}
        levels = [level_of[positions] for positions in positions_of(wires)[0]]
        fused_first: dict[int, Level] = {}  # what fuses the positions of a level for a Linear alone
        for i, (layer, sources) in enumerate(wires[1:], start=1):
            looks, lower, upper = looks_at(layer), levels[sources[0]], levels[i]
            read = tuple(part_of[source] for source in sources)
            may = [
                readers[source] == 1 and not self.parts[part_of[source]].needs_output for source in sources
            ]
            part: Any
            if layer is None:
                part = SumOfNodesDerivative(*may)
            elif looks is not None and len(looks.offsets) > 1:
                behind = [wire.layer for wire in wires if wire.sources == (i,)]
                if readers[i] == 1 and isinstance(behind[0], Linear):
                    fused_first[i] = lower
                    part_of.append(read[0])
                    continue
                part = ConcatenateDerivative(lower, upper)
            elif looks is not None:
                part = PartDerivative(lower, upper, looks)
            elif isinstance(layer, Linear) and sources[0] in fused_first:
                part = FuseDerivative(layer, fused_first[sources[0]], upper, into)
            elif isinstance(layer, BatchNorm1d):
                part = WeightedBatchNormDerivative(layer, upper, into, may[0])
            else:
                part = EachNodeDerivative(layer, into, may[0])
            self.parts.append(part)
            self.wires.append(Wire(layer, read))
            part_of.append(len(self.parts) - 1)

    def __call__(self, X: Tensor, minus_Y: Tensor, logprobs: Tensor) -> None:
        with torch.inference_mode():
            if not self.find_nodes(X):
                self.plain = self.plain or self.plain_step()
                if self.keep is not None and self.plain.keep is not None:
                    self.plain.keep.copy_(self.keep)
                self.plain(X, minus_Y, logprobs)
                return
            values: list[Tensor] = [self.parts[0].forward(X)]
            for part, wire in zip(self.parts[1:], self.wires[1:], strict=True):
                values.append(part.forward(*[values[source] for source in wire.sources]))
            self.back(self.by_logits(values[-1], minus_Y, logprobs))

    def find_nodes(self, X: Tensor) -> bool:
        """Find the nodes of all levels for the indices X, (B*T,); returns whether they are few enough."""
        symbols = X.long()
        if self.keep is not None:
            kept = self.keep != 0
            if not torch.equal(kept.to(self.keep.dtype), self.keep):
                return False  # there are embeddings kept in part
            symbols = symbols.masked_fill(~kept.view(-1), self.vocab_size - 1)
        lowest, *between, contexts = self.levels
        windows, nodes_below = lowest.windows_above(symbols), self.vocab_size
        if lowest.overlaps:
            lowest.find(symbols.unsqueeze(1), self.vocab_size)
            windows, nodes_below = lowest.windows_above(lowest.ids), len(lowest)
        for level in between:
            level.find(windows, nodes_below)
            windows, nodes_below = level.windows_above(level.ids), len(level)
        contexts.below = windows
        if not lowest.overlaps:
            lowest.find_symbols(self.levels[1], self.vocab_size)
        fusing = [part for part in self.parts if isinstance(part, FuseDerivative)]
        plain_work = sum(part.upper.total * part.W.numel() for part in fusing)
        work = sum(part.lower.products()[1] * part.W[0].numel() for part in fusing)
        return bool(plain_work >= LEAST_SAVING * work)


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
        wires = needed_wires(self.network)
        positions, block_size = positions_of(wires)
        levels, dtypes = levels_of(wires), {p.dtype for p in self.network.parameters()}
        if not levels or X.is_cuda or not dtypes <= COUNTING_DTYPES:
            return False
        if X.shape[1:] != (block_size,) or not all(_is_by_node(layer) for layer in layers_of(wires)[1:]):
            return False
        work = 0
        for (layer, sources), count in zip(wires, positions, strict=True):
            below = looks_at(wires[sources[0]].layer) if sources[0] != INPUT else None
            if isinstance(layer, Linear) and below is not None and len(below.offsets) > 1:
                work += len(X) * count * layer.weight.numel()
        return work >= LEAST_WORK * len(levels)


def _is_by_node(layer: Layer) -> bool:
    """Whether a layer that has a derivative can do with the nodes alone."""
    if isinstance(layer, BatchNorm1d):
        return layer.running_mean.ndim == 1
    return (
        isinstance(layer, Linear) or looks_at(layer) is not None or bool(declared(layer, "acts_per_position"))
    )
