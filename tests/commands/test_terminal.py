"""Control characters: a terminal gets escapes for them, a pipe and a file get them as they are."""

from __future__ import annotations

import ast
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Generator

import makemore
from makemore.commands.cli import draw_main, sample_main, train_main
from makemore.core.terminal import printable, say
from makemore.lecture.words import Vocabulary
from makemore.run.catalog import network_plan
from makemore.run.model_file import Model, save_model

pty = pytest.importorskip("pty", reason="the system has no pseudo-terminals")

RED = "\x1b[31m"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A stranger's model, whose characters are the parts of escape sequences."""
    vocabulary = Vocabulary("\x1b[31m]0;\x07\x7f\x9b\r\x00\té")
    plan = network_plan("mlp", 2, 2, 4)
    network = plan.build(len(vocabulary), Generator().manual_seed(1)).eval()
    save_model(Model(network, vocabulary, plan), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., bytes]:
    """A function that runs a command with stdout and stderr on a terminal and returns what is sent to it."""

    def run(main: Callable[[list[str]], int], *argv: object, code: int = 0) -> bytes:
        ours, theirs = pty.openpty()
        with monkeypatch.context() as patch, open(theirs, "w", encoding="utf-8", closefd=False) as screen:
            patch.setattr(sys, "stdout", screen)
            patch.setattr(sys, "stderr", screen)
            patch.setattr(makemore.commands.cli, "drop_stdout", lambda: None)
            assert main([*map(str, argv)]) == code
            screen.flush()
        os.close(theirs)
        sent = bytearray()
        try:
            while block := os.read(ours, 2**16):
                sent += block
        except OSError:  # how Linux says that the terminal was closed
            pass
        os.close(ours)
        return bytes(sent).replace(b"\r\n", b"\n")

    return run


def controls(sent: bytes) -> set[str]:
    """The control characters in it, without tabs and line ends."""
    return {ch for ch in sent.decode() if (ord(ch) < 0x20 and ch not in "\t\n") or 0x7F <= ord(ch) < 0xA0}


def test_sampled_words(model: Path, terminal: Callable[..., bytes], tmp_path: Path) -> None:
    argv = [model, "-n", "40", "--seed", "1", "--max-length", "20"]
    sent = terminal(sample_main, *argv)
    assert controls(sent) == set()
    assert sample_main([*map(str, argv), "-o", str(tmp_path / "words")]) == 0
    written = (tmp_path / "words").read_bytes()
    assert controls(written) == set("\x1b\x07\x7f\x9b\r\x00")
    shown = written.decode()
    for ch in "\x1b\x07\x7f\x9b\r\x00":
        shown = shown.replace(ch, f"\\x{ord(ch):02x}")
    assert sent.decode() == shown


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_tables(format: str, model: Path, terminal: Callable[..., bytes]) -> None:
    sent = terminal(sample_main, model, "-n", "40", "--seed", "1", "--max-length", "20", "--format", format)
    assert controls(sent) == set()
    assert sent.count(b"\n") == 41 + (format == "csv")  # with the line that explains the missing column


def test_a_pipe_gets_every_byte(
    model: Path, capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> None:
    argv = [str(model), "-n", "40", "--seed", "1", "--with-score"]
    assert sample_main([*argv, "-o", str(tmp_path / "words")]) == 0
    with pytest.MonkeyPatch.context() as patch, open(1, "w", closefd=False, encoding="utf-8") as stdout:
        patch.setattr(sys, "stdout", stdout)
        assert sample_main(argv) == 0
    assert capfdbinary.readouterr().out == (tmp_path / "words").read_bytes()


def test_scored_words_and_messages(model: Path, terminal: Callable[..., bytes], tmp_path: Path) -> None:
    path = tmp_path / f"{RED}words"
    path.write_bytes(f"{RED}\nabc\n".encode())
    lines = terminal(sample_main, model, "--score", path).decode().splitlines()
    assert len(lines) == 3
    assert {line.split("\t")[0] for line in lines} == {
        "\\x1b[31m",
        "abc",
        f"{tmp_path}/\\x1b[31mwords, line 2: 'a' is not in the vocabulary",
    }
    sent = terminal(sample_main, tmp_path / f"{RED}none", code=2)
    assert (
        sent == f"makemore-sample: cannot read {tmp_path}/\\x1b[31mnone: No such file or directory\n".encode()
    )


def test_training(word_file: Path, terminal: Callable[..., bytes], tmp_path: Path) -> None:
    """The list has no control characters, but its name has."""
    path, out = tmp_path / f"{RED}words.txt", tmp_path / f"{RED}out"
    path.write_bytes(word_file.read_bytes())
    tiny = ["--network", "mlp", "--n-embd", "2", "--n-hidden", "2", "--recipe", "lecture", "--steps", "2"]
    sent = terminal(train_main, *tiny, "--data", path, "--out-dir", out)
    assert b"data      " + f"{tmp_path}/\\x1b[31mwords.txt: 400 words".encode() in sent
    assert f"{tmp_path}/\\x1b[31mout/loss.png\n".encode() in sent
    assert RED.encode() not in sent
    picture = out / "nodes.png"
    assert terminal(draw_main, picture, "--network", "mlp").endswith(b"\\x1b[31mout/nodes.png\n")


def test_tracebacks(terminal: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAKEMORE_TRACEBACK", "1")
    sent = terminal(sample_main, tmp_path / f"{RED}none", code=2)
    assert b"Traceback (most recent call last):\n" in sent
    assert RED.encode() not in sent


def test_only_a_terminal_gets_escapes() -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    pipe, screen = io.StringIO(), Screen()
    for stream in (pipe, screen):
        say("a\x1b[1m\tb", stream)
    assert pipe.getvalue() == "a\x1b[1m\tb\n"
    assert screen.getvalue() == "a\\x1b[1m\tb\n"
    assert (printable("\x9b", pipe), printable("\x9b", screen)) == ("\x9b", "\\x9b")


def test_the_package_prints_in_one_place_only() -> None:
    """Besides the lecture's training loop, which prints numbers."""
    package = Path(makemore.__file__).parent
    prints = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert prints == {"core/terminal.py", "lecture/training.py"}
