"""Labels as users choose them for sampling and pictures: ``Irish``, ``F,Irish``, ``Irish=0.7,Thai=0.3``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from makemore.core.errors import UsageError
from makemore.core.layer import LabelColumn, Layer
from makemore.data.labels import Labels
from makemore.inference.conditioning import (
    Choice,
    LabelDistribution,
    conditioned,
    find_column,
    find_label,
    hint,
)
from makemore.run.model_file import Model


class ChosenLabels(NamedTuple):
    """A network for chosen labels, and how the labels of the other columns are drawn.

    ``labels`` is None if no column is left. ``texts`` has the choice for each of the model's ``columns`` as
    text, None for those that are drawn.
    """

    network: Layer
    labels: LabelDistribution | None
    columns: tuple[str, ...] = ()
    texts: tuple[str | None, ...] = ()

    def names(self, drawn: Sequence[str]) -> list[str]:
        """The labels of a word in all columns, given those that were drawn for it."""
        rest = iter(drawn)
        return [next(rest) if text is None else text for text in self.texts]


def choose_labels(model: Model, texts: Sequence[str] = ()) -> ChosenLabels:
    """The network of a model for the labels that ``texts`` choose, each as ``parse_choice`` reads it.

    Without texts, labels are drawn as they occur in the model's list. Raises UsageError.
    """
    if model.labels is None:
        if texts:
            raise UsageError("the model was trained on words without labels: leave out --label")
        return ChosenLabels(model.network, None)
    chosen: dict[str, Choice] = {}
    for text in texts:
        choice = parse_choice(text, model.labels.columns)
        if twice := chosen.keys() & choice.keys():
            raise UsageError(
                f"--label chooses the column {min(twice)!r} twice: give a blend as LABEL=0.7,LABEL=0.3"
            )
        chosen |= choice
    network = conditioned(model.network, chosen) if chosen else model.network
    distribution = LabelDistribution.of(model.labels, chosen)
    columns = model.labels.columns
    said = tuple(_text_of(chosen[c.name]) if c.name in chosen else None for c in columns)
    names = tuple(column.name for column in columns)
    return ChosenLabels(network, distribution if distribution.columns else None, names, said)


def _text_of(choice: Choice) -> str:
    """The text of a choice, such as "Irish" or "Irish=0.7,Japanese=0.3"."""
    if len(choice) == 1:
        return next(iter(choice))
    total = sum(choice.values())
    return ",".join(f"{label}={share / total:.3g}" for label, share in choice.items())


def parse_choice(text: str, columns: Sequence[LabelColumn]) -> dict[str, Choice]:
    """The shares of labels that a text chooses, by the name of their column.

    The text has one or more items with commas between them. An item is LABEL, COLUMN=LABEL, LABEL=SHARE or
    COLUMN=LABEL=SHARE; the share is 1 if none is given. Several labels of one column are a blend. An empty
    LABEL means none. Raises UsageError on labels that are not known, or that several columns have.

    >>> country = LabelColumn("country", ("Irish", "Japanese"))
    >>> parse_choice("Irish=0.7,Japanese=0.3", [country])
    {'country': {'Irish': 0.7, 'Japanese': 0.3}}
    """
    chosen: dict[str, dict[str, float]] = {}
    whole = _columns_with(text, columns)
    for item in [text] if whole else text.split(","):
        column, label, share = _item(item.strip(), columns)
        of_column = chosen.setdefault(column.name, {})
        of_column[label] = of_column.get(label, 0.0) + share
    return dict(chosen)


def _item(item: str, columns: Sequence[LabelColumn]) -> tuple[LabelColumn, str, float]:
    """The column, the label and the share of an item."""
    having = _columns_with(item, columns)
    if len(having) > 1:
        names = ", ".join(column.name for column in having)
        raise UsageError(f"several columns have the label {item!r} ({names}): give it as COLUMN={item}")
    if having:
        return having[0], having[0].text(find_label(item, having[0])), 1.0
    before, sign, after = item.partition("=")
    if sign and before in [column.name for column in columns]:
        column = columns[find_column(before, columns)]
        label, sign, share = after.rpartition("=")
        if sign and not _columns_with(after, [column]):
            return column, column.text(find_label(label, column)), _share(share, item)
        return column, column.text(find_label(after, column)), 1.0
    before, sign, after = item.rpartition("=")
    if sign and _columns_with(before, columns):
        column, label, _ = _item(before, columns)
        return column, label, _share(after, item)
    known = [label for column in columns for label in column.values]
    raise UsageError(f"the model has no label {item!r}{hint(item, known)}")


def _columns_with(text: str, columns: Sequence[LabelColumn]) -> list[LabelColumn]:
    """The columns that have a label."""
    return [c for c in columns if text and text.casefold() in {value.casefold() for value in c.values}]


def _share(text: str, item: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share < math.inf:
        raise UsageError(f"the share in {item!r} must be a number from 0 up, got {text!r}")
    return share


def typical_network(chosen: ChosenLabels) -> Layer:
    """The network for chosen labels, with the mean over the list for each column that is not chosen.

    It takes contexts without labels, as pictures need.
    """
    if chosen.labels is None:
        return chosen.network
    shares = {column.name: _shares_in(chosen.labels, k) for k, column in enumerate(chosen.labels.columns)}
    return conditioned(chosen.network, shares)


def _shares_in(labels: LabelDistribution, k: int) -> dict[str, float]:
    """The share of each label of column k."""
    shares: dict[str, float] = {}
    for names, prob in zip(labels.names, labels.probs.tolist(), strict=True):
        shares[names[k]] = shares.get(names[k], 0.0) + prob
    return shares


def label_lines(labels: Labels) -> list[str]:
    """The labels of a model, one a line: column, label and number of words, separated by tabs."""
    lines = []
    for k, column in enumerate(labels.columns):
        for label, number in enumerate(labels.numbers_of_words(k)):
            if number:
                lines.append(f"{column.name}\t{column.text(label)}\t{number}")
    return lines
