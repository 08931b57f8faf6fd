"""Words with labels, from Python: their numbers, their order, and the examples that begin with them."""

import pytest
import torch

from makemore.core.errors import DataError
from makemore.data.examples import LabelledExamples, shards
from makemore.data.word_list import WordList
from makemore.lecture.words import build_dataset

WORDS = ["emma", "olivia", "ava", "jean", "luc", "marc", "ann", "jean", "bo", "cy", "dee", "eve"]
GENDER = ["F", "F", "F", "M", "M", "M", None, "M", "", "M", "F", "F"]
COUNTRY = ["DE", "US", "US", "FR", "FR", "FR", "US", "US", None, "US", "DE", "FR"]


def labelled() -> WordList:
    return WordList.of(WORDS, labels={"gender": GENDER, "country": COUNTRY})


def test_labels_are_numbered_in_sorted_order_and_none_is_0() -> None:
    labels = labelled().labels
    assert [(column.name, column.values) for column in labels.columns] == [
        ("gender", ("F", "M")),
        ("country", ("DE", "FR", "US")),
    ]
    assert labels.sizes == (3, 4)
    combinations = {labels.names(i): int(n) for i, n in enumerate(labels.counts)}
    expected: dict[tuple[str, ...], int] = {}
    for pair in zip(GENDER, COUNTRY, strict=True):
        names = tuple(label or "" for label in pair)
        expected[names] = expected.get(names, 0) + 1
    assert combinations == expected


@pytest.mark.parametrize("split", ["train", "val", "test", "unseen_val", "unseen_test"])
def test_each_example_begins_with_the_labels_of_its_word(split: str) -> None:
    data = labelled().data(4)
    examples = getattr(data, split)
    assert isinstance(examples, LabelledExamples)
    label_of: dict[str, set[tuple[str, ...]]] = {}
    for word, *names in zip(WORDS, GENDER, COUNTRY, strict=True):
        label_of.setdefault(word, set()).add(tuple(name or "" for name in names))
    number = {data.labels.names(i): row for i, row in enumerate(data.labels.rows.tolist())}
    X, Y = examples[:]
    start = 0
    while start < len(Y):
        end = start + int((Y[start:] == 0).nonzero()[0]) + 1
        word = data.vocabulary.decode(Y[start:end].tolist())
        rows = {tuple(row) for row in X[start:end, :2].tolist()}
        assert len(rows) == 1
        assert rows <= {tuple(number[names]) for names in label_of[word]}
        assert torch.equal(X[start:end, 2:], build_dataset([word], data.vocabulary, 4)[0])
        start = end


def test_words_and_splits_are_those_of_the_list_without_labels() -> None:
    plain = WordList.of(WORDS)
    assert labelled().split() == plain.split()
    assert labelled().words == WORDS
    assert labelled().fingerprint != plain.fingerprint


def test_shards_keep_the_labels() -> None:
    train = labelled().data(3).train
    parts = shards(train, 12)
    assert len(parts) > 1
    assert torch.equal(torch.cat([part[:][0] for part in parts]), train[:][0])


@pytest.mark.parametrize(
    ("words", "labels", "message"),
    [
        (WORDS, {"gender": GENDER[:-1]}, "'gender' has 11 labels for 12 words"),
        ([*WORDS[:-1], " "], {"gender": GENDER}, "without blank ones"),
    ],
)
def test_labels_that_do_not_fit_are_refused(words: list[str], labels: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        WordList.of(words, labels=labels)
