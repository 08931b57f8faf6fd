"""Many new words at once, with cached nodes (beyond the lecture; its own loop is in sampling.py).

For each new character a network needs one new node a layer; the other nodes below its output are those
of characters before ("fast wavenet" queues). All words of a batch grow in step, equal contexts are
computed once, and a word that has stopped takes no further part.

Departures from the lecture's loop:

* The draws are numbers in [0, 1), one for each word and position, that depend on the seed alone; a
  symbol is looked up in the cumulative probabilities. So the words do not depend on the batch size, and
  ``generate_plain``, one word at a time through the layers, gives the same ones: in float64 always, in
  float32 but for a draw that falls within rounding of a boundary (some 1 word in 100,000).
* The filters of ``Filters``, in the order of its fields.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from makemore.convolution import Convolution
from makemore.errors import MakemoreError
from makemore.layers import Sequential
from makemore.networks import block_size
from makemore.sampling import MAX_LENGTH, next_symbol_probs
from makemore.words import STOP, Vocabulary

BLOCK = 1024
"""Words that share a generator. Another number gives other words for the same seed."""

BATCH = 32 * BLOCK
"""Words that grow in step unless they or their layers are so large that fewer must do."""

BATCH_VALUES = 2**22
"""Values of a layer's output, or symbols, that a batch may come to: 16 MB in float32."""

TABLE_VALUES = 2**21
"""Values that the table of the first layer's nodes may have."""


class Sample(NamedTuple):
    """A word and its log-likelihood under the network without filters, stop included, in nats."""

    word: str
    log_likelihood: float


@dataclass(frozen=True)
class Filters:
    """What may be drawn next, in this order.

    ``temperature`` divides the logits; 0 takes the most likely symbol, whatever the draw. Before
    ``min_length`` characters a word may not stop. ``top_k`` keeps the k most likely symbols, ``top_p``
    the fewest of the most likely ones whose probabilities, after the filters before, come to p. At
    ``max_length`` characters a word ends, drawn or not. A prefix is part of the word. Raises ValueError
    on values that make no sense.
    """

    temperature: float = 1.0
    min_length: int = 0
    top_k: int | None = None
    top_p: float | None = None
    max_length: int = MAX_LENGTH

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be 0 or more, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be 1 or more, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if self.max_length < 0:
            raise ValueError(f"max_length must be 0 or more, got {self.max_length}")
        if not 0 <= self.min_length <= self.max_length:
            raise ValueError(
                f"min_length must be from 0 to max_length {self.max_length}, got {self.min_length}"
            )

    def encode(self, prefix: str, vocabulary: Vocabulary) -> list[int]:
        """The symbols of a prefix, if a word may start with it."""
        if len(prefix) > self.max_length:
            raise ValueError(
                f"the prefix {prefix!r} has {len(prefix)} characters, more than max_length {self.max_length}"
            )
        return vocabulary.encode(prefix)

    def probs(self, logits: Tensor, length: int) -> Tensor:
        """Probabilities of the symbol after ``length`` characters: (B, vocab_size) -> the same."""
        if not logits.isfinite().all():
            raise MakemoreError("the network gives logits that are not finite: its training diverged")
        may_stop = length >= self.min_length
        return next_symbol_probs(logits, self.temperature, self.top_k, self.top_p, may_stop=may_stop)


def draw(probs: Tensor, ids: Tensor, u: Tensor) -> Tensor:
    """The symbol that each number u in [0, 1) falls on: (D, vocab_size), (W,), (W,) -> (W,).

    Number i falls on row ``ids[i]`` of ``probs``: on the symbol whose index is the number of cumulative
    probabilities of at most u times their total. A symbol of probability 0 adds nothing to the sum before it
    and is thus never counted up to; and u times the total is below the total. Sums are in float64.

    >>> u = torch.tensor([0.0, 0.49, 0.5], dtype=torch.float64)
    >>> draw(torch.tensor([[0.0, 0.5, 0.0, 0.5]]), torch.tensor([0, 0, 0]), u)
    tensor([1, 1, 3])
    """
    cumulative = probs.double().cumsum(dim=1)
    u = u * cumulative[:, -1].index_select(0, ids)
    return torch.searchsorted(cumulative.index_select(0, ids), u.unsqueeze(1), right=True).squeeze(1)


def draws(generator: Generator, words: int) -> Iterator[Tensor]:
    """Numbers in [0, 1) for that many words, (words,) in float64, position after position, without end.

    Each block of ``BLOCK`` words has a generator of its own, seeded from the one given: what a word draws
    does not depend on the words it is drawn together with.
    """
    seeds = torch.randint(2**63 - 1, (-(-words // BLOCK),), generator=generator)
    generators = [Generator().manual_seed(seed) for seed in seeds.tolist()]
    while True:
        u = [torch.rand(BLOCK, dtype=torch.float64, generator=g) for g in generators]
        yield torch.cat(u)[:words]


class Queues:
    """The cached nodes of some words that grow in step.

    For each layer that fuses positions, the products of the nodes at the latest positions, as many
    as a later node looks back to, and which of these nodes each word has. The first layer's nodes are
    looked up in a table of all windows of symbols, unless that would be too large.
    """

    def __init__(self, convolution: Convolution) -> None:
        table, stages, n = convolution.embedding, convolution.stages, 1
        self.vocab_size = len(table)
        fused, _, width = stages[0].weight.shape
        if len(stages) > 1 and self.vocab_size**fused * width <= TABLE_VALUES:
            every = torch.arange(self.vocab_size**fused, device=table.device)
            columns = [every // self.vocab_size**j % self.vocab_size for j in reversed(range(fused))]
            nodes, ids = stages[0].fuse(stages[0].products(table), columns)
            table, stages, n = nodes[ids], stages[1:], fused
        self.windows = self.vocab_size**n
        self.stages = stages
        self.table = table  # (windows, C)
        self.products = stages[0].products(table)

    def start(self, words: int) -> None:
        """Begin that many words anew."""
        self.window = torch.zeros(words, dtype=torch.int64, device=self.table.device)
        self.queues: list[list[tuple[Tensor, list[Tensor]]]] = [[] for _ in self.stages]

    def append(self, symbols: Tensor) -> tuple[Tensor, Tensor]:
        """Lengthen every word by a symbol, (W,); at first, by the stop that starts it.

        Returns the logits of the distinct contexts, (D, vocab_size), and which of them each word has,
        (W,).
        """
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
        """Go on with the words at ``index`` alone."""
        self.window = self.window.index_select(0, index)
        for queue in self.queues:
            queue[:] = [(ids.index_select(0, index), products) for ids, products in queue]


def generate(
    convolution: Convolution,
    vocabulary: Vocabulary,
    generator: Generator,
    number: int | None = None,
    filters: Filters = Filters(),
    *,
    prefix: str = "",
    batch: int | None = None,
) -> Iterator[str]:
    """Yield ``number`` new words, or words without end, each starting with ``prefix``.

    ``batch`` words grow at a time, a multiple of ``BLOCK``; it changes time and memory, not the words.
    Raises DataError on a prefix with a character the vocabulary lacks, ValueError on one too long.
    """
    for words, _ in _batches(convolution, vocabulary, generator, number, filters, prefix, batch, False):
        yield from words


def generate_scored(
    convolution: Convolution,
    vocabulary: Vocabulary,
    generator: Generator,
    number: int | None = None,
    filters: Filters = Filters(),
    *,
    prefix: str = "",
    batch: int | None = None,
) -> Iterator[Sample]:
    """The words of ``generate`` with their log-likelihoods, from the same nodes."""
    for words, scores in _batches(convolution, vocabulary, generator, number, filters, prefix, batch, True):
        yield from map(Sample, words, scores.tolist())


def _batches(
    convolution: Convolution,
    vocabulary: Vocabulary,
    generator: Generator,
    number: int | None,
    filters: Filters,
    prefix: str,
    batch: int | None,
    scored: bool,
) -> Iterator[tuple[list[str], Tensor]]:
    start = filters.encode(prefix, vocabulary)
    if batch is None:
        widest = max(filters.max_length, *(stage.weight.shape[2] for stage in convolution.stages))
        batch = min(BATCH, BATCH_VALUES // widest)
    batch = max(BLOCK, batch // BLOCK * BLOCK)
    # Who asks for words without end may want just a few: begin with a small batch.
    size = BLOCK if number is None else batch
    queues = Queues(convolution)
    while number is None or number > 0:
        size = size if number is None else min(size, number)
        symbols, scores = _grow(queues, start, draws(generator, size), size, filters, scored)
        yield vocabulary.decode_all(symbols), scores
        if number is None:
            size = min(2 * size, batch)
        else:
            number -= size


@torch.no_grad()
def _grow(
    queues: Queues, prefix: Sequence[int], draws: Iterator[Tensor], words: int, filters: Filters, scored: bool
) -> tuple[Tensor, Tensor]:
    """Some words in one run of symbols, each with its stop, and their log-likelihoods if ``scored``."""
    device = queues.table.device
    alive = torch.arange(words, device=device)
    symbols = torch.full((words,), STOP, device=device)
    scores = torch.zeros(words, dtype=torch.float64, device=device)
    ends = torch.zeros(words, dtype=torch.int64, device=device)
    drawn = []
    queues.start(words)
    for length, u in enumerate(draws):
        if length < filters.max_length or scored:
            logits, ids = queues.append(symbols)  # (D, vocab_size), (W,)
        if length < len(prefix):
            symbols = torch.full_like(symbols, prefix[length])
        elif length < filters.max_length:
            probs = filters.probs(logits, length)
            symbols = draw(probs, ids, u.to(device).index_select(0, alive))
        else:
            symbols = torch.full_like(symbols, STOP)
        if scored:
            scores[alive] += F.log_softmax(logits, dim=1)[ids, symbols]
        drawn.append((alive, symbols))
        going = torch.nonzero(symbols != STOP).flatten()
        if len(going) < len(alive):
            ends[alive[symbols == STOP]] = length + 1
            alive, symbols = alive.index_select(0, going), symbols.index_select(0, going)
            if len(going) == 0:
                break
            queues.keep(going)
    starts = F.pad(ends.cumsum(dim=0), (1, 0))
    run = symbols.new_empty(int(starts[-1]))
    for length, (alive, symbols) in enumerate(drawn):
        run[starts[alive] + length] = symbols
    return run, scores


def generate_plain(
    network: Sequential,
    vocabulary: Vocabulary,
    generator: Generator,
    number: int | None = None,
    filters: Filters = Filters(),
    *,
    prefix: str = "",
) -> Iterator[Sample]:
    """The same samples by the lecture's way, one word and symbol at a time through the layers.

    For networks that no convolution equals, and to test the fast way by.
    """
    start = filters.encode(prefix, vocabulary)
    device = network.parameters()[0].device
    padding = [STOP] * block_size(network)
    for i in itertools.count() if number is None else range(number):
        if i % BLOCK == 0:
            source, rows = draws(generator, BLOCK), list[Tensor]()
        out: list[int] = []
        score = 0.0
        with network.evaluating():
            while not out or out[-1] != STOP:
                length = len(out)
                if length == len(rows):
                    rows.append(next(source).to(device))
                context = (padding + out)[-len(padding) :]
                logits = network(torch.tensor([context], device=device))  # (1, vocab_size)
                if length < len(start):
                    symbol = start[length]
                elif length < filters.max_length:
                    u = rows[length][i % BLOCK, None]
                    symbol = int(draw(filters.probs(logits, length), torch.zeros_like(u).long(), u))
                else:
                    symbol = STOP
                score += F.log_softmax(logits, dim=1)[0, symbol].item()
                out.append(symbol)
        yield Sample(vocabulary.decode(out), score)
