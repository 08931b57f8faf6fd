"""Many new words at once (beyond the lecture; its own loop is in sampling.py).

All words of a batch grow in step, and a word that has stopped takes no further part. Where a convolution
equals the network, equal contexts are computed once.

Departures from the lecture's loop:

* The draws are numbers in [0, 1), one for each word and position, that depend on the seed alone; a
  symbol is looked up in the cumulative probabilities. So the words do not depend on the batch size, and
  drawn one at a time through the layers they are the same: in float64 always, in float32 but for a
  draw that falls within rounding of a boundary (some 1 word in 100,000).
* The filters of ``Filters``, in the order of its fields.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from makemore.convolution.forms import AnyForm, form_of
from makemore.convolution.queues import GrowingWords
from makemore.errors import MakemoreError
from makemore.sampling import MAX_LENGTH, next_symbol_probs
from makemore.words import STOP, Vocabulary

SEEDED_WORDS = 1024
"""Words that share a generator. Another number gives other words for the same seed."""

BATCH = 32 * SEEDED_WORDS
"""Words that grow in step unless they or their layers are so large that fewer must do."""

BATCH_VALUES = 2**22
"""Values of a layer's output, or symbols, that a batch may come to: 16 MB in float32."""


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


def seeds(generator: Generator, words: int) -> list[int]:
    """The seeds of the next words, one for every ``SEEDED_WORDS``."""
    return torch.randint(2**63 - 1, (-(-words // SEEDED_WORDS),), generator=generator).tolist()


def draws(generator: Generator, words: int) -> Iterator[Tensor]:
    """Numbers in [0, 1) for that many words, (words,) in float64, position after position, without end.

    Every ``SEEDED_WORDS`` words have a generator of their own, seeded from the one given: what a word draws
    does not depend on the words it is drawn together with.
    """
    generators = [Generator().manual_seed(seed) for seed in seeds(generator, words)]
    while True:
        u = [torch.rand(SEEDED_WORDS, dtype=torch.float64, generator=g) for g in generators]
        yield torch.cat(u)[:words]


def generate(
    network: AnyForm,
    vocabulary: Vocabulary,
    generator: Generator,
    number: int | None = None,
    filters: Filters = Filters(),
    *,
    prefix: str = "",
    part: range | None = None,
    batch: int | None = None,
) -> Iterator[str]:
    """Yield ``number`` new words, or words without end, each starting with ``prefix``.

    Of these only the ``part``, bit for bit, if one is given: a batch that has none of it is not drawn.
    ``batch`` words grow at a time, a multiple of ``SEEDED_WORDS``; it changes time and memory, not the words.
    Raises DataError on a prefix with a character the vocabulary lacks, ValueError on one too long.
    """
    arguments = (network, vocabulary, generator, number, filters)
    samples = generate_scored(*arguments, prefix=prefix, part=part, batch=batch)  # the scores take 5 %
    return (sample.word for sample in samples)


def generate_scored(
    network: AnyForm,
    vocabulary: Vocabulary,
    generator: Generator,
    number: int | None = None,
    filters: Filters = Filters(),
    *,
    prefix: str = "",
    part: range | None = None,
    batch: int | None = None,
) -> Iterator[Sample]:
    """The words of ``generate`` with their log-likelihoods, from the same nodes."""
    beginning = filters.encode(prefix, vocabulary)
    form = form_of(network)
    if batch is None:
        batch = min(BATCH, BATCH_VALUES // max(filters.max_length, form.width))
    batch = max(SEEDED_WORDS, batch // SEEDED_WORDS * SEEDED_WORDS)
    # Who asks for words without end may want just a few: begin with a small batch.
    start, size = 0, SEEDED_WORDS if number is None else batch
    growing = form.growing()
    number = sys.maxsize if number is None else number
    wanted = range(number) if part is None else part
    while start < min(wanted.stop, number):
        size = min(size, number - start)
        if start + size <= wanted.start:
            seeds(generator, size)
        else:
            # A batch is drawn whole, whatever part of it is wanted: its words and scores are then the
            # same bits, however a BLAS adds.
            symbols, scores = _grow(growing, beginning, draws(generator, size), size, filters)
            rows = slice(max(0, wanted.start - start), wanted.stop - start)
            yield from map(Sample, vocabulary.decode_all(symbols)[rows], scores[rows].tolist())
        start, size = start + size, min(2 * size, batch)


@torch.no_grad()
def _grow(
    growing: GrowingWords, beginning: Sequence[int], numbers: Iterator[Tensor], words: int, filters: Filters
) -> tuple[Tensor, Tensor]:
    """Some words in one run of symbols, each with its stop, and their log-likelihoods."""
    device = growing.device
    alive = torch.arange(words, device=device)
    symbols = torch.full((words,), STOP, device=device)
    scores = torch.zeros(words, dtype=torch.float64, device=device)
    ends = torch.zeros(words, dtype=torch.int64, device=device)
    drawn = []
    growing.start(words)
    for length, u in enumerate(numbers):
        logits, ids = growing.append(symbols)  # (D, vocab_size), (W,)
        if length < len(beginning):
            symbols = torch.full_like(symbols, beginning[length])
        elif length < filters.max_length:
            probs = filters.probs(logits, length)
            symbols = draw(probs, ids, u.to(device).index_select(0, alive))
        else:
            symbols = torch.full_like(symbols, STOP)
        scores[alive] += F.log_softmax(logits, dim=1)[ids, symbols]
        drawn.append((alive, symbols))
        not_stopped = torch.nonzero(symbols != STOP).flatten()
        if len(not_stopped) < len(alive):
            ends[alive[symbols == STOP]] = length + 1
            alive, symbols = alive.index_select(0, not_stopped), symbols.index_select(0, not_stopped)
            if len(not_stopped) == 0:
                break
            growing.keep(not_stopped)
    starts = F.pad(ends.cumsum(dim=0), (1, 0))
    run = symbols.new_empty(int(starts[-1]))
    for length, (alive, symbols) in enumerate(drawn):
        run[starts[alive] + length] = symbols
    return run, scores
