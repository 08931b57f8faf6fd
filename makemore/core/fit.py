"""Whether a network and data belong together: by the characters, and by the length of the contexts.

A symbol is the place of a character in its vocabulary. So the symbols of one vocabulary are the wrong ones
for a network that was trained with another, and nothing else would show that.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from makemore.core.errors import DataError, UsageError
from makemore.core.graph import context_length, trace
from makemore.core.layer import Layer, declared, require_network
from makemore.core.text import quote


def check_data(network: Layer, characters: str | None, block_size: int | None = None) -> None:
    """Check that a vocabulary's characters and contexts of ``block_size`` symbols are those of a network.

    What is None or not known is not checked. Raises DataError that names a character, UsageError that names
    both lengths, and TypeError on what is not a network.
    """
    require_network(network)
    if characters is not None:
        num_symbols = symbol_count(network) if network.characters is None else None
        require_characters(characters, network.characters, num_symbols)
    if block_size is not None:
        require_length(block_size, known_context_length(network))


def check_logits(logits: Tensor, X: Tensor) -> Tensor:
    """A network's logits for contexts X (B, T). Raises UsageError unless their shape is (B, V)."""
    if isinstance(logits, Tensor) and logits.ndim == 2 and len(logits) == len(X):
        return logits
    found, advice = f"a {type(logits).__name__}", ""
    if isinstance(logits, Tensor):
        found = str(tuple(logits.shape))
        if logits.ndim == 3:
            advice = f"; concatenate what is left, as FlattenConsecutive({logits.shape[1]}) does"
    raise UsageError(
        "a network must give logits (B, vocab_size), one row for each context, but this one gives"
        f" {found} for contexts {tuple(X.shape)}{advice}"
    )


def note_data(network: Layer, examples: Any) -> None:
    """Check the data that a network is trained on, and note its characters in the network.

    Examples that do not say what they are made of are taken as they are. Raises UsageError if the network
    does not give logits (B, V) for them.
    """
    characters = getattr(examples, "characters", None)
    check_data(network, characters, getattr(examples, "block_size", None))
    if len(examples):
        X, _ = examples[:1]
        with network.evaluating():
            check_logits(network(X), X)
    if characters is not None:
        network.characters = characters


def require_characters(characters: str, own: str | None, num_symbols: int | None) -> None:
    """Raise DataError unless characters are a network's own, or as many as it has symbols for."""
    reason = ""
    if own is not None:
        missing = [ch for ch in own if ch not in characters]
        others = [ch for ch in characters if ch not in own]
        if missing:
            reason = f"{quote(missing[0])} is missing from it"
        elif others:
            reason = f"the network does not know its {quote(others[0])}"
    elif num_symbols is not None and num_symbols != len(characters) + 1:
        reason = f"it has {len(characters) + 1:,} symbols, the network {num_symbols:,}"
    if reason:
        raise DataError(
            f"the vocabulary is not the network's: {reason}; encode words by the network's vocabulary,"
            " as words.data(block_size, vocabulary) does"
        )


def require_length(block_size: int, own: int | None) -> None:
    """Raise UsageError if contexts have another length than a network needs."""
    if own is not None and block_size != own:
        raise UsageError(f"the network needs contexts of {own} symbols, got contexts of {block_size}")


def known_context_length(network: Layer) -> int | None:
    """The length of a network's context, or None if it is not known."""
    try:
        return context_length(network)
    except ValueError:
        return None


def symbol_count(network: Layer) -> int | None:
    """The number of symbols for which a network computes logits, or None if it is not known."""
    if network.num_symbols is not None:
        return network.num_symbols
    try:
        last = trace(network)[-1].layer
        affine = declared(last, "affine")
        return None if affine is None else int(affine(last)[1].shape[-1])
    except (ValueError, IndexError):  # nothing declares it
        return None
