"""The networks of the lecture's performance log, by name (lecture cells 9 and 14).

A flat network looks at all characters at once; a hierarchical one fuses them pair by pair, for a
context of eight 8 -> 4 -> 2 -> 1. The last layer's weight is multiplied by 0.1 after construction, so
that an untrained network is not confident of anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Generator

from makemore.errors import UsageError
from makemore.layers import (
    BatchNorm1d,
    Embedding,
    FlattenConsecutive,
    HistoricBatchNorm1d,
    Layer,
    Linear,
    Sequential,
    Tanh,
)


@dataclass(frozen=True)
class Network:
    """The plan of a network; ``build`` makes one of it.

    ``block_size`` characters of context, ``n_embd`` channels a character, ``n_hidden`` channels a
    hidden layer. Raises UsageError on sizes below 1, and for a hierarchical network on a block size that
    is no power of two from 2 up.
    """

    name: str
    block_size: int
    n_embd: int
    n_hidden: int
    hierarchical: bool
    historic_batchnorm: bool = False

    def __post_init__(self) -> None:
        for field in ("block_size", "n_embd", "n_hidden"):
            if getattr(self, field) < 1:
                raise UsageError(f"{field} must be 1 or more, got {getattr(self, field)}")
        if self.hierarchical and (self.block_size < 2 or self.block_size.bit_count() != 1):
            raise UsageError(
                f"network {self.name} fuses pairs: its block size must be a power of two"
                f" from 2 up (2, 4, 8, 16, ...), got {self.block_size}"
            )

    @property
    def fused(self) -> list[int]:
        """How many consecutive positions each hidden layer fuses: [2, 2, 2] or [8] for a block of 8."""
        return [2] * (self.block_size.bit_length() - 1) if self.hierarchical else [self.block_size]

    def parameter_count(self, vocab_size: int) -> int:
        """The number of trained values, without building the network."""
        count, channels = vocab_size * self.n_embd, self.n_embd
        for n in self.fused:
            count += channels * n * self.n_hidden + 2 * self.n_hidden
            channels = self.n_hidden
        return count + channels * vocab_size + vocab_size

    def build(self, vocab_size: int, generator: Generator | None = None) -> Sequential:
        """A new network for ``vocab_size`` symbols: indices (B, block_size) -> logits (B, vocab_size).

        Its values are drawn in the order of the layers, as in the lecture; its parameters require a
        gradient.
        """
        layers: list[Layer] = [Embedding(vocab_size, self.n_embd, generator=generator)]
        channels, positions = self.n_embd, self.block_size
        for n in self.fused:
            positions //= n
            layers += [
                FlattenConsecutive(n),
                Linear(channels * n, self.n_hidden, bias=False, generator=generator),
                HistoricBatchNorm1d(self.n_hidden, positions)
                if self.historic_batchnorm
                else BatchNorm1d(self.n_hidden),
                Tanh(),
            ]
            channels = self.n_hidden
        output = Linear(channels, vocab_size, generator=generator)
        output.weight *= 0.1  # less confident
        network = Sequential([*layers, output])
        for p in network.parameters():
            p.requires_grad = True
        return network


NETWORKS = {
    network.name: network
    for network in (
        Network("mlp", 3, 10, 200, hierarchical=False),
        Network("mlp-8", 8, 10, 200, hierarchical=False),
        Network("hierarchical-bug", 8, 10, 68, hierarchical=True, historic_batchnorm=True),
        Network("hierarchical", 8, 10, 68, hierarchical=True),
        Network("wavenet", 8, 24, 128, hierarchical=True),
    )
}
"""The performance log, from its first row to its last."""

DEFAULT_NETWORK = "wavenet"


def network_plan(
    name: str = DEFAULT_NETWORK,
    block_size: int | None = None,
    n_embd: int | None = None,
    n_hidden: int | None = None,
) -> Network:
    """The plan of that name, with sizes replaced where given. Raises UsageError on an unknown name."""
    if name not in NETWORKS:
        raise UsageError(f"unknown network {name!r}: choose from {', '.join(NETWORKS)}")
    plan = NETWORKS[name]
    return replace(
        plan,
        block_size=plan.block_size if block_size is None else block_size,
        n_embd=plan.n_embd if n_embd is None else n_embd,
        n_hidden=plan.n_hidden if n_hidden is None else n_hidden,
    )


def block_size(network: Sequential) -> int:
    """The context length a network takes: the product of what its FlattenConsecutives fuse."""
    return math.prod(layer.n for layer in network.layers if isinstance(layer, FlattenConsecutive))


def summary(network: Sequential, batch_size: int = 32) -> str:
    """A table of the layers: output shape for a batch of that size, and number of parameters."""
    device = network.parameters()[0].device
    with network.evaluating():
        network(torch.zeros((batch_size, block_size(network)), dtype=torch.int64, device=device))
    rows = [
        (str(layer), str(tuple(layer.out.shape)), f"{sum(p.numel() for p in layer.parameters()):,}")
        for layer in network.layers
    ]
    total = sum(p.numel() for p in network.parameters())
    rows = [("layer", "output", "parameters"), *rows, ("total", "", f"{total:,}")]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"{layer:<{widths[0]}}  {shape:<{widths[1]}}  {count:>{widths[2]}}" for layer, shape, count in rows
    )
