"""Hand-derived steps and gradients that compute repeated windows of symbols once.

In a large batch most windows repeat: of the 4,096 pairs in 1,024 contexts of 8 characters one in ten is
distinct. Here a layer has one row for each distinct window, where the lecture computes each window of each
context. A derivative is summed over equal windows before it is passed on. Whole contexts seldom repeat, so
the layers after the last concatenation compute all of them, as in a plain step.

The weight of a Linear has other rows for the first part of a wider window than for its second part. So two
windows count as equal only if they are the same part of the wider window. The rows of a part are stored one
after another: each is multiplied by the rows of the weight for its part, and a wider window is a sum of
such products. If the wider windows overlap (in a ``FlattenDilated``), a row can be any part and is
multiplied by all rows of the weight.

Departures from the lecture, besides those of the other derivatives:

* A dropped symbol is one more symbol, whose embedding is 0.
* With labels, a symbol is counted together with the labels of its context: windows are equal if their symbols
  and labels are.
* A layer that draws random numbers, such as Dropout, draws them once for each distinct window, where the
  plain step draws them once for each window of each context.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore.backprop.derivatives import (
    BatchNormFormulas,
    Derivative,
    GradBuffer,
    LinearDerivative,
    derivative_class,
)
from makemore.backprop.engine import (
    BackpropEngine,
    Backward,
    Step,
    known_nodes,
    layers_of,
    probe_contexts,
    values_of,
)
from makemore.core.graph import (
    INPUT,
    Geometry,
    Node,
    UndeclaredLayer,
    check_declarations,
    geometry,
    use_counts,
)
from makemore.core.layer import Layer, Window, declared, label_sizes, layer_text, stochastic_layers, window_of
from makemore.core.text import plural
from makemore.core.unique_rows import unique_rows
from makemore.lecture.layers import BatchNorm1d, Embedding, Linear
from makemore.paper.layers import LabelledEmbedding

MIN_WORK = 9_000_000
"""Multiplications of a plain forward pass, per level of windows, from which distinct windows are faster.

Below, the additional calls take longer than the products that are saved. At which work both take the same
time depends on how fast a machine does either: 5.5 million on a Zen 4 EPYC, 14 million on a Xeon with
faster products. The number is between the two, as no machine is timed: a run would then not be repeatable.
"""

MIN_SAVING = 2.0
"""How many times fewer multiplications a step must need on distinct windows to be computed on them."""

NARROW = 32
"""The largest number of outputs of a Linear that are stored column by column."""

SAME = Window(1, (0,))
"""The window that has each position on its own."""

COUNTING_DTYPES = {torch.float32, torch.float64}
"""The dtypes that hold any count of windows exactly."""


class Level:
    """The windows of one width in a batch, (B, P). Its rows are the D distinct ones among them.

    ``below``, (D, n), has the rows of the level below that a window consists of. ``counts``, (D,) and
    floating, is how often it occurs among ``total`` windows. ``ids``, (B*P,), is the row of each window.
    ``window`` says which windows those of the level above consist of. ``sizes`` has the numbers of rows that
    are the first part of such a window, that are the second, and so on: they are stored in this order. If
    the windows above overlap, each part has all rows.
    """

    below: Tensor
    counts: Tensor
    ids: Tensor
    sizes: list[int]
    merges = True  # whether equal windows are one row

    def __init__(self, batch_size: int, positions: int, window: Window, dtype: torch.dtype) -> None:
        self.total = batch_size * positions
        self.positions, self.window, self.dtype = positions, window, dtype
        self.num_parts = len(window.offsets)
        self.overlaps = window.offsets != tuple(range(window.stride))
        self.groups = 1 if self.overlaps else self.num_parts
        self.group = (torch.arange(positions) % self.groups).repeat(batch_size)  # (B*P,)

    def find(self, windows: Tensor, rows_below: int) -> None:
        """Find the distinct windows, given all windows by the rows they consist of, (B*P, n)."""
        sizes = [self.groups] + [rows_below] * windows.shape[1]
        index, self.ids, counts = unique_rows([self.group, *windows.unbind(1)], sizes)
        self.below = windows.index_select(0, index)
        self.counts = counts.to(self.dtype)
        self._count_parts(self.group.index_select(0, index))

    def windows_above(self, ids: Tensor) -> Tensor:
        """The windows of the level above, given by the rows of this level that ``ids`` has: (B*P', n')."""
        if not self.overlaps:
            return ids.view(-1, self.num_parts)
        rows, last = ids.view(-1, self.positions), self.window.offsets[-1]
        parts = [rows[:, o : self.positions - last + o : self.window.stride] for o in self.window.offsets]
        return torch.stack(parts, dim=2).view(-1, self.num_parts)

    def find_symbols(self, upper: Level, vocab_size: int) -> None:
        """Find the rows of the lowest level, single symbols, in the rows of the next level."""
        symbols = upper.below.t().flatten()  # (D, n) -> (n*D,)
        part = torch.arange(self.num_parts).unsqueeze(1).expand(-1, len(upper)).flatten()
        index, rows, _ = unique_rows([part, symbols], [self.num_parts, vocab_size])
        self.below = symbols.index_select(0, index).unsqueeze(1)
        self.counts = torch.bincount(rows, upper.counts.repeat(self.num_parts)).to(self.dtype)
        self._count_parts(part.index_select(0, index))
        upper.below = rows.view(self.num_parts, -1).t().contiguous()

    def _count_parts(self, group: Tensor) -> None:
        sizes = torch.bincount(group, minlength=self.groups).tolist()
        self.sizes = sizes * self.num_parts if self.overlaps else sizes

    def parts(self, x: Tensor) -> Sequence[Tensor]:
        """The rows of x, (D, C), that are each part."""
        return [x] * self.num_parts if self.overlaps else x.split_with_sizes(self.sizes)

    @property
    def num_products(self) -> int:
        """The number of products of a row and the piece of a weight for its part."""
        return sum(self.sizes)

    def __len__(self) -> int:
        return len(self.below)


class ContextLevel(Level):
    """The whole contexts, all of them, in the order of the batch."""

    merges = False

    def __init__(self, batch_size: int, dtype: torch.dtype) -> None:
        super().__init__(batch_size, 1, SAME, dtype)
        self.counts = torch.ones(batch_size, dtype=dtype)


class GrowingBuffer:
    """Memory for rows of channels, enough for the largest number of rows so far."""

    def __init__(self, like: Tensor, channels: int) -> None:
        self.memory = like.new_empty(0, channels)

    def __call__(self, rows: int) -> Tensor:
        """A buffer for that many rows: (rows, channels)."""
        if rows > len(self.memory):
            self.memory = self.memory.new_empty(rows + rows // 4, self.memory.shape[1])
        return self.memory[:rows]


class WindowDerivative(Protocol):
    """One or two layers on the rows of a level. The number of rows differs from batch to batch.

    ``forward`` takes x, (D, C), and returns y. ``backward`` takes the derivative of the loss with respect
    to y, summed over equal windows, adds those with respect to the parameters to their buffers, and returns
    the one with respect to x, also summed over equal windows. Both may overwrite their argument,
    ``forward`` only if ``inplace_ok``. If ``needs_output`` is true, ``backward`` reads y, and the next
    layer does not overwrite it.
    """

    needs_output: bool

    def forward(self, x: Tensor) -> Tensor: ...
    def backward(self, dy: Tensor) -> Tensor: ...


class SymbolDerivative(WindowDerivative):
    """An Embedding: the rows of the distinct symbols. The symbol after the last is the dropped one."""

    needs_output = False

    def __init__(self, layer: Embedding, level: Level, drops: bool, grad_buffer: GradBuffer) -> None:
        self.E, self.E_buffer, self.level = layer.weight, grad_buffer(layer.weight), level
        self.drops = drops

    def number_symbols(self, X: Tensor, kept: Tensor | None) -> tuple[Tensor, int]:
        """The symbols of a batch X (B, T), flattened to (B*T,), and how many different ones there can be.

        ``kept``, (B*T,) bool, is False where a symbol is dropped.
        """
        symbols, V = X.reshape(-1), len(self.E)
        return (symbols if kept is None else symbols.masked_fill(~kept, V)), V + self.drops

    def forward(self, x: Tensor) -> Tensor:
        """Look up the symbols of the level; ``x`` is not used."""
        return self.look_up(self.level.below.squeeze(1))

    def look_up(self, symbols: Tensor) -> Tensor:
        """The rows of symbols, (D,) -> (D, C)."""
        self.keep_mask = (symbols < len(self.E)).to(self.E.dtype).unsqueeze(1)
        self.symbols = symbols.clamp(max=len(self.E) - 1)
        return self.E.index_select(0, self.symbols).mul_(self.keep_mask)  # (D,) -> (D, C)

    # y = E[symbol], 0 if dropped:   dE: each row of dy that is not dropped is added to the symbol's row
    def backward(self, dy: Tensor) -> Tensor:
        self.E_buffer.index_add_(0, self.symbols, dy.mul_(self.keep_mask))
        return dy  # there is no derivative with respect to symbols


class LabelledSymbolDerivative(SymbolDerivative):
    """A LabelledEmbedding: the rows of the distinct pairs of a symbol and a combination of labels.

    Combination c of a batch and symbol s have the number V c + s, for V symbols with the dropped one.
    """

    def __init__(self, layer: LabelledEmbedding, level: Level, drops: bool, grad_buffer: GradBuffer) -> None:
        super().__init__(layer, level, drops, grad_buffer)
        self.layer, self.L_buffer = layer, grad_buffer(layer.label_weight)

    def number_symbols(self, X: Tensor, kept: Tensor | None) -> tuple[Tensor, int]:
        rows, symbols = self.layer.split(X)
        index, combination, counts = unique_rows(rows.unbind(1), [len(self.L_buffer)] * rows.shape[1])
        self.rows = rows.index_select(0, index)  # of the distinct combinations, (M, K)
        numbers, self.V = super().number_symbols(symbols, kept)
        pairs = numbers.view(symbols.shape) + (self.V * combination).unsqueeze(1)
        return pairs.flatten(), self.V * len(counts)

    def look_up(self, symbols: Tensor) -> Tensor:
        combination, symbols = symbols // self.V, symbols % self.V
        self.rows_of_pairs = self.rows.index_select(0, combination)  # (D, K)
        return super().look_up(symbols) + self.layer.condition(self.rows_of_pairs).squeeze(1)

    # y = E[symbol] + the sum of L[label]:   dL: each row of dy is added to the rows of its labels
    def backward(self, dy: Tensor) -> Tensor:
        for rows in self.rows_of_pairs.unbind(1):
            self.L_buffer.index_add_(0, rows, dy)
        return super().backward(dy)


SYMBOL_DERIVATIVES: dict[type[Layer], Any] = {
    Embedding: SymbolDerivative,
    LabelledEmbedding: LabelledSymbolDerivative,
}
"""The derivatives of the layers that a network can begin with, by the exact class."""


class FuseDerivative(WindowDerivative):
    """A concatenation of positions and the Linear after it: the rows of one level -> those of the next."""

    needs_output = False

    def __init__(self, layer: Linear, lower: Level, upper: Level, grad_buffer: GradBuffer) -> None:
        W, b = layer.weight, layer.bias
        self.lower, self.upper = lower, upper
        self.W, self.W_buffer = (
            w.unflatten(0, (lower.num_parts, -1)).unbind() for w in (W, grad_buffer(W))
        )  # n times (C, H)
        self.W_t = [W_j.t() for W_j in self.W]
        self.b, self.b_buffer = b, None if b is None else grad_buffer(b)
        self.products, self.dx = GrowingBuffer(W, W.shape[1]), GrowingBuffer(W, W.shape[0] // lower.num_parts)
        self.y = None if upper.merges else W.new_empty(upper.total, W.shape[1])

    # W is split into n pieces W_j, one for each part of a window. For a row x_i that is part j of windows:
    #   y = sum over j of p_ij + b   p_ij = x_i W_j
    def forward(self, x: Tensor) -> Tensor:
        products, self.x_parts = self.products(self.lower.num_products), self.lower.parts(x)
        self.places = products.split_with_sizes(self.lower.sizes)  # of the products of each part
        for W_j, x_j, place in zip(self.W, self.x_parts, self.places, strict=True):
            torch.mm(x_j, W_j, out=place)  # (D_j, C) -> (D_j, H)
        self.rows = self.upper.below
        if self.lower.overlaps:  # the products by W_j are stored after all those by the earlier pieces
            self.rows = self.rows + torch.arange(0, len(products), len(x))
        y = self.y
        if y is None:
            y = F.embedding_bag(self.rows, products, mode="sum")  # (D, n) -> (D, H)
        else:  # into the same memory each time, on which the next layer's derivative is built once
            first, *others = self.rows.unbind(1)
            torch.index_select(products, 0, first, out=y)
            for rows in others:
                y.add_(products.index_select(0, rows))
        return y if self.b is None else y.add_(self.b)

    #   dp_ij = the sum of dy over the windows that row i is part j of
    #   dx_i = sum over j of dp_ij W_j'   dW_j = sum over i of x_i' dp_ij   db = the sum of dy's rows
    # dx comes first, as dW may be added to W itself.
    def backward(self, dy: Tensor) -> Tensor:
        dx, dproducts = self.dx(len(self.lower)), self.products(self.lower.num_products).zero_()
        for rows in self.rows.unbind(1):
            dproducts.index_add_(0, rows, dy)
        for j, (dplace, dx_j) in enumerate(zip(self.places, self.lower.parts(dx), strict=True)):
            if j > 0 and self.lower.overlaps:
                dx_j.addmm_(dplace, self.W_t[j])
            else:
                torch.mm(dplace, self.W_t[j], out=dx_j)
        for W_j_buffer, x_j, dplace in zip(self.W_buffer, self.x_parts, self.places, strict=True):
            W_j_buffer.addmm_(x_j.t(), dplace)
        if self.b_buffer is not None:
            self.b_buffer.add_(dy.sum(0))
        return dx


class ConcatenateDerivative(WindowDerivative):
    """A concatenation of positions without a Linear after it: a row has its window's parts side by side."""

    needs_output = False

    def __init__(self, lower: Level, upper: Level) -> None:
        self.lower, self.upper = lower, upper

    def forward(self, x: Tensor) -> Tensor:
        return x[self.upper.below].flatten(1)  # (D, n) -> (D, n, C) -> (D, n*C)

    # Each part of a row of dy is added to its own row of dx.
    def backward(self, dy: Tensor) -> Tensor:
        rows = self.upper.below.flatten()
        dparts = dy.reshape(len(rows), -1)  # (D, n*C) -> (D*n, C)
        return dy.new_zeros(len(self.lower), dparts.shape[1]).index_add_(0, rows, dparts)


class TakeDerivative(WindowDerivative):
    """A TakeLast: one part of each window of the next level, or one window of each context."""

    needs_output = False

    def __init__(self, lower: Level, upper: Level, window: Window) -> None:
        self.lower, self.upper = lower, upper
        self.offset, offsets = window.offsets[0], lower.window.offsets
        is_next = window.stride == lower.window.stride and self.offset in offsets
        self.part = offsets.index(self.offset) if is_next else None

    def rows(self) -> Tensor:
        """The rows that are taken, (D,)."""
        if self.part is None:
            return self.lower.ids.view(-1, self.lower.positions)[:, self.offset]
        return self.upper.below[:, self.part]

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(0, self.rows())

    # Each row of dy is added to its own row of dx.
    def backward(self, dy: Tensor) -> Tensor:
        dx = dy.new_zeros(len(self.lower), dy.shape[1])
        self.add_to(dx, dy)
        return dx

    def add_to(self, dx: Tensor, dy: Tensor) -> None:
        """Add the derivative with respect to x to ``dx``, the sum of those of other readers of x."""
        dx.index_add_(0, self.rows(), dy)


class WindowSumDerivative:
    """y = a + b, both on one level. The derivative with respect to each is dy."""

    needs_output = False

    def __init__(self, inplace_a: bool, inplace_b: bool) -> None:
        self.inplace_a, self.inplace_b = inplace_a, inplace_b

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a.add_(b) if self.inplace_a else b.add_(a) if self.inplace_b else a + b


class WindowBatchNormDerivative(BatchNormFormulas, WindowDerivative):
    """BatchNorm over all windows of a level: each row counts as often as its window occurs."""

    needs_output = False

    def __init__(self, layer: BatchNorm1d, level: Level, grad_buffer: GradBuffer, inplace_ok: bool) -> None:
        super().__init__(layer, grad_buffer)
        self.level, self.inplace_ok = level, inplace_ok
        self.y = GrowingBuffer(layer.gamma, len(layer.gamma))

    def forward(self, x: Tensor) -> Tensor:
        return self.normalize(x, self.level.counts, self.level.total, self.y(len(x)), self.inplace_ok)

    def backward(self, dy: Tensor) -> Tensor:
        return self.derivative(dy, self.level.counts, self.y(len(dy)))


WINDOW_DERIVATIVES: dict[type[Layer], Any] = {BatchNorm1d: WindowBatchNormDerivative}
"""The derivatives of layers that take statistics over all windows in training, by the exact class."""


class NarrowLinearDerivative(LinearDerivative):
    """A Linear with few outputs. They and dW are stored column by column, in half the time for the BLAS."""

    def __init__(self, layer: Linear, x: Tensor, grad_buffer: GradBuffer, inplace_ok: bool) -> None:
        super().__init__(layer, x, grad_buffer, inplace_ok)
        fan_in, fan_out = layer.weight.shape
        self.y, self.dW = x.new_empty(fan_out, len(x)).t(), x.new_empty(fan_out, fan_in).t()
        self.forward[0] = partial(torch.mm, x, layer.weight, out=self.y)
        if layer.bias is not None:
            self.forward[1] = partial(self.y.add_, layer.bias)

    def backward(self, dy: Tensor) -> Tensor:
        torch.mm(dy, self.W_t, out=self.dx)
        self.W_buffer.add_(torch.mm(self.x_t, dy, out=self.dW))
        self.add_db(dy)
        return self.dx


class RowwiseDerivative(WindowDerivative):
    """A layer that computes each row on its own, by its plain derivative.

    That is built for the tensor of rows: for each batch, or once if all batches are in the same tensor.
    """

    def __init__(self, layer: Layer, grad_buffer: GradBuffer, inplace_ok: bool) -> None:
        kind = derivative_class(layer)
        if type(layer) is Linear and layer.weight.shape[1] <= NARROW:
            kind = NarrowLinearDerivative
        self.needs_output = kind.needs_output
        self.derivative_at: Callable[[Tensor], Derivative] = lambda x: kind(layer, x, grad_buffer, inplace_ok)
        self.x: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous()  # torch's BatchNorm misreads columns as rows
        if x is not self.x:
            self.derivative, self.x = self.derivative_at(x), x
        for kernel in self.derivative.forward:
            kernel()
        return self.derivative.y

    def backward(self, dy: Tensor) -> Tensor:
        return self.derivative.backward(dy)


def reduced_nodes(network: Layer) -> list[Node]:
    """The nodes of a network without concatenations of single positions, such as FlattenConsecutive(1)."""
    reduced, number = list[Node](), {INPUT: INPUT}
    for i, (layer, inputs) in enumerate(known_nodes(network)):
        inputs = tuple(number[j] for j in inputs)
        if window_of(layer) == SAME:
            number[i] = inputs[0]
        else:
            number[i] = len(reduced)
            reduced.append(Node(layer, inputs))
    return reduced


def levels_of(nodes: Sequence[Node], where: Geometry) -> dict[int, Window] | None:
    """The window that concatenates the positions of each level, by their number, from the symbols up.

    None if the nodes do not form levels: if two layers concatenate the positions of one level differently, or
    if a TakeLast takes neither a part of each window nor one position of each context.
    """
    windows = [
        (window, where.positions[node.inputs[0]], above)
        for node, above in zip(nodes, where.positions, strict=True)
        if (window := window_of(node.layer))
    ]
    levels: dict[int, Window] = {}
    for window, below, _ in windows:
        if len(window.offsets) > 1 and levels.setdefault(below, window) != window:
            return None
    sizes = sorted({where.block_size, *where.positions}, reverse=True)
    if sorted(levels, reverse=True) != sizes[:-1]:
        return None
    if any(levels[below].input_length(above) != below for below, above in pairwise(sizes)):
        return None
    for window, below, above in windows:
        is_part = window.stride == levels[below].stride and set(window.offsets) <= set(levels[below].offsets)
        if not is_part and (above != 1 or below == where.block_size):
            return None
    return {size: levels[size] for size in sizes[:-1]}


class WindowsStep(Step):
    """A step at one batch shape on distinct windows, or a plain step if these would save too little."""

    def __init__(self, network: Layer, X: Tensor, Y: Tensor, drops: bool, grad_buffer: GradBuffer) -> None:
        rows = slice(2) if len(X) == len(Y) else slice(None)  # two suffice to see that layers fit
        all_nodes, nodes = known_nodes(network), reduced_nodes(network)
        logits = values_of(network, all_nodes, X[rows], Y[rows])[-1]
        embedding, where = nodes[0].layer, geometry(nodes)
        assert isinstance(embedding, Embedding)
        check_declarations(network, all_nodes, probe_contexts(embedding, X))
        self.logits = self.dlogits = logits.new_empty(len(X), logits.shape[1])
        dropped = len(X) * where.block_size
        self.keep_mask = logits.new_ones(dropped, 1) if drops else None
        self.make_plain_step = partial(Step, network, X, Y, drops, grad_buffer)
        self.plain_step: Step | None = None
        levels = levels_of(nodes, where)
        assert levels is not None
        self.shape, dtype = X.shape, embedding.weight.dtype
        below_contexts = [Level(len(X), positions, window, dtype) for positions, window in levels.items()]
        self.levels = [*below_contexts, ContextLevel(len(X), dtype)]
        symbols = SYMBOL_DERIVATIVES[type(embedding)](embedding, self.levels[0], drops, grad_buffer)
        self.derivatives: list[Any] = [symbols]
        self.nodes = [Node(embedding, (INPUT,))]
        self._append_derivatives(nodes, where, grad_buffer)
        self.back = Backward(self.nodes, self.derivatives)

    def _append_derivatives(self, nodes: Sequence[Node], where: Geometry, grad_buffer: GradBuffer) -> None:
        """Make the derivative of each node, on the rows of its level."""
        counts, derivative_of = use_counts(nodes), [0]  # which derivative has the output of each node
        reader_of = {j: node.layer for node in nodes for j in node.inputs}  # the last one, if there are more
        level_of = {level.positions: level for level in self.levels}
        levels = [level_of[positions] for positions in where.positions]
        fused: dict[int, Level] = {}  # concatenations read by one Linear only, whose derivative computes both
        for i, (layer, inputs) in enumerate(nodes[1:], start=1):
            window, lower, upper = window_of(layer), levels[inputs[0]], levels[i]
            read = tuple(derivative_of[j] for j in inputs)
            inplace = [counts[j] == 1 and not self.derivatives[derivative_of[j]].needs_output for j in inputs]
            derivative: Any
            if layer is None:
                derivative = WindowSumDerivative(*inplace)
            elif window is not None and len(window.offsets) > 1:
                if counts[i] == 1 and type(reader_of[i]) is Linear:
                    fused[i] = lower
                    derivative_of.append(read[0])
                    continue
                derivative = ConcatenateDerivative(lower, upper)
            elif window is not None:
                derivative = TakeDerivative(lower, upper, window)
            elif type(layer) is Linear and inputs[0] in fused:
                derivative = FuseDerivative(layer, fused[inputs[0]], upper, grad_buffer)
            elif upper.merges and layer.training and (make := WINDOW_DERIVATIVES.get(type(layer))):
                derivative = make(layer, upper, grad_buffer, inplace[0])
            else:
                derivative = RowwiseDerivative(layer, grad_buffer, inplace[0])
            self.derivatives.append(derivative)
            self.nodes.append(Node(layer, read))
            derivative_of.append(len(self.derivatives) - 1)

    def __call__(self, X: Tensor, minus_Y: Tensor, logprobs: Tensor) -> None:
        with torch.inference_mode():
            if not self.find_windows(X):
                self.plain_step = self.plain_step or self.make_plain_step()
                if self.keep_mask is not None and self.plain_step.keep_mask is not None:
                    self.plain_step.keep_mask.copy_(self.keep_mask)
                self.plain_step(X, minus_Y, logprobs)
                return
            values: list[Tensor] = [self.derivatives[0].forward(X)]
            for derivative, node in zip(self.derivatives[1:], self.nodes[1:], strict=True):
                values.append(derivative.forward(*[values[j] for j in node.inputs]))
            self.back(self.logit_derivative(values[-1], minus_Y, logprobs))

    def find_windows(self, X: Tensor) -> bool:
        """Find the rows of all levels for the indices X, (B*T,). Returns whether they are few enough."""
        kept = None
        if self.keep_mask is not None:
            kept = (self.keep_mask != 0).view(-1)
            if not torch.equal(kept.unsqueeze(1).to(self.keep_mask.dtype), self.keep_mask):
                return False  # embeddings are multiplied by values other than 0 and 1
        symbols, num_symbols = self.derivatives[0].number_symbols(X.long().view(self.shape), kept)
        lowest, *between, contexts = self.levels
        windows, rows_below = lowest.windows_above(symbols), num_symbols
        if lowest.overlaps:
            lowest.find(symbols.unsqueeze(1), num_symbols)
            windows, rows_below = lowest.windows_above(lowest.ids), len(lowest)
        for level in between:
            level.find(windows, rows_below)
            windows, rows_below = level.windows_above(level.ids), len(level)
        contexts.below = windows
        if not lowest.overlaps:
            lowest.find_symbols(self.levels[1], num_symbols)
        fusing = [derivative for derivative in self.derivatives if isinstance(derivative, FuseDerivative)]
        plain_work = sum(each.upper.total * each.lower.num_parts * each.W[0].numel() for each in fusing)
        work = sum(each.lower.num_products * each.W[0].numel() for each in fusing)
        return bool(plain_work >= MIN_SAVING * work)


class WindowsEngine(BackpropEngine):
    """``BackpropEngine`` that computes distinct windows where that is faster. ``describe`` says if it does.

    It takes plain steps

    * if batch or network are so small that nothing is gained, and for batches whose windows seldom repeat;
    * if equal windows may have different outputs: for layers that do not declare what they do with positions,
      for statistics of each position, and for values of ``keep_mask`` other than 0 and 1;
    * on CUDA, where each step would have to wait for the numbers of distinct windows.
    """

    def _new_step(self, X: Tensor, Y: Tensor, drops: bool, grad_buffer: GradBuffer) -> Step:
        symbols = X.shape[1:].numel() - len(label_sizes(self.network))
        plain = self._reason_for_plain_steps(len(X), symbols, X.is_cuda)
        kind = Step if plain or X.ndim != 2 else WindowsStep
        return kind(self.network, X, Y, drops, grad_buffer)

    def describe(self, batch_size: int, block_size: int) -> str:
        is_cuda = self.network.parameters()[0].is_cuda
        plain = self._reason_for_plain_steps(batch_size, block_size, is_cuda)
        if plain:
            return f"plain steps, as {plain}"
        masks = "; random layers draw once for each" if stochastic_layers(self.network) else ""
        return f"repeated windows computed once{masks}"

    def _reason_for_plain_steps(self, batch_size: int, block_size: int, is_cuda: bool) -> str:
        """Why batches of that shape take plain steps; "" if they are computed on distinct windows."""
        nodes = reduced_nodes(self.network)
        if is_cuda:
            return "windows are not counted on CUDA"
        if not {p.dtype for p in self.network.parameters()} <= COUNTING_DTYPES:
            return "windows are counted in float32 or float64 only"
        first, *others = layers_of(nodes)
        unknown = [] if type(first) in SYMBOL_DERIVATIVES else [first]
        unknown += [layer for layer in others if not _knows_windows(layer)]
        if unknown:
            return f"{layer_text(unknown[0])} does not declare that equal windows give equal outputs"
        try:
            where = geometry(nodes)
        except UndeclaredLayer as error:
            return str(error)
        levels = levels_of(nodes, where)
        if not levels:
            return "its concatenations do not form levels of windows"
        if block_size != where.block_size:
            return f"contexts have {plural(block_size, 'symbol')} in place of {where.block_size}"
        work = 0
        for (layer, inputs), count in zip(nodes, where.positions, strict=True):
            below = window_of(nodes[inputs[0]].layer) if inputs[0] != INPUT else None
            if isinstance(layer, Linear) and below is not None and len(below.offsets) > 1:
                work += batch_size * count * layer.weight.numel()
        if work < MIN_WORK * len(levels):
            return "batch and network are too small to gain from distinct windows"
        return ""


def _knows_windows(layer: Layer) -> bool:
    """Whether a layer that has a derivative gives equal outputs for equal windows."""
    if isinstance(layer, BatchNorm1d):
        return type(layer) in WINDOW_DERIVATIVES
    return type(layer) is Linear or window_of(layer) is not None or bool(declared(layer, "pointwise"))
