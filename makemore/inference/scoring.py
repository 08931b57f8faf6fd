"""The loss of a network on examples, and log-likelihoods of words."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, groupby, tee

import torch
from torch import Tensor

from makemore.core.fit import columns_of
from makemore.core.progress import progress_bar
from makemore.core.text import known_form, require_words
from makemore.data.encoding import encode_words
from makemore.data.examples import LabelledExamples, row_of_examples, shards
from makemore.data.labels import Labels
from makemore.data.shuffle import reorder_words, word_lengths
from makemore.inference.predictor import Predictable, as_predictor
from makemore.lecture.words import STOP, Examples, Vocabulary

SORTED_EXAMPLES = 2**20
"""Number of examples above which words are sorted first, since words with a common beginning share nodes.

The sum then has another order, and the last bits of the loss differ.
"""

CHUNK_SYMBOLS = 2**20
"""Symbols of a list of words that are encoded at once."""


def loss(network: Predictable, examples: Examples) -> float:
    """Mean cross-entropy in nats per symbol: the value of ``split_loss`` to 1e-6, computed faster.

    Raises UsageError on examples of another vocabulary or context length than the network's.
    """
    if len(examples) == 0:
        return math.nan
    predictor, parts = as_predictor(network), iter([examples])
    predictor.check_data(examples.characters, examples.block_size, columns_of(examples))
    if len(examples) > SORTED_EXAMPLES and examples.symbols[-1] == STOP:
        parts = map(in_order, shards(examples, 4 * SORTED_EXAMPLES))
    sums = []
    with progress_bar(len(examples), "example", "evaluating") as progress:
        for part in parts:
            for piece in predictor.log_probs(part):
                sums.append(piece.sum(dtype=torch.float64).item())
                progress.update(len(piece))
    return -math.fsum(sums) / len(examples)


def in_order(examples: Examples) -> Examples:
    """The same words in alphabetical order of their first characters."""
    symbols = examples.symbols.cpu().clone()
    lengths = word_lengths(symbols)
    starts = lengths.cumsum(0) - lengths
    size = max(2, int(symbols.max()) + 1)
    key = torch.zeros_like(starts)
    for i in range(int(62 / math.log2(size))):  # as many characters as fit into one number
        key = size * key + symbols[(starts + i).clamp(max=len(symbols) - 1)] * (i < lengths)
    order = key.argsort()
    reorder_words(symbols, lengths, order)
    symbols = symbols.to(examples.symbols.device)
    if isinstance(examples, LabelledExamples):
        row = examples.row.cpu()[lengths.cumsum(0) - 1]  # of each word
        row = row_of_examples(symbols.cpu(), row[order]).to(symbols.device)
        return examples.replaced(symbols, row)
    return Examples(symbols, examples.block_size, examples.characters)


def log_likelihoods(
    network: Predictable,
    vocabulary: Vocabulary,
    words: Iterable[str],
    labels: Labels | None = None,
    row: int = 0,
) -> Tensor:
    """The log-likelihood of each word, its stop included, in nats: float64, (words,), on the CPU.

    If the network takes labels, the words are scored with the combination ``labels.rows[row]``. A word is
    scored in the form that the vocabulary knows, see ``known_form``. Raises DataError that names a
    character missing from the vocabulary, and ValueError if the length of the network's context is not known.
    """
    require_words(words, "log_likelihoods")
    predictor = as_predictor(network)
    predictor.check_data(vocabulary.characters, labels=() if labels is None else labels.columns)
    scores = [torch.empty(0, dtype=torch.float64)]
    for chunk in _chunks(known_form(word, vocabulary.stoi) for word in words):
        # Sorted words with a common beginning share nodes, which is 1.5 times as fast.
        order = sorted(range(len(chunk)), key=chunk.__getitem__)
        symbols = encode_words(vocabulary, [chunk[i] for i in order])
        stops = symbols == STOP
        word_of = stops.cumsum(dim=0) - stops.long()  # the word of each symbol
        examples = Examples(symbols, predictor.block_size)
        if labels is not None:
            rows = torch.full_like(symbols, row, dtype=torch.int64)
            examples = LabelledExamples(symbols, predictor.block_size, None, labels, rows)
        examples = examples.to(predictor.device)
        pieces = [piece.cpu() for piece in predictor.log_probs(examples)]
        score = torch.zeros(len(chunk), dtype=torch.float64)
        scores.append(score.index_add_(0, torch.tensor(order)[word_of], torch.cat(pieces).double()))
    return torch.cat(scores)


def _chunks(words: Iterable[str]) -> Iterator[Sequence[str]]:
    """The words in groups of about ``CHUNK_SYMBOLS`` symbols."""
    words, again = tee(words)
    ends = accumulate(len(word) + 1 for word in again)
    for _, group in groupby(zip(words, ends, strict=True), lambda pair: pair[1] // CHUNK_SYMBOLS):
        yield [word for word, _ in group]
