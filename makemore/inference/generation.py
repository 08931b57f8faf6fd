"""Many new words at once.

All words of a batch are lengthened together until each has stopped. If a convolution equals the network,
equal contexts are computed once.

Departures from the lecture's loop:

* A symbol is found by looking up a random number in [0, 1) in the cumulative probabilities. There is one
  number for each word and position, which depends on the seed alone. So the words do not depend on the batch
  size. Words sampled one at a time through the layers are the same: in float64 always, in float32 unless a
  number is within rounding of a boundary (about 1 word in 100,000).
* The filters of ``Filters``, in the order of its fields.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from makemore.core.errors import MakemoreError
from makemore.core.text import known_form, plural
from makemore.data.encoding import decode_words
from makemore.inference.decoder import Decoder
from makemore.inference.predictor import Predictable, as_predictor
from makemore.lecture.sampling import MAX_LENGTH, next_symbol_probs
from makemore.lecture.words import STOP, Vocabulary

SEEDED_WORDS = 1024
"""Words that share a generator. Another number gives other words for the same seed."""

BATCH = 32 * SEEDED_WORDS
"""The largest number of words in a batch."""

BATCH_VALUES = 2**22
"""The largest number of values in a layer's output, or of symbols, for a batch: 16 MB in float32."""


class Sample(NamedTuple):
    """A word and its log-likelihood under the network without filters, stop included, in nats."""

    word: str
    log_likelihood: float


@dataclass(frozen=True)
class Filters:
    """Which symbols may come next, in this order.

    ``temperature`` divides the logits; 0 always takes the most likely symbol. A word may not stop before it
    has ``min_length`` characters. ``top_k`` keeps the k most likely symbols. ``top_p`` keeps the fewest of
    the most likely symbols whose probabilities, after the filters above, add up to p. A word ends at
    ``max_length`` characters. A prefix is part of the word. Raises ValueError on a value out of range.
    """

    temperature: float = 1.0
    min_length: int = 0
    top_k: int | None = None
    top_p: float | None = None
    max_length: int = MAX_LENGTH

    def __post_init__(self) -> None:
        least, most = self.min_length, self.max_length
        for name, needed, fits in (
            ("temperature", "0 or more", 0 <= self.temperature < math.inf),
            ("top_k", "1 or more", self.top_k is None or self.top_k >= 1),
            ("top_p", "above 0 and at most 1", self.top_p is None or 0 < self.top_p <= 1),
            ("max_length", "0 or more", most >= 0),
            ("min_length", f"from 0 to max_length {most}", 0 <= least <= most),
        ):
            if not fits:
                raise ValueError(f"{name} must be {needed}, got {getattr(self, name)}")

    def encode(self, prefix: str, vocabulary: Vocabulary) -> list[int]:
        """The symbols of a prefix. Raises ValueError if it is too long."""
        prefix = known_form(prefix, vocabulary.stoi)
        if len(prefix) > self.max_length:
            raise ValueError(
                f"the prefix {prefix!r} has {plural(len(prefix), 'character')},"
                f" more than max_length {self.max_length}"
            )
        return vocabulary.encode(prefix)

    def probs(self, logits: Tensor, length: int) -> Tensor:
        """Probabilities of the symbol after ``length`` characters: (B, vocab_size) -> the same shape."""
        if not logits.isfinite().all():
            raise MakemoreError("the network's logits are not finite: its training diverged")
        may_stop = length >= self.min_length
        return next_symbol_probs(logits, self.temperature, self.top_k, self.top_p, may_stop=may_stop)


def sample_symbols(probs: Tensor, ids: Tensor, u: Tensor) -> Tensor:
    """The symbol for each number u in [0, 1): (D, vocab_size), (W,), (W,) -> (W,).

    Number i is looked up in row ``ids[i]`` of ``probs``. Its symbol is the number of cumulative probabilities
    that are at most u times their total. A symbol of probability 0 adds nothing to the sum before it, so it
    is never the result; and u times the total is below the total. Sums are in float64.

    >>> u = torch.tensor([0.0, 0.49, 0.5], dtype=torch.float64)
    >>> sample_symbols(torch.tensor([[0.0, 0.5, 0.0, 0.5]]), torch.tensor([0, 0, 0]), u)
    tensor([1, 1, 3])
    """
    cumulative = probs.double().cumsum(dim=1)
    u = u * cumulative[:, -1].index_select(0, ids)
    return torch.searchsorted(cumulative.index_select(0, ids), u.unsqueeze(1), right=True).squeeze(1)


def next_seeds(generator: Generator, words: int) -> list[int]:
    """The seeds of the next words, one for every ``SEEDED_WORDS``."""
    return torch.randint(2**63 - 1, (-(-words // SEEDED_WORDS),), generator=generator).tolist()


def uniform_numbers(generator: Generator, words: int) -> Iterator[Tensor]:
    """Random numbers in [0, 1) for that many words, (words,) in float64, for one position after another.

    Every ``SEEDED_WORDS`` words have their own generator, seeded from the given one, so that the numbers of a
    word do not depend on the other words of the batch.
    """
    generators = [Generator().manual_seed(seed) for seed in next_seeds(generator, words)]
    while True:
        u = [torch.rand(SEEDED_WORDS, dtype=torch.float64, generator=g) for g in generators]
        yield torch.cat(u)[:words]


def generate(
    network: Predictable,
    vocabulary: Vocabulary,
    generator: Generator,
    number: int | None = None,
    filters: Filters = Filters(),
    *,
    prefix: str = "",
    part: range | None = None,
    batch: int | None = None,
) -> Iterator[str]:
    """Yield ``number`` new words that begin with ``prefix``; without a number, yield words forever.

    With ``part``, only the words with these indices are yielded, and batches without any of them are skipped.
    ``batch``, rounded down to a multiple of ``SEEDED_WORDS``, is the number of words sampled at once; it
    changes time and memory, not the words. Raises DataError if a character of the prefix is not in the
    vocabulary or the vocabulary is not the network's, and ValueError if the prefix is too long or the length
    of the network's context is not known.
    """
    samples = generate_scored(
        network, vocabulary, generator, number, filters, prefix=prefix, part=part, batch=batch
    )
    return (sample.word for sample in samples)  # the scores take 5 % of the time


def generate_scored(
    network: Predictable,
    vocabulary: Vocabulary,
    generator: Generator,
    number: int | None = None,
    filters: Filters = Filters(),
    *,
    prefix: str = "",
    part: range | None = None,
    batch: int | None = None,
) -> Iterator[Sample]:
    """The words of ``generate`` with their log-likelihoods."""
    beginning = filters.encode(prefix, vocabulary)
    predictor = as_predictor(network)
    predictor.check_data(vocabulary.characters)
    if batch is None:
        batch = min(BATCH, BATCH_VALUES // max(filters.max_length, predictor.width))
    batch = max(SEEDED_WORDS, batch // SEEDED_WORDS * SEEDED_WORDS)
    # Without a number only a few words may be wanted: begin with a small batch.
    start, size = 0, SEEDED_WORDS if number is None else batch
    decoder = predictor.decoder()
    number = sys.maxsize if number is None else number
    wanted = range(number) if part is None else part
    while start < min(wanted.stop, number):
        size = min(size, number - start)
        if start + size <= wanted.start:
            next_seeds(generator, size)
        else:
            # The whole batch is sampled, even if a part is wanted. The order in which a BLAS adds may depend
            # on the number of words, and the scores are to be the same bits.
            symbols, scores = _sample_batch(
                decoder, beginning, uniform_numbers(generator, size), size, filters
            )
            rows = slice(max(0, wanted.start - start), wanted.stop - start)
            yield from map(Sample, decode_words(vocabulary, symbols)[rows], scores[rows].tolist())
        start, size = start + size, min(2 * size, batch)


@torch.no_grad()
def _sample_batch(
    decoder: Decoder, beginning: Sequence[int], numbers: Iterator[Tensor], words: int, filters: Filters
) -> tuple[Tensor, Tensor]:
    """The symbols of new words, (N,), each followed by its stop, and their log-likelihoods, (words,)."""
    device = decoder.device
    alive = torch.arange(words, device=device)
    symbols = torch.full((words,), STOP, device=device)
    scores = torch.zeros(words, dtype=torch.float64, device=device)
    ends = torch.zeros(words, dtype=torch.int64, device=device)
    history = []
    decoder.start(words)
    for length, u in enumerate(numbers):
        logits, ids = decoder.append(symbols)  # (D, vocab_size), (W,)
        if length < len(beginning):
            symbols = torch.full_like(symbols, beginning[length])
        elif length < filters.max_length:
            probs = filters.probs(logits, length)
            symbols = sample_symbols(probs, ids, u.to(device).index_select(0, alive))
        else:
            symbols = torch.full_like(symbols, STOP)
        scores[alive] += F.log_softmax(logits, dim=1)[ids, symbols]
        history.append((alive, symbols))
        not_stopped = torch.nonzero(symbols != STOP).flatten()
        if len(not_stopped) < len(alive):
            ends[alive[symbols == STOP]] = length + 1
            alive, symbols = alive.index_select(0, not_stopped), symbols.index_select(0, not_stopped)
            if len(not_stopped) == 0:
                break
            decoder.select(not_stopped)
    starts = F.pad(ends.cumsum(dim=0), (1, 0))
    result = symbols.new_empty(int(starts[-1]))
    for length, (alive, symbols) in enumerate(history):
        result[starts[alive] + length] = symbols
    return result, scores
