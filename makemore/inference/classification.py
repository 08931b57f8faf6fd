"""Which label fits a word: a network that takes labels is a classifier, by Bayes' rule.

The network gives log P(word | labels); the list says how frequent the labels are. So
P(labels | word) = P(word | labels) P(labels) / P(word).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore.core.text import require_words
from makemore.data.labels import Labels
from makemore.inference.conditioning import LabelDistribution
from makemore.inference.predictor import Predictable, as_predictor
from makemore.inference.scoring import log_likelihoods
from makemore.lecture.words import Vocabulary


def joint_log_probs(
    network: Predictable, vocabulary: Vocabulary, words: Iterable[str], labels: LabelDistribution
) -> Tensor:
    """log P(word, labels) of each word with each combination of ``labels.rows``: float64, (words, D).

    In nats. ``logsumexp`` over the combinations is the log-likelihood of a word whose labels are not known.
    Raises DataError on a character that is missing from the vocabulary and on labels that are not the
    network's.
    """
    words = list(words)
    require_words(words, "joint_log_probs")
    predictor, rows = as_predictor(network), len(labels.rows)
    known = Labels(labels.columns, labels.rows, torch.ones(rows, dtype=torch.int64))
    scores = [log_likelihoods(predictor, vocabulary, words, known, row) for row in range(rows)]
    return torch.stack(scores, dim=1) + labels.probs.log()


def label_probs(
    network: Predictable, vocabulary: Vocabulary, words: Iterable[str], labels: Labels
) -> list[Tensor]:
    """How probable each label is for each word: for each column, float64, (words, labels of the column).

    Label i of ``labels.columns[k].values`` is at index i; that a word may have no label is left out. The
    labels are as frequent as in the list, ``labels.counts``. Raises DataError as ``joint_log_probs``.
    """
    distribution = LabelDistribution.of(labels)
    joint = joint_log_probs(network, vocabulary, words, distribution)
    return [_by_label(joint, distribution, k).softmax(dim=1) for k in range(len(labels.columns))]


def _by_label(joint: Tensor, labels: LabelDistribution, column: int) -> Tensor:
    """log P(word, label) of the labels of one column: (words, D) -> (words, labels of the column)."""
    row_label = labels.rows[:, column]
    numbers = range(1, len(labels.columns[column].values) + 1)
    return torch.stack([joint[:, row_label == label].logsumexp(dim=1) for label in numbers], dim=1)


@dataclass(frozen=True)
class Confusion:
    """Which labels of a column a network takes words for.

    ``counts[i, j]`` is the number of words with label i for which label j is the most probable, (labels,
    labels) int64, in the order of ``names``.
    """

    column: str
    names: tuple[str, ...]
    counts: Tensor

    @property
    def words(self) -> int:
        """The number of words."""
        return int(self.counts.sum())

    @property
    def accuracy(self) -> float:
        """The share of words for which the right label is the most probable."""
        return float(self.counts.diagonal().sum() / self.counts.sum())

    @property
    def balanced_accuracy(self) -> float:
        """The mean over the labels, of those that words have, of the share of their words that is right."""
        totals = self.counts.sum(1)
        return float((self.counts.diagonal()[totals > 0] / totals[totals > 0]).mean())

    @property
    def most_frequent(self) -> float:
        """The accuracy of always choosing the label that most of these words have."""
        return float(self.counts.sum(1).max() / self.counts.sum())


def confusions(
    network: Predictable,
    vocabulary: Vocabulary,
    words: Sequence[str],
    rows: Tensor,
    labels: Labels,
) -> list[Confusion]:
    """The confusion of each column, for words whose combinations of labels are ``rows``, (words,).

    Words without a label of a column are left out there; so is a column of which no word has a label.
    """
    distribution = LabelDistribution.of(labels)
    joint = joint_log_probs(network, vocabulary, words, distribution)
    found = []
    for k, column in enumerate(labels.columns):
        right, size = labels.rows[rows.long(), k], len(column.values)
        known = right > 0
        if not known.any():
            continue
        chosen = _by_label(joint[known], distribution, k).argmax(dim=1)
        pairs = (right[known] - 1) * size + chosen
        counts = F.pad(torch.bincount(pairs), (0, size * size))[: size * size].view(size, size)
        found.append(Confusion(column.name, column.values, counts))
    return found
