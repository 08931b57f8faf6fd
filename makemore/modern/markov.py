"""A Markov model with Kneser-Ney smoothing, whose distributions are mixed into the soft targets of few words.

With few words nearly every context occurs once, and one symbol has followed it: a network that learns this
target overfits. A Markov model of order k gives the distribution after the last k symbols, and after fewer
where these are rare. Its counts are smoothed by interpolated Kneser-Ney (Kneser and Ney 1995; Chen and
Goodman 1999): a discount is taken from each count and goes to the next lower order. Lower orders count in how
many different contexts a symbol follows, not how often.

A word begins with k stops. Contexts that begin with a stop count as they are: nothing comes before them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore.core.unique_rows import unique_rows
from makemore.data.examples import word_offsets
from makemore.lecture.words import STOP, Examples

SHORT_LIST = 600
"""The number of examples up to which a model of order 2 is better than one of order 3."""

DISCOUNT = 0.75
"""The discount if no count is 1 or none is 2."""


def markov_model(examples: Examples, vocab_size: int, order: int | None = None) -> tuple[Tensor, Tensor]:
    """The context of each example, (N,), and the distribution after each context, (contexts, vocab_size).

    A context is the last ``order`` symbols; by default 2 or 3. The counts are those of the examples.

    >>> from makemore.data.encoding import encode_words
    >>> from makemore.lecture.words import Vocabulary
    >>> markov_model(Examples(encode_words(Vocabulary("ab"), ["ab", "b"]), 2), 3, order=0)[1]
    tensor([[0.4000, 0.2000, 0.4000]])
    """
    if order is None:
        order = 2 if len(examples) <= SHORT_LIST else 3
    symbols = examples.symbols.long()
    columns = _symbols_before(examples, order)
    context, first = torch.zeros_like(symbols), torch.zeros_like(symbols[:1])  # of no symbols
    probs = torch.full((1, vocab_size), 1 / vocab_size, device=symbols.device)
    for length in range(order + 1):
        table = torch.zeros((len(first), vocab_size), device=symbols.device)
        pairs, counts = torch.unique(context * vocab_size + symbols, return_counts=True)
        longer = longer_first = None
        if length < order:
            longer_first, longer, _ = unique_rows(columns[order - length - 1 :], [vocab_size] * (length + 1))
            begins = columns[order - length][first] == STOP if length else first < 0
            different = _different_contexts(longer * vocab_size + symbols, context[longer_first], vocab_size)
            counts = torch.where(begins[pairs // vocab_size], counts, different)
        table[pairs // vocab_size, pairs % vocab_size] = counts.float()
        discount = _discount(counts)
        rest = discount * (table > 0).sum(1, keepdim=True)
        probs = ((table - discount).clamp_(min=0) + rest * probs) / table.sum(1, keepdim=True)
        if longer is not None and longer_first is not None:
            probs = probs[context[longer_first]]  # of the context without its first symbol
            context, first = longer, longer_first
    return context, probs


def _symbols_before(examples: Examples, number: int) -> list[Tensor]:
    """The symbols before each example, the oldest first: ``number`` tensors, (N,)."""
    symbols, offsets = examples.symbols.long(), word_offsets(examples.symbols)
    padded = F.pad(symbols, (number, 0), value=STOP)
    return [
        padded[number - lag : number - lag + len(symbols)].masked_fill(offsets < lag, STOP)
        for lag in range(number, 0, -1)
    ]


def _different_contexts(longer: Tensor, shorter: Tensor, vocab_size: int) -> Tensor:
    """In how many longer contexts a symbol occurs, for each pair of a context and a symbol, in order.

    ``longer``, (N,), has the number of each example's longer context and symbol; ``shorter`` is the context
    within each longer context.
    """
    distinct = torch.unique(longer)
    pairs = shorter[distinct // vocab_size] * vocab_size + distinct % vocab_size
    counts: Tensor = torch.unique(pairs, return_counts=True)[1]
    return counts


def _discount(counts: Tensor) -> float:
    """What is taken from each count, by how many counts are 1 and 2."""
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return once / (once + 2 * twice) if once and twice else DISCOUNT
