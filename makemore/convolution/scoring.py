"""How likely a network finds examples and words (beyond the lecture; its own way is in evaluation.py)."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, groupby, tee

import torch
from torch import Tensor

from makemore.convolution.forms import AnyForm, form_of
from makemore.evaluation import mean_loss
from makemore.shuffle import lengths_of, reorder
from makemore.words import STOP, Examples, Vocabulary

LARGE = 2**20
"""Examples above which words are put in order first: those with a beginning in common share its nodes.

Figures differ in their last bits then, for the sum has another order.
"""

CHUNK_SYMBOLS = 2**20
"""Symbols of a list of words that are encoded at a time."""


def loss(network: AnyForm, examples: Examples) -> float:
    """Mean cross-entropy on the examples in nats per symbol: ``split_loss``'s figure to 1e-6, sooner."""
    if len(examples) == 0:
        return math.nan
    form, parts = form_of(network), iter([examples])
    if len(examples) > LARGE and examples.symbols[-1] == STOP:
        parts = map(in_order, examples.parts(4 * LARGE))
    return mean_loss((piece for part in parts for piece in form.log_probs(part)), len(examples))


def in_order(examples: Examples) -> Examples:
    """The same words in alphabetical order, as far as their first symbols tell."""
    run = examples.symbols.cpu().clone()
    lengths = lengths_of(run)
    starts = lengths.cumsum(0) - lengths
    size = max(2, int(run.max()) + 1)
    key = torch.zeros_like(starts)
    for i in range(int(62 / math.log2(size))):  # as many symbols as fit into one number
        key = size * key + run[(starts + i).clamp(max=len(run) - 1)] * (i < lengths)
    reorder(run, lengths, key.argsort())
    return Examples(run, examples.block_size).to(examples.symbols.device)


def log_likelihoods(network: AnyForm, vocabulary: Vocabulary, words: Iterable[str]) -> Tensor:
    """The log-likelihood of each word, its stop included, in nats: float64, (words,), on the CPU.

    Raises DataError that names a character the vocabulary lacks.
    """
    form = form_of(network)
    scores = [torch.empty(0, dtype=torch.float64)]
    for chunk in _chunks(words):
        # In alphabetical order, words with a beginning in common share its nodes: 1.5x.
        order = sorted(range(len(chunk)), key=chunk.__getitem__)
        symbols = vocabulary.encode_all([chunk[i] for i in order])
        stops = symbols == STOP
        place = stops.cumsum(dim=0) - stops.long()  # of the word that each symbol belongs to
        examples = Examples(symbols, form.block_size).to(form.device)
        pieces = [piece.cpu() for piece in form.log_probs(examples)]
        score = torch.zeros(len(chunk), dtype=torch.float64)
        scores.append(score.index_add_(0, torch.tensor(order)[place], torch.cat(pieces).double()))
    return torch.cat(scores)


def _chunks(words: Iterable[str]) -> Iterator[Sequence[str]]:
    """The words in groups of some ``CHUNK_SYMBOLS`` symbols."""
    words, again = tee(words)
    ends = accumulate(len(word) + 1 for word in again)
    for _, group in groupby(zip(words, ends, strict=True), lambda pair: pair[1] // CHUNK_SYMBOLS):
        yield [word for word, _ in group]
