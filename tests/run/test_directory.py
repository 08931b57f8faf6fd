"""The directory of a run: its files and their permissions, its name, and the commands that name it."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import stat
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from makemore.commands.cli import COMMANDS, draw_main, main, page_main, sample_main, train_main
from makemore.core.atomic_write import atomic_write
from makemore.core.errors import UsageError
from makemore.core.shell import quoted
from makemore.lecture.layers import BatchNorm1d
from makemore.run.lock import locked, run_files
from makemore.run.model_file import BUNDLED, Model, load_model, save_model
from makemore.run.training_run import TrainingRun, resume_command

TINY = ["--n-hidden", "8", "--n-embd", "4", "--samples", "2", "--device", "cpu"]


def train(word_file: Path, *more: object) -> int:
    return train_main([*TINY, "--data", str(word_file), *map(str, more)])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home directory, beside the current one."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


@pytest.mark.full
def test_every_path_may_begin_with_the_home_directory(word_file: Path, home: Path) -> None:
    (home / "words.txt").write_text(word_file.read_text(encoding="utf-8"), encoding="utf-8")
    assert train_main([*TINY, "--data=~/words.txt", "--steps=2", "--out-dir=~/runs"]) == 0
    assert load_model(home / "runs").progress.settings["data"] == [str((home / "words.txt").resolve())]
    assert sample_main(["--model=~/runs", "--novel", "--data=~/words.txt", "--output=~/new.txt"]) == 0
    assert sample_main(["~/runs", "--score=~/words.txt", "--output=~/scores.txt"]) == 0
    assert draw_main(["nodes", "~/nodes.png", "--model=~/runs"]) == 0
    assert draw_main(["~/only.png", "--model=~/runs"]) == 0
    assert page_main(["~/page.html", "--model=~/runs", "--data=~/words.txt"]) == 0
    written = {path.name for path in home.iterdir() if not path.name.startswith(".")}
    assert written == {"words.txt", "runs", "new.txt", "scores.txt", "nodes.png", "only.png", "page.html"}
    assert [*Path().iterdir()] == []


def test_a_replaced_file_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def mode() -> int:
        return stat.S_IMODE(path.stat().st_mode)

    before = os.umask(0o027)
    try:
        for permissions in (None, 0o600, 0o664, 0o444):
            if permissions is not None:
                path.chmod(permissions)
            with atomic_write(path) as file:
                part = next(tmp_path.glob("*.part"))
                assert stat.S_IMODE(part.stat().st_mode) == (0o640 if permissions is None else permissions)
                file.write(b"a")
            assert mode() == (0o640 if permissions is None else permissions)
    finally:
        os.umask(before)
    link = tmp_path / "link"
    link.symlink_to("file")
    path.chmod(0o600)
    with atomic_write(link) as file:
        file.write(b"b")
    assert (link.is_symlink(), mode(), path.read_bytes()) == (True, 0o600, b"b")


def test_a_leftover_that_is_read_only_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(b"old")
    (tmp_path / "file.part").chmod(0o400)
    with atomic_write(tmp_path / "file") as file:
        file.write(b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.full
def test_overwriting_removes_exactly_the_files_of_a_run(word_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    out = tmp_path / "out"
    flags = ["--teachers", "2", "--record-every", "1", "--tensorboard", "--steps", "3"]
    assert train(word_file, "--out-dir", out, *flags) == 0
    of_run = {*run_files(out)}
    assert {path.name for path in of_run} > {
        "losses.csv",
        "loss.png",
        "gradients.csv",
        "teacher-2.safetensors",
    }
    everything = {path for path in out.rglob("*") if path.is_file()}
    assert everything == of_run | {out / "model.safetensors", out / ".lock"}
    others = [
        out / "notes.txt",
        out / "teacher-old.safetensors",
        out / "tensorboard" / "mine.txt",
        out / "losses.csv.bak",
    ]
    for path in others:
        path.write_text("mine")
    assert train(word_file, "--out-dir", out, "--steps", "2", "--overwrite") == 0
    left = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    new = {"model.safetensors", "losses.csv", "loss.png", ".lock"}
    assert left == new | {path.relative_to(out).as_posix() for path in others}


def test_a_directory_that_cannot_be_written_to_is_one_line(
    word_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert train(word_file, "--out-dir", out, "--steps", "2") == 0
    capsys.readouterr()

    class ReadOnly:
        def __init__(self, path: Path, timeout: float) -> None:
            self.path = path

        def acquire(self) -> None:
            raise PermissionError(13, "Permission denied", str(self.path))

    monkeypatch.setattr("filelock.FileLock", ReadOnly)
    assert train_main(["--resume", "--out-dir", str(out), "--steps", "4"]) == 2
    message = f"makemore-train: cannot write to the directory {out}: Permission denied\n"
    assert capsys.readouterr().err == message


def test_an_error_within_the_lock_is_not_taken_for_one_of_the_lock(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locked(tmp_path):
        raise FileNotFoundError(2, "No such file", "x")
    with locked(tmp_path), pytest.raises(UsageError, match="another run is writing"), locked(tmp_path):
        pass


@pytest.mark.parametrize("name", ["a b", "it's", "$HOME;x", "plain"])
def test_suggested_commands_can_be_pasted(name: str) -> None:
    words = shlex.split(resume_command(Path(name)))
    assert words == ["makemore-train", "--resume", "--out-dir", name]


def test_on_windows_paths_are_in_double_quotes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert quoted(r"C:\my runs\a") == r'"C:\my runs\a"'
    assert quoted(r"C:\runs") == r"C:\runs"


def fail(error: Exception) -> Any:
    def evaluate(*args: Any, **kwargs: Any) -> Any:
        raise error

    return evaluate


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(28, "No space left on device"),
            "cannot write the output: No space left on device; step 0 is",
        ),
        (
            FileNotFoundError(2, "No such file or directory", "x.so"),
            r"\[Errno 2\] No such file or directory: 'x.so'",
        ),
        (
            ConnectionResetError(104, "Connection reset by peer"),
            r"\[Errno 104\] Connection reset by peer; step 0",
        ),
    ],
)
def test_only_errors_of_writing_are_told_as_such(
    error: Exception,
    message: str,
    word_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(TrainingRun, "_log_lines", fail(error))
    out = tmp_path / "my run"
    assert train(word_file, "--out-dir", out, "--steps", "2") == 1
    err = capsys.readouterr().err
    assert re.search(f"^makemore-train: {message}", err)
    assert len(err.splitlines()) == 1
    assert err.endswith(f"resume with: makemore-train --resume --out-dir '{out}'\n")


def test_a_list_that_cannot_be_read_again_is_asked_for(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "moved.txt"
    moved.write_text(word_file.read_text(encoding="utf-8"), encoding="utf-8")
    out = tmp_path / "out"
    assert train(moved, "--out-dir", out, "--steps", "2", "--recipe", "lecture") == 0
    capsys.readouterr()
    resume = ["--resume", "--out-dir", str(out), "--steps", "3"]

    def asked(why: str) -> None:
        for command in (lambda: train_main(resume), lambda: sample_main([str(out), "--novel", "-n", "1"])):
            code = command()
            err = capsys.readouterr().err
            assert (code, len(err.splitlines())) == (2, 1)
            assert f"{why}: give it with --data PATH" in err
        assert page_main([str(tmp_path / "page.html"), "--model", str(out)]) == 0
        assert f"{why}: give it with --data PATH" in capsys.readouterr().err

    moved.unlink()
    asked(f"the run's word list {moved} is not there any more")
    if hasattr(os, "mkfifo"):
        os.mkfifo(moved)
        asked(f"the run's word list {moved} is not a file that can be read again")
    assert train_main([*resume, "--data", str(word_file)]) == 0
    assert sample_main([str(out), "--novel", "-n", "1", "--data", str(word_file)]) == 0


@pytest.mark.full
def test_a_model_and_a_list_have_one_name_everywhere(
    word_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *TINY, str(word_file), "--steps", "2", "--out-dir", "mine"]) == 0
    assert main(["train", *TINY, str(word_file), "--steps", "2"]) == 0  # to out/
    capsys.readouterr()
    texts = []
    for model in (["mine"], ["--model", "mine"], ["mine/model.safetensors"], []):
        assert main(["sample", *model, "-n", "9", "--seed", "1"]) == 0
        texts.append(capsys.readouterr())
    assert texts[0].err == ""
    assert len({*texts}) == 1
    assert main(["sample", "--model", "bundled", "-n", "9", "--seed", "1", "--novel"]) == 0
    bundled = capsys.readouterr()
    assert (bundled.err, bundled.out != texts[0].out) == ("", True)
    for argv in (["draw", "x.png"], ["page", "x.html"]):
        for path in ("mine", "bundled", "mine/model.safetensors"):
            assert main([*argv, "--model", path]) == 0
        assert capsys.readouterr().err == ""
    assert load_model("mine").name == "wavenet"
    assert load_model("bundled").plan == load_model().plan == load_model(BUNDLED).plan

    for argv, message in (
        (["sample", "mine", "--model", "out"], "model is given twice, by position and by --model"),
        (["train", "a.txt", "--data", "b.txt", "--resume", "--overwrite"], "--resume continues a run"),
        (
            ["sample", "mine", "-o", "words.xlsx"],
            "the output is a .txt, .csv or .jsonl file, not 'words.xlsx'",
        ),
        (["sample", "mine", "-o", "words.json.gz"], "the output is a .txt, .csv or .jsonl file"),
        (["draw", "all", "out.png"], "all pictures are written to a directory.*: give 'out'"),
        (["draw", "all", "pictures.pdf"], "all pictures are written to a directory"),
    ):
        with pytest.raises(SystemExit) as end:
            main(argv)
        assert end.value.code == 2
        err = capsys.readouterr().err
        assert re.search(message, err)
        assert len(err.splitlines()) == 1
    assert main(["sample", "mine", "-n", "2", "-o", "words.tsv"]) == 0


def test_the_command_makemore_is_installed() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["scripts"] == {
        "makemore": "makemore.commands.cli:main",
        project["project"]["name"]: "makemore.commands.cli:main",  # for uvx and pipx run
        **{f"makemore-{name}": f"makemore.commands.cli:{name}_main" for name in COMMANDS},
    }


@pytest.mark.full
def test_a_run_that_ends_early_says_why(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        "--steps",
        "100000",
        "--eval-every",
        "5",
        "--patience",
        "2",
        "--keep",
        "best",
        "--lr",
        "0.5",
        "--lr-adamw",
        "0.5",
    ]
    assert train(word_file, "--out-dir", tmp_path / "out", *flags) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("ended at step")]
    progress = load_model(tmp_path / "out").progress
    evaluated = [e for e in progress.evaluations[:-1] if e.val is not None]
    best = min(evaluated, key=lambda e: e.val)
    assert line == (
        f"ended at step {progress.step:,} of 100,000: the val loss has not fallen for 2 evaluations"
        f" (--patience); the network of step {best.step:,} is kept, which has the lowest val loss"
    )
    assert train(word_file, "--out-dir", tmp_path / "whole", "--steps", "3") == 0
    assert "ended at" not in capsys.readouterr().out


def test_why_no_cuda_graph_is_used_is_printed_once(
    word_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    note = "no CUDA graph: the steps draw random numbers on the CPU"
    from makemore.backprop.engine import BackpropEngine

    plain = BackpropEngine._recorded

    def noted(self: Any, step: Any, X: Any) -> Any:
        step.note = note
        return plain(self, step, X)

    monkeypatch.setattr(BackpropEngine, "_recorded", noted)
    flags = [
        "--steps",
        "6",
        "--log-every",
        "2",
        "--record-every",
        "2",
        "--ensemble",
        "2",
        "--engine",
        "backprop",
    ]
    assert train(word_file, "--out-dir", tmp_path / "out", *flags) == 0
    assert capsys.readouterr().out.splitlines().count(note) == 1


def test_stdout_is_put_back_in_a_process_that_does_not_print(
    word_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from makemore.commands import train as command
    from makemore.training.processes import Processes

    class Silent(Processes):
        is_first = property(lambda self: False)  # type: ignore[assignment]

    @contextlib.contextmanager
    def second(device: str) -> Any:
        yield Silent()

    before = sys.stdout
    monkeypatch.setattr(command, "connected", second)
    command.train({"data": str(word_file), "steps": 2, "device": "cpu"}, tmp_path / "out")
    assert sys.stdout is before


def test_a_network_that_is_not_the_runs_is_not_resumed(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert train(word_file, "--out-dir", out, "--steps", "2", "--recipe", "lecture") == 0
    capsys.readouterr()
    model = load_model(out)
    next(layer for layer in model.network.modules() if isinstance(layer, BatchNorm1d)).eps = 0.5
    save_model(Model(model.network, model.vocabulary, model.plan, model.progress), out / "model.safetensors")
    assert load_model(out).plan is None
    assert train_main(["--resume", "--out-dir", str(out), "--steps", "4"]) == 2
    assert "has another network than its run" in capsys.readouterr().err
    assert sample_main([str(out), "-n", "1"]) == 0
