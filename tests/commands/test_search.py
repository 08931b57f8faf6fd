"""``makemore-search``: its flags, that its losses are those of makemore-train, and that it can be stopped."""

from __future__ import annotations

import re
import shlex
import shutil
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

from makemore.commands.cli import search_main, train_main
from makemore.run.model_file import load_model

optuna = pytest.importorskip("optuna", reason='Optuna is not installed: pip install -e ".[test-all]"')
study_module: Any = pytest.importorskip("makemore.search.study")
pictures: Any = pytest.importorskip("makemore.search.pictures")

State = optuna.trial.TrialState
TINY = ["--n-hidden", "8", "--n-embd", "4", "--steps", "20", "--device", "cpu"]
RANGES = ["--search", "lr=0.005:0.1:log", "--search", "batch-size=32:128:32", "--search", "targets=soft,hard"]
COMMAND = [sys.executable, "-m", "makemore", "search"]


@pytest.fixture(autouse=True)
def seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna suggests the same values each time."""
    monkeypatch.setattr(optuna.samplers, "TPESampler", partial(optuna.samplers.TPESampler, seed=1))


def run_search(argv: Sequence[object]) -> int:
    try:
        return search_main([str(arg) for arg in argv])
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


@pytest.mark.full
def test_a_search_and_its_results(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*RANGES, "--trials", 5, "--seeds", 7, "--out-dir", tmp_path, "--", "--data", word_file, *TINY]
    argv += ["--lr-adamw", "0.0123456"]
    assert run_search(argv) == 0
    out, err = capsys.readouterr()
    assert err == ""
    trials = trials_of(tmp_path)
    assert len(trials) == len(re.findall(r"^trial +\d: ", out, re.MULTILINE)) == 5
    assert trials[0].params == {"lr": 0.055, "batch_size": 128, "targets": "soft"}, "the defaults come first"
    value, default, command = re.search(
        r"best val of 5 completed trials: (\S+), of the defaults (\S+)\n(makemore-train .+)\n", out
    ).groups()  # type: ignore[union-attr]
    assert float(default) == pytest.approx(trials[0].value, abs=1e-4)
    assert float(value) == pytest.approx(min(trial.value for trial in trials), abs=1e-4)
    assert len({trial.params["batch_size"] % 32 for trial in trials}) == 1
    for name in pictures.PICTURES:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name

    flags = shlex.split(command)
    assert flags[0] == "makemore-train"
    assert train_main([*flags[1:], "--seed", "7", "--out-dir", str(tmp_path / "out")]) == 0
    progress = load_model(tmp_path / "out" / "model.safetensors").progress
    assert progress is not None
    assert progress.evaluations[-1].val == min(trial.value for trial in trials)

    capsys.readouterr()
    assert run_search(argv) == 0
    assert command in capsys.readouterr().out
    assert len(trials_of(tmp_path)) == 5, (
        "the same command continues the study, and there is nothing left to do"
    )
    argv[argv.index(7)] = 8
    assert run_search(argv) == 2
    assert "the study makemore was begun with other seeds: give the same" in capsys.readouterr().err


@pytest.mark.full
def test_a_list_that_disappears_ends_the_search_and_loses_no_trial(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["--search", "lr=0.01,0.055", "--trials", "2", "--out-dir", str(tmp_path), "--"]
    listed, moved = tmp_path / "listed.txt", tmp_path / "elsewhere"
    shutil.copy(word_file, listed)
    argv += ["--data", str(listed), *TINY]
    val_loss = study_module.val_loss

    def then_move(settings: Any, report: Any) -> float:
        found: float = val_loss(settings, report)
        listed.rename(moved)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(study_module, "val_loss", then_move)
        assert run_search(argv) == 2
    out, err = capsys.readouterr()
    assert out.startswith("trial   0: val ")
    assert "trial   1: stopped; lr " in out
    assert err == f"makemore-search: cannot read the word list {listed}: No such file or directory\n"
    moved.rename(listed)
    assert run_search(argv) == 0
    states = [trial.state for trial in trials_of(tmp_path)]
    assert states == [State.COMPLETE, State.FAIL, State.COMPLETE]


@pytest.mark.full
def test_bad_and_impossible_trials_are_pruned(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tiny learning rate is worse than all others; teachers do not go with hard targets."""
    monkeypatch.setattr(study_module, "UNPRUNED_TRIALS", 1)
    common = ["--", "--data", word_file, *TINY]
    # Whatever the seed, 12 trials hardly ever have the same rate.
    argv = ["--trials", 14, "--search", "lr_adamw=0.000001,0.02", "--out-dir", tmp_path / "a"]
    assert run_search([*argv, *common, "--lr", "0.00001"]) == 0
    states = {(t.params["lr_adamw"] < 0.01, t.state) for t in trials_of(tmp_path / "a")[2:]}
    assert states <= {(True, State.PRUNED), (False, State.COMPLETE), (False, State.PRUNED)}
    assert (True, State.PRUNED) in states
    assert re.search(r"val \d\.\d+, pruned at \d+% of run 1; lr_adamw 1e-06", capsys.readouterr().out)
    argv = ["--trials", 6, "--search", "teachers=1,2", "--out-dir", tmp_path / "b"]
    assert run_search([*argv, *common, "--targets", "hard"]) == 0
    out = capsys.readouterr().out
    assert out.count("teachers need soft targets") == 6
    assert "no trial was completed" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--search", "speed=1:2"],
            "there is no setting 'speed' to search: choose from steps, batch_size, lr, ",
        ),
        (["--search", "lr_drop=1:2"], "there is no setting 'lr_drop'"),
        (["--search", "lr=0.2:0.1"], "`low <= high` must hold"),
        (["--search", "lr=0.1:0.1"], "that is only one value"),
        (["--search", "lr=0.1,0.10"], "that is only one value"),
        (["--search", "lr=0:0.1:log"], "`low > 0` must hold"),
        (["--search", "lr=fast"], "give lr=LOW:HIGH, LOW:HIGH:STEP, LOW:HIGH:log or A,B,C"),
        (["--search", "lr=1:2:3:4"], "give lr=LOW:HIGH"),
        (["--search", "lr=1:2:3"], "that is only one value"),
        (["--search", "n_hidden=64:128:0.5"], "give n_hidden=LOW:HIGH"),
        (["--search", "n_hidden=0:128"], "n_hidden must be a whole number from 1 to 16,384, got 0"),
        (["--search", "context_dropout=0:1.5"], "context_dropout must be a number from 0 to 1, got 1.5"),
        (["--search", "targets=soft,firm"], "targets must be one of soft, hard, got 'firm'"),
        (["--search", "network=mlp,lstm"], "unknown network 'lstm'"),
        (["--search", "lr=1:2", "--search", "lr=1:3"], "a setting is given twice"),
        (["--search", "lr=1:2", "--", "--lr", "1"], "a setting is given twice"),
        (["--search", "lr=1:2", "--", "--speed", "1"], "makemore-train: unrecognized arguments: --speed"),
        (["--search", "lr=1:2", "--", "--seed", "1"], "a search has --seeds"),
        (["--search", "lr=1:2", "--", "--data", "a.txt", "-"], "and reads its list many times"),
        (["--search", "lr=1:2", "--", "--resume"], "a search keeps no runs"),
        (["--search", "lr=1:2", "--seeds", "-1"], "argument --seeds: must be a whole number from 0"),
        (["--search", "lr=1:2", "--trials", "0"], "argument --trials: must be a whole number from 1"),
        (["--search", "lr=1:2", "--", "--out-dir", "a"], "a search keeps no runs"),
        (["--search", "lr=1:2", "--", "/nowhere"], "cannot read the word list /nowhere"),
        (["--search", "lr=1:2", "--", "--data", "/nowhere"], "cannot read the word list /nowhere"),
        (["--search", "lr=1:2", "--storage", "nothing"], "the study's database: Could not parse"),
        (
            ["--search", "lr=1:2", "--storage", "sqlite:////nowhere/a"],
            "database: unable to open database file",
        ),
        ([], "the following arguments are required: --search"),
    ],
)
def test_impossible_searches_are_refused(
    flags: list[str],
    message: str,
    word_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(study_module, "ATTEMPTS", 1)
    where = [] if "--data" in flags or "/nowhere" in flags else ["--data", str(word_file)]
    flags = [*flags, *([] if "--" in flags else ["--"]), *where]
    assert run_search(["--out-dir", tmp_path, "--trials", 1, *flags]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert len((out + err).splitlines()) == 1


def has_reported_and_is_alive(directory: Path) -> bool:
    """Whether a trial has reported a val loss and has a heartbeat, which comes from another thread.

    Read without Optuna, which would create the tables; the process may be doing that right now.
    """
    query = "SELECT COUNT(*) FROM trial_intermediate_values JOIN trial_heartbeats USING (trial_id)"
    uri = f"{(directory / 'study.db').as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            return bool(connection.execute(query).fetchone()[0])
    except sqlite3.OperationalError:  # there is no database yet, or it is being written
        return False


def test_without_optuna(word_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert run_search(["--search", "lr=1:2", "--", "--data", word_file]) == 2
    assert capsys.readouterr() == (
        "",
        "makemore-search: a search needs the package optuna, version 5 or later:"
        " pip install --upgrade optuna\n",
    )


def test_without_the_package_of_a_database(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    argv = ["--search", "lr=1:2", "--out-dir", tmp_path, "--storage", "postgresql+psycopg://localhost/a"]
    assert run_search([*argv, "--", "--data", word_file]) == 2
    message = 'the study\'s database needs the package psycopg: pip install "psycopg[binary]"'
    assert capsys.readouterr() == ("", f"makemore-search: {message}\n")


@pytest.mark.full
def test_the_trial_of_an_interrupted_search_is_done_again(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the first trial, the one with the default settings."""

    def interrupted(settings: Any, report: Any) -> float:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError

    argv = ["--search", "lr=0.01,0.055", "--trials", "1", "--out-dir", str(tmp_path), "--"]
    argv += ["--data", str(word_file), *TINY]
    with monkeypatch.context() as patch:
        patch.setattr(study_module, "val_loss", interrupted)
        assert run_search(argv) == 128 + signal.SIGINT
    out, err = capsys.readouterr()
    assert out.startswith("trial   0: stopped; lr 0.055; ")
    assert err == "makemore-search: interrupted; the same command continues the search\n"
    assert run_search(argv) == 0
    assert "best val of 1 completed trials: " in (out := capsys.readouterr().out)
    assert ", of the defaults " in out
    stopped, again = trials_of(tmp_path)
    assert (stopped.state, again.state) == (State.FAIL, State.COMPLETE)
    assert again.params == stopped.params == {"lr": 0.055}


@pytest.mark.full
def test_killed_trials_are_done_again(
    word_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that would never end and has reported val losses, and one that has not reported anything."""
    argv = ["--search", "lr=0.01,0.055", "--trials", "1", "--out-dir", str(tmp_path), "--"]
    argv += ["--data", str(word_file), *TINY, "--steps", "1000000", "--patience", "1000000"]
    process = subprocess.Popen([*COMMAND, *argv, "--eval-every", "10"])
    while not has_reported_and_is_alive(tmp_path):
        assert process.poll() is None
        time.sleep(0.2)
    process.kill()
    process.wait()
    with study_in(tmp_path) as study:
        study.ask()  # a trial without a heartbeat

    monkeypatch.setattr(study_module, "GRACE", 1)
    monkeypatch.setattr(study_module, "HEARTBEAT", 1)
    monkeypatch.setattr(study_module, "val_loss", lambda settings, report: settings["lr"])
    time.sleep(3)  # the database has whole seconds
    assert run_search([*argv, "--eval-every", "10"]) == 0
    killed, unreported, again = trials_of(tmp_path)
    assert (killed.state, unreported.state, again.state) == (State.FAIL, State.FAIL, State.COMPLETE)
    assert again.system_attrs["failed_trial"] == killed.number
    assert again.params == killed.params == {"lr": 0.055}, "the defaults come first"
    assert again.value == 0.055


@pytest.mark.full
def test_processes_share_a_study(word_file: Path, tmp_path: Path) -> None:
    """Two that start at the same time: the trials are those of both, each done once."""
    argv = [*RANGES, "--trials", 6, "--out-dir", tmp_path, "--", "--data", word_file, *TINY]
    command = [*COMMAND, *map(str, argv)]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "ab"
    ]
    outputs = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    numbers = [re.findall(r"^trial +(\d+):", out, re.MULTILINE) for out, _ in outputs]
    trials = trials_of(tmp_path)
    assert sorted(int(n) for own in numbers for n in own) == list(range(len(trials)))
    assert 6 <= len(trials) <= 7
    assert {trial.state for trial in trials} <= {State.COMPLETE, State.PRUNED}
