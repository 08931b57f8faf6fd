"""Networks of any size: the lecture's flat and hierarchical ones, and those of the WaveNet paper.

Each function returns the layers of a network, drawing the initial values in the order of the layers. At the
lecture's sizes ``flat`` and ``hierarchical`` are the networks of ``lecture/networks.py``, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from makemore.core.errors import UsageError
from makemore.core.layer import Layer, declared
from makemore.lecture.layers import (
    BatchNorm1d,
    Embedding,
    FlattenConsecutive,
    HistoricBatchNorm1d,
    Linear,
    Sequential,
    Tanh,
)
from makemore.paper.layers import (
    Dropout,
    FlattenDilated,
    GatedActivation,
    LabelledEmbedding,
    LayerNorm,
    ReLU,
    ResidualBlock,
    RMSNorm,
    SkipConnections,
    TakeLast,
)


def flat(vocab_size: int, block_size: int, n_embd: int, n_hidden: int) -> list[Layer]:
    """A network that concatenates all characters of the context at once."""
    return [
        Embedding(vocab_size, n_embd),
        FlattenConsecutive(block_size),
        Linear(n_embd * block_size, n_hidden, bias=False),
        BatchNorm1d(n_hidden),
        Tanh(),
        output_layer(n_hidden, vocab_size),
    ]


def hierarchical(
    vocab_size: int,
    block_size: int,
    n_embd: int,
    n_hidden: int,
    *,
    norm: Callable[[int, int], Layer] = lambda width, positions: BatchNorm1d(width),
    gated: bool = False,
) -> list[Layer]:
    """A network that fuses pairs of positions until one is left.

    ``norm(width, positions)`` makes each normalization. With ``gated`` the paper's gates take the place of
    Tanh. Raises UsageError unless ``block_size`` is a power of two from 2 up.
    """
    if block_size < 2 or block_size.bit_count() != 1:
        raise UsageError(
            "a network that fuses pairs needs a block size that is a power of two"
            f" from 2 up (2, 4, 8, 16, ...), got {block_size}"
        )
    layers: list[Layer] = [Embedding(vocab_size, n_embd)]
    width = 2 * n_hidden if gated else n_hidden
    channels, positions = n_embd, block_size
    while positions > 1:
        positions //= 2
        layers += [
            FlattenConsecutive(2),
            Linear(channels * 2, width, bias=False),
            norm(width, positions),
            GatedActivation() if gated else Tanh(),
        ]
        channels = n_hidden
    return [*layers, output_layer(n_hidden, vocab_size)]


def hierarchical_bug(vocab_size: int, block_size: int, n_embd: int, n_hidden: int) -> list[Layer]:
    """``hierarchical`` with the lecture's bug in BatchNorm."""
    return hierarchical(vocab_size, block_size, n_embd, n_hidden, norm=HistoricBatchNorm1d)


def gated(vocab_size: int, block_size: int, n_embd: int, n_hidden: int) -> list[Layer]:
    """``hierarchical`` with the paper's gates."""
    return hierarchical(vocab_size, block_size, n_embd, n_hidden, gated=True)


def layernorm(vocab_size: int, block_size: int, n_embd: int, n_hidden: int) -> list[Layer]:
    """``hierarchical`` with LayerNorm in place of BatchNorm."""
    return hierarchical(vocab_size, block_size, n_embd, n_hidden, norm=lambda width, _: LayerNorm(width))


def wavenet_paper(
    vocab_size: int, block_size: int, n_embd: int, n_hidden: int, stacks: int = 1
) -> list[Layer]:
    """The paper's network (fig. 4): gated residual blocks, the sum of their skips, ReLU, 1x1, ReLU, 1x1.

    Dilations are 1, 2, 4, ... and then 1, 2, 4, ... again, ``stacks`` times (section 2.1). The residual
    stream has ``n_embd`` channels; the gates, the skips and the output's 1x1 convolution have ``n_hidden``.
    The last stack fuses pairs as the lecture's tree does. The stacks below it have a node at every position,
    since the windows that one tree over their outputs reads overlap: the 15 characters of two stacks of
    dilations 1, 2, 4 have 14, 12, 8 nodes in the first stack and 4, 2, 1 in the second.

    Departures from the paper: an Embedding in place of its first convolution of one-hot rows; RMSNorm
    before the gates. Raises UsageError unless the dilations of the stacks add up to the block size.
    """
    reach, rest = divmod(block_size - 1, stacks)  # how many symbols back one stack reads
    if rest or reach < 1 or (reach + 1).bit_count() != 1:
        sizes = ", ".join(str(1 + stacks * (2**k - 1)) for k in range(1, 5))
        each = f"{stacks} stacks" if stacks > 1 else "a stack"
        raise UsageError(
            f"{each} of dilations 1, 2, 4, ... needs a block size of {sizes}, ..., got {block_size}"
        )
    embedding = Embedding(vocab_size, n_embd)
    blocks, skips, positions = list[ResidualBlock](), list[Layer](), block_size
    for i in range(stacks):
        for k in range((reach + 1).bit_length() - 1):
            last_stack = i == stacks - 1
            gather = FlattenConsecutive(2) if last_stack else FlattenDilated(2, 2**k)
            positions = positions // 2 if last_stack else positions - 2**k
            gates = [Linear(2 * n_embd, 2 * n_hidden), RMSNorm(2 * n_hidden), GatedActivation()]
            projection = Linear(n_hidden, n_embd) if positions > 1 else None
            blocks.append(ResidualBlock(gather, gates, projection))
            skip = Linear(n_hidden, n_hidden)
            skips.append(Sequential([TakeLast(positions), skip]) if positions > 1 else skip)
    return [
        embedding,
        SkipConnections(blocks, skips),
        *[ReLU(), Linear(n_hidden, n_hidden), ReLU(), output_layer(n_hidden, vocab_size)],
    ]


def with_labels(layers: Sequence[Layer], label_sizes: Sequence[int]) -> list[Layer]:
    """The layers of a network whose Embedding, the first of them, takes labels too. Its table is kept."""
    first, *others = layers
    assert isinstance(first, Embedding)
    vocab_size, n_embd = first.weight.shape
    labelled = LabelledEmbedding(vocab_size, n_embd, label_sizes)
    labelled.weight = first.weight
    return [labelled, *others]


def add_dropout(network: Sequential, p: float) -> None:
    """Put a Dropout after each activation of a network: each layer that declares an ``output_range``."""
    replace_layers(network, lambda layer: [layer, Dropout(p)] if declared(layer, "output_range") else [layer])


def replace_layers(network: Layer, replacement: Callable[[Layer], Sequence[Layer]]) -> None:
    """Put other layers in place of each layer of every Sequential in a network."""
    for module in [*network.modules()]:
        if isinstance(module, Sequential):
            module.layers = [new for layer in module.layers for new in replacement(layer)]


def output_layer(channels: int, vocab_size: int) -> Linear:
    """The layer that gives the logits, its weight multiplied by 0.1 (cell 9: "less confident")."""
    layer = Linear(channels, vocab_size)
    layer.weight *= 0.1
    return layer
