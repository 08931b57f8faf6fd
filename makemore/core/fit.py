"""Whether a network and data belong together: by characters, labels, and the length of the contexts.

A symbol is the place of a character in its vocabulary, and a label its place among those of its column. So
the symbols of one vocabulary are the wrong ones for a network that was trained with another, and nothing else
would show that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from makemore.core.errors import DataError, UsageError
from makemore.core.graph import context_length, trace
from makemore.core.layer import LabelColumn, Layer, declared, label_sizes, require_network
from makemore.core.text import plural, quote

Columns = Sequence[LabelColumn]
"""The label columns of data or of a network; empty if there are none."""


def check_data(
    network: Layer,
    characters: str | None,
    block_size: int | None = None,
    labels: Columns | None = (),
) -> None:
    """Check that the characters, contexts of ``block_size`` symbols and labels of data are a network's.

    What is None or not known is not checked. Raises DataError that names a character or a label, UsageError
    that names both lengths, and TypeError on what is not a network.
    """
    require_network(network)
    if characters is not None:
        num_symbols = symbol_count(network) if network.characters is None else None
        require_characters(characters, network.characters, num_symbols)
    if labels is not None:
        require_labels(labels, network.labels, label_sizes(network))
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


def check_examples(network: Layer, examples: Any) -> None:
    """``check_data`` for examples. Those that do not say what they are made of are not checked."""
    characters = getattr(examples, "characters", None)
    check_data(network, characters, getattr(examples, "block_size", None), columns_of(examples))


def note_data(network: Layer, examples: Any) -> None:
    """Check the data that a network is trained on, and note its characters and labels in the network."""
    check_training_data(network, examples)
    note_checked_data(network, examples)


def check_training_data(network: Layer, examples: Any) -> None:
    """``check_examples``; also raises UsageError if the network does not give logits (B, V) for them."""
    check_examples(network, examples)
    if len(examples):
        X, _ = examples[:1]
        with network.evaluating():
            check_logits(network(X), X)


def note_checked_data(network: Layer, examples: Any) -> None:
    """Note the characters and labels of examples in a network that they have been checked to fit."""
    if (characters := getattr(examples, "characters", None)) is not None:
        network.characters = characters
    if (columns := columns_of(examples)) is not None:
        network.labels = tuple(columns)


def columns_of(examples: Any) -> Columns | None:
    """The label columns of examples; None if examples do not say what they are made of."""
    if not hasattr(examples, "characters"):
        return None
    labels = getattr(examples, "labels", None)
    return () if labels is None else tuple(labels.columns)


def check_batch(network: Layer, columns: int) -> None:
    """Raise UsageError unless a batch (B, columns) has the labels and the symbols of a network's contexts."""
    own, labels = known_context_length(network), len(label_sizes(network))
    if own is None or columns == labels + own:
        return
    if labels:
        raise UsageError(
            f"the network needs contexts of {plural(labels, 'label')} and {own} symbols,"
            f" got {columns} columns"
        )
    require_length(columns, own)


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


def require_labels(columns: Columns, own: Columns | None, sizes: Sequence[int]) -> None:
    """Raise DataError unless label columns are a network's own, or as many and as large as its tables."""
    names, given = (
        None if c is None else ", ".join(column.name for column in c) for c in (own or None, columns)
    )
    if not sizes and columns:
        raise DataError(f"the words have labels ({given}), but the network was made without labels")
    if sizes and not columns:
        which = f" ({names})" if names else ""
        raise DataError(
            f"the network needs labels{which}, and none are given: choose some, as"
            " makemore.conditioned(network, labels) does, or give examples that have them"
        )
    if len(sizes) != len(columns):
        raise DataError(
            f"the words have {plural(len(columns), 'label column')} ({given}), the network {len(sizes)}"
        )
    for i, (column, size) in enumerate(zip(columns, sizes, strict=True)):
        fault = ""
        if own and column.name != own[i].name:
            fault = f"is {column.name!r}, not {own[i].name!r}"
        elif own and column.values != own[i].values:
            other = min({*column.values} ^ {*own[i].values}, default="")
            fault = f"{column.name!r} has other labels than the network's: they differ by {other!r}"
        elif len(column.values) + 1 != size:
            fault = f"{column.name!r} has {len(column.values):,} labels, the network {size - 1:,}"
        if fault:
            raise DataError(
                f"label column {i + 1} {fault}; encode words by the network's labels, as"
                " words.data(block_size, vocabulary, labels) does"
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
