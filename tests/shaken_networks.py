"""Networks of all kinds that a convolution equals, with values as after training, and words for them."""

from __future__ import annotations

import torch
from random_graphs import Between, Thrice, Twice
from torch import Generator

from makemore.core.layer import Layer
from makemore.lecture.layers import (
    BatchNorm1d,
    Embedding,
    FlattenConsecutive,
    HistoricBatchNorm1d,
    Linear,
    Sequential,
    Tanh,
)
from makemore.lecture.words import Vocabulary
from makemore.paper.layers import (
    Dropout,
    FlattenDilated,
    GatedActivation,
    ReLU,
    ResidualBlock,
    RMSNorm,
)
from makemore.run.catalog import network_plan

VOCABULARY = Vocabulary("abcdefgh")
V = len(VOCABULARY)


def shaken(layers: list[Layer], seed: int, dtype: torch.dtype) -> Sequential:
    """A network of the layers, with all values moved away from where they start, running statistics too."""
    network = Sequential(layers).to(dtype=dtype)
    generator = Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator, dtype=dtype)
        tensor.data = noise.abs() + 0.5 if name.endswith("running_var") else tensor.data + 0.3 * noise
    return network


def plan(
    block_size: int, *, hierarchical: bool = True, name: str | None = None, stacks: int = 1
) -> list[Layer]:
    """The layers of a small network of the catalog."""
    name = name or ("hierarchical" if hierarchical else "mlp")
    sizes = network_plan(name, block_size, 5, 12, stacks)
    return sizes.build(V, Generator().manual_seed(1)).layers


NETWORKS_TO_CONVERT: dict[str, list[Layer]] = {
    "pairs of 2": plan(2),
    "pairs of 4": plan(4),
    "pairs of 8": plan(8),
    "pairs of 16": plan(16),
    "flat 3": plan(3, hierarchical=False),
    "flat 8": plan(8, hierarchical=False),
    "one character": plan(1, hierarchical=False),
    "an activation after another, and a stage between them": [
        *[Embedding(V, 3), FlattenConsecutive(2), Linear(6, 4)],
        *[Between(Tanh(), Sequential([Linear(4, 4), Tanh()]), ReLU()), Linear(4, V)],
    ],
    "4 and 2, with bias": [
        Embedding(V, 3),
        *[FlattenConsecutive(4), Linear(12, 7), BatchNorm1d(7), Tanh()],
        *[FlattenConsecutive(2), Linear(14, 9), Tanh(), Linear(9, V, bias=False)],
    ],
    "any order": [
        *[Embedding(V, 4), BatchNorm1d(4), FlattenConsecutive(2), FlattenConsecutive(2)],
        *[BatchNorm1d(16), Tanh(), Linear(16, 6), Linear(6, 5), FlattenConsecutive(2), Tanh(), Tanh()],
        *[Sequential([Linear(10, 6), HistoricBatchNorm1d(6)]), Linear(6, V), BatchNorm1d(V)],
    ],
    "gated": plan(8, name="gated"),
    "layernorm": plan(8, name="layernorm"),
    "dropout": plan(8, name="dropout"),
    "Dropout between all layers": [
        *[Embedding(V, 5), Dropout(0.5), FlattenConsecutive(2), Dropout(0.5), Linear(10, 6), Dropout(0.5)],
        *[Tanh(), Dropout(0.5), ReLU(), FlattenConsecutive(2), Twice(Dropout(0.5)), Linear(12, V)],
        *[Sequential([Dropout(0.5), Dropout(0.5)])],
    ],
    "paper of 2": plan(2, name="wavenet-paper"),
    "paper of 8": plan(8, name="wavenet-paper"),
    "paper, two stacks": plan(15, name="wavenet-paper", stacks=2),
    "paper, three stacks of one": plan(4, name="wavenet-paper", stacks=3),
    "residual of the embedding, RMSNorm": [
        *[Embedding(V, 6), RMSNorm(6), Twice(Linear(6, 6)), ReLU(), Twice(Tanh())],
        *[ResidualBlock(FlattenDilated(2, 2), [Linear(12, 8), GatedActivation()], Linear(4, 6)), Tanh()],
        *[Thrice(Linear(6, 6), Tanh(), ReLU()), FlattenConsecutive(3), Linear(18, V)],
    ],
    "counts": [Embedding(V, V), FlattenConsecutive(1)],
    "no Linear": [Embedding(V, V // 3), FlattenConsecutive(3), Tanh()],
}


def some_words(number: int, longest: int = 20, seed: int = 0) -> list[str]:
    """Random words of the letters a, b and h, shorter than ``longest``; some are empty."""
    generator = Generator().manual_seed(seed)
    lengths = torch.randint(0, longest, (number,), generator=generator).tolist()
    letters = torch.randint(0, 3, (sum(lengths),), generator=generator).tolist()
    text = "".join("abh"[i] for i in letters)
    ends = torch.tensor(lengths).cumsum(0).tolist()
    return [text[end - length : end] for end, length in zip(ends, lengths, strict=True)]
