"""Many new words at once.

All words of a batch are lengthened together until each has stopped. If a convolution equals the network,
equal contexts are computed once.

Departures from the lecture's loop:

* A symbol is found by looking up a random number in [0, 1) in the cumulative probabilities. There is one
  number for each word and position, which depends on the seed alone. So the words do not depend on the batch
  size. Words sampled one at a time through the layers are the same: in float64 always, in float32 unless a
  number is within rounding of a boundary (about 1 word in 100,000).
* The filters of ``Filters``, in the order of its fields.
* A word that would be longer than ``max_length``, one that begins or ends with a blank, which no listed word
  does, and one that ``accept`` refuses, is passed over, and another one is sampled in its place. This is
  exact: a word has its probability under the network and the filters, given that it is accepted. Every
  ``SEEDED_WORDS`` words are the first accepted ones of an endless row of candidates with random numbers of
  its own. So these words, too, depend on the seed alone.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress, islice
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from makemore.core.errors import MakemoreError
from makemore.core.text import known_form, plural
from makemore.data.encoding import decode_words
from makemore.inference.conditioning import LabelDistribution
from makemore.inference.decoder import Decoder
from makemore.inference.predictor import Predictable, as_predictor
from makemore.lecture.sampling import MAX_LENGTH, next_symbol_probs
from makemore.lecture.words import STOP, Vocabulary

SEEDED_WORDS = 1024
"""Words that share a row of candidates, and candidates that share a generator.

Another number gives other words for the same seed.
"""

BATCH = 32 * SEEDED_WORDS
"""The largest number of words in a batch."""

BATCH_VALUES = 2**22
"""The largest number of values in a layer's output, or of symbols, for a batch: 16 MB in float32."""

MAX_REJECTED_SYMBOLS = 2**19
"""The number of symbols of rejected words in a row after which no more words are sampled."""

Accept = Callable[[Sequence[str]], Sequence[bool]]
"""Which of the given words are accepted. The answer for a word may not depend on the other words."""


class Sample(NamedTuple):
    """A word and its log-likelihood under the network without filters, stop included, in nats.

    ``labels`` are those that were drawn for it, one of each column.
    """

    word: str
    log_likelihood: float
    labels: tuple[str, ...] = ()


class NothingFits(MakemoreError):
    """Raised when the last ``sampled`` words were all rejected, ``too_long`` of them for their length."""

    def __init__(self, sampled: int, too_long: int = 0) -> None:
        self.sampled, self.too_long = sampled, too_long
        super().__init__(
            f"the last {plural(sampled, 'sampled word')} were all rejected: {too_long:,} had more than"
            f" max_length characters, {sampled - too_long:,} were not accepted"
        )


@dataclass(frozen=True)
class Filters:
    """Which symbols may come next, in this order, and which words are too long.

    ``temperature`` divides the logits; 0 always takes the most likely symbol. A word may not stop before it
    has ``min_length`` characters; with 0, a word may be empty. ``top_k`` keeps the k most likely symbols.
    ``top_p`` keeps the fewest of the most likely symbols whose probabilities, after the filters above, add up
    to p. A word with more than ``max_length`` characters is passed over, or with ``cut``, it ends there. A
    prefix is part of the word. Raises ValueError on a value out of range.
    """

    temperature: float = 1.0
    min_length: int = 1
    top_k: int | None = None
    top_p: float | None = None
    max_length: int = MAX_LENGTH
    cut: bool = False

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


@torch.no_grad()
def next_probs(
    network: Predictable, vocabulary: Vocabulary, filters: Filters = Filters(), *, prefix: str = ""
) -> Tensor:
    """Probabilities of the symbol after a prefix: (vocab_size,). Raises as ``generate`` does."""
    predictor = as_predictor(network)
    predictor.check_data(vocabulary.characters)
    beginning = filters.encode(prefix, vocabulary)
    decoder = predictor.decoder()
    decoder.start(1)
    for symbol in [STOP, *beginning]:
        logits, ids = decoder.append(torch.tensor([symbol], device=decoder.device))
    return filters.probs(logits[ids], len(beginning))[0]


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


def has_no_blank_around(word: str, begun: bool = False) -> bool:
    """Whether a word neither ends with a blank nor, unless it was ``begun`` by a prefix, begins with one.

    >>> [has_no_blank_around(word) for word in ("ann", "mary ann", "ann ", " ann")]
    [True, True, False, False]
    """
    return not word[-1:].isspace() and (begun or not word[:1].isspace())


def next_seeds(generator: Generator, words: int) -> list[int]:
    """The seeds of the next words, one for every ``SEEDED_WORDS``."""
    return torch.randint(2**63 - 1, (-(-words // SEEDED_WORDS),), generator=generator).tolist()


def uniform_numbers(parts: Iterable[tuple[int, range]]) -> Iterator[Tensor]:
    """Random numbers in [0, 1) for the candidates of all parts: (C,) in float64, one position after another.

    A part is a range of the row of candidates that belongs to a seed. Every ``SEEDED_WORDS`` candidates have
    their own generator, so that the numbers of a candidate do not depend on the others that are asked for.
    """
    blocks = [
        (Generator().manual_seed(seed + i), slice(max(0, part.start - start), part.stop - start))
        for seed, part in parts
        for i in range(part.start // SEEDED_WORDS, -(-part.stop // SEEDED_WORDS))
        for start in [i * SEEDED_WORDS]
    ]
    while True:
        u = [torch.rand(SEEDED_WORDS, dtype=torch.float64, generator=g)[rows] for g, rows in blocks]
        yield torch.cat(u)


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
    accept: Accept | None = None,
    labels: LabelDistribution | None = None,
) -> Iterator[str]:
    """Yield ``number`` new words that begin with ``prefix``; without a number, yield words forever.

    With ``part``, only the words with these indices are yielded, and batches without any of them are skipped.
    ``batch``, rounded down to a multiple of ``SEEDED_WORDS``, is the number of words sampled at once; it
    changes time and memory, not the words. Words that ``accept`` refuses are passed over. If the network
    takes labels, those of each word are drawn from ``labels``.

    Raises NothingFits after ``MAX_REJECTED_SYMBOLS`` of words that were passed over, DataError if a character
    of the prefix is not in the vocabulary or vocabulary or labels are not the network's, and ValueError if
    the prefix is too long or the length of the network's context is not known.
    """
    samples = generate_scored(
        network,
        vocabulary,
        generator,
        number,
        filters,
        prefix=prefix,
        part=part,
        batch=batch,
        accept=accept,
        labels=labels,
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
    accept: Accept | None = None,
    labels: LabelDistribution | None = None,
) -> Iterator[Sample]:
    """The words of ``generate`` with their log-likelihoods."""
    beginning = filters.encode(prefix, vocabulary)
    predictor = as_predictor(network)
    predictor.check_data(vocabulary.characters, labels=() if labels is None else labels.columns)
    if batch is None:
        batch = min(BATCH, BATCH_VALUES // max(filters.max_length, predictor.width))
    batch = max(SEEDED_WORDS, batch // SEEDED_WORDS * SEEDED_WORDS)
    sampler = _Sampler(predictor.decoder(), vocabulary, beginning, filters, accept, batch, labels)
    # Without a number only a few words may be wanted: begin with a small batch.
    start, size = 0, SEEDED_WORDS if number is None else batch
    number = sys.maxsize if number is None else number
    wanted = range(number) if part is None else part
    while start < min(wanted.stop, number):
        size = min(size, number - start)
        seeds = next_seeds(generator, size)
        if start + size > wanted.start:
            # The whole batch is sampled, even if a part is wanted. The order in which a BLAS adds may depend
            # on the number of words, and the scores are to be the same bits.
            words = sampler.words(seeds, size)
            yield from islice(words, max(0, wanted.start - start), wanted.stop - start)
        start, size = start + size, min(2 * size, batch)


class _Row:
    """The row of candidates of a seed, of which the first ``wanted`` accepted ones are the words."""

    def __init__(self, seed: int, wanted: int) -> None:
        self.seed, self.missing = seed, wanted
        self.sampled = 0
        self._found: list[list[Sequence[Any]]] = []

    def next_part(self, size: int) -> tuple[int, range]:
        """The seed and the range of the next candidates, that many."""
        start, self.sampled = self.sampled, self.sampled + size
        return self.seed, range(start, self.sampled)

    def append(self, columns: Sequence[Sequence[Any]], accepted: list[bool]) -> None:
        """Take those of the next candidates that are accepted, as many as are missing.

        ``columns`` are the words, their scores and, if there are labels, their labels.
        """
        if not all(accepted):
            columns = [list(compress(column, accepted)) for column in columns]
        self._found.append([column[: self.missing] for column in columns])
        self.missing -= min(self.missing, len(columns[0]))

    def take(self) -> Iterator[Sample]:
        """Yield the words that were found since the last call."""
        found, self._found = self._found, []
        for columns in found:
            yield from map(Sample, *columns)  # one by one: many tuples slow down the garbage collector


class _Sampler:
    """Samples batches of words."""

    def __init__(
        self,
        decoder: Decoder,
        vocabulary: Vocabulary,
        beginning: Sequence[int],
        filters: Filters,
        accept: Accept | None,
        largest: int,
        labels: LabelDistribution | None,
    ) -> None:
        self.decoder, self.vocabulary, self.beginning = decoder, vocabulary, beginning
        self.filters, self.accept, self.largest, self.labels = filters, accept, largest, labels

    def words(self, seeds: Sequence[int], size: int) -> Iterator[Sample]:
        """Yield the first ``size`` accepted words of the seeds, up to ``SEEDED_WORDS`` each, in their order.

        Each word is yielded as soon as it and those before it are found. Raises NothingFits.
        """
        starts = range(0, size, SEEDED_WORDS)
        rows = [
            _Row(seed, min(SEEDED_WORDS, size - start)) for seed, start in zip(seeds, starts, strict=True)
        ]
        sampled = found = rejected = too_long = symbols = 0
        while rows:
            # Of each row, as many candidates as will probably do. Another number would give the same words.
            open_rows = [row for row in rows if row.missing]
            most, tries = self.largest // len(open_rows), (sampled + 1) / (found + 1)
            parts = [row.next_part(min(most, math.ceil(row.missing * tries))) for row in open_rows]
            (words, *others), fits, num_symbols = self._candidates(parts)
            accepted = self._accepted(words, fits)
            start = 0
            for row, (_, part) in zip(open_rows, parts, strict=True):
                own = slice(start, start + len(part))
                row.append([column[own] for column in (words, *others)], accepted[own])
                start = own.stop
            while rows:
                yield from rows[0].take()
                if rows[0].missing:
                    break
                del rows[0]
            sampled, found = sampled + len(words), found + sum(accepted)
            rejected, too_long = rejected + len(words), too_long + fits.count(False)
            symbols += num_symbols
            if any(accepted):
                rejected = too_long = symbols = 0
            elif symbols >= MAX_REJECTED_SYMBOLS:
                raise NothingFits(rejected, too_long)

    def _candidates(self, parts: Sequence[tuple[int, range]]) -> tuple[list[list[Any]], list[bool], int]:
        """The candidates of all parts, whether each fits, and the number of their symbols.

        They are given as columns: words, scores and, if there are labels, labels. The first random number of
        a candidate then chooses its labels.
        """
        numbers, number = uniform_numbers(parts), sum(len(part) for _, part in parts)
        if self.labels is None:
            self.decoder.start(number)
        else:
            drawn = self.labels.draw(next(numbers))
            self.decoder.start(number, self.labels.rows[drawn].to(self.decoder.device))
        symbols, scores, fits = _sample_batch(self.decoder, self.beginning, numbers, number, self.filters)
        columns: list[list[Any]] = [decode_words(self.vocabulary, symbols), scores.tolist()]
        if self.labels is not None:
            columns.append([self.labels.names[i] for i in drawn.tolist()])
        return columns, fits.tolist(), len(symbols)

    def _accepted(self, words: Sequence[str], fits: list[bool]) -> list[bool]:
        """Which words are accepted, among those that fit and have no blanks around them."""
        if not self.filters.cut:
            begun = len(self.beginning) > 0  # a prefix begins as it was given
            fits = [fit and has_no_blank_around(word, begun) for word, fit in zip(words, fits, strict=True)]
        if self.accept is None:
            return fits
        answers = iter(self.accept(list(compress(words, fits))))
        return [fit and bool(next(answers)) for fit in fits]


@torch.no_grad()
def _sample_batch(
    decoder: Decoder, beginning: Sequence[int], numbers: Iterator[Tensor], words: int, filters: Filters
) -> tuple[Tensor, Tensor, Tensor]:
    """The symbols of new words, (N,), each followed by its stop, and their log-likelihoods, (words,).

    The decoder has begun them. And whether each word fits, (words,): a word that would be longer than
    ``max_length`` stops there and does not fit.
    """
    device = decoder.device
    alive = torch.arange(words, device=device)
    symbols = torch.full((words,), STOP, device=device)
    scores = torch.zeros(words, dtype=torch.float64, device=device)
    ends = torch.zeros(words, dtype=torch.int64, device=device)
    fits = torch.ones(words, dtype=torch.bool, device=device)
    history = []
    for length, u in enumerate(numbers):
        logits, ids = decoder.append(symbols)  # (D, vocab_size), (W,)
        if length < len(beginning):
            symbols = torch.full_like(symbols, beginning[length])
        elif length == filters.max_length and filters.cut:
            symbols = torch.full_like(symbols, STOP)
        else:
            probs = filters.probs(logits, length)
            symbols = sample_symbols(probs, ids, u.to(device).index_select(0, alive))
        if length == filters.max_length:
            fits[alive] = symbols == STOP
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
    return result, scores, fits
