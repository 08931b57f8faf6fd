"""Words that grow in step, a symbol at a time: what the next one may be (beyond the lecture).

For each new character a network needs one new node a layer; the other nodes below its output are those
of characters before ("fast wavenet" queues). ``Contexts`` does the same with the whole context through all
the layers, for networks that no convolution equals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore.convolution.stages import TILE, Convolution, Value
from makemore.distinct import distinct
from makemore.ensemble import mean_log_probs
from makemore.layers import Sequential
from makemore.networks import block_size


class GrowingWords(Protocol):
    """Some words that grow in step."""

    device: torch.device

    def start(self, words: int) -> None:
        """Begin that many words anew."""

    def append(self, symbols: Tensor) -> tuple[Tensor, Tensor]:
        """Lengthen every word by a symbol, (W,); at first, by the stop that starts it.

        Returns the logits of the distinct contexts, (D, vocab_size), and which of them each word has,
        (W,).
        """
        ...

    def keep(self, index: Tensor) -> None:
        """Go on with the words at ``index`` alone."""


class Queues(GrowingWords):
    """The cached nodes of some words that grow in step.

    For each stage, the products of the nodes at the latest positions, as many as a later node looks back to,
    and which of these nodes each word has.
    """

    def __init__(self, convolution: Convolution) -> None:
        self.embedding, self.stages = convolution.embedding, convolution.stages
        self.device = convolution.device

    def start(self, words: int) -> None:
        self.queues: list[list[tuple[Tensor, list[Tensor]]]] = [[] for _ in self.stages]

    @torch.no_grad()
    def append(self, symbols: Tensor) -> tuple[Tensor, Tensor]:
        values = [Value(self.embedding, symbols)]
        for stage, queue in zip(self.stages, self.queues, strict=True):
            source = values[stage.source]
            # At the start a word has looked at nothing but padding, as often as a node looks back.
            queue.extend([(source.ids, stage.products(source.nodes))] * (1 if queue else stage.lags[0] + 1))
            columns = [queue[-1 - lag][0] for lag in stage.lags]
            products = [queue[-1 - lag][1][j] for j, lag in enumerate(stage.lags)]
            values.append(stage.fuse(products, columns, values))
            del queue[0]
        return values[-1].nodes, values[-1].ids

    def keep(self, index: Tensor) -> None:
        for queue in self.queues:
            queue[:] = [(ids.index_select(0, index), products) for ids, products in queue]


class Contexts(GrowingWords):
    """The lecture's way: each word's whole context goes through all the layers.

    Always ``TILE`` contexts at a time, so that a word does not depend on how many others grow with it.
    """

    def __init__(self, network: Sequential) -> None:
        self.network = network
        self.block_size = block_size(network)
        self.device = network.parameters()[0].device

    def start(self, words: int) -> None:
        self.contexts = torch.zeros((words, self.block_size), dtype=torch.int64, device=self.device)

    def append(self, symbols: Tensor) -> tuple[Tensor, Tensor]:
        self.contexts = torch.cat([self.contexts[:, 1:], symbols.unsqueeze(1)], dim=1)  # (W, block_size)
        words = len(symbols)
        filled = F.pad(self.contexts, (0, 0, 0, -words % TILE))
        with self.network.evaluating() as network:
            logits = torch.cat([network(tile) for tile in torch.split(filled, TILE)])[:words]
        return logits, torch.arange(words, device=self.device)

    def keep(self, index: Tensor) -> None:
        self.contexts = self.contexts.index_select(0, index)


class InEachMember(GrowingWords):
    """The same words in each member of an ensemble, whose probabilities are averaged."""

    def __init__(self, members: Sequence[GrowingWords]) -> None:
        self.members = members
        self.device = members[0].device

    def start(self, words: int) -> None:
        for member in self.members:
            member.start(words)

    def append(self, symbols: Tensor) -> tuple[Tensor, Tensor]:
        logits, ids = zip(*(member.append(symbols) for member in self.members), strict=True)
        first, together, _ = distinct(ids, [len(each) for each in logits])
        own = [each.index_select(0, of.index_select(0, first)) for each, of in zip(logits, ids, strict=True)]
        return mean_log_probs(own), together

    def keep(self, index: Tensor) -> None:
        for member in self.members:
            member.keep(index)
