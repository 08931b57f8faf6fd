"""The loss of a split (lecture cells 12-13).

Departure from the lecture: the examples go through the network in pieces, so that the memory needed
does not grow with the split; the sum is kept in float64.
"""

from __future__ import annotations

import torch.nn.functional as F

from makemore.layers import Sequential
from makemore.words import Examples

PIECE = 2048
"""Examples that go through the network at a time: some 20 MB of layer outputs."""


def split_loss(network: Sequential, examples: Examples) -> float:
    """Mean cross-entropy of a network in evaluation on the examples, in nats per symbol."""
    total = 0.0
    with network.evaluating():
        for start in range(0, len(examples), PIECE):
            X, Y = examples[start : start + PIECE]
            total += F.cross_entropy(network(X), Y, reduction="sum").item()
    return total / len(examples)
