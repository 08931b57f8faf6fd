"""The networks of the lecture's performance log, by name (lecture cells 9 and 14), and those of its paper.

A flat network looks at all characters at once; a hierarchical one fuses them pair by pair, for a
context of eight 8 -> 4 -> 2 -> 1. The last layer's weight is multiplied by 0.1 after construction, so
that an untrained network is not confident of anything.

Beyond the lecture: ``gated`` is its tree with gates in place of Tanh, and ``wavenet-paper`` is the network of
van den Oord et al. 2016 (arXiv:1609.03499), see ``paper_layers``.
"""

from __future__ import annotations

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
    FlattenDilated,
    GatedActivation,
    HistoricBatchNorm1d,
    Layer,
    Linear,
    Newest,
    ReLU,
    ResidualBlock,
    RMSNorm,
    Sequential,
    SkipConnections,
    Tanh,
)
from makemore.wiring import positions_of, wires_of

SIZES = ("block_size", "n_embd", "n_hidden", "stacks")
"""The sizes of a plan."""


@dataclass(frozen=True)
class Plan:
    """What a network is made from: a name, its sizes, and the function that makes its layers.

    ``block_size`` characters of context, ``n_embd`` channels a character, ``n_hidden`` channels a hidden
    layer, ``stacks`` of layers that each double their dilations from 1 up;
    ``layers(plan, vocab_size, generator)`` draws the initial values in the order of the layers.
    Raises UsageError on sizes below 1, and on those that ``layers`` refuses.
    """

    name: str
    block_size: int
    n_embd: int
    n_hidden: int
    layers: Callable[[Plan, int, Generator | None], list[Layer]]
    stacks: int = 1

    def __post_init__(self) -> None:
        for field in SIZES:
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
        """Name and sizes: what ``network_plan`` takes to make the same plan. One stack is not mentioned."""
        names = ("name", *SIZES) if self.stacks != 1 else ("name", *SIZES[:-1])
        return {name: getattr(self, name) for name in names}

    def value_count(self, vocab_size: int) -> int:
        """The number of values in all tensors of the network; no memory is taken for them."""
        with torch.device("meta"), _ShapesAlone():
            return sum(tensor.numel() for tensor in self.build(vocab_size).state_dict().values())


class _ShapesAlone(TorchFunctionMode):
    """Within it, layers are made without values: these would import torch.compile for the meta device."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.randn:
            return torch.empty(*args, **{name: kwargs[name] for name in kwargs if name != "generator"})
        same = func is Tensor.div and args[0].is_floating_point() and not isinstance(args[1], Tensor)
        return args[0] if same else func(*args, **kwargs)


def fusing_layers(
    plan: Plan,
    vocab_size: int,
    generator: Generator | None,
    pairs: bool = True,
    historic_batchnorm: bool = False,
    gated: bool = False,
) -> list[Layer]:
    """Pairs of positions become one until one is left, or without ``pairs`` all of them at once.

    Raises UsageError unless the pairs come out even.
    """
    if plan.stacks != 1:
        raise UsageError(f"network {plan.name} has one stack, got {plan.stacks}")
    if pairs and (plan.block_size < 2 or plan.block_size.bit_count() != 1):
        raise UsageError(
            f"network {plan.name} fuses pairs: its block size must be a power of two"
            f" from 2 up (2, 4, 8, 16, ...), got {plan.block_size}"
        )
    layers: list[Layer] = [Embedding(vocab_size, plan.n_embd, generator=generator)]
    channels, positions, n = plan.n_embd, plan.block_size, 2 if pairs else plan.block_size
    width = 2 * plan.n_hidden if gated else plan.n_hidden
    while positions > 1 or len(layers) == 1:
        positions //= n
        layers += [
            FlattenConsecutive(n),
            Linear(channels * n, width, bias=False, generator=generator),
            HistoricBatchNorm1d(width, positions) if historic_batchnorm else BatchNorm1d(width),
            GatedActivation() if gated else Tanh(),
        ]
        channels = plan.n_hidden
    return [*layers, _output(channels, vocab_size, generator)]


def _output(channels: int, vocab_size: int, generator: Generator | None) -> Linear:
    """The layer that gives the logits."""
    output = Linear(channels, vocab_size, generator=generator)
    output.weight *= 0.1  # less confident
    return output


def paper_layers(plan: Plan, vocab_size: int, generator: Generator | None) -> list[Layer]:
    """The paper's network (fig. 4): gated residual blocks, the sum of their skips, ReLU, 1x1, ReLU, 1x1.

    Dilations are 1, 2, 4, ... and then 1, 2, 4, ... again, ``stacks`` times (section 2.1). The residual
    stream is ``n_embd`` wide, the gates, the skips and the output's 1x1 are ``n_hidden`` wide. The last stack
    fuses pairs as the lecture's tree does; the stacks below it have a node at every position, since the
    windows that one tree over their outputs looks at overlap: the 15 characters of two stacks of dilations
    1, 2, 4 have 14, 12, 8 nodes in the first and 4, 2, 1 in the second.

    Departures from the paper: an Embedding in place of its first convolution of one-hot rows; RMSNorm in
    front of the gates. Raises UsageError unless the dilations of the stacks come to the context.
    """
    E, H = plan.n_embd, plan.n_hidden
    reach, rest = divmod(plan.block_size - 1, plan.stacks)  # how far back one stack looks
    if rest or reach < 1 or (reach + 1).bit_count() != 1:
        sizes = ", ".join(str(1 + plan.stacks * (2**k - 1)) for k in range(1, 5))
        stacks = f"{plan.stacks} stacks" if plan.stacks > 1 else "a stack"
        raise UsageError(
            f"network {plan.name} with {stacks} of dilations 1, 2, 4, ... has a block size of"
            f" {sizes}, ..., got {plan.block_size}"
        )
    embedding = Embedding(vocab_size, E, generator=generator)
    blocks, skips, positions = list[ResidualBlock](), list[Layer](), plan.block_size
    for i in range(plan.stacks):
        for k in range((reach + 1).bit_length() - 1):
            last_stack = i == plan.stacks - 1
            fuse = FlattenConsecutive(2) if last_stack else FlattenDilated(2, 2**k)
            positions = positions // 2 if last_stack else positions - 2**k
            gates = [Linear(2 * E, 2 * H, generator=generator), RMSNorm(2 * H), GatedActivation()]
            residual = Linear(H, E, generator=generator) if positions > 1 else None
            blocks.append(ResidualBlock(fuse, gates, residual))
            skip = Linear(H, H, generator=generator)
            skips.append(Sequential([Newest(positions), skip]) if positions > 1 else skip)
    return [
        embedding,
        SkipConnections(blocks, skips),
        *[ReLU(), Linear(H, H, generator=generator), ReLU(), _output(H, vocab_size, generator)],
    ]


NETWORKS = {
    plan.name: plan
    for plan in (
        Plan("mlp", 3, 10, 200, partial(fusing_layers, pairs=False)),
        Plan("mlp-8", 8, 10, 200, partial(fusing_layers, pairs=False)),
        Plan("hierarchical-bug", 8, 10, 68, partial(fusing_layers, historic_batchnorm=True)),
        Plan("hierarchical", 8, 10, 68, fusing_layers),
        Plan("wavenet", 8, 24, 128, fusing_layers),
        Plan("gated", 8, 24, 89, partial(fusing_layers, gated=True)),
        Plan("wavenet-paper", 8, 48, 74, paper_layers),
    )
}
"""The performance log, from its first row to its last, and two networks beyond it."""

DEFAULT_NETWORK = "wavenet"


def network_plan(
    name: str = DEFAULT_NETWORK,
    block_size: int | None = None,
    n_embd: int | None = None,
    n_hidden: int | None = None,
    stacks: int | None = None,
) -> Plan:
    """The plan of that name, with sizes replaced where given. Raises UsageError on an unknown name.

    With more stacks and no block size given, each stack looks as far back as the plan's own does.
    """
    if name not in NETWORKS:
        raise UsageError(f"unknown network {name!r}: choose from {', '.join(NETWORKS)}")
    if stacks is not None and block_size is None:
        block_size = 1 + stacks * (NETWORKS[name].block_size - 1)
    sizes: dict[str, Any] = dict(zip(SIZES, (block_size, n_embd, n_hidden, stacks), strict=True))
    return replace(NETWORKS[name], **{field: size for field, size in sizes.items() if size is not None})


def block_size(network: Sequential) -> int:
    """The context length a network takes: what its layers need for one position at the end.

    Raises ValueError if two layers need different lengths of one output.
    """
    return positions_of(wires_of(network))[1]


def summary(network: Sequential, batch_size: int = 32) -> str:
    """A table of the layers: output shape for a batch of that size, and number of parameters.

    What lies within a layer that is no Sequential stands below it, further to the right.
    """
    device = network.parameters()[0].device
    with network.evaluating():  # one context: many long ones would take gigabytes
        network(torch.zeros((1, block_size(network)), dtype=torch.int64, device=device))
    rows = [("layer", "output", "parameters"), *_rows(network, batch_size)]
    rows.append(("total", "", f"{sum(p.numel() for p in network.parameters()):,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"{layer:<{widths[0]}}  {shape:<{widths[1]}}  {count:>{widths[2]}}" for layer, shape, count in rows
    )


def _rows(layer: Layer, batch_size: int, indent: str = "") -> list[tuple[str, str, str]]:
    """Description, output shape and number of parameters of a layer, or of those within it."""
    children = [child for _, child in layer.named_children()]
    shape = str((batch_size, *layer.out.shape[1:]))
    if not children:
        return [(f"{indent}{layer}", shape, f"{sum(p.numel() for p in layer.parameters()):,}")]
    if type(layer) is Sequential:
        return [row for child in children for row in _rows(child, batch_size, indent)]
    below = [row for child in children for row in _rows(child, batch_size, indent + "  ")]
    return [(f"{indent}{type(layer).__name__}", shape, ""), *below]
