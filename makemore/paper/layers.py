"""Layers beyond the lecture.

From the paper that the lecture follows, WaveNet (van den Oord et al. 2016, arXiv:1609.03499):
``GatedActivation``, ``ReLU``, ``FlattenDilated``, ``TakeLast``, ``ResidualBlock``, ``SkipConnections`` and
``LabelledEmbedding``.
Its 1x1 convolution is a ``Linear``. Not in the paper: ``RMSNorm``, ``LayerNorm`` and ``Dropout``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from makemore.core.layer import (
    Layer,
    Window,
    declared,
    drop_single_position,
    index_outside,
    nested_repr,
    require_indices,
    require_positions,
)
from makemore.lecture.layers import Embedding, Sequential


class LabelledEmbedding(Embedding):
    """The row of a table for each symbol, plus a row for each label of the word (paper, section 2.5).

    (B, K + T) -> (B, T, embedding_dim): a context is K labels, one of each column, then T symbols. The rows
    of the labels, which condition the network, are added at every position. As the next layer is a Linear,
    this is the paper's global conditioning, W x + V h, of the first layer.

    ``label_sizes`` is the number of labels of each column, with label 0, which means none.
    ``label_weight``, (sum of the sizes, embedding_dim), has the rows of all columns one after another. They
    are zeros at first, so that an untrained network does not depend on labels. Raises IndexError on a symbol
    or label outside its table, and ValueError on an input without symbols.
    """

    PARAMETERS = ("weight", "label_weight")  # type: ignore[assignment]
    pointwise = True
    takes_labels = True

    def __init__(self, num_embeddings: int, embedding_dim: int, label_sizes: Sequence[int]) -> None:
        super().__init__(num_embeddings, embedding_dim)
        self.label_sizes = tuple(label_sizes)
        if not self.label_sizes or min(self.label_sizes) < 1:
            raise ValueError(f"LabelledEmbedding needs columns of 1 or more labels, got {label_sizes}")
        self.label_weight = torch.zeros(sum(self.label_sizes), embedding_dim)

    def __call__(self, IX: Tensor) -> Tensor:
        rows, symbols = self.split(IX)
        self.out = super().__call__(symbols) + self.condition(rows)  # (B, T, C) + (B, 1, C)
        return self.out

    def split(self, IX: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of ``label_weight`` for each context, (B, K), and its symbols, (B, T)."""
        require_indices(self, IX)
        K = len(self.label_sizes)
        if IX.ndim != 2 or IX.shape[1] <= K:
            raise ValueError(f"{self} needs {K} labels, then symbols: (B, {K} + T), got {tuple(IX.shape)}")
        return self.label_rows(IX[:, :K]), IX[:, K:]

    def label_rows(self, labels: Tensor) -> Tensor:
        """The rows of ``label_weight`` for labels: (B, K) -> (B, K)."""
        # Reading the indices on CUDA would wait for the device, and torch.export cannot follow it.
        if not labels.is_cuda and not torch.compiler.is_compiling():
            for k, size in enumerate(self.label_sizes):
                if (outside := index_outside(labels[:, k], size)) is not None:
                    raise IndexError(f"{self} has labels 0 to {size - 1} in column {k}, got label {outside}")
        starts = [sum(self.label_sizes[:k]) for k in range(len(self.label_sizes))]
        return labels + torch.tensor(starts, device=labels.device)

    def condition(self, rows: Tensor) -> Tensor:
        """What is added at every position: the sum of the labels' rows, (B, K) -> (B, 1, C)."""
        picked: Tensor = self.label_weight[rows]  # (B, K) -> (B, K, C)
        return picked.sum(1, keepdim=True)

    def with_dropped(self, IX: Tensor, keep_mask: Tensor) -> Tensor:
        """The output if the rows of the symbols are multiplied by ``keep_mask``, (B, T)."""
        rows, symbols = self.split(IX)
        return super().__call__(symbols) * keep_mask.unsqueeze(-1) + self.condition(rows)

    def __repr__(self) -> str:
        return "LabelledEmbedding({}, {}, {})".format(*self.weight.shape, list(self.label_sizes))


class ReLU(Layer):
    """max(x, 0) of every element: (...) -> (...)."""

    pointwise = True
    output_range = (0.0, math.inf)

    def __call__(self, x: Tensor) -> Tensor:
        self.out = torch.relu(x)
        return self.out


class GatedActivation(Layer):
    """The paper's gated activation unit: tanh of one half of the channels times sigmoid of the other.

    (..., 2*C) -> (..., C). After a Linear with 2*C outputs, whose weight is W_f and W_g side by side, this is
    tanh(W_f x) * sigmoid(W_g x) (paper, eq. 2). Raises ValueError on an odd number of channels.
    """

    pointwise = True
    output_range = (-1.0, 1.0)

    def __call__(self, x: Tensor) -> Tensor:
        if x.ndim == 0 or x.shape[-1] % 2 != 0:
            raise ValueError(f"{self} needs an even number of channels, got {tuple(x.shape)}")
        f, g = x.chunk(2, dim=-1)  # (..., 2*C) -> (..., C) twice
        self.out = torch.tanh(f) * torch.sigmoid(g)
        return self.out


class RMSNorm(Layer):
    """Divide the channels of each position by their root mean square (Zhang and Sennrich 2019).

    (..., dim) -> (..., dim): gamma * x / sqrt(mean(x**2) + eps), with ``gamma``, (dim,), initially ones.
    There are no batch statistics, so training and evaluation do not differ. Raises ValueError on another
    channel count.
    """

    PARAMETERS = ("gamma",)
    pointwise = True

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        self.eps = eps
        self.gamma = torch.ones(dim)

    def __call__(self, x: Tensor) -> Tensor:
        if x.ndim == 0 or x.shape[-1] != len(self.gamma):
            raise ValueError(f"{self} needs (..., {len(self.gamma)}), got {tuple(x.shape)}")
        mean_square = (x**2).mean(dim=-1, keepdim=True)  # (..., dim) -> (..., 1)
        self.out = self.gamma * (x / torch.sqrt(mean_square + self.eps))
        return self.out

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.gamma)})"


class LayerNorm(Layer):
    """Normalize the channels of each position to mean 0 and variance 1 (Ba, Kiros and Hinton 2016).

    (..., dim) -> (..., dim): gamma * (x - mean) / sqrt(var + eps) + beta with the biased variance, as in
    ``torch.nn.LayerNorm``; ``gamma`` and ``beta``, (dim,), are initially ones and zeros. Raises ValueError on
    another channel count.
    """

    PARAMETERS = ("gamma", "beta")
    pointwise = True

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        self.eps = eps
        self.gamma = torch.ones(dim)
        self.beta = torch.zeros(dim)

    def __call__(self, x: Tensor) -> Tensor:
        if x.ndim == 0 or x.shape[-1] != len(self.gamma):
            raise ValueError(f"{self} needs (..., {len(self.gamma)}), got {tuple(x.shape)}")
        centered = x - x.mean(dim=-1, keepdim=True)
        var = (centered**2).mean(dim=-1, keepdim=True)  # (..., dim) -> (..., 1)
        self.out = self.gamma * (centered / torch.sqrt(var + self.eps)) + self.beta
        return self.out

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.gamma)})"


class Dropout(Layer):
    """In training, set each element to 0 with probability p and divide the others by 1 - p (Srivastava 2014).

    (...) -> (...). In evaluation the output is the input. The mask is drawn on the CPU from ``generator``, so
    that a run on any device has the same masks; a trainer sets one generator for each layer and saves its
    state. Raises ValueError unless p is at least 0 and below 1.
    """

    pointwise = True
    stochastic = True

    def __init__(self, p: float) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"Dropout needs p of at least 0 and below 1, got {p}")
        self.p = p

    def mask(self, like: Tensor) -> Tensor:
        """A new mask of the shape of ``like``: 0 with probability p, else 1 / (1 - p)."""
        kept = torch.rand(like.shape, generator=self.generator) >= self.p
        return kept.to(like) / (1 - self.p)

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x * self.mask(x) if self.training else x
        return self.out

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.p:g})"


class FlattenDilated(Layer):
    """Concatenate the channels of n positions that are ``dilation`` apart, at every position that has them.

    (B, T, C) -> (B, T - (n-1)*dilation, C*n), or (B, C*n) if one position is left. For n = 2 and dilation 4
    the output is ``torch.cat([x[:, :-4], x[:, 4:]], dim=2)``. Followed by a Linear, this is the paper's
    dilated causal convolution (section 2.1). Raises ValueError if the input has too few positions.
    """

    def __init__(self, n: int, dilation: int) -> None:
        if n < 1 or dilation < 1:
            raise ValueError(f"FlattenDilated needs n and dilation of 1 or more, got {n} and {dilation}")
        self.n = n
        self.dilation = dilation

    def __call__(self, x: Tensor) -> Tensor:
        require_positions(self, x)
        T = x.shape[1] - (self.n - 1) * self.dilation
        if T < 1:
            needed = (self.n - 1) * self.dilation + 1
            raise ValueError(f"{self} needs a length of {needed} or more, got {x.shape[1]}")
        parts = [x[:, j * self.dilation :][:, :T] for j in range(self.n)]
        out = torch.cat(parts, dim=2)  # (B, T, C) -> (B, T - (n-1)*dilation, C*n)
        self.out = drop_single_position(out)
        return self.out

    def concatenates(self) -> Window:
        """At every position n positions, ``dilation`` apart, of which it is the last."""
        return Window(1, tuple(j * self.dilation for j in range(self.n)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.n}, {self.dilation})"


class TakeLast(Layer):
    """Take the last of every n positions, after leaving out the first ``skip`` positions.

    (B, T, C) -> (B, (T-skip)//n, C), a view, or (B, C) if one position is left. Of the positions that
    ``FlattenConsecutive(n)`` concatenates, the last is given by ``TakeLast(n)``; of those of
    ``FlattenDilated(n, dilation)``, by ``TakeLast(1, skip=(n-1)*dilation)``. Raises ValueError on a length
    that does not fit.
    """

    def __init__(self, n: int, skip: int = 0) -> None:
        if n < 1 or skip < 0:
            raise ValueError(f"TakeLast needs n of 1 or more, skip of 0 or more, got {n} and {skip}")
        self.n = n
        self.skip = skip

    def __call__(self, x: Tensor) -> Tensor:
        require_positions(self, x)
        T = x.shape[1] - self.skip
        if T < 1 or T % self.n != 0:
            after = f" after the first {self.skip}" if self.skip else ""
            raise ValueError(f"{self} needs a length divisible by {self.n}{after}, got {x.shape[1]}")
        out = x[:, self.skip + self.n - 1 :: self.n]  # (B, T, C) -> (B, (T-skip)//n, C)
        self.out = drop_single_position(out)
        return self.out

    def concatenates(self) -> Window:
        """One position, at every n-th."""
        return Window(self.n, (self.skip + self.n - 1,))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.n}{f', skip={self.skip}' if self.skip else ''})"


class ResidualBlock(Layer):
    """Concatenate positions, send them through some layers, and add the result to the input (paper, fig. 4).

    (B, T, C) -> (B, T', C). ``gather``, a FlattenConsecutive or FlattenDilated, then ``layers``, usually a
    Linear, a norm and a GatedActivation, give ``z``, (B, T', H). ``projection``, usually a 1x1 convolution
    Linear(H, C), maps it back to C channels:

        out = take_last(x) + projection(z)

    A node that fuses two has two inputs, so which one is the residual? In the paper's causal convolution the
    output at time t is added to the input at time t. The time of a node is that of the last character it
    depends on, and of the two nodes it fuses the right one has the same time; so that one is the residual.
    The left one arrives through ``z`` alone. A block whose output is not read has no projection: its
    output is ``z``.
    """

    composite = True
    z: Tensor

    def __init__(self, gather: Layer, layers: Sequence[Layer], projection: Layer | None) -> None:
        window: Window = declared(gather, "concatenates")(gather)
        self.body = Sequential([gather, *layers])
        self.take_last = TakeLast(window.stride, window.offsets[-1] - window.stride + 1)
        self.projection = projection

    def __call__(self, x: Tensor) -> Tensor:
        self.z = self.out = self.body(x)  # (B, T, C) -> (B, T', H)
        if self.projection is not None:
            self.out = self.take_last(x) + self.projection(self.z)  # (B, T', H) -> (B, T', C)
        return self.out

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        yield "body", self.body
        if self.projection is not None:
            yield "take_last", self.take_last
            yield "projection", self.projection

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "z"}

    def __repr__(self) -> str:
        return nested_repr(type(self).__name__, [child for _, child in self.named_children()])


class SkipConnections(Layer):
    """Call blocks one after another, and add up what each contributes to the output (paper, fig. 4).

    (B, T, C) -> (B, S). The ``z`` of each block goes through its layer in ``skips``, usually a 1x1
    convolution Linear(H, S). The network's output belongs to one time, that of the last character, so only
    the last node of a block contributes: if a block gives more than one, its skip begins with a ``TakeLast``.
    """

    composite = True

    def __init__(self, blocks: Sequence[ResidualBlock], skips: Sequence[Layer]) -> None:
        if not blocks or len(blocks) != len(skips):
            raise ValueError(f"SkipConnections need a skip for each block, got {len(blocks)}, {len(skips)}")
        self.blocks = list(blocks)
        self.skips = list(skips)

    def __call__(self, x: Tensor) -> Tensor:
        for i, (block, skip) in enumerate(zip(self.blocks, self.skips, strict=True)):
            x = block(x)  # (B, T, C) -> (B, T', C)
            contribution = skip(block.z)  # (B, T', H) -> (B, S)
            self.out = contribution if i == 0 else self.out + contribution
        return self.out

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        for i, (block, skip) in enumerate(zip(self.blocks, self.skips, strict=True)):
            yield f"blocks.{i}", block
            yield f"skips.{i}", skip

    def __repr__(self) -> str:
        return nested_repr(type(self).__name__, [child for _, child in self.named_children()])
