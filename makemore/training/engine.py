"""Engines compute the steps of a training. ``AutogradEngine`` does so as the lecture does.

What all engines and optimizers train:

* The parameters that require gradients, and no others. The ``grad`` of a frozen parameter, one with
  ``requires_grad=False``, is None; neither SGD nor momentum nor weight decay changes its value.
* If no parameter requires gradients when an engine is made, the network was built by hand: all of them are
  trained, and their ``requires_grad`` is set.
* If all layers are in evaluation, as ``load_model`` returns them, the network is switched to training. If
  only some layers are, all modes stay as they are. A BatchNorm in evaluation then normalizes by its running
  statistics, which do not change, and its gamma and beta are trained unless they are frozen. A Dropout in
  evaluation returns its input.

Parameters may be frozen and modes changed between steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore.core.errors import UsageError
from makemore.core.fit import check_batch, check_logits
from makemore.core.graph import INPUT, Node, node_values, trace
from makemore.core.layer import Layer, layer_text
from makemore.core.trained import enter_training, require_gradients
from makemore.lecture.layers import Embedding
from makemore.paper.layers import LabelledEmbedding


class Engine(Protocol):
    """Computes steps and gradients for a network: by autograd, or by hand-derived gradients (``backprop/``).

    Targets Y are symbols, or distributions over the symbols with one more dimension, (..., vocab_size).
    """

    def sgd_steps(self, X: Tensor, Y: Tensor, lrs: Sequence[float]) -> Tensor:
        """Do one step of SGD on each batch, X (steps, B, T) and Y (steps, B), with its learning rate.

        Returns the batch losses, (steps,).
        """
        ...

    def gradients(self, X: Tensor, Y: Tensor, keep_mask: Tensor | None = None) -> Tensor:
        """Put the gradients of one batch, X (B, T) and Y (B,), into ``p.grad``; returns its loss, ().

        The ``grad`` of a parameter that is frozen, or that the logits do not depend on, is None.

        ``keep_mask``, (B, T) and floating, is multiplied with the embeddings: 0 drops a position. With labels
        X is (B, K + T); the mask is for the T symbols.
        """
        ...

    def describe(self, batch_size: int, block_size: int) -> str:
        """How batches of that shape are computed, for the header of a run; "" if there is nothing to say."""
        ...


MakeEngine = Callable[[Layer], Engine]


class AutogradEngine(Engine):
    """The lecture's step: forward pass, backward pass and update by autograd."""

    def __init__(self, network: Layer) -> None:
        require_gradients(network)
        self.network = network
        self._checked_length: int | None = None

    def sgd_steps(self, X: Tensor, Y: Tensor, lrs: Sequence[float]) -> Tensor:
        parameters = self.network.parameters()
        losses = torch.empty(len(lrs), dtype=parameters[0].dtype, device=X.device)
        for i, lr in enumerate(lrs):
            losses[i] = self.gradients(X[i], Y[i])
            for p in parameters:
                if p.grad is not None:
                    p.data += -lr * p.grad
        return losses

    def gradients(self, X: Tensor, Y: Tensor, keep_mask: Tensor | None = None) -> Tensor:
        network = self.network
        enter_training(network)
        if X.shape[-1] != self._checked_length:
            check_batch(network, X.shape[-1])
            self._checked_length = X.shape[-1]
        logits = network(X) if keep_mask is None else logits_with_dropped_characters(network, X, keep_mask)
        batch_loss = F.cross_entropy(check_logits(logits, X), Y)
        for p in network.parameters():
            p.grad = None
        if batch_loss.requires_grad:  # else all parameters are frozen
            torch.autograd.backward(batch_loss)
        return batch_loss.detach()

    def describe(self, batch_size: int, block_size: int) -> str:
        return ""


def logits_with_dropped_characters(network: Layer, X: Tensor, keep_mask: Tensor) -> Tensor:
    """The logits for contexts X (B, T) whose embeddings are multiplied by ``keep_mask`` (B, T).

    Labels in front of the symbols, X (B, K + T), are never dropped. Raises UsageError unless the network
    begins with its only Embedding.
    """
    nodes = droppable_nodes(network)
    first = nodes[0].layer
    assert first is not None
    if isinstance(first, LabelledEmbedding):
        return node_values(nodes, X, first.with_dropped(X, keep_mask))[-1]
    return node_values(nodes, X, first(X) * keep_mask.unsqueeze(-1))[-1]


def droppable_nodes(network: Layer) -> list[Node]:
    """The nodes of a network whose characters can be dropped.

    Raises UsageError unless the network begins with an Embedding, and no other layer reads the symbols.
    """
    nodes = trace(network)
    readers = [node.layer for node in nodes if INPUT in node.inputs]
    if len(readers) == 1 and isinstance(readers[0], Embedding):
        return nodes
    found = " and ".join("a sum" if layer is None else layer_text(layer) for layer in readers) or "nothing"
    raise UsageError(
        f"context dropout needs a network whose symbols are read by one Embedding, not by {found}: train with"
        " context_dropout=0 (--context-dropout 0)"
    )
