"""The loss of a split in pieces against the whole at once, and its memory."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from makemore import evaluation, training
from makemore.convolution import loss
from makemore.evaluation import split_loss
from makemore.model_file import Model
from makemore.networks import NETWORKS, network_plan
from makemore.recipes import LectureRecipe
from makemore.words import Examples, WordList, bundled_path, read_words


def test_pieces_equal_the_whole(small_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_model.network
    data = read_words(bundled_path()).data(8)
    network.train()
    with network.evaluating():
        X, Y = data.val[:]
        whole = F.cross_entropy(network(X), Y).item()
    assert split_loss(network, data.val) == pytest.approx(whole, abs=1e-6)
    monkeypatch.setattr(evaluation, "PIECE", 777)
    assert split_loss(network, data.val) == pytest.approx(whole, abs=1e-6)
    assert loss(network, data.val) == pytest.approx(whole, abs=1e-6)
    assert network.training


def test_no_examples_have_no_loss(small_model: Model) -> None:
    examples = Examples(small_model.vocabulary.encode_all([]), 8)
    assert math.isnan(loss(small_model.network, examples))
    assert math.isnan(split_loss(small_model.network, examples))


def test_the_network_without_a_convolution_goes_the_lectures_way() -> None:
    data = read_words(bundled_path()).data(8)
    network = NETWORKS["hierarchical-bug"].build(27, torch.Generator().manual_seed(0))
    assert loss(network, data.val) == split_loss(network, data.val)


MEMORY = """
import sys, torch
from makemore.convolution import loss
from makemore.evaluation import split_loss
from makemore.networks import network_plan
from makemore.words import load_words
torch.set_num_threads(1)
data = load_words(sys.argv[1] or None).data(8)
network = network_plan().build(len(data.vocabulary))
network(data.train[:64][0])
before = used()
for examples in data[1:]:
    split_loss(network, examples)
    loss(network, examples)
print(used() - before)
"""


def test_all_splits_need_little_memory(peak_memory: str) -> None:
    """Under 200 MB more than before, where the lecture's way takes 2.1 GB."""
    run = subprocess.run(
        [sys.executable, "-c", peak_memory + MEMORY, ""], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) < 200


def test_lecture_splits_equal_the_whole(lecture_words: WordList) -> None:
    data = lecture_words.data(8)
    network = network_plan(n_hidden=16).build(27, torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        for examples in data[1:4]:
            X, Y = examples[:]
            whole = F.cross_entropy(network(X), Y).item()
            assert split_loss(network, examples) == pytest.approx(whole, abs=1e-6)
            assert loss(network, examples) == pytest.approx(whole, abs=1e-6)


def test_a_large_split_is_watched_in_part_and_judged_whole(
    small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During the training a fixed part of val, at the end all of it; always a fixed part of train."""
    monkeypatch.setattr(training, "WATCHED", 10_000)
    monkeypatch.setattr(training, "JUDGED", 20_000)
    data = read_words(bundled_path()).data(8)
    trainer = training.Trainer(
        small_model.network, data, LectureRecipe(steps=10), torch.Generator(), loss=loss
    )
    assert torch.equal(trainer.watched.symbols, data.val.symbols[: len(trainer.watched)])
    assert 5_000 < len(trainer.watched) <= 10_010
    first = trainer.evaluate("val", "test")
    trainer.step = 10
    last = trainer.evaluate("val", "test", "train")
    assert first.val == loss(small_model.network, trainer.watched) != last.val
    assert last.val == loss(small_model.network, data.val)
    assert first.test == last.test == loss(small_model.network, data.test)
    assert last.train == loss(small_model.network, trainer.judged)
