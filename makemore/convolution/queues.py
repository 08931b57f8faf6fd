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

from makemore.convolution.stages import TILE, Convolution
from makemore.distinct import distinct
from makemore.ensemble import mean_log_probs
from makemore.layers import Sequential
from makemore.networks import block_size

TABLE_VALUES = 2**21
"""Values that the table of the first layer's nodes may have."""


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

    For each layer that fuses positions, the products of the nodes at the latest positions, as many
    as a later node looks back to, and which of these nodes each word has. The first layer's nodes are
    looked up in a table of all windows of symbols, unless that would be too large.
    """

    @torch.no_grad()
    def __init__(self, convolution: Convolution) -> None:
        table, stages, looked_up = convolution.embedding, convolution.stages, 1
        self.vocab_size = len(table)
        self.device = table.device
        fused, _, width = stages[0].weight.shape
        if len(stages) > 1 and self.vocab_size**fused * width <= TABLE_VALUES:
            every = torch.arange(self.vocab_size**fused, device=table.device)
            columns = [every // self.vocab_size**j % self.vocab_size for j in reversed(range(fused))]
            nodes, ids = stages[0].fuse(stages[0].products(table), columns)
            table, stages, looked_up = nodes[ids], stages[1:], fused
        self.windows = self.vocab_size**looked_up
        self.stages = stages
        self.table = table  # (windows, C)
        self.products = stages[0].products(table)

    def start(self, words: int) -> None:
        self.window = torch.zeros(words, dtype=torch.int64, device=self.table.device)
        self.queues: list[list[tuple[Tensor, list[Tensor]]]] = [[] for _ in self.stages]

    def append(self, symbols: Tensor) -> tuple[Tensor, Tensor]:
        self.window = (self.window * self.vocab_size + symbols) % self.windows
        nodes, ids = self.table, self.window
        for stage, queue in zip(self.stages, self.queues, strict=True):
            products = self.products if nodes is self.table else stage.products(nodes)
            # At the start a word has looked at nothing but padding, as often as a node looks back.
            queue.extend([(ids, products)] * (1 if queue else stage.lags[0] + 1))
            seen = [queue[-1 - lag] for lag in stage.lags]
            columns = [ids for ids, _ in seen]
            nodes, ids = stage.fuse([products[j] for j, (_, products) in enumerate(seen)], columns)
            del queue[0]
        return nodes, ids

    def keep(self, index: Tensor) -> None:
        self.window = self.window.index_select(0, index)
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
