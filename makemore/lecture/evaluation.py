"""The loss of a split (lecture cells 12 and 13).

Departures from the lecture: the examples go through the network in chunks, so that the memory needed does
not grow with the split, and the sum is kept in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from makemore.core.fit import check_examples, check_logits
from makemore.core.layer import Layer
from makemore.lecture.words import Examples

CHUNK_EXAMPLES = 2048
"""Examples that go through the network at once."""


def split_loss(network: Layer, examples: Examples) -> float:
    """Mean cross-entropy of a network in evaluation, in nats per symbol; nan if there are no examples.

    ``examples`` may also be a ``torch.utils.data.TensorDataset`` of contexts and targets. Raises UsageError
    on examples of another vocabulary or context length than the network's.
    """
    check_examples(network, examples)
    if len(examples) == 0:
        return math.nan
    return -math.fsum(chunk.double().sum().item() for chunk in log_probs(network, examples)) / len(examples)


def log_probs(network: Layer, examples: Examples) -> Iterator[Tensor]:
    """Log-probabilities of the targets, in the order of the examples, in chunks: (N,) altogether."""
    for start in range(0, len(examples), CHUNK_EXAMPLES):
        X, Y = examples[start : start + CHUNK_EXAMPLES]
        with network.evaluating():
            logits = check_logits(network(X), X)
            yield F.log_softmax(logits, dim=1).gather(1, Y.unsqueeze(1)).squeeze(1)
