"""New words from a trained network (lecture cell 15).

Departures from the lecture: a word may begin with a given prefix, it ends at ``max_length`` characters at the
latest, and the distribution of the next symbol can be sharpened or cut off.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from makemore.core.fit import check_data, check_logits
from makemore.core.graph import context_length
from makemore.core.layer import Layer
from makemore.core.text import known_form
from makemore.lecture.words import STOP, Vocabulary

MAX_LENGTH = 100
"""The default for the longest word, in characters."""


def sample_word(
    network: Layer,
    vocabulary: Vocabulary,
    generator: Generator,
    *,
    prefix: str = "",
    temperature: float = 1.0,
    top_k: int | None = None,
    max_length: int = MAX_LENGTH,
) -> str:
    """Sample one new word, a symbol at a time until the stop comes.

    ``temperature`` and ``top_k`` are those of ``next_symbol_probs``. Raises DataError if a character of the
    prefix is not in the vocabulary or the vocabulary is not the network's, and ValueError if the length of
    the network's context is not known.
    """
    check_data(network, vocabulary.characters)
    out = vocabulary.encode(known_form(prefix, vocabulary.stoi))
    device = network.parameters()[0].device
    block_size = context_length(network)
    context = ([STOP] * block_size + out)[-block_size:]
    with network.evaluating():
        while len(out) < max_length:
            X = torch.tensor([context], device=device)
            logits = check_logits(network(X), X).cpu()  # (1, vocab_size)
            probs = next_symbol_probs(logits, temperature, top_k)
            ix = int(torch.multinomial(probs, num_samples=1, generator=generator))
            if ix == STOP:
                break
            context = [*context[1:], ix]
            out.append(ix)
    return vocabulary.decode(out)


def next_symbol_probs(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    *,
    may_stop: bool = True,
) -> Tensor:
    """Probabilities of the next symbol: (B, vocab_size) -> (B, vocab_size).

    In this order: ``temperature`` divides the logits (0 always takes the most likely symbol); the stop gets
    probability 0 unless ``may_stop``; ``top_k`` keeps the k most likely symbols; ``top_p`` keeps the fewest
    of the most likely symbols whose probabilities, after all that, add up to p. Ties go to the lower symbol.
    """
    if not may_stop:
        stop = torch.arange(logits.shape[1], device=logits.device) == STOP
        logits = logits.masked_fill(stop, -torch.inf)
    if temperature == 0:
        return F.one_hot(logits.argmax(dim=1), logits.shape[1]).to(logits.dtype)
    if temperature != 1:
        # float32 cannot hold much below 1e-30
        logits = (logits - logits.max(dim=1, keepdim=True).values) / max(temperature, 1e-30)
    if top_k is not None or top_p is not None:
        logits, order = logits.sort(dim=1, descending=True, stable=True)
        if top_k is not None:
            logits[:, top_k:] = -torch.inf
        if top_p is not None and top_p < 1:
            probs = F.softmax(logits.double(), dim=1)
            logits[probs.cumsum(dim=1) - probs >= top_p] = -torch.inf
        logits = torch.empty_like(logits).scatter_(1, order, logits)
    return F.softmax(logits, dim=1)
