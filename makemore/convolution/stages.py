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
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore.distinct import distinct
from makemore.layers import Embedding, Layer, Sequential, declared
from makemore.wiring import looks_at
from makemore.words import STOP, Examples

TILE = 256
"""Rows that are multiplied at a time: always as many, see ``products``."""

SUM_ROWS = 1024
"""Rows of products that are added up at a time, so that they stay in the processor's cache."""

PIECE_VALUES = 2**22
"""Values of a layer's output that are held at a time: 16 MB in float32."""


class Stage(NamedTuple):
    """One causal convolution, with or without a layer after it that acts on each position alone.

    ``weight``, (n, C_in, C_out), has the oldest of the n fused positions first; they lie ``dilation``
    symbols apart. ``bias`` is (C_out,).
    """

    weight: Tensor
    bias: Tensor
    dilation: int
    activation: Layer | None

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
        rows = nodes.shape[0]
        tiled = rows // TILE * TILE
        rest = F.pad(nodes[tiled:], (0, 0, 0, tiled + TILE - rows))
        products = []
        for weight in self.weight:
            product = nodes.new_empty((rows, weight.shape[1]))
            for start in range(0, tiled, TILE):
                torch.mm(nodes[start : start + TILE], weight, out=product[start : start + TILE])
            product[tiled:] = torch.mm(rest, weight)[: rows - tiled]
            products.append(product)
        products[-1] += self.bias
        return products

    def fuse(self, products: Sequence[Tensor], columns: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The nodes of the distinct windows, and for every window which of them is its node.

        A window is one row of n ``columns``, (N,) each, the oldest first: an index into each of
        ``products``. Returns (D, C_out) for D distinct windows, and (N,).
        """
        if len(columns) == 1:
            return self.activated(products[0]), columns[0]
        members, ids, _ = distinct(columns, [len(product) for product in products])
        columns = [column.index_select(0, members) for column in columns]
        nodes = products[0].new_empty(0)
        for start in range(0, max(1, len(members)), SUM_ROWS):
            rows = slice(start, start + SUM_ROWS)
            total = products[0].index_select(0, columns[0][rows])
            for product, column in zip(products[1:], columns[1:], strict=True):
                total += product.index_select(0, column[rows])
            part = self.activated(total)
            if start == 0:
                nodes = part.new_empty((len(members), part.shape[1]))
            nodes[rows] = part
        return nodes, ids


class Convolution:
    """A network as a stack of dilated causal convolutions, in evaluation, without gradients.

    ``embedding`` is (vocab_size, C), ``stages`` the convolutions from the symbols up. The values are
    those of the network at the time of conversion.
    """

    def __init__(self, embedding: Tensor, stages: Sequence[Stage]) -> None:
        self.embedding = embedding
        self.stages = list(stages)
        self.block_size = 1 + sum(stage.lags[0] for stage in self.stages)
        self.device = embedding.device

    @classmethod
    @torch.no_grad()
    def from_network(cls, network: Sequential) -> Convolution:
        """The convolution equal to a network: an Embedding, then any of our other layers.

        Layers that declare an ``affine`` map become part of one, which ends at a layer that acts on each
        position alone or where positions are fused. Raises ValueError on a layer that declares nothing of
        this, and on statistics kept for each position apart: such a network computes something else at
        each position of its context.
        """
        layers = network.flattened()
        embedding = layers.pop(0) if layers else None
        if type(embedding) is not Embedding:
            raise ValueError(f"a convolution begins with an Embedding, got {embedding}")
        table, stages = embedding.weight, list[Stage]()
        affine, channels, fused, dilation = list[Layer](), table.shape[1], 1, 1

        def end_stage(activation: Layer | None) -> None:
            nonlocal affine, channels, fused, dilation
            weight, bias = (tensor.to(table) for tensor in _multiplied_out(affine, fused * channels))
            stages.append(Stage(weight.view(fused, channels, -1), bias, dilation, activation))
            affine, channels, fused, dilation = [], len(bias), 1, dilation * fused

        for layer in layers:
            if declared(layer, "acts_per_position"):
                end_stage(copy.deepcopy(layer).eval())
            elif looks := looks_at(layer):
                if looks.offsets != tuple(range(looks.stride)):
                    raise ValueError(f"cannot make a convolution of the layer {layer}")
                if affine:
                    end_stage(None)
                fused *= looks.stride
            else:
                affine.append(layer)
        if affine or fused > 1 or not stages:
            end_stage(None)
        return cls(table.detach().clone(), stages)

    @torch.no_grad()
    def logits(self, symbols: Tensor) -> Tensor:
        """Logits at every position of some words, all at once: (B, L) -> (B, L, vocab_size).

        Position t has the logits for the context of the symbols before it; ``symbols[:, -1]`` is
        thus not looked at. Shorter words are filled up with anything behind their stop.
        """
        x = F.pad(symbols, (self.block_size, -1))  # (B, L) -> (B, block_size - 1 + L)
        x = self.embedding[x].transpose(1, 2)  # conv1d takes (B, C, L)
        for stage in self.stages:
            weight = stage.weight.permute(2, 1, 0)  # (n, C_in, C_out) -> (C_out, C_in, n)
            x = F.conv1d(x, weight, stage.bias, dilation=stage.dilation)
            x = stage.activated(x.transpose(1, 2)).transpose(1, 2)  # layers take (B, L, C)
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
            offsets = index - (index * (before == STOP)).cummax(0).values  # from the start of the word
            nodes, ids = self.embedding, before
            for stage in self.stages:
                # Symbols from before the word are 0, and so is the whole context of its first
                # example: whatever a window has there, it finds at the first example.
                columns = [ids[index - offsets.clamp(max=lag)] for lag in stage.lags]
                nodes, ids = stage.fuse(stage.products(nodes), columns)
            yield F.log_softmax(nodes, dim=1)[ids, symbols][start - begin :]


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
