"""A network as a dilated causal convolution: the lecture's "next time".

For each example the lecture's network computes a tree over 8 symbols. That is a stack of causal
convolutions with kernel 2 and dilations 1, 2, 4, evaluated at one position; a flat network is one causal
convolution whose kernel is the whole context. ``Convolution.from_network`` builds the convolutions from
trained layers and folds the running statistics into weights and biases. This has three uses:

* ``logits`` computes all positions of a word at once, by torch's conv1d.
* Neighbouring examples share nodes: for each character a layer has one new node, where the lecture
  computes the whole tree again. And a node depends on nothing but the window of symbols below it, so
  equal windows, in one word or in many, are computed once. Losses and likelihoods work that way.
* A convolution multiplies each node by one matrix for each position it can have in a window. These
  products are computed once for each node, and a window of the next layer is their sum.

Departure from the lecture: a convolution adds in another order than the layers do, so its logits agree to
rounding (1e-5 in float32, 1e-12 in float64), not bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from makemore.core.fit import check_logits, require_labels
from makemore.core.graph import (
    INPUT,
    FalseDeclaration,
    Geometry,
    Node,
    UndeclaredLayer,
    check_declarations,
    context_length,
    geometry,
    trace,
    use_counts,
)
from makemore.core.layer import LabelColumn, Layer, Window, declared, label_sizes, layer_text, window_of
from makemore.core.text import plural
from makemore.core.unique_rows import unique_rows
from makemore.data.examples import LabelledExamples, word_offsets
from makemore.lecture.layers import Embedding, Sequential
from makemore.lecture.words import STOP, Examples
from makemore.paper.layers import LabelledEmbedding

TILE = 256
"""Rows of every matrix product, see ``Stage.products``."""

SUM_ROWS = 1024
"""Rows of products in several tensors that are added up at once, so that they stay in the cache."""

PIECE_VALUES = 2**22
"""Values of a layer's output that are held at once: 16 MB in float32."""

CHECK_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""How far logits may be from the network's, as a share of the largest; 0.1 for other dtypes."""

DIVERGED_LOGITS = 1e10
"""A network with larger logits has diverged, and its logits depend on rounding."""


class NotAConvolution(ValueError):
    """No convolution is known that equals the network. The message says which layer is the reason."""


class Stage(NamedTuple):
    """One causal convolution, values that are added to it, and a pointwise layer after that.

    ``weight``, (n, C_in, C_out), has the oldest of the n positions first; they are ``dilation`` symbols
    apart. ``bias`` is (C_out,). Value 0 is the embedding of each symbol and value i + 1 the output of stage
    i. The convolution reads the value ``source``; the values ``added``, (C_out,) each, are added at the
    newest of its positions: a residual, or the skips of earlier blocks.
    """

    weight: Tensor
    bias: Tensor
    dilation: int
    activation: Layer | None
    source: int
    added: tuple[int, ...] = ()

    def activated(self, x: Tensor) -> Tensor:
        """The output of the stage for the sums of its products."""
        return x if self.activation is None else self.activation(x)

    @property
    def lags(self) -> list[int]:
        """How many symbols back each of the n positions is: [4, 0] for n = 2 and dilation 4."""
        return [j * self.dilation for j in reversed(range(len(self.weight)))]

    def products(self, x: Tensor) -> list[Tensor]:
        """The rows of x times each of the n matrices: (D, C_in) -> n times (D, C_out).

        The product of the newest position includes the bias. The order in which a BLAS adds may depend on the
        number of rows. Here every matrix product has ``TILE`` rows, so that the product of a row does not
        depend on how many other rows it is computed with.
        """
        products = [x.new_empty(len(x), self.weight.shape[2]) for _ in self.weight]
        self._multiply(x, products)
        return products

    def joined_products(self, x: Tensor) -> Tensor:
        """The same in one tensor, (n, D, C_out), which ``sum_products`` adds in less time."""
        products = x.new_empty(len(self.weight), len(x), self.weight.shape[2])
        self._multiply(x, products.unbind())
        return products

    def _multiply(self, x: Tensor, products: Sequence[Tensor]) -> None:
        *full, last = torch.split(x, TILE)
        last = F.pad(last, (0, 0, 0, TILE - len(last)))
        for product, weight in zip(products, self.weight, strict=True):
            *full_rows, last_rows = torch.split(product, TILE)
            for tile, rows in zip(full, full_rows, strict=True):
                torch.mm(tile, weight, out=rows)
            last_rows.copy_(torch.mm(last, weight)[: len(last_rows)])
        products[-1].add_(self.bias)

    def sum_products(
        self, products: Tensor | Sequence[Tensor], columns: Sequence[Tensor], values: Sequence[Value]
    ) -> Value:
        """The output for the distinct windows among N positions.

        A window is a row of the n ``columns``, (N,) each, the oldest position first: indices into the n
        ``products``, in one tensor or several. ``values`` are the embedding and the outputs of all earlier
        stages.
        """
        source, added = values[self.source], [values[i] for i in self.added]
        if len(columns) == 1 and not added:
            return source._replace(rows=self.activated(products[0]))
        n = len(columns)
        columns = [*columns, *(value.ids for value in added)]
        ids, index = source.ids, source.position_of
        # The source's rows are reused if each gives one window: of one position, with the same added values.
        if index is None or len(self.weight) > 1 or not all(torch.equal(c, c[index][ids]) for c in columns):
            sizes = [len(rows) for rows in (*products, *(value.rows for value in added))]
            index, ids, _ = unique_rows(columns, sizes)
        pieces = []
        for some in [index] if isinstance(products, Tensor) else torch.split(index, SUM_ROWS):
            total = _sum_of_rows(products, [column.index_select(0, some) for column in columns[:n]])
            for value, column in zip(added, columns[n:], strict=True):
                total += value.rows.index_select(0, column.index_select(0, some))
            pieces.append(self.activated(total))
        return Value(pieces[0] if len(pieces) == 1 else torch.cat(pieces), ids, index)


def _sum_of_rows(tables: Tensor | Sequence[Tensor], columns: Sequence[Tensor]) -> Tensor:
    """The sum of a row of each of n tables, (R, C) each: n columns of D row numbers -> (D, C)."""
    if isinstance(tables, Tensor):  # in one, (n, R, C)
        R = tables.shape[1]
        rows = torch.stack([column + j * R for j, column in enumerate(columns)], dim=1)
        total: Tensor = F.embedding_bag(rows, tables.flatten(0, 1), mode="sum")
        return total
    total, *others = (table.index_select(0, column) for table, column in zip(tables, columns, strict=True))
    for other in others:
        total += other
    return total


class Value(NamedTuple):
    """The output of a stage at N positions: distinct ``rows``, (D, C), and the row of each position, (N,).

    The latter are ``ids``. ``position_of``, (D,), is one position of each row; None if ``rows`` may have some
    that do not occur.
    """

    rows: Tensor
    ids: Tensor
    position_of: Tensor | None = None


class Convolution:
    """A network as a stack of dilated causal convolutions, in evaluation, without gradients.

    ``embedding`` is (vocab_size, C), ``stages`` are the convolutions from the symbols up, and
    ``last_reads[i]`` are the values that stage i is the last to read. Weights and biases are copies: training
    the network later does not change them. ``characters`` and ``labels`` are those of the network, None if
    they are not known; ``num_symbols`` is the number of its symbols, and ``network_block_size`` the length of
    its contexts, of which the convolution may read less. ``labelled`` is a copy of the network's
    LabelledEmbedding, if it begins with one.
    """

    characters: str | None = None
    labels: tuple[LabelColumn, ...] | None = None
    labelled: LabelledEmbedding | None = None
    num_symbols: int | None = None
    network_block_size: int | None = None

    def __init__(self, embedding: Tensor, stages: Sequence[Stage]) -> None:
        self.embedding = embedding
        self.stages = list(stages)
        sizes = [1]  # how many symbols a node of each value depends on
        for stage in self.stages:
            sizes.append(max([stage.lags[0] + sizes[stage.source], *(sizes[i] for i in stage.added)]))
        self.block_size = sizes[-1]
        last = {j: i for i, stage in enumerate(self.stages) for j in (stage.source, *stage.added)}
        self.last_reads = [[j for j in last if last[j] == i] for i in range(len(self.stages))]
        self.device = embedding.device

    @classmethod
    @torch.no_grad()
    def from_network(cls, network: Layer) -> Convolution:
        """The convolution that equals a network which begins with an Embedding.

        Consecutive layers that declare an ``affine`` map become one stage, which ends at a pointwise layer,
        where positions are concatenated, and where a value is read twice. The result is compared with the
        network on a few contexts.

        Raises NotAConvolution on a layer that does not declare what it does with positions, on statistics
        kept for each position separately, on a second layer that reads the symbols, and on a sum of nodes
        that belong to different times. Raises FalseDeclaration if a layer computes something else than it
        declares or the logits differ from the network's, and ValueError if the network's ``block_size`` is
        not what its layers need.
        """
        nodes = trace(network)
        embedding = nodes[0].layer if nodes else None
        if type(embedding) not in (Embedding, LabelledEmbedding):
            first = "no layer" if embedding is None else layer_text(embedding)
            raise NotAConvolution(f"a convolution begins with an Embedding, got {first}")
        assert isinstance(embedding, Embedding)
        for layer, inputs in nodes[1:]:
            if INPUT in inputs:
                reader = "a sum" if layer is None else layer_text(layer)
                raise NotAConvolution(f"a convolution reads the symbols once, {reader} reads them again")
        try:
            where = geometry(nodes)
        except UndeclaredLayer as error:
            raise NotAConvolution(str(error)) from error
        block_size = context_length(network)
        symbols = _symbols_to_check(len(embedding.weight), block_size).to(embedding.weight.device)
        contexts = symbols.unfold(0, block_size, 1)[:-1]
        labels = torch.tensor([[size - 1 for size in label_sizes(network)]], device=symbols.device)
        contexts = torch.cat([labels.long().expand(len(contexts), -1), contexts], dim=1)
        check_declarations(network, nodes, contexts)
        with network.evaluating():
            expected = check_logits(network(contexts), contexts)
        stages, partials = _Stages(embedding.weight), [_Partial(0, embedding.weight.shape[1])]
        counts = use_counts(nodes)
        for i, (layer, inputs) in enumerate(nodes[1:], start=1):
            read = [partials[j] for j in inputs]
            if layer is None:
                value = stages.sum(read[0], read[1], _same_time(where, inputs, i))
            elif declared(layer, "stochastic"):
                value = read[0]
            elif declared(layer, "pointwise"):
                follows = _is_activation(nodes, inputs[0]) and counts[inputs[0]] == 1
                value = stages.end(read[0], layer, follows)
            elif window := window_of(layer):
                value = stages.concatenate(read[0], window, where.steps[inputs[0]])
            else:
                value = stages.append(read[0], layer)
            partials.append(stages.end(value) if counts[i] > 1 and not value.is_complete else value)
        result = partials[-1]
        if not result.is_complete or not stages.stages or result.source != len(stages.stages):
            stages.end(result)
        convolution = cls(embedding.weight.detach().clone(), stages.stages)
        if isinstance(embedding, LabelledEmbedding):
            convolution.labelled = copy.deepcopy(embedding)
        convolution._check(symbols, labels, expected)
        convolution.characters, convolution.labels = network.characters, network.labels
        convolution.num_symbols = expected.shape[-1]
        convolution.network_block_size = block_size
        return convolution

    def _check(self, symbols: Tensor, labels: Tensor, expected: Tensor) -> None:
        """Compare the logits for the last contexts of a word with the network's, ``expected``.

        The word has the labels (1, K), none if K is 0.

        They are computed in both ways, which call pointwise layers with inputs of different shapes. Raises
        FalseDeclaration if they differ.
        """
        largest = float(expected.abs().max())
        if not largest < DIVERGED_LOGITS:
            return
        before = F.pad(symbols[:-1], (1, 0), value=STOP)
        offsets = torch.arange(len(symbols), device=self.device)
        distinct, ids = self._distinct_logits(before, offsets, labels.expand(len(symbols), -1))
        tolerance = CHECK_TOLERANCE.get(expected.dtype, 0.1) * largest + 1e-6
        for logits in (distinct[ids], self.logits(symbols.unsqueeze(0), labels)[0]):
            last = logits[-len(expected) :]
            if last.shape != expected.shape or not (last - expected).abs().max() <= tolerance:
                raise FalseDeclaration(
                    "the convolution that follows from what the layers declare does not give the network's"
                    " logits: a declaration (concatenates, pointwise, affine or stochastic) is wrong"
                )

    @torch.no_grad()
    def logits(self, symbols: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits at every position of some words at once: (B, L) -> (B, L, vocab_size).

        ``labels``, (B, K), are those of the words if the network takes labels.

        Position t has the logits for the context of the symbols before it, so ``symbols[:, -1]`` is not
        read. Shorter words may be followed by anything after their stop.
        """
        x = F.pad(symbols, (self.block_size, -1))  # (B, L) -> (B, block_size - 1 + L)
        embedded = self.embedding[x]
        if self.labelled is not None:
            embedded = embedded + self.labelled.condition(self._label_rows(labels))
        values = [embedded.transpose(1, 2)]  # conv1d takes (B, C, L)
        for stage in self.stages:
            weight = stage.weight.permute(2, 1, 0)  # (n, C_in, C_out) -> (C_out, C_in, n)
            x = F.conv1d(values[stage.source], weight, stage.bias, dilation=stage.dilation)
            for i in stage.added:
                common = min(x.shape[2], values[i].shape[2])  # positions that both have, up to the newest
                x = x[..., -common:] + values[i][..., -common:]
            values.append(stage.activated(x.transpose(1, 2)).transpose(1, 2))  # layers take (B, L, C)
        x = values[-1][..., -symbols.shape[1] :]
        return x.transpose(1, 2)  # (B, vocab_size, L) -> (B, L, vocab_size)

    @torch.no_grad()
    def log_probs(self, examples: Examples) -> Iterator[Tensor]:
        """Log-probabilities of the targets, in the order of the examples, in pieces: (N,) altogether."""
        widths = [stage.weight.shape[2] for stage in self.stages]
        piece = max(TILE, PIECE_VALUES // max([*widths, *self.embedding.shape]))
        for start in range(0, len(examples), piece):
            # A word may have begun in the piece before: its last symbols are read again.
            begin, end = max(0, start - self.block_size + 1), start + piece
            symbols = examples.symbols[begin:end].long()
            before = examples.symbols[max(0, begin - 1) : end - 1].long()
            before = F.pad(before, (int(begin == 0), 0), value=STOP)[: len(symbols)]
            labels = None
            if isinstance(examples, LabelledExamples):
                labels = examples.rows[examples.row[begin:end].long()]
            logits, ids = self._distinct_logits(before, word_offsets(symbols), labels)
            yield F.log_softmax(logits, dim=1)[ids, symbols][start - begin :]

    def embedded(self, symbols: Tensor, labels: Tensor | None) -> Value:
        """The embedding of N symbols, (N,), of words with labels (N, K).

        With labels there is a node for each distinct pair of a symbol and a combination of labels.
        """
        if self.labelled is None:
            return Value(self.embedding, symbols)
        rows = self._label_rows(labels)
        columns, sizes = [*rows.unbind(1), symbols], [len(self.labelled.label_weight)] * rows.shape[1]
        index, ids, _ = unique_rows(columns, [*sizes, len(self.embedding)])
        nodes = self.embedding[symbols[index]] + self.labelled.condition(rows[index]).squeeze(1)
        return Value(nodes, ids, index)

    def _label_rows(self, labels: Tensor | None) -> Tensor:
        """The rows of the labels' table for labels, (N, K) each. Raises UsageError without labels."""
        assert self.labelled is not None
        if labels is None:
            require_labels((), self.labels, self.labelled.label_sizes)
        assert labels is not None
        return self.labelled.label_rows(labels)

    def _distinct_logits(
        self, before: Tensor, offsets: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The logits of the distinct contexts of N examples, (D, vocab_size), and the context of each, (N,).

        ``before``, (N,), are the symbols before the targets; ``offsets``, (N,), count the examples of the
        same word before each; ``labels``, (N, K), are those of their words.
        """
        index = torch.arange(len(before), device=before.device)
        values = [self.embedded(before, labels)]
        for i, stage in enumerate(self.stages):
            # Symbols before the word are 0, as is the whole context of its first example: whatever a window
            # has there is found at the first example.
            source = values[stage.source]
            columns = [
                source.ids.index_select(0, index - offsets.clamp(max=lag)) if lag else source.ids
                for lag in stage.lags
            ]
            values.append(stage.sum_products(stage.joined_products(source.rows), columns, values))
            for j in self.last_reads[i]:
                values[j] = values[j]._replace(rows=values[j].rows.new_empty(0))  # frees memory
        return values[-1].rows, values[-1].ids


def _symbols_to_check(vocab_size: int, block_size: int) -> Tensor:
    """A word with 4 more symbols than a context, the same word each time."""
    generator = Generator().manual_seed(0)
    return torch.randint(min(STOP + 1, vocab_size - 1), vocab_size, (block_size + 4,), generator=generator)


def _is_activation(nodes: Sequence[Node], i: int) -> bool:
    """Whether node i is a pointwise layer in a stage. Node 0, the embedding, and Dropout are in none."""
    layer = nodes[i].layer
    return i > 0 and bool(declared(layer, "pointwise")) and not declared(layer, "stochastic")


def _same_time(where: Geometry, inputs: Sequence[int], i: int) -> bool:
    """Whether the two inputs of the sum at node i have their positions at the same times."""
    return where.positions[i] == 1 or where.steps[inputs[0]] == where.steps[inputs[1]]


@dataclass(frozen=True)
class _Partial:
    """The output of a node before a stage is made of it.

    That is a value of ``channels``, concatenated at the ``lags``, the oldest first; then the ``affine``
    layers; then the ``added`` values.
    """

    source: int
    channels: int
    lags: tuple[int, ...] = (0,)
    affine: tuple[Layer, ...] = ()
    added: tuple[int, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether it is the value itself."""
        return self.lags == (0,) and not self.affine and not self.added


class _Stages:
    """The stages of a network while they are made."""

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.stages: list[Stage] = []

    def end(self, value: _Partial, activation: Layer | None = None, follows: bool = False) -> _Partial:
        """Make a stage of the value.

        If the activation ``follows`` the activation of the last stage, it becomes part of that stage.
        """
        layer = None if activation is None else copy.deepcopy(activation).eval()
        if follows and value.source == len(self.stages):  # no other stage has been made in between
            last = self.stages.pop()
            assert last.activation is not None
            assert layer is not None
            self.stages.append(last._replace(activation=Sequential([last.activation, layer])))
            channels = value.channels
        else:
            n = len(value.lags)
            weight, bias = (
                tensor.to(self.table) for tensor in _multiplied_out(value.affine, n * value.channels)
            )
            weight = weight.view(n, value.channels, -1)
            dilation = value.lags[-2] if n > 1 else 1
            self.stages.append(Stage(weight, bias, dilation, layer, value.source, value.added))
            channels = weight.shape[2]
        if layer is not None:
            channels = _channels_after(layer, self.table.new_zeros(1, channels))
        return _Partial(len(self.stages), channels)

    def concatenate(self, value: _Partial, window: Window, step: int) -> _Partial:
        """The value at the positions of a window; they are ``step`` symbols apart."""
        newest = window.offsets[-1]
        lags = tuple((newest - offset) * step + lag for offset in window.offsets for lag in value.lags)
        even = all(lag == (len(lags) - 1 - i) * lags[-2] for i, lag in enumerate(lags[:-1]))
        if len(window.offsets) > 1 and (value.affine or value.added or not even):
            value = self.end(value)
            lags = tuple((newest - offset) * step for offset in window.offsets)
        return replace(value, lags=lags)

    def append(self, value: _Partial, layer: Layer) -> _Partial:
        """The value after an affine layer."""
        value = self.end(value) if value.added else value
        return replace(value, affine=(*value.affine, layer))

    def sum(self, a: _Partial, b: _Partial, same_time: bool) -> _Partial:
        """The sum of two values."""
        if not same_time:
            raise NotAConvolution(
                "no convolution can be made of a sum of nodes that belong to different times"
            )
        if a.is_complete or not b.is_complete:
            a, b = b, a
        b = b if b.is_complete else self.end(b)
        return replace(a, added=(*a.added, b.source))


def _channels_after(layer: Layer, x: Tensor) -> int:
    """The number of channels that a pointwise layer gives for a position x, (1, C)."""
    try:
        out = layer(x)
    except Exception as error:
        raise FalseDeclaration(
            f"{layer_text(layer)} declares that it is pointwise, but fails on one position,"
            f" {tuple(x.shape)}: {error}"
        ) from error
    if out.ndim != 2 or len(out) != 1:
        raise FalseDeclaration(
            f"{layer_text(layer)} declares that it is pointwise, but makes {tuple(out.shape)} of one"
            f" position, {tuple(x.shape)}"
        )
    return int(out.shape[1])


def _multiplied_out(layers: Sequence[Layer], channels: int) -> tuple[Tensor, Tensor]:
    """Affine layers as one, x @ weight + bias, in float64 on the CPU."""
    weight = torch.eye(channels, dtype=torch.float64)
    bias = torch.zeros(channels, dtype=torch.float64)
    for layer in layers:
        try:
            scale, shift = declared(layer, "affine")(copy.deepcopy(layer).to("cpu", torch.float64))
        except ValueError as error:
            raise NotAConvolution(str(error)) from error
        if len(scale) != len(bias):
            raise FalseDeclaration(
                f"{layer_text(layer)} takes {plural(len(scale), 'channel')}, but the layers before it declare"
                f" {len(bias)}"
            )
        if scale.ndim == 1:  # a factor for each channel
            weight, bias = weight * scale, bias * scale + shift
        else:
            weight, bias = weight @ scale, bias @ scale + shift
    return weight, bias
