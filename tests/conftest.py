"""What the tests share: small word lists, a small trained network, and the lecture's list if at hand."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch

from makemore.backprop import BackpropEngine
from makemore.model_file import Model
from makemore.networks import network_plan
from makemore.recipes import LectureRecipe
from makemore.training import Trainer
from makemore.words import LECTURE_VARIABLE, WordList, bundled_path, lecture_path, read_words

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Every test draws the same from torch's own generator, whichever tests a worker has run before it.

    And help is plain text: Python 3.14 colours it where FORCE_COLOR is set, as some builders do.
    """
    torch.manual_seed(0)
    os.environ["NO_COLOR"] = "1"


PEAK_MEMORY = """
import re
def used():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024
"""
"""Code for a process of its own: its peak memory in MB. (getrusage starts from its parent's peak.)"""


@pytest.fixture(scope="session")
def peak_memory() -> str:
    """That code, where the system tells."""
    status = Path("/proc/self/status")
    if not status.exists() or "VmHWM:" not in status.read_text():  # some sandboxes' has no such line
        pytest.skip("this system's /proc/self/status does not tell the peak of a process's memory")
    return PEAK_MEMORY


@pytest.fixture(scope="session")
def lecture_words() -> WordList:
    """The lecture's own list; it is never downloaded for a test."""
    if not os.environ.get(LECTURE_VARIABLE):
        pytest.skip(f"the lecture's names.txt is not at hand: set {LECTURE_VARIABLE} to its path")
    return read_words(lecture_path())


@pytest.fixture(scope="session")
def word_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 of the bundled names."""
    words = random.Random(0).sample(read_words(bundled_path()).words, 400)
    path = tmp_path_factory.mktemp("words") / "words.txt"
    path.write_text("\n".join(words), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def small_model(word_file: Path) -> Model:
    """A small hierarchical network after 300 steps on those names."""
    plan = network_plan("hierarchical", 8, 6, 16)
    data = read_words(word_file).data(plan.block_size)
    generator = torch.Generator().manual_seed(1)
    network = plan.build(len(data.vocabulary), generator)
    for _ in Trainer(network, data, LectureRecipe(steps=300, lr_drop=200), generator, BackpropEngine).run(
        100
    ):
        pass
    return Model(plan, data.vocabulary, network.eval())
