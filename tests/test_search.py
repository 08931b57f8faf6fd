"""The search's script: what it is given, that its figures are makemore-train's, that it outlives kills."""

from __future__ import annotations

import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

optuna = pytest.importorskip("optuna", reason="Optuna is not installed: it comes with the extra 'search'")
search: Any = pytest.importorskip("search")

from makemore.commands.cli import train_main  # noqa: E402
from makemore.model_file import load_model  # noqa: E402

State = optuna.trial.TrialState
TINY = ["--n-hidden", "8", "--n-embd", "4", "--steps", "20", "--device", "cpu"]
RANGES = ["--search", "lr=0.005:0.1:log", "--search", "batch-size=32:128:32", "--search", "targets=soft,hard"]
SCRIPT = Path(search.__file__)


@pytest.fixture(autouse=True)
def drawn_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same trials each time."""
    monkeypatch.setattr(optuna.samplers, "TPESampler", partial(optuna.samplers.TPESampler, seed=1))


def run(argv: Sequence[object]) -> int:
    try:
        return int(search.main([str(arg) for arg in argv]))
    except SystemExit as stop:
        return int(stop.code or 0)


@contextmanager
def study_in(directory: Path) -> Iterator[Any]:
    storage = optuna.storages.RDBStorage(f"sqlite:///{directory / 'study.db'}")
    try:
        yield optuna.load_study(study_name="makemore", storage=storage)
    finally:
        storage.remove_session()
        storage.engine.dispose()


def trials_of(directory: Path) -> list[Any]:
    with study_in(directory) as study:
        return list(study.trials)


def test_a_search_and_what_it_found(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*RANGES, "--trials", 5, "--seeds", 7, "--out-dir", tmp_path, "--", "--data", word_file, *TINY]
    argv += ["--lr-other", "0.0123456"]
    assert run(argv) == 0
    out, err = capsys.readouterr()
    assert err == ""
    trials = trials_of(tmp_path)
    assert len(trials) == len(re.findall(r"^trial +\d: ", out, re.MULTILINE)) == 5
    assert trials[0].params == {"lr": 0.055, "batch_size": 128, "targets": "soft"}, "the defaults come first"
    value, default, command = re.search(
        r"best val of 5 whole trials: (\S+), of the defaults (\S+)\n(makemore-train .+)\n", out
    ).groups()  # type: ignore[union-attr]
    assert float(default) == pytest.approx(trials[0].value, abs=1e-4)
    assert float(value) == pytest.approx(min(trial.value for trial in trials), abs=1e-4)
    assert len({trial.params["batch_size"] % 32 for trial in trials}) == 1
    for name in search.PICTURES.split():
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name

    flags = shlex.split(command)
    assert flags[0] == "makemore-train"
    assert train_main([*flags[1:], "--seed", "7", "--out-dir", str(tmp_path / "out")]) == 0
    progress = load_model(tmp_path / "out" / "model.safetensors").progress
    assert progress is not None
    assert progress.evaluations[-1].val == min(trial.value for trial in trials)

    capsys.readouterr()
    assert run(argv) == 0
    assert command in capsys.readouterr().out
    assert len(trials_of(tmp_path)) == 5, "the same command goes on, and there is nothing left"
    argv[argv.index(7)] = 8
    assert run(argv) == 2
    assert "the study makemore was begun with other seeds: give the same" in capsys.readouterr().err


def test_trials_that_are_behind_or_cannot_be_are_given_up(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Learning rates of next to nothing are behind all others; teachers cannot be with hard targets."""
    monkeypatch.setattr(search, "FIRST_ONES", 1)
    common = ["--", "--data", word_file, *TINY]
    # However a seed is used, of 12 trials hardly all have the same rate.
    argv = ["--trials", 14, "--search", "lr_other=0.000001,0.02", "--out-dir", tmp_path / "a"]
    assert run([*argv, *common, "--lr", "0.00001"]) == 0
    states = {(t.params["lr_other"] < 0.01, t.state) for t in trials_of(tmp_path / "a")[2:]}
    assert states <= {(True, State.PRUNED), (False, State.COMPLETE), (False, State.PRUNED)}
    assert (True, State.PRUNED) in states
    assert re.search(r"val \d\.\d+, given up at \d+% of run 1; lr_other 1e-06", capsys.readouterr().out)
    argv = ["--trials", 6, "--search", "teachers=1,2", "--out-dir", tmp_path / "b"]
    assert run([*argv, *common, "--targets", "hard"]) == 0
    out = capsys.readouterr().out
    assert out.count("teachers need soft targets") == 6
    assert "no trial came to its end" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--search", "speed=1:2"], "there is no knob 'speed' to search, but steps, batch_size, lr, "),
        (["--search", "lr_drop=1:2"], "there is no knob 'lr_drop'"),
        (["--search", "lr=0.2:0.1"], "`low <= high` must hold"),
        (["--search", "lr=0.1:0.1"], "that is one value"),
        (["--search", "lr=0.1,0.10"], "that is one value"),
        (["--search", "lr=0:0.1:log"], "`low > 0` must hold"),
        (["--search", "lr=fast"], "give lr=LOW:HIGH, LOW:HIGH:STEP, LOW:HIGH:log or A,B,C"),
        (["--search", "lr=1:2:3:4"], "give lr=LOW:HIGH"),
        (["--search", "lr=1:2:3"], "that is one value"),
        (["--search", "n_hidden=64:128:0.5"], "give n_hidden=LOW:HIGH"),
        (["--search", "n_hidden=0:128"], "n_hidden must be from 1 to 16384, got 0"),
        (["--search", "drop=0:1.5"], "drop must be from 0 to 1, got 1.5"),
        (["--search", "targets=soft,firm"], "targets must be one of soft, hard, got 'firm'"),
        (["--search", "network=mlp,lstm"], "unknown network 'lstm'"),
        (["--search", "lr=1:2", "--search", "lr=1:3"], "a knob is given twice"),
        (["--search", "lr=1:2", "--", "--lr", "1"], "a knob is given twice"),
        (["--search", "lr=1:2", "--", "--speed", "1"], "makemore-train: unrecognized arguments: --speed 1"),
        (["--search", "lr=1:2", "--", "--seed", "1"], "a search has --seeds"),
        (["--search", "lr=1:2", "--", "--resume"], "a search keeps no run"),
        (["--search", "lr=1:2", "--seeds", "-1"], "seed must be from 0"),
        (["--search", "lr=1:2", "--", "--data", "/nowhere"], "cannot read the word list /nowhere"),
        (["--search", "lr=1:2", "--storage", "nothing"], "the study's database: Could not parse"),
        (
            ["--search", "lr=1:2", "--storage", "sqlite:////nowhere/a"],
            "database: unable to open database file",
        ),
        ([], "the following arguments are required: --search"),
    ],
)
def test_what_cannot_be_searched(
    flags: list[str],
    message: str,
    word_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "ATTEMPTS", 1)
    where = [] if "--data" in flags else ["--data", str(word_file)]
    flags = [*flags, *([] if "--" in flags else ["--"]), *where]
    assert run(["--out-dir", tmp_path, "--trials", 1, *flags]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert len((out + err).splitlines()) == 1


def told_and_alive(directory: Path) -> bool:
    """Whether a trial has told of a val loss and has a heartbeat, which comes from a thread of its own.

    Read without Optuna, which would make the tables, as the process under way may just be doing.
    """
    query = "SELECT COUNT(*) FROM trial_intermediate_values JOIN trial_heartbeats USING (trial_id)"
    uri = f"{(directory / 'study.db').as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            return bool(connection.execute(query).fetchone()[0])
    except sqlite3.OperationalError:  # there is nothing yet, or it is being written
        return False


def test_a_killed_trial_is_done_again(
    word_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that would never end, which has told of val losses, and one that had told nothing yet."""
    argv = ["--search", "lr=0.01,0.055", "--trials", "1", "--out-dir", str(tmp_path), "--"]
    argv += ["--data", str(word_file), *TINY, "--steps", "1000000", "--patience", "1000000"]
    process = subprocess.Popen([sys.executable, SCRIPT, *argv, "--eval-every", "10"])
    while not told_and_alive(tmp_path):
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with study_in(tmp_path) as study:
        study.ask()

    monkeypatch.setattr(search, "GRACE", 1)
    monkeypatch.setattr(search, "HEARTBEAT", 1)
    monkeypatch.setattr(search, "val_loss", lambda settings, report: settings["lr"])
    time.sleep(3)  # the database counts whole seconds
    assert run([*argv, "--eval-every", "10"]) == 0
    killed, silent, again = trials_of(tmp_path)
    assert (killed.state, silent.state, again.state) == (State.FAIL, State.FAIL, State.COMPLETE)
    assert again.system_attrs["failed_trial"] == killed.number
    assert again.params == killed.params == {"lr": 0.055}, "the defaults come first"
    assert again.value == 0.055


@pytest.mark.slow
def test_processes_share_a_study(word_file: Path, tmp_path: Path) -> None:
    """Two that begin at once: the trials are those of both, each done once."""
    argv = [*RANGES, "--trials", 6, "--out-dir", tmp_path, "--", "--data", word_file, *TINY]
    command = [sys.executable, SCRIPT, *map(str, argv)]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "ab"
    ]
    told = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    numbers = [re.findall(r"^trial +(\d+):", out, re.MULTILINE) for out, _ in told]
    trials = trials_of(tmp_path)
    assert sorted(int(n) for mine in numbers for n in mine) == list(range(len(trials)))
    assert 6 <= len(trials) <= 7
    assert {trial.state for trial in trials} <= {State.COMPLETE, State.PRUNED}
