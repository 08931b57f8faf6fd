"""Fixtures for all tests: small word lists, a small trained network, and the lecture's list."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch

from makemore.backprop.engine import BackpropEngine
from makemore.data.word_list import LECTURE_VARIABLE, WordList, bundled_path, lecture_path, read_words
from makemore.run import architecture
from makemore.run.catalog import network_plan
from makemore.run.model_file import Model
from makemore.training.recipe import LectureRecipe
from makemore.training.trainer import Trainer

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed torch's own generator, so that a test does not depend on those before it; keep help plain text.

    Python 3.14 colors help where FORCE_COLOR is set, as on some build servers.
    """
    torch.manual_seed(0)
    os.environ["NO_COLOR"] = "1"


@pytest.fixture(autouse=True)
def registered_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test's own layers are forgotten after it."""
    monkeypatch.setattr(architecture, "_registered", dict(architecture._registered))


PEAK_MEMORY = """
import re
def used():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024
"""
"""Code for a new process, for its peak memory in MB. (That of getrusage starts from the parent's peak.)"""


@pytest.fixture(scope="session")
def peak_memory() -> str:
    """``PEAK_MEMORY``, on systems that report it."""
    status = Path("/proc/self/status")
    # The line is missing in some sandboxes.
    if not status.exists() or "VmHWM:" not in status.read_text(encoding="utf-8"):
        pytest.skip("this system's /proc/self/status does not report a process's peak memory")
    return PEAK_MEMORY


@pytest.fixture(scope="session")
def lecture_words() -> WordList:
    """The lecture's list. A test never downloads it."""
    if not os.environ.get(LECTURE_VARIABLE):
        pytest.skip(f"this test needs the lecture's names.txt: set {LECTURE_VARIABLE} to its path")
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
    trainer = Trainer(network, data, LectureRecipe(steps=300, lr_drop=200), generator, BackpropEngine)
    for _ in trainer.run(100):
        pass
    return Model(network.eval(), data.vocabulary, plan)
