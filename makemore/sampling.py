"""New words from a trained network (lecture cell 15).

Departures from the lecture: a word may start with a given prefix, ends at ``max_length`` characters at
the latest, and the distribution over the next symbol can be sharpened or cut off.
"""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from makemore.layers import Sequential
from makemore.networks import block_size
from makemore.words import STOP, Vocabulary

MAX_LENGTH = 100
"""The longest word drawn unless another maximum is given, in characters."""


def sample_word(
    network: Sequential,
    vocabulary: Vocabulary,
    generator: Generator,
    *,
    prefix: str = "",
    temperature: float = 1.0,
    top_k: int | None = None,
    max_length: int = MAX_LENGTH,
) -> str:
    """One new word, a symbol at a time until the stop is drawn, as the lecture does it.

    ``temperature`` and ``top_k`` as in ``next_symbol_probs``. Raises DataError on a prefix with a character
    the vocabulary lacks.
    """
    out = vocabulary.encode(prefix)
    device = network.parameters()[0].device
    padding = [STOP] * block_size(network)
    with network.evaluating():
        while len(out) < max_length:
            context = (padding + out)[-len(padding) :]
            logits = network(torch.tensor([context], device=device)).cpu()  # (1, vocab_size)
            probs = next_symbol_probs(logits, temperature, top_k)
            ix = int(torch.multinomial(probs, num_samples=1, generator=generator))
            if ix == STOP:
                break
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

    In this order: ``temperature`` divides the logits (0: the most likely symbol, always); the stop is
    left out unless ``may_stop``; ``top_k`` and ``top_p`` keep the most likely symbols: k of them, and the
    fewest whose probabilities, after all that, come to p. Of equally likely ones the first comes first.
    """
    if not may_stop:
        stop = torch.arange(logits.shape[1], device=logits.device) == STOP
        logits = logits.masked_fill(stop, -torch.inf)
    if temperature == 0:
        return F.one_hot(logits.argmax(dim=1), logits.shape[1]).to(logits.dtype)
    if temperature != 1:
        # float32 has little below 1e-30
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
