"""The networks of the lecture's performance log, row by row (cells 9 and 14).

A flat network concatenates all characters of the context at once; a hierarchical one fuses them pair by pair,
for a context of eight characters 8 -> 4 -> 2 -> 1. The last layer's weight is multiplied by 0.1 after
construction, so that an untrained network is not confident of anything.

Initial values are drawn from torch's own generator, in the order of the layers: ``torch.manual_seed(42)``
comes first, as in the lecture.
"""

from __future__ import annotations

import torch

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


def mlp(vocab_size: int) -> Sequential:
    """Row 1, "original (3 character context + 200 hidden neurons, 12K params)"."""
    n_embd, n_hidden = 10, 200
    return initialized([
        Embedding(vocab_size, n_embd),
        FlattenConsecutive(3), Linear(n_embd * 3, n_hidden, bias=False), BatchNorm1d(n_hidden), Tanh(),
        Linear(n_hidden, vocab_size),
    ])  # fmt: skip


def mlp_8(vocab_size: int) -> Sequential:
    """Row 2, "context: 3 -> 8 (22K params)"."""
    n_embd, n_hidden = 10, 200
    return initialized([
        Embedding(vocab_size, n_embd),
        FlattenConsecutive(8), Linear(n_embd * 8, n_hidden, bias=False), BatchNorm1d(n_hidden), Tanh(),
        Linear(n_hidden, vocab_size),
    ])  # fmt: skip


def hierarchical_bug(vocab_size: int) -> Sequential:
    """Row 3, "flat -> hierarchical (22K params)", with the bug in BatchNorm1d."""
    n_embd, n_hidden = 10, 68
    return initialized([
        Embedding(vocab_size, n_embd),
        FlattenConsecutive(2), Linear(n_embd * 2, n_hidden, bias=False),
        HistoricBatchNorm1d(n_hidden, 4), Tanh(),
        FlattenConsecutive(2), Linear(n_hidden * 2, n_hidden, bias=False),
        HistoricBatchNorm1d(n_hidden, 2), Tanh(),
        FlattenConsecutive(2), Linear(n_hidden * 2, n_hidden, bias=False),
        HistoricBatchNorm1d(n_hidden), Tanh(),
        Linear(n_hidden, vocab_size),
    ])  # fmt: skip


def hierarchical(vocab_size: int) -> Sequential:
    """Row 4, "fix bug in batchnorm"."""
    n_embd, n_hidden = 10, 68
    return initialized([
        Embedding(vocab_size, n_embd),
        FlattenConsecutive(2), Linear(n_embd * 2, n_hidden, bias=False), BatchNorm1d(n_hidden), Tanh(),
        FlattenConsecutive(2), Linear(n_hidden * 2, n_hidden, bias=False), BatchNorm1d(n_hidden), Tanh(),
        FlattenConsecutive(2), Linear(n_hidden * 2, n_hidden, bias=False), BatchNorm1d(n_hidden), Tanh(),
        Linear(n_hidden, vocab_size),
    ])  # fmt: skip


def wavenet(vocab_size: int) -> Sequential:
    """Row 5, "scale up the network: n_embd 24, n_hidden 128 (76K params)"."""
    n_embd, n_hidden = 24, 128
    return initialized([
        Embedding(vocab_size, n_embd),
        FlattenConsecutive(2), Linear(n_embd * 2, n_hidden, bias=False), BatchNorm1d(n_hidden), Tanh(),
        FlattenConsecutive(2), Linear(n_hidden * 2, n_hidden, bias=False), BatchNorm1d(n_hidden), Tanh(),
        FlattenConsecutive(2), Linear(n_hidden * 2, n_hidden, bias=False), BatchNorm1d(n_hidden), Tanh(),
        Linear(n_hidden, vocab_size),
    ])  # fmt: skip


def initialized(layers: list[Layer]) -> Sequential:
    """The network of these layers, ready to be trained."""
    network = Sequential(layers)
    with torch.no_grad():
        network.layers[-1].weight *= 0.1  # type: ignore[attr-defined]  # make the last layer less confident
    for p in network.parameters():
        p.requires_grad = True
    return network
