"""``makemore-sample --interactive``: answers to the lines of a pipe and of a terminal, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from makemore.commands.cli import sample_main
from makemore.inference.generation import Filters, next_probs
from makemore.lecture.words import STOP, Vocabulary
from makemore.run.catalog import network_plan
from makemore.run.model_file import Model, save_model

COMMAND = [sys.executable, "-m", "makemore", "sample"]


@pytest.fixture
def model_file(small_model: Model, tmp_path: Path) -> Path:
    save_model(small_model, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def answers(lines: bytes, model_file: Path, *flags: str) -> list[str]:
    """What the command prints for the lines of a pipe. Its exit code is 0, and it has nothing else to say."""
    argv = [*COMMAND, str(model_file), "--interactive", "--seed", "1", *flags]
    done = subprocess.run(argv, input=lines, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode().splitlines()


def shares(line: str) -> dict[str, float]:
    """The characters of an answer and their percentages."""
    assert line.startswith("next   ")
    return {name: float(share) for name, share in re.findall(r"(\S+|the end) (\d+\.\d) %", line[7:])}


@pytest.mark.full
def test_each_line_is_answered(model_file: Path, small_model: Model) -> None:
    """A line without its end, too; one that cannot begin a word is answered by the reason."""
    lines = answers(b"ma\n\nz\xc3\xa9\r\n\xff\nann", model_file)
    assert [line.split()[0] for line in lines] == [
        "next",
        "words",
        "next",
        "words",
        "the",
        "the",
        "next",
        "words",
    ]
    assert lines[4].startswith("the character 'é' is not in the vocabulary")
    for i, prefix in ((0, "ma"), (2, ""), (6, "ann")):
        probs = next_probs(small_model.network, small_model.vocabulary, prefix=prefix)
        names = ["the end", *map(repr, small_model.vocabulary.characters)]
        order = probs.argsort(descending=True)[:8].tolist()
        found = shares(lines[i])
        assert list(found) == [names[s] for s in order]
        assert list(found.values()) == pytest.approx([100 * probs[s].item() for s in order], abs=0.051)
        words = lines[i + 1].removeprefix("words  ").split(", ")
        assert len(set(words)) == 5
        assert all(word.startswith(prefix) for word in words)


@pytest.mark.full
def test_flags_hold_for_the_answers(model_file: Path) -> None:
    first, words, too_long = answers(
        b"ma\nmarianne\n", model_file, "--min-length", "4", "--max-length", "6", "--top-k", "3"
    )
    assert len(shares(first)) == 3
    assert "the end" not in shares(first)
    assert all(4 <= len(word) <= 6 for word in words.removeprefix("words  ").split(", "))
    assert too_long == "the prefix 'marianne' has 8 characters, more than max_length 6"
    first, words = answers(b"ma\n", model_file, "--temperature", "0", "--max-length", "2")
    assert list(shares(first).values()) == [100.0]
    assert words == "words  none is found that the flags accept"


@pytest.mark.full
def test_no_lines_at_all(model_file: Path) -> None:
    assert answers(b"", model_file) == []


def test_next_probs_are_those_of_the_layers(small_model: Model) -> None:
    vocabulary, context = small_model.vocabulary, [STOP] * 6 + small_model.vocabulary.encode("ma")
    with small_model.network.evaluating() as network:
        expected = network(torch.tensor([context])).softmax(dim=1)[0]
    torch.testing.assert_close(next_probs(small_model.network, vocabulary, prefix="ma"), expected)
    assert next_probs(small_model.network, vocabulary, Filters(min_length=3), prefix="ma")[STOP] == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--samples", "9", "--prefix", "a"], "on the terminal: leave out --samples, --prefix"),
        (["--output", "a.csv"], "leave out --output"),
        (["--score", "words.txt"], "--score and --interactive do different things: choose one"),
    ],
)
def test_flags_that_do_not_go_with_it(
    flags: list[str], message: str, model_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        sample_main([str(model_file), "--interactive", *flags])
    assert message in capsys.readouterr().err


@pytest.mark.full
@pytest.mark.parametrize("end", ["Ctrl-D", "Ctrl-C"])
def test_on_a_terminal(end: str, tmp_path: Path) -> None:
    """With a stranger's model, whose characters recolor a terminal. Both keys end it with exit code 0."""
    pty = pytest.importorskip("pty", reason="the system has no pseudo-terminals")
    vocabulary = Vocabulary("\x1b[31m\x9b\u0301 ")
    plan = network_plan("mlp", 2, 2, 4)
    network = plan.build(len(vocabulary), torch.Generator().manual_seed(1)).eval()
    save_model(Model(network, vocabulary, plan), tmp_path / "model.safetensors")
    ours, theirs = pty.openpty()
    argv = [*COMMAND, str(tmp_path / "model.safetensors"), "--interactive", "--max-length", "30"]
    process = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    sent = bytearray()

    def wait_for(text: bytes) -> None:
        deadline = time.monotonic() + 60
        while text not in sent:
            assert time.monotonic() < deadline, sent
            sent.extend(os.read(ours, 2**16))

    wait_for(b"> ")
    os.write(ours, b"m1\n")
    wait_for(b"words  ")
    wait_for(b"> ")
    if end == "Ctrl-D":
        os.write(ours, b"\x04")
    else:
        process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    os.close(ours)
    assert not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", sent)
    text = sent.decode()
    assert "\x9b" not in text
    assert "U+001B ESCAPE" in text
    assert "U+0301 COMBINING ACUTE ACCENT" in text
    assert "Traceback" not in text
