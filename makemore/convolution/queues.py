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

    For each stage that is not looked up, the products of the nodes at the latest positions, as many as a
    later node looks back to, and which of these nodes each word has. What depends on no more symbols
    than the first stage looks at is looked up in tables of all windows of symbols, unless these would be too
    large.
    """

    @torch.no_grad()
    def __init__(self, convolution: Convolution) -> None:
        embedding, stages = convolution.embedding, convolution.stages
        self.vocab_size, self.device = len(embedding), embedding.device
        values, fused = [Value(embedding, torch.arange(len(embedding), device=self.device))], 1
        n, _, width = stages[0].weight.shape
        adjacent = n == 1 or stages[0].dilation == 1
        if len(stages) > 1 and adjacent and self.vocab_size**n * width <= TABLE_VALUES:
            fused, every = n, torch.arange(self.vocab_size**n, device=self.device)
            columns = [every // self.vocab_size**j % self.vocab_size for j in reversed(range(n))]
            values = [Value(embedding, columns[-1])]
            for stage in stages[:-1]:
                if stage is not stages[0]:
                    columns = [values[stage.source].ids] if stage.source < len(values) else []
                    if len(stage.weight) > 1 or not columns or max(stage.added, default=0) >= len(values):
                        break
                products = stage.products(values[stage.source].nodes)
                values.append(stage.fuse(products, columns, values))
        self.windows = self.vocab_size**fused
        self.stages = stages[len(values) - 1 :]
        read = {i for stage in self.stages for i in (stage.source, *stage.added)}
        self.tables = [
            Value(v.nodes[v.ids] if i in read else v.nodes, v.ids, sees=v.sees) for i, v in enumerate(values)
        ]
        self.products = {
            i: stage.products(self.tables[stage.source].nodes)  # (windows, C)
            for i, stage in enumerate(self.stages)
            if stage.source < len(self.tables)
        }

    def start(self, words: int) -> None:
        self.window = torch.zeros(words, dtype=torch.int64, device=self.device)
        self.queues: list[list[tuple[Tensor, list[Tensor]]]] = [[] for _ in self.stages]

    def append(self, symbols: Tensor) -> tuple[Tensor, Tensor]:
        self.window = (self.window * self.vocab_size + symbols) % self.windows
        values = [table._replace(ids=self.window) for table in self.tables]
        for i, (stage, queue) in enumerate(zip(self.stages, self.queues, strict=True)):
            nodes, ids = values[stage.source].nodes, values[stage.source].ids
            products = self.products[i] if i in self.products else stage.products(nodes)
            # At the start a word has looked at nothing but padding, as often as a node looks back.
            queue.extend([(ids, products)] * (1 if queue else stage.lags[0] + 1))
            seen = [queue[-1 - lag] for lag in stage.lags]
            columns = [ids for ids, _ in seen]
            values.append(stage.fuse([products[j] for j, (_, products) in enumerate(seen)], columns, values))
            del queue[0]
        return values[-1].nodes, values[-1].ids

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
