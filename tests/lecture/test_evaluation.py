"""The loss of a split in chunks against the whole at once, and the memory it needs."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import makemore.lecture.evaluation
from makemore.data.encoding import encode_words
from makemore.data.word_list import WordList, bundled_path, read_words
from makemore.inference.scoring import loss
from makemore.lecture.evaluation import split_loss
from makemore.lecture.words import Examples
from makemore.run.catalog import NETWORKS, network_plan
from makemore.run.model_file import Model


def test_chunks_equal_the_whole(small_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_model.network
    data = read_words(bundled_path()).data(8)
    network.train()
    with network.evaluating():
        X, Y = data.val[:]
        whole = F.cross_entropy(network(X), Y).item()
    assert split_loss(network, data.val) == pytest.approx(whole, abs=1e-6)
    monkeypatch.setattr(makemore.lecture.evaluation, "CHUNK_EXAMPLES", 777)
    assert split_loss(network, data.val) == pytest.approx(whole, abs=1e-6)
    assert loss(network, data.val) == pytest.approx(whole, abs=1e-6)
    assert network.training


def test_no_examples_have_no_loss(small_model: Model) -> None:
    examples = Examples(encode_words(small_model.vocabulary, []), 8)
    assert math.isnan(loss(small_model.network, examples))
    assert math.isnan(split_loss(small_model.network, examples))


def test_a_network_without_a_convolution_is_evaluated_by_its_layers() -> None:
    data = read_words(bundled_path()).data(8)
    network = NETWORKS["hierarchical-bug"].build(27, torch.Generator().manual_seed(0))
    assert loss(network, data.val) == split_loss(network, data.val)


MEMORY = """
import sys, torch
from makemore import load_words, loss, network_plan, split_loss
torch.set_num_threads(1)
data = load_words(sys.argv[1] or None).data(8)
network = network_plan().build(len(data.vocabulary))
network(data.train[:64][0])
before = used()
for examples in data[1:6]:
    split_loss(network, examples)
    loss(network, examples)
print(used() - before)
"""


@pytest.mark.full
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
