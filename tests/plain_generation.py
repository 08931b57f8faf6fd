"""The reference for generation: the lecture's loop, with the same random numbers and filters."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from makemore.core.graph import context_length
from makemore.core.layer import Layer
from makemore.inference.generation import SEEDED_WORDS, Filters, Sample, sample_symbols, uniform_numbers
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
) -> Iterator[Sample]:
    """The samples of ``generate_scored``, one word and symbol at a time through the layers."""
    start = filters.encode(prefix, vocabulary)
    device = network.parameters()[0].device
    padding = [STOP] * context_length(network)
    for i in itertools.count() if number is None else range(number):
        if i % SEEDED_WORDS == 0:
            source, rows = uniform_numbers(generator, SEEDED_WORDS), list[Tensor]()
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
                    u = rows[length][i % SEEDED_WORDS, None]
                    symbol = int(sample_symbols(filters.probs(logits, length), torch.zeros_like(u).long(), u))
                else:
                    symbol = STOP
                score += F.log_softmax(logits, dim=1)[0, symbol].item()
                out.append(symbol)
        yield Sample(vocabulary.decode(out), score)
