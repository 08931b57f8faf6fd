"""Random networks whose values are read twice and added: blocks, skips, and a user's composite layers."""

from __future__ import annotations

import random
from collections.abc import Iterator

from torch import Tensor

from makemore.core.layer import Layer
from makemore.lecture.layers import BatchNorm1d, Embedding, FlattenConsecutive, Linear, Sequential, Tanh
from makemore.paper.layers import (
    FlattenDilated,
    GatedActivation,
    ReLU,
    ResidualBlock,
    RMSNorm,
    SkipConnections,
    TakeLast,
)


class Twice(Layer):
    """x + inner(x)."""

    composite = True

    def __init__(self, inner: Layer) -> None:
        self.inner = inner

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x + self.inner(x)
        return self.out

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        yield "inner", self.inner


class OfLayers(Layer):
    """Layers in a list; a subclass calls them."""

    def __init__(self, *layers: Layer) -> None:
        self.layers = list(layers)

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        for i, layer in enumerate(self.layers):
            yield f"layers.{i}", layer


class Thrice(OfLayers):
    """third(first(x) + second(x)) + (second(x) + x): an output and the input are read twice."""

    composite = True

    def __call__(self, x: Tensor) -> Tensor:
        first, second, third = self.layers
        a, b = first(x), second(x)
        self.out = third(a + b) + (b + x)
        return self.out


class Between(OfLayers):
    """second(first(x)) + between(x), where ``between`` is called after ``first``."""

    composite = True

    def __call__(self, x: Tensor) -> Tensor:
        first, between, second = self.layers
        a, b = first(x), between(x)
        self.out = second(a) + b
        return self.out


def random_graph(rng: random.Random) -> tuple[list[Layer], int, int]:
    """Random layers for contexts of T symbols out of V; returns the layers, T and V."""
    V, C, H, S = rng.randint(2, 30), rng.randint(1, 6), rng.randint(1, 5), rng.randint(1, 5)
    sizes = rng.choice([[8], [2, 2, 2], [3, 2], [2, 1, 2], [2, 2]])
    stack = [FlattenConsecutive(n) for n in sizes]
    dilated = rng.choice([[], [], [(2, 1), (2, 2)], [(3, 2)], [(2, 1), (2, 2), (2, 4), (2, 1)]])
    gathers: list[Layer] = [*[FlattenDilated(n, d) for n, d in dilated], *stack]
    ends, positions = [1], 1
    for n in reversed(sizes):
        positions *= n
        ends.insert(0, positions)
    for n, d in reversed(dilated):
        positions += (n - 1) * d
        ends.insert(0, positions)
    blocks, skips = [], list[Layer]()
    for gather, n, end in zip(gathers, [n for n, _ in dilated] + sizes, ends[1:], strict=True):
        layers = gate(rng, n * C, H)
        residual = Linear(H, C, bias=rng.random() < 0.7)
        if rng.random() < 0.2:
            layers.insert(0, RMSNorm(n * C))
        more: list[Layer] = rng.choice([[], [], [BatchNorm1d(C)], [Tanh()], [ReLU()], [RMSNorm(C)]])
        block = ResidualBlock(gather, layers, Sequential([residual, *more]) if more else residual)
        blocks.append(block)
        last: list[Layer] = rng.choice([[], [], [Tanh()], [BatchNorm1d(S)]])
        skip: Layer = Sequential([Linear(H, S), *last])
        skips.append(skip if end == 1 else Sequential([TakeLast(end), skip]))
    blocks[-1].projection = None
    before: list[Layer] = rng.choice([[], [BatchNorm1d(C)], [Tanh()], [Twice(Linear(C, C))]])
    after: list[Layer] = [Twice(Sequential([Linear(S, 2 * S), GatedActivation()]))]
    after.append(
        Thrice(Linear(S, S), rng.choice([Tanh(), ReLU(), Linear(S, S)]), rng.choice([Tanh(), ReLU()]))
    )
    rng.shuffle(after)
    output = Linear(S, V)
    whole = [*before, SkipConnections(blocks, skips), *after[: rng.randint(0, 2)]]
    if rng.random() < 0.3:
        whole = [Sequential(whole)]
    return [Embedding(V, C), *whole, output], positions, V


def gate(rng: random.Random, fan_in: int, H: int) -> list[Layer]:
    """A Linear, a norm or none, and an activation, from ``fan_in`` to H channels."""
    width, act = rng.choice(
        [(2 * H, GatedActivation()), (2 * H, GatedActivation()), (H, Tanh()), (H, ReLU())]
    )
    norm: list[Layer] = rng.choice([[], [BatchNorm1d(width, eps=1e-3)], [RMSNorm(width)]])
    return [Linear(fan_in, width, bias=rng.random() < 0.5), *norm, act]
