"""The lecture's training loop (cell 10)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from makemore.core.fit import note_data
from makemore.core.trained import enter_training, require_gradients
from makemore.lecture.layers import Sequential
from makemore.lecture.words import Examples


def train(
    network: Sequential,
    examples: Examples,
    *,
    max_steps: int = 200_000,
    batch_size: int = 32,
    generator: Generator | None = None,
) -> Tensor:
    """Train a network by plain SGD, printing the batch loss every 10,000 steps.

    Returns the batch losses in nats, (max_steps,). The learning rate is 0.1, and 0.01 for the last quarter of
    the steps. ``examples`` may also be a ``torch.utils.data.TensorDataset`` of contexts and targets.
    """
    note_data(network, examples)
    require_gradients(network)
    enter_training(network)
    parameters = [p for p in network.parameters() if p.requires_grad]
    losses = torch.empty(max_steps)
    for i in range(max_steps):
        # a minibatch
        ix = torch.randint(0, len(examples), (batch_size,), generator=generator)
        Xb, Yb = examples[ix]

        # forward pass
        logits = network(Xb)
        loss = F.cross_entropy(logits, Yb)

        # backward pass
        for p in parameters:
            p.grad = None
        loss.backward()  # type: ignore[no-untyped-call]

        # update: plain SGD
        lr = 0.1 if i < max_steps * 3 // 4 else 0.01
        for p in parameters:
            p.data += -lr * p.grad  # type: ignore[operator]

        # track the loss
        if i % 10_000 == 0:
            print(f"{i:7d}/{max_steps:7d}: {loss.item():.4f}")
        losses[i] = loss.detach()
    return losses
