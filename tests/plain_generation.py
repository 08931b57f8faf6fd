"""The reference for generation: the lecture's loop, with the same random numbers and filters."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from makemore.core.graph import context_length
from makemore.core.layer import Layer
from makemore.inference.generation import SEEDED_WORDS, Accept, Filters, Sample, next_seeds, sample_symbols
from makemore.lecture.words import STOP, Vocabulary

NO_FILTERS = Filters()


def generate_plain(
    network: Layer,
    vocabulary: Vocabulary,
    generator: Generator,
    number: int | None = None,
    filters: Filters = NO_FILTERS,
    *,
    prefix: str = "",
    accept: Accept | None = None,
) -> Iterator[Sample]:
    """The samples of ``generate_scored``, one word and symbol at a time through the layers."""
    start = filters.encode(prefix, vocabulary)
    for first in itertools.count(0, SEEDED_WORDS) if number is None else range(0, number, SEEDED_WORDS):
        (seed,) = next_seeds(generator, SEEDED_WORDS)
        row = _candidates(network, vocabulary, seed, filters, start)
        accepted = (s for s in row if s is not None and (accept is None or accept([s.word])[0]))
        wanted = SEEDED_WORDS if number is None else min(SEEDED_WORDS, number - first)
        yield from itertools.islice(accepted, wanted)


def _candidates(
    network: Layer, vocabulary: Vocabulary, seed: int, filters: Filters, start: list[int]
) -> Iterator[Sample | None]:
    """The candidates of a seed, one after another; None for one that is too long."""
    device = network.parameters()[0].device
    padding = [STOP] * context_length(network)
    for i in itertools.count():
        if i % SEEDED_WORDS == 0:
            source, rows = Generator().manual_seed(seed + i // SEEDED_WORDS), list[Tensor]()
        out: list[int] = []
        score, too_long = 0.0, False
        with network.evaluating():
            while not out or out[-1] != STOP:
                length = len(out)
                if length == len(rows):
                    rows.append(torch.rand(SEEDED_WORDS, dtype=torch.float64, generator=source).to(device))
                context = (padding + out)[-len(padding) :]
                logits = network(torch.tensor([context], device=device))  # (1, vocab_size)
                if length < len(start):
                    symbol = start[length]
                elif length == filters.max_length and filters.cut:
                    symbol = STOP
                else:
                    u = rows[length][i % SEEDED_WORDS, None]
                    symbol = int(sample_symbols(filters.probs(logits, length), torch.zeros_like(u).long(), u))
                if length == filters.max_length and symbol != STOP:
                    too_long = True
                    break
                score += F.log_softmax(logits, dim=1)[0, symbol].item()
                out.append(symbol)
        yield None if too_long else Sample(vocabulary.decode(out), score)
