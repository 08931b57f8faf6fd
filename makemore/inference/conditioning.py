"""Labels at sampling time: networks for chosen labels, and labels drawn as they occur in a list.

The rows of a word's labels are added to the embedding of each of its symbols (``LabelledEmbedding``). So for
chosen labels, or for a blend of them, the network is an ordinary one: the sum is added to the table of the
symbols once. It then needs no labels, and everything that takes a network takes it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from makemore.core.errors import UsageError
from makemore.core.fit import Columns
from makemore.core.layer import LabelColumn, Layer
from makemore.core.text import show_controls
from makemore.data.labels import Labels, nearest
from makemore.lecture.layers import Embedding
from makemore.paper.layers import LabelledEmbedding
from makemore.training.ensemble import Ensemble

Choice = Mapping[str, float]
"""The share of each label of a column by its text, as {"Irish": 0.7, "Japanese": 0.3}; "" means no label."""

MAX_LISTED = 10
"""The largest number of labels that a message lists."""


def conditioned(network: Layer, labels: Mapping[str, str | Choice]) -> Layer:
    """A copy of a network that gives words of chosen labels.

    ``labels`` has a label, or the shares of several, by the name of the column:

        conditioned(model.network, {"country": "Irish"})
        conditioned(model.network, {"gender": "F", "country": {"Irish": 0.7, "Japanese": 0.3}})

    The copy still takes the labels of the other columns; if there are none, it takes contexts without labels.
    Raises UsageError, which names the nearest known one, on a column or label that the network does not have.
    """
    columns = network.labels
    if not columns:
        raise UsageError("the network was trained on words without labels")
    shares = {find_column(name, columns): choice for name, choice in labels.items()}
    choices = {i: shares_of(choice, columns[i]) for i, choice in shares.items()}
    return _without_columns(network, columns, choices)


def _without_columns(network: Layer, columns: Columns, choices: Mapping[int, Tensor]) -> Layer:
    if isinstance(network, Ensemble):
        return Ensemble([_without_columns(member, columns, choices) for member in network.members])
    network = copy.deepcopy(network)
    found = [layer for layer in network.modules() if isinstance(layer, LabelledEmbedding)]
    if len(found) != 1:
        raise UsageError("choosing labels needs a network with one LabelledEmbedding")
    embedding = _with_choices(found[0], choices)
    if network is found[0]:
        network = embedding
    for layer in network.modules():
        for name, value in vars(layer).items():
            if value is found[0]:
                setattr(layer, name, embedding)
            elif isinstance(value, list):
                value[:] = [embedding if item is found[0] else item for item in value]
    network.labels = tuple(column for i, column in enumerate(columns) if i not in choices)
    return network


@torch.no_grad()
def _with_choices(layer: LabelledEmbedding, choices: Mapping[int, Tensor]) -> Embedding:
    """The layer with the chosen rows of some columns added to the table of the symbols."""
    tables = torch.split(layer.label_weight, list(layer.label_sizes))
    weight = layer.weight.clone()
    for i, shares in choices.items():
        weight += shares.to(weight) @ tables[i]  # (C,)
    left = [i for i in range(len(tables)) if i not in choices]
    plain = Embedding(1, 1)
    if left:
        labelled = LabelledEmbedding(1, 1, [layer.label_sizes[i] for i in left])
        labelled.label_weight = torch.cat([tables[i] for i in left])
        labelled.label_weight.requires_grad = layer.label_weight.requires_grad
        plain = labelled
    plain.weight = weight
    weight.requires_grad = layer.weight.requires_grad
    plain.training = layer.training
    return plain


def find_column(name: str, columns: Columns) -> int:
    """The number of the column of that name. Raises UsageError, which names the nearest."""
    names = [column.name for column in columns]
    if name not in names:
        raise UsageError(f"the model has no label column {name!r}{hint(name, names)}")
    return names.index(name)


def find_label(text: str, column: LabelColumn) -> int:
    """The number of a label in its column; "" is 0. Raises UsageError, which names the nearest.

    Upper and lower case count as equal if only one label then fits.
    """
    if text == "":
        return 0
    if text not in column.values:
        same = [value for value in column.values if value.casefold() == text.casefold()]
        if len(same) != 1:
            near = hint(text, column.values)
            raise UsageError(f"the model has no label {text!r} in its column {column.name!r}{near}")
        text = same[0]
    return column.values.index(text) + 1


def hint(text: str, known: Sequence[str]) -> str:
    """What to say after a text that is not known: the most similar one, or which there are."""
    if similar := nearest(text, known):
        return similar
    listed = ", ".join(show_controls(name) for name in known[:MAX_LISTED])
    more = f" and {len(known) - MAX_LISTED:,} more" if len(known) > MAX_LISTED else ""
    return f"; it has {listed}{more}"


def shares_of(choice: str | Choice, column: LabelColumn) -> Tensor:
    """The share of each label of a column in a choice, float64, (labels + 1,); they add up to 1."""
    shares = torch.zeros(len(column.values) + 1, dtype=torch.float64)
    for text, share in ({choice: 1.0} if isinstance(choice, str) else choice).items():
        if not (share >= 0 and math.isfinite(share)):
            raise UsageError(f"the share of {text!r} must be 0 or more, got {share}")
        shares[find_label(text, column)] += share
    total = float(shares.sum())
    if not 0 < total < math.inf:
        raise UsageError(f"the shares of the labels of {column.name!r} must have a sum above 0")
    return shares / total


@dataclass(frozen=True)
class LabelDistribution:
    """Combinations of labels in some columns, (M, K) int64, and how probable each is, (M,) float64."""

    columns: tuple[LabelColumn, ...]
    rows: Tensor
    probs: Tensor

    @classmethod
    def of(cls, labels: Labels, chosen: Mapping[str, str | Choice] | None = None) -> LabelDistribution:
        """The distribution of the columns that are not chosen, as in the list that the labels are from.

        It is that of the words with the chosen labels; of several, weighted by their shares. If no word has
        them, it is that of all words.
        """
        weights = labels.counts.double()
        given = {find_column(name, labels.columns): choice for name, choice in (chosen or {}).items()}
        for i, choice in given.items():
            weights = weights * shares_of(choice, labels.columns[i])[labels.rows[:, i]]
        if weights.sum() == 0:
            weights = labels.counts.double()
        left = [i for i in range(len(labels.columns)) if i not in given]
        if not left:
            return cls((), torch.zeros(1, 0, dtype=torch.int64), torch.ones(1, dtype=torch.float64))
        rows, inverse = torch.unique(labels.rows[:, left], dim=0, return_inverse=True)
        totals = weights.new_zeros(len(rows)).index_add_(0, inverse, weights)
        columns = tuple(labels.columns[i] for i in left)
        return cls(columns, rows[totals > 0], (totals / totals.sum())[totals > 0])

    @cached_property
    def names(self) -> list[tuple[str, ...]]:
        """The labels of each combination as texts, "" where there is none."""
        return [
            tuple(column.text(label) for column, label in zip(self.columns, row, strict=True))
            for row in self.rows.tolist()
        ]

    def draw(self, u: Tensor) -> Tensor:
        """The combination for each number u in [0, 1), (W,): an index into ``rows``, (W,)."""
        cumulative = self.probs.cumsum(0)
        return torch.searchsorted(cumulative, u * cumulative[-1], right=True)
