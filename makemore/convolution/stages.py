"""The same network as a dilated causal convolution (beyond the lecture: its "next time").

The tree over 8 symbols that the lecture's network computes for each example is a stack of causal
convolutions with kernel 2 and dilations 1, 2, 4, looked at in one position; a flat network is one causal
convolution as wide as its context. ``Convolution.from_network`` builds them from trained layers, with the
running statistics folded into weights and biases. Three things follow:

* ``logits`` forwards all positions of a word at once, by torch's conv1d.
* Neighbouring examples share nodes: a layer has one new node for each character, where the lecture
  computes the whole tree anew. And a node depends on nothing but the window of symbols below it, so
  that equal windows, in one word or many, are computed once; losses and likelihoods work that way.
* A convolution multiplies each node by one matrix for each place it can take in a window. These
  products are taken once a node, and a window of the next layer is their sum.

Departure from the lecture: a folded network adds in another order than its layers do, so that logits
agree to rounding (1e-5 in float32, 1e-12 in float64), not bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore.distinct import distinct
from makemore.layers import Embedding, Layer, Looks, Sequential, declared
from makemore.wiring import looks_at, positions_of, readers_of, wires_of
from makemore.words import STOP, Examples

TILE = 256
"""Rows that are multiplied at a time: always as many, see ``products``."""

SUM_ROWS = 1024
"""Rows of products that are added up at a time, so that they stay in the processor's cache."""

PIECE_VALUES = 2**22
"""Values of a layer's output that are held at a time: 16 MB in float32."""


class Stage(NamedTuple):
    """One causal convolution, what is added to it, and a layer after it that acts on each position alone.

    ``weight``, (n, C_in, C_out), has the oldest of the n fused positions first; they lie ``dilation``
    symbols apart. ``bias`` is (C_out,). The convolution is one of value ``source``, where value 0 are the
    embeddings, and value i + 1 is what stage i gives; the values ``added``, (C_out,) each, are added at the
    newest of its positions: a residual, or the skips of the blocks before.
    """

    weight: Tensor
    bias: Tensor
    dilation: int
    activation: Layer | None
    source: int
    added: tuple[int, ...] = ()

    def activated(self, x: Tensor) -> Tensor:
        """What the stage makes of the sums of its products."""
        return x if self.activation is None else self.activation(x)

    @property
    def lags(self) -> list[int]:
        """How many symbols back each of the fused positions lies: [4, 0] for n = 2, dilation 4."""
        return [j * self.dilation for j in reversed(range(len(self.weight)))]

    def products(self, nodes: Tensor) -> list[Tensor]:
        """The nodes times each of the n matrices: (D, C_in) -> n times (D, C_out).

        The newest position's product includes the bias. A BLAS may add in another order for another
        number of rows; here every multiplication has ``TILE`` rows, so that a node's product does not
        depend on how many other nodes it is computed with.
        """
        *full, last = torch.split(nodes, TILE)
        tiles = [*full, F.pad(last, (0, 0, 0, TILE - len(last)))]
        products = []
        for weight in self.weight:
            product = nodes.new_empty(len(tiles) * TILE, weight.shape[1])
            for tile, rows in zip(tiles, torch.split(product, TILE), strict=True):
                torch.mm(tile, weight, out=rows)
            products.append(product[: len(nodes)])
        products[-1] += self.bias
        return products

    def fuse(self, products: Sequence[Tensor], columns: Sequence[Tensor], values: Sequence[Value]) -> Value:
        """The nodes of the distinct windows among N.

        A window is one row of n ``columns``, (N,) each, the oldest first: an index into each of
        ``products``. ``values`` are those of all stages before.
        """
        source, added = values[self.source], [values[i] for i in self.added]
        if len(columns) == 1 and not added:
            return source._replace(nodes=self.activated(products[0]))
        products = [*products, *(value.nodes for value in added)]
        columns = [*columns, *(value.ids for value in added)]
        ids, members = source.ids, source.members
        # Of what looks back there is always more to know than which node of the source each has.
        looks_back = len(self.weight) > 1
        if members is None or looks_back or not all(torch.equal(c, c[members][ids]) for c in columns):
            members, ids, _ = distinct(columns, [len(product) for product in products])
        pieces = []
        for some in torch.split(members, SUM_ROWS):
            total, *others = (p.index_select(0, c[some]) for p, c in zip(products, columns, strict=True))
            for other in others:
                total += other
            pieces.append(self.activated(total))
        return Value(torch.cat(pieces), ids, members)


class Value(NamedTuple):
    """What a stage gives at N positions: ``nodes``, (D, C), and which of them each has, ``ids``, (N,).

    ``members``, (D,), are a position of each node; there are none if every node is there, occurring or not.
    """

    nodes: Tensor
    ids: Tensor
    members: Tensor | None = None


class Convolution:
    """A network as a stack of dilated causal convolutions, in evaluation, without gradients.

    ``embedding`` is (vocab_size, C), ``stages`` the convolutions from the symbols up; ``last_read`` are the
    values that nobody looks at behind each. The values are those of the network at the time of conversion.
    """

    def __init__(self, embedding: Tensor, stages: Sequence[Stage]) -> None:
        self.embedding = embedding
        self.stages = list(stages)
        sizes = [1]  # how many symbols a node of each value sees
        for stage in self.stages:
            sizes.append(max([stage.lags[0] + sizes[stage.source], *(sizes[i] for i in stage.added)]))
        self.block_size = sizes[-1]
        last = {j: i for i, stage in enumerate(self.stages) for j in (stage.source, *stage.added)}
        self.last_read = [[j for j in last if last[j] == i] for i in range(len(self.stages))]
        self.device = embedding.device

    @classmethod
    @torch.no_grad()
    def from_network(cls, network: Sequential) -> Convolution:
        """The convolution equal to a network: an Embedding, then any of our other layers.

        Layers that declare an ``affine`` map become part of one, which ends at a layer that acts on each
        position alone, where positions are fused, and where a value is looked at twice. Raises ValueError on
        a layer that declares nothing of this, on statistics kept for each position apart, and on a sum of
        nodes that belong to different times: no convolution does that.
        """
        wires = wires_of(network)
        embedding = wires[0].layer if wires else None
        if type(embedding) is not Embedding:
            raise ValueError(f"a convolution begins with an Embedding, got {embedding}")
        positions, readers = positions_of(wires)[0], readers_of(wires)
        stages, open_values = _Stages(embedding.weight), [_Open(0, embedding.weight.shape[1])]
        for i, (layer, sources) in enumerate(wires[1:], start=1):
            read = [open_values[source] for source in sources]
            if layer is None:
                value = stages.sum(read[0], read[1], single=positions[i] == 1)
            elif declared(layer, "acts_per_position"):
                below = wires[sources[0]].layer
                follows = below is not None and declared(below, "acts_per_position")
                value = stages.end(read[0], layer, follows=bool(follows) and readers[sources[0]] == 1)
            elif looks := looks_at(layer):
                value = stages.look(read[0], looks)
            else:
                value = stages.append(read[0], layer)
            open_values.append(stages.end(value) if readers[i] > 1 and not value.is_plain else value)
        if not open_values[-1].is_plain or not stages.stages or open_values[-1].source != len(stages.stages):
            stages.end(open_values[-1])
        return cls(embedding.weight.detach().clone(), stages.stages)

    @torch.no_grad()
    def logits(self, symbols: Tensor) -> Tensor:
        """Logits at every position of some words, all at once: (B, L) -> (B, L, vocab_size).

        Position t has the logits for the context of the symbols before it; ``symbols[:, -1]`` is
        thus not looked at. Shorter words are filled up with anything behind their stop.
        """
        x = F.pad(symbols, (self.block_size, -1))  # (B, L) -> (B, block_size - 1 + L)
        values = [self.embedding[x].transpose(1, 2)]  # conv1d takes (B, C, L)
        for stage in self.stages:
            weight = stage.weight.permute(2, 1, 0)  # (n, C_in, C_out) -> (C_out, C_in, n)
            x = F.conv1d(values[stage.source], weight, stage.bias, dilation=stage.dilation)
            for i in stage.added:
                length = min(x.shape[2], values[i].shape[2])  # which both have, up to the newest
                x = x[..., -length:] + values[i][..., -length:]
            values.append(stage.activated(x.transpose(1, 2)).transpose(1, 2))  # layers take (B, L, C)
        x = values[-1][..., -symbols.shape[1] :]
        return x.transpose(1, 2)  # (B, vocab_size, L) -> (B, L, vocab_size)

    @torch.no_grad()
    def log_probs(self, examples: Examples) -> Iterator[Tensor]:
        """Log-probabilities of the examples' targets, in order, piece by piece: (N,) in all."""
        widths = [stage.weight.shape[2] for stage in self.stages]
        piece = max(TILE, PIECE_VALUES // max([*widths, *self.embedding.shape]))
        for start in range(0, len(examples), piece):
            # A word may have begun in the piece before: its last symbols are looked at once more.
            begin, end = max(0, start - self.block_size + 1), start + piece
            symbols = examples.symbols[begin:end].long()
            before = examples.symbols[max(0, begin - 1) : end - 1].long()
            before = F.pad(before, (int(begin == 0), 0), value=STOP)[: len(symbols)]
            index = torch.arange(len(symbols), device=symbols.device)
            offsets = Examples(symbols, self.block_size).offsets()
            values = [Value(self.embedding, before)]
            for i, stage in enumerate(self.stages):
                # Symbols from before the word are 0, and so is the whole context of its first
                # example: whatever a window has there, it finds at the first example.
                source = values[stage.source]
                columns = [
                    source.ids[index - offsets.clamp(max=lag)] if lag else source.ids for lag in stage.lags
                ]
                values.append(stage.fuse(stage.products(source.nodes), columns, values))
                for j in self.last_read[i]:
                    values[j] = values[j]._replace(nodes=values[j].nodes.new_empty(0))  # makes room
            nodes, ids = values[-1].nodes, values[-1].ids
            yield F.log_softmax(nodes, dim=1)[ids, symbols][start - begin :]


@dataclass(frozen=True)
class _Open:
    """The output of a wire, as far as it is known, before a stage is made of it.

    That is a value of ``channels``, fused at some ``lags``, the oldest first; then ``affine`` layers; then
    values added. ``step`` is the time from position to position.
    """

    source: int
    channels: int
    lags: tuple[int, ...] = (0,)
    affine: tuple[Layer, ...] = ()
    added: tuple[int, ...] = ()
    step: int = 1

    @property
    def is_plain(self) -> bool:
        """Whether it is the value itself."""
        return self.lags == (0,) and not self.affine and not self.added


class _Stages:
    """The stages of a network while they are made."""

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.stages: list[Stage] = []

    def end(self, value: _Open, activation: Layer | None = None, follows: bool = False) -> _Open:
        """The value as that of a stage of its own, or of the last stage if it ``follows`` an activation."""
        if activation is not None:
            activation = copy.deepcopy(activation).eval()
        if follows and value.source == len(self.stages):  # no other stage has come in between
            last = self.stages.pop()
            assert last.activation is not None
            assert activation is not None
            activation = Sequential([last.activation, activation])
            self.stages.append(last._replace(activation=activation))
            weight = last.weight
        else:
            n = len(value.lags)
            weight, bias = (
                tensor.to(self.table) for tensor in _multiplied_out(value.affine, n * value.channels)
            )
            weight = weight.view(n, value.channels, -1)
            dilation = value.lags[-2] if n > 1 else value.step
            self.stages.append(Stage(weight, bias, dilation, activation, value.source, value.added))
        channels = weight.shape[2]
        if activation is not None:
            channels = activation(self.table.new_zeros(1, channels)).shape[1]
        return _Open(len(self.stages), channels, step=value.step)

    def look(self, value: _Open, looks: Looks) -> _Open:
        """What a layer that looks at some positions makes of it."""
        lags = tuple(
            (looks.offsets[-1] - offset) * value.step + lag for offset in looks.offsets for lag in value.lags
        )
        even = all(lag == (len(lags) - 1 - i) * lags[-2] for i, lag in enumerate(lags[:-1]))
        if len(looks.offsets) > 1 and (value.affine or value.added or not even):
            value = self.end(value)
            lags = tuple((looks.offsets[-1] - offset) * value.step for offset in looks.offsets)
        return replace(value, lags=lags, step=value.step * looks.stride)

    def append(self, value: _Open, layer: Layer) -> _Open:
        """An affine layer behind it."""
        value = self.end(value) if value.added else value
        return replace(value, affine=(*value.affine, layer))

    def sum(self, a: _Open, b: _Open, single: bool) -> _Open:
        """Both added up; ``single`` says that they have but one position."""
        if a.step != b.step and not single:
            raise ValueError("cannot make a convolution of a sum of nodes that belong to different times")
        if a.is_plain or not b.is_plain:
            a, b = b, a
        b = b if b.is_plain else self.end(b)
        return replace(a, added=(*a.added, b.source))


def _multiplied_out(layers: Sequence[Layer], channels: int) -> tuple[Tensor, Tensor]:
    """Affine layers as one, x @ weight + bias, in float64 on the CPU."""
    weight = torch.eye(channels, dtype=torch.float64)
    bias = torch.zeros(channels, dtype=torch.float64)
    for layer in layers:
        affine = declared(layer, "affine")
        if affine is None:
            raise ValueError(f"cannot make a convolution of the layer {layer}")
        scale, shift = affine(copy.deepcopy(layer).to("cpu", torch.float64))
        if len(scale) != len(bias):
            raise ValueError(f"{layer} does not fit its input of {len(bias)} channels")
        if scale.ndim == 1:  # a factor for each channel
            weight, bias = weight * scale, bias * scale + shift
        else:
            weight, bias = weight @ scale, bias @ scale + shift
    return weight, bias
