"""A head start: a new network begins with the values of one that was trained on other words.

Characters and labels that both know keep their rows. New ones have the values that the new network has drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from makemore.core.errors import UsageError
from makemore.core.graph import trace
from makemore.core.layer import LabelColumn, Layer
from makemore.lecture.layers import Embedding
from makemore.lecture.words import STOP
from makemore.paper.layers import LabelledEmbedding
from makemore.run.architecture import last_linear
from makemore.run.model_file import Model
from makemore.training.ensemble import members_of

Rows = Sequence[tuple[int, int]]
"""Rows that two tables have in common: the number in the new one, and in the old one."""


@torch.no_grad()
def start_from(model: Model, trained: Model) -> None:
    """Copy the values of a trained network into the network of a model, which has been built just now.

    The members of an ensemble start from those of the trained one in turn. Raises UsageError unless both
    networks have the same layers of the same widths.
    """
    symbols, labels = [*_common_symbols(model, trained)], [*_common_labels(model, trained)]
    sources = members_of(trained.network)
    for i, network in enumerate(members_of(model.network)):
        layers, others = [*network.modules()], [*sources[i % len(sources)].modules()]
        if len(layers) != len(others):
            raise _other_layers()
        last = last_linear(trace(network))
        for layer, source in zip(layers, others, strict=True):
            _copy_layer(layer, source, layer is last, symbols, labels)


def _copy_layer(layer: Layer, source: Layer, is_last: bool, symbols: Rows, labels: Rows) -> None:
    """Copy the tensors of a layer from the layer at the same place in the trained network."""
    embeddings = (Embedding, LabelledEmbedding)
    both_embed = type(layer) in embeddings and type(source) in embeddings
    if type(layer) is not type(source) and not both_embed:
        raise _other_layers()
    for name in (*layer.PARAMETERS, *layer.BUFFERS):
        own, other = getattr(layer, name), getattr(source, name, None)
        if name == "label_weight":
            fits = other is None or _copy_rows(own, other, labels)
        elif other is None or own is None:
            fits = own is other
        elif both_embed:
            fits = _copy_rows(own, other, symbols)
        elif is_last:  # its columns are those of the symbols
            fits = _copy_rows(own.t(), other.t(), symbols)
        else:
            fits = own.shape == other.shape
            if fits:
                own.copy_(other)
        if not fits:
            raise _other_layers()


def _copy_rows(own: Tensor, other: Tensor, rows: Rows) -> bool:
    """Copy the common rows of a table. Returns whether the tables have rows of the same width."""
    if own.shape[1:] != other.shape[1:]:
        return False
    for new, old in rows:
        own[new] = other[old]
    return True


def _other_layers() -> UsageError:
    return UsageError(
        "--init-from needs a network with the same layers of the same widths: choose them with --network,"
        " --block-size, --n-embd and --n-hidden"
    )


def _common_symbols(model: Model, trained: Model) -> Iterator[tuple[int, int]]:
    """The symbols that both know: in the new vocabulary, and in the old one."""
    yield STOP, STOP
    for ch, symbol in model.vocabulary.stoi.items():
        if ch in trained.vocabulary.stoi:
            yield symbol, trained.vocabulary.stoi[ch]


def _common_labels(model: Model, trained: Model) -> Iterator[tuple[int, int]]:
    """The rows of the labels that both know: in the new table, and in the old one."""
    if model.labels is not None and trained.labels is not None:
        old = dict(_label_rows(trained.labels.columns))
        for label, row in _label_rows(model.labels.columns):
            if label in old:
                yield row, old[label]


def _label_rows(columns: Sequence[LabelColumn]) -> Iterator[tuple[tuple[str, str], int]]:
    """The row of each label, given by its column and its text."""
    labels = [(column.name, text) for column in columns for text in ("", *column.values)]
    return ((label, row) for row, label in enumerate(labels))
