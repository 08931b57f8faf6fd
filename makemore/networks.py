"""The networks of the lecture's performance log, by name (lecture cells 9 and 14).

A flat network looks at all characters at once; a hierarchical one fuses them pair by pair, for a
context of eight 8 -> 4 -> 2 -> 1. The last layer's weight is multiplied by 0.1 after construction, so
that an untrained network is not confident of anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor
from torch.overrides import TorchFunctionMode

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
    declared,
)


@dataclass(frozen=True)
class Plan:
    """What a network is made from: a name, three sizes, and the function that makes its layers.

    ``block_size`` characters of context, ``n_embd`` channels a character, ``n_hidden`` channels a hidden
    layer; ``layers(plan, vocab_size, generator)`` draws the initial values in the order of the layers.
    Raises UsageError on sizes below 1, and on those that ``layers`` refuses.
    """

    name: str
    block_size: int
    n_embd: int
    n_hidden: int
    layers: Callable[[Plan, int, Generator | None], list[Layer]]

    def __post_init__(self) -> None:
        for field in ("block_size", "n_embd", "n_hidden"):
            if getattr(self, field) < 1:
                raise UsageError(f"{field} must be 1 or more, got {getattr(self, field)}")
        self.value_count(1)

    def build(self, vocab_size: int, generator: Generator | None = None) -> Sequential:
        """A new network for ``vocab_size`` symbols: indices (B, block_size) -> logits (B, vocab_size).

        Its values are drawn in the order of the layers, as in the lecture; its parameters require a
        gradient.
        """
        network = Sequential(self.layers(self, vocab_size, generator))
        for p in network.parameters():
            p.requires_grad = True
        return network

    def sizes(self) -> dict[str, Any]:
        """Name and sizes: what ``network_plan`` takes to make the same plan."""
        return {name: getattr(self, name) for name in ("name", "block_size", "n_embd", "n_hidden")}

    def value_count(self, vocab_size: int) -> int:
        """The number of values in all tensors of the network; no memory is taken for them."""
        with torch.device("meta"), _ShapesAlone():
            return sum(tensor.numel() for tensor in self.build(vocab_size).state_dict().values())


class _ShapesAlone(TorchFunctionMode):
    """Within it, layers are made without values: these would import torch.compile for the meta device."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.randn:
            return torch.empty(args[0])
        return args[0] if func is Tensor.div else func(*args, **(kwargs or {}))


def tree_layers(
    plan: Plan, vocab_size: int, generator: Generator | None, historic_batchnorm: bool = False
) -> list[Layer]:
    """Pairs are fused until one position is left. Raises UsageError unless they come out even."""
    if plan.block_size < 2 or plan.block_size.bit_count() != 1:
        raise UsageError(
            f"network {plan.name} fuses pairs: its block size must be a power of two"
            f" from 2 up (2, 4, 8, 16, ...), got {plan.block_size}"
        )
    return _fusing_layers(plan, vocab_size, generator, 2, historic_batchnorm)


def flat_layers(plan: Plan, vocab_size: int, generator: Generator | None) -> list[Layer]:
    """All characters are fused at once."""
    return _fusing_layers(plan, vocab_size, generator, plan.block_size)


def _fusing_layers(
    plan: Plan, vocab_size: int, generator: Generator | None, n: int, historic_batchnorm: bool = False
) -> list[Layer]:
    """Every n positions become one, time and again."""
    layers: list[Layer] = [Embedding(vocab_size, plan.n_embd, generator=generator)]
    channels, positions = plan.n_embd, plan.block_size
    while positions > 1 or len(layers) == 1:
        positions //= n
        norm = (
            HistoricBatchNorm1d(plan.n_hidden, positions)
            if historic_batchnorm
            else BatchNorm1d(plan.n_hidden)
        )
        layers += [
            FlattenConsecutive(n),
            Linear(channels * n, plan.n_hidden, bias=False, generator=generator),
            norm,
            Tanh(),
        ]
        channels = plan.n_hidden
    output = Linear(channels, vocab_size, generator=generator)
    output.weight *= 0.1  # less confident
    return [*layers, output]


NETWORKS = {
    plan.name: plan
    for plan in (
        Plan("mlp", 3, 10, 200, flat_layers),
        Plan("mlp-8", 8, 10, 200, flat_layers),
        Plan("hierarchical-bug", 8, 10, 68, partial(tree_layers, historic_batchnorm=True)),
        Plan("hierarchical", 8, 10, 68, tree_layers),
        Plan("wavenet", 8, 24, 128, tree_layers),
    )
}
"""The performance log, from its first row to its last."""

DEFAULT_NETWORK = "wavenet"


def network_plan(
    name: str = DEFAULT_NETWORK,
    block_size: int | None = None,
    n_embd: int | None = None,
    n_hidden: int | None = None,
) -> Plan:
    """The plan of that name, with sizes replaced where given. Raises UsageError on an unknown name."""
    if name not in NETWORKS:
        raise UsageError(f"unknown network {name!r}: choose from {', '.join(NETWORKS)}")
    sizes: dict[str, Any] = {"block_size": block_size, "n_embd": n_embd, "n_hidden": n_hidden}
    return replace(NETWORKS[name], **{field: size for field, size in sizes.items() if size is not None})


def block_size(network: Sequential) -> int:
    """The context length a network takes: the product of what its layers fuse."""
    return math.prod(positions_fused(layer) for layer in network.flattened())


def positions_fused(layer: Layer) -> int:
    """How many consecutive positions the layer makes one; 1 if it declares nothing."""
    fused = declared(layer, "positions_fused")
    return 1 if fused is None else int(fused(layer))


def summary(network: Sequential, batch_size: int = 32) -> str:
    """A table of the layers: output shape for a batch of that size, and number of parameters."""
    device = network.parameters()[0].device
    with network.evaluating():  # one context: many long ones would take gigabytes
        network(torch.zeros((1, block_size(network)), dtype=torch.int64, device=device))
    layers = network.flattened()
    rows = [
        (
            str(layer),
            str((batch_size, *layer.out.shape[1:])),
            f"{sum(p.numel() for p in layer.parameters()):,}",
        )
        for layer in layers
    ]
    total = sum(p.numel() for p in network.parameters())
    rows = [("layer", "output", "parameters"), *rows, ("total", "", f"{total:,}")]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"{layer:<{widths[0]}}  {shape:<{widths[1]}}  {count:>{widths[2]}}" for layer, shape, count in rows
    )
