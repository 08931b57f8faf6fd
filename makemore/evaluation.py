"""The losses of the splits (lecture cells 12-13).

Departures from the lecture: the examples go through the network in pieces, so that the memory needed does
not grow with the split; the sum is kept in float64.
"""

import math
from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from makemore.layers import Sequential
from makemore.words import Examples

PIECE = 2048
"""Examples that go through all the layers at a time."""


def split_loss(network: Sequential, examples: Examples) -> float:
    """Mean cross-entropy of a network in evaluation on the examples, in nats per symbol; nan for none."""
    if len(examples) == 0:
        return math.nan
    total = math.fsum(piece.double().sum().item() for piece in log_probs(network, examples))
    return -total / len(examples)


def log_probs(network: Sequential, examples: Examples) -> Iterator[Tensor]:
    """Log-probabilities of the examples' targets, in order, piece by piece: (N,) in all."""
    for start in range(0, len(examples), PIECE):
        X, Y = examples[start : start + PIECE]
        with network.evaluating():
            yield F.log_softmax(network(X), dim=1).gather(1, Y.unsqueeze(1)).squeeze(1)
