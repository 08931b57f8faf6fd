"""The losses of the splits (lecture cells 12-13).

Departures from the lecture: the examples go through the network in pieces, so that the memory needed does
not grow with the split; the sum is kept in float64.
"""

import math
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore.bars import bar
from makemore.layers import Sequential
from makemore.words import Examples

PIECE = 2048
"""Examples that go through all the layers at a time."""


def split_loss(network: Sequential, examples: Examples) -> float:
    """Mean cross-entropy of a network in evaluation on the examples, in nats per symbol; nan for none."""
    if len(examples) == 0:
        return math.nan
    return mean_loss(log_probs(network, examples), len(examples))


def mean_loss(pieces: Iterable[Tensor], number: int) -> float:
    """The mean of so many log-probabilities, which come in pieces, negated; with a bar if it takes long."""
    with bar(number, "example", "evaluating") as shown:
        sums = []
        for piece in pieces:
            sums.append(piece.sum(dtype=torch.float64).item())
            shown.update(len(piece))
    return -math.fsum(sums) / number


def log_probs(network: Sequential, examples: Examples) -> Iterator[Tensor]:
    """Log-probabilities of the examples' targets, in order, piece by piece: (N,) in all."""
    for start in range(0, len(examples), PIECE):
        X, Y = examples[start : start + PIECE]
        with network.evaluating():
            yield F.log_softmax(network(X), dim=1).gather(1, Y.unsqueeze(1)).squeeze(1)
