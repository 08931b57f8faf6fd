"""Decoders: the logits of the next symbol for words that are lengthened by one symbol at a time.

For each new character a network needs one new node in each layer; the other nodes are those of earlier
characters ("fast WaveNet", Paine et al. 2016, arXiv:1611.09482). ``FullContextDecoder`` sends the whole
context through all the layers, for networks that no convolution equals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore.core.fit import check_logits
from makemore.core.graph import context_length
from makemore.core.layer import Layer
from makemore.core.unique_rows import unique_rows
from makemore.inference.convolution import TILE, Convolution
from makemore.training.ensemble import mean_log_probs


class Decoder(Protocol):
    """The words of a batch, which are lengthened together by one symbol at a time."""

    device: torch.device

    def start(self, words: int, labels: Tensor | None = None) -> None:
        """Begin that many new words, with ``labels``, (words, K), if the network takes labels."""

    def append(self, symbols: Tensor) -> tuple[Tensor, Tensor]:
        """Append a symbol to every word, (W,). The first symbol is the stop that starts each word.

        Returns the logits of the distinct contexts, (D, vocab_size), and the context of each word, (W,).
        """
        ...

    def select(self, index: Tensor) -> None:
        """Continue with the words at ``index`` alone."""


class CachedDecoder(Decoder):
    """A decoder that keeps the products of earlier nodes.

    For each stage it keeps these at the latest positions, as many as a later node reads, and the node of each
    word there.
    """

    def __init__(self, convolution: Convolution) -> None:
        self.convolution, self.stages = convolution, convolution.stages
        self.device = convolution.device

    def start(self, words: int, labels: Tensor | None = None) -> None:
        self.labels = labels
        self.queues: list[list[tuple[Tensor, list[Tensor]]]] = [[] for _ in self.stages]

    @torch.no_grad()
    def append(self, symbols: Tensor) -> tuple[Tensor, Tensor]:
        values = [self.convolution.embedded(symbols, self.labels)]
        for stage, queue in zip(self.stages, self.queues, strict=True):
            source = values[stage.source]
            # At the start all earlier positions are padding, equal to the first.
            queue.extend([(source.ids, stage.products(source.rows))] * (1 if queue else stage.lags[0] + 1))
            columns = [queue[-1 - lag][0] for lag in stage.lags]
            products = [queue[-1 - lag][1][j] for j, lag in enumerate(stage.lags)]
            values.append(stage.sum_products(products, columns, values))
            del queue[0]
        return values[-1].rows, values[-1].ids

    def select(self, index: Tensor) -> None:
        if self.labels is not None:
            self.labels = self.labels.index_select(0, index)
        for queue in self.queues:
            queue[:] = [(ids.index_select(0, index), products) for ids, products in queue]


class FullContextDecoder(Decoder):
    """A decoder that sends each word's whole context through all the layers, as in the lecture.

    It always computes ``TILE`` contexts at once, so that a word does not depend on the number of words.
    """

    def __init__(self, network: Layer) -> None:
        self.network = network
        self.block_size = context_length(network)
        self.device = network.parameters()[0].device

    def start(self, words: int, labels: Tensor | None = None) -> None:
        self.contexts = torch.zeros((words, self.block_size), dtype=torch.int64, device=self.device)
        self.num_labels = 0
        if labels is not None:
            self.contexts = torch.cat([labels.to(self.contexts), self.contexts], dim=1)  # (W, K + block_size)
            self.num_labels = labels.shape[1]

    def append(self, symbols: Tensor) -> tuple[Tensor, Tensor]:
        labels, before = self.contexts.tensor_split([self.num_labels], dim=1)
        self.contexts = torch.cat([labels, before[:, 1:], symbols.unsqueeze(1)], dim=1)
        words = len(symbols)
        filled = F.pad(self.contexts, (0, 0, 0, -words % TILE))
        with self.network.evaluating() as network:
            logits = torch.cat([check_logits(network(tile), tile) for tile in torch.split(filled, TILE)])[
                :words
            ]
        return logits, torch.arange(words, device=self.device)

    def select(self, index: Tensor) -> None:
        self.contexts = self.contexts.index_select(0, index)


class EnsembleDecoder(Decoder):
    """A decoder for an ensemble: the same words in each member, whose probabilities are averaged."""

    def __init__(self, members: Sequence[Decoder]) -> None:
        self.members = members
        self.device = members[0].device

    def start(self, words: int, labels: Tensor | None = None) -> None:
        for member in self.members:
            member.start(words, labels)

    def append(self, symbols: Tensor) -> tuple[Tensor, Tensor]:
        logits, ids = zip(*(member.append(symbols) for member in self.members), strict=True)
        index, inverse, _ = unique_rows(ids, [len(each) for each in logits])
        rows = [each.index_select(0, of.index_select(0, index)) for each, of in zip(logits, ids, strict=True)]
        return mean_log_probs(rows), inverse

    def select(self, index: Tensor) -> None:
        for member in self.members:
            member.select(index)
