"""Runs that are stopped: resuming to the bit, signals, locks, full disks, divergence."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from forged_files import content_of, forged
from kill_and_resume import main as kill_and_resume
from kill_and_resume import progress_on_disk, wait
from kill_and_resume import start as fork_run
from tqdm import tqdm

from makemore.backprop import windows
from makemore.commands import train
from makemore.commands.cli import sample_main, train_main
from makemore.core.layer import Layer
from makemore.data.word_list import load_words
from makemore.lecture.layers import Tanh
from makemore.modern import teachers
from makemore.paper.layers import Dropout
from makemore.paper.networks import hierarchical
from makemore.run.architecture import register_layer
from makemore.run.catalog import ENGINES, NETWORKS, RECIPES, Plan, network_plan
from makemore.run.frames import frame_files
from makemore.run.model_file import load_model
from makemore.run.signals import Signals
from makemore.training.processes import Processes
from makemore.training.trainer import Trainer

TINY = [
    "--recipe", "lecture", "--network", "hierarchical", "--n-embd", "4", "--n-hidden", "12",
    "--device", "cpu", "--log-every", "20", "--save-every", "0",
]  # fmt: skip


def argv(word_file: Path, out_dir: Path, *more: object) -> list[str]:
    return [*TINY, "--data", str(word_file), "--out-dir", str(out_dir), *map(str, more)]


@pytest.fixture
def start() -> Iterator[Callable[..., int]]:
    """Start runs in processes that do not outlive the test."""
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork a process")
    pids: list[int] = []

    def fork(*args: Any) -> int:
        pids.append(fork_run(*args))
        return pids[-1]

    yield fork
    for pid in pids:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def wait_for_step(out_dir: Path, step: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        progress = progress_on_disk(out_dir)
        if progress is not None and progress.step >= step:
            return
        time.sleep(0.005)
    raise AssertionError(f"the run does not reach step {step}")


def assert_matches(pattern: str, text: str) -> None:
    assert re.search(pattern, text), text


def wait_for_line(log: Path, text: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if log.exists() and text in log.read_text(encoding="utf-8"):
            return
        time.sleep(0.005)
    raise AssertionError(f"{text!r} is not printed")


def stops_itself(text: str, signum: signal.Signals) -> Callable[[], None]:
    """A function that makes a run send itself a signal when it prints a text, however busy the machine is."""

    def prepare() -> None:
        out = sys.stdout
        write = out.write

        def write_and_stop(printed: str) -> int:
            written = write(printed)
            if text in printed:
                os.kill(os.getpid(), signum)
            return written

        out.write = write_and_stop  # type: ignore[method-assign]

    return prepare


def error_of(capsys: pytest.CaptureFixture[str], code: int) -> str:
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    return f"{code}: {error.strip()}"


def assert_same_end(one: Path, other: Path, *files: str) -> None:
    """Two runs have the same losses, and the same networks and states in their model files and ``files``."""
    assert (one / "losses.csv").read_bytes() == (other / "losses.csv").read_bytes()
    assert_same_networks(one, other, "model.safetensors", *files)


def assert_same_networks(one: Path, other: Path, *files: str) -> None:
    for file in files:
        a, b = load_model(one / file), load_model(other / file)
        assert torch.equal(a.progress.generator, b.progress.generator)
        for tensors, others in (
            (a.network.state_dict(), b.network.state_dict()),
            (a.progress.state, b.progress.state),
        ):
            assert tensors.keys() == others.keys()
            for name, tensor in tensors.items():
                assert torch.equal(tensor, others[name]), (file, name)


@pytest.mark.full
def test_runs_killed_at_random_moments_are_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    assert kill_and_resume(["--kills", "10", "--steps", "60"]) == 0
    summary = capsys.readouterr().out
    assert "differences: 0" in summary
    assert "files lost: 0" in summary


def test_a_killed_run_does_not_keep_a_lock(tmp_path: Path, start: Callable[..., int]) -> None:
    """tqdm has one lock for a process and all its forks: a killed run that held it would block the others."""
    tqdm.get_lock()

    def take_it(then: int) -> None:
        signal.alarm(20)
        tqdm.get_lock().acquire()
        os.kill(os.getpid(), then)

    assert wait(start([], tmp_path / "log", partial(take_it, signal.SIGKILL))) == -signal.SIGKILL
    assert wait(start([], tmp_path / "log", partial(take_it, signal.SIGTERM))) == -signal.SIGTERM


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_say_how_to_resume(
    word_file: Path, tmp_path: Path, signum: signal.Signals, code: int, start: Callable[..., int]
) -> None:
    flags = argv(word_file, tmp_path / "a", "--save-every", 1e9, "--steps", 10**6)
    pid = start(flags, tmp_path / "log")
    wait_for_line(tmp_path / "log", "     20/1000000:")
    os.kill(pid, signum)
    assert wait(pid) == code
    log = (tmp_path / "log").read_text()
    progress = progress_on_disk(tmp_path / "a")
    assert progress is not None
    assert 20 <= progress.step < 10**6
    assert log.splitlines()[-1] == (
        f"makemore-train: interrupted; step {progress.step:,} is saved; resume with:"
        f" makemore-train --resume --out-dir {tmp_path / 'a'}"
    )
    assert "Traceback" not in log


def test_a_second_signal_stops_the_run_at_once(
    word_file: Path, tmp_path: Path, start: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent in the middle of a block, after the first was caught: two signals at once can arrive as one."""

    def slow_down() -> None:
        advance, handle = Trainer.advance, Signals._handle

        def slow_advance(self: Trainer, steps: int) -> torch.Tensor:
            print("a block begins", flush=True)
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                advance(self, 1)
            return advance(self, 1)

        def handle_and_report(self: Signals, *args: Any) -> None:
            handle(self, *args)
            (tmp_path / "caught").write_text("the first signal")

        monkeypatch.setattr(Trainer, "advance", slow_advance)
        monkeypatch.setattr(Signals, "_handle", handle_and_report)

    pid = start(argv(word_file, tmp_path / "a", "--save-every", "1e9"), tmp_path / "log", slow_down)
    wait_for_line(tmp_path / "log", "a block begins")
    os.kill(pid, signal.SIGINT)
    wait_for_line(tmp_path / "caught", "the first signal")
    os.kill(pid, signal.SIGINT)
    assert wait(pid) == 130
    assert "interrupted; step 0 is saved; resume with" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("network", ["hierarchical", "dropout"])
def test_an_extended_run_ends_as_one_of_all_steps(network: str, word_file: Path, tmp_path: Path) -> None:
    """Settings are given whose defaults depend on the steps."""
    flags = ["--network", network, "--lr-drop", "150", "--eval-every", "60"]
    assert train_main(argv(word_file, tmp_path / "a", "--steps", "200", *flags)) == 0
    assert train_main(argv(word_file, tmp_path / "b", "--steps", "90", *flags)) == 0
    assert train_main(["--resume", "--out-dir", str(tmp_path / "b"), "--steps", "200"]) == 0
    whole, resumed = (load_model(tmp_path / name / "model.safetensors").progress for name in "ab")
    assert torch.equal(whole.losses, resumed.losses)
    assert whole.evaluations[-1] == resumed.evaluations[-1]
    assert_same_networks(tmp_path / "a", tmp_path / "b", "model.safetensors")


@pytest.mark.parametrize(
    ("recipe", "engine", "members"),
    [
        ("lecture", "backprop", 1),
        pytest.param("modern", "backprop", 1, marks=pytest.mark.full),
        pytest.param("lecture", "autograd", 1, marks=pytest.mark.full),
        pytest.param("modern", "autograd", 1, marks=pytest.mark.full),
        pytest.param("lecture", "windows", 2, marks=pytest.mark.full),
        ("modern", "windows", 2),
    ],
)
def test_every_recipe_and_engine_resumes_bit_for_bit(
    word_file: Path, tmp_path: Path, recipe: str, engine: str, members: int, start: Callable[..., int]
) -> None:
    """Stopped by a signal in the middle of an epoch."""
    flags = ["--recipe", recipe, "--engine", engine, "--steps", "150", "--eval-every", "40"]
    flags += ["--ensemble", str(members), "--keep-every", "25"]
    assert train_main(argv(word_file, tmp_path / "a", *flags)) == 0
    stop = stops_itself("     60/    150:", signal.SIGTERM)
    assert wait(start(argv(word_file, tmp_path / "b", *flags), tmp_path / "log", stop)) == 143
    assert train_main(["--resume", "--out-dir", str(tmp_path / "b")]) == 0
    assert_same_end(tmp_path / "a", tmp_path / "b")
    kept, again = (frame_files(tmp_path / name) for name in "ab")
    assert [*kept] == [*again] == [*range(0, 151, 25)]
    assert all(path.read_bytes() == again[step].read_bytes() for step, path in kept.items())


@pytest.mark.parametrize(
    ("network", "engine", "members"),
    [
        pytest.param("hierarchical", "windows", 1, marks=pytest.mark.full),
        pytest.param("hierarchical", "windows", 2, marks=pytest.mark.full),
        ("dropout", "windows", 2),
        pytest.param("dropout", "autograd", 1, marks=pytest.mark.full),
    ],
)
def test_a_run_with_teachers_resumes_bit_for_bit(
    network: str,
    engine: str,
    members: int,
    word_file: Path,
    tmp_path: Path,
    start: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped before the second teacher is trained; the first is not trained again."""

    def stops_at_the_second() -> None:
        train_teacher = teachers._trained_teacher

        def stop_at_the_second(i: int, *rest: Any) -> Trainer:
            if i == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return train_teacher(i, *rest)

        monkeypatch.setattr(teachers, "_trained_teacher", stop_at_the_second)

    flags = ["--recipe", "modern", "--teachers", "2", "--steps", "150", "--eval-every", "40"]
    flags += ["--network", network, "--engine", engine, "--ensemble", str(members)]
    assert train_main(argv(word_file, tmp_path / "a", *flags)) == 0
    assert wait(start(argv(word_file, tmp_path / "b", *flags), tmp_path / "log", stops_at_the_second)) == 143
    assert not (tmp_path / "b" / "teacher-2.safetensors").exists()
    first = (tmp_path / "b" / "teacher-1.safetensors").stat().st_mtime_ns
    assert train_main(["--resume", "--out-dir", str(tmp_path / "b")]) == 0
    assert (tmp_path / "b" / "teacher-1.safetensors").stat().st_mtime_ns == first
    assert_same_end(tmp_path / "a", tmp_path / "b", "teacher-1.safetensors", "teacher-2.safetensors")
    weights = [
        load_model(tmp_path / "a" / f"teacher-{i}.safetensors").network.parameters()[0] for i in (1, 2)
    ]
    assert not torch.equal(*weights)


@pytest.mark.full
def test_a_run_with_a_trained_teacher_resumes_bit_for_bit_without_its_file(
    word_file: Path, tmp_path: Path, start: Callable[..., int]
) -> None:
    """The run keeps a copy. With more weight on the teacher, the student's distributions are closer to it."""
    teacher, modern = tmp_path / "teacher", ["--recipe", "modern", "--eval-every", "40"]
    assert train_main(argv(word_file, teacher, *modern, "--ensemble", "2", "--steps", "200")) == 0
    flags = [*modern, "--ensemble", "1", "--steps", "150", "--distil-from", str(teacher), "--samples", "0"]
    assert train_main(argv(word_file, tmp_path / "a", *flags)) == 0
    stop = stops_itself("     60/    150:", signal.SIGTERM)
    assert wait(start(argv(word_file, tmp_path / "b", *flags), tmp_path / "log", stop)) == 143
    light = [*flags, "--teacher-weight", "0.01"]
    assert train_main(argv(word_file, tmp_path / "light", *light)) == 0
    X = load_words(word_file).data(8).train[:1000][0]
    taught = load_model(teacher / "model.safetensors").network
    shutil.rmtree(teacher)
    assert train_main(["--resume", "--out-dir", str(tmp_path / "b")]) == 0
    assert_same_end(tmp_path / "a", tmp_path / "b")

    def distance(name: str) -> float:
        with torch.no_grad():
            logprobs = torch.log_softmax(load_model(tmp_path / name).network(X), 1)
            return (
                (taught(X).log_softmax(1).exp() * (taught(X).log_softmax(1) - logprobs)).sum(1).mean().item()
            )

    assert distance("a") < 0.8 * distance("light")


def test_bad_teachers_are_refused(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    greek = tmp_path / "greek.txt"
    greek.write_text("άννα\nμαρία\nνίκος\nγιώργος\nελένη\nσοφία\nπέτρος\n", encoding="utf-8")
    assert train_main(argv(greek, tmp_path / "greek", "--steps", "2", "--samples", "0")) == 0
    short = ["--network", "mlp", "--block-size", "3", "--steps", "2", "--samples", "0"]
    assert train_main(argv(word_file, tmp_path / "short", *short)) == 0
    modern = ["--recipe", "modern", "--steps", "4"]
    for flags, message in (
        (
            ["--distil-from", tmp_path / "greek"],
            "--distil-from needs a network trained on the same kind of words",
        ),
        (
            ["--distil-from", tmp_path / "short"],
            "--distil-from needs a network trained on the same kind of words",
        ),
        (["--distil-from", tmp_path / "missing"], "No such file or directory"),
        (["--distil-from", "bundled", "--teachers", 2], "give --teachers or --distil-from, not both"),
        (["--distil-from", "bundled", "--targets", "hard"], "teachers need soft targets: leave out"),
        (["--distil-from", "bundled", "--recipe", "lecture"], "the lecture recipe has no --distil-from"),
    ):
        capsys.readouterr()
        assert train_main(argv(word_file, tmp_path / "out", *modern, *flags)) == 2
        err = capsys.readouterr().err
        assert message in err
        assert len(err.splitlines()) == 1
        assert not (tmp_path / "out" / "model.safetensors").exists()


def test_dropout_is_part_of_the_network_and_of_a_resumed_run(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--dropout", "0.25", "--steps", "60", "--samples", "0"]
    assert train_main(argv(word_file, tmp_path / "a", *flags)) == 0
    assert "n_hidden 12, dropout 0.25\n" in capsys.readouterr().out
    model = load_model(tmp_path / "a")
    assert model.plan == network_plan("hierarchical", n_embd=4, n_hidden=12, dropout=0.25)
    dropped = [layer.p for layer in model.network.modules() if isinstance(layer, Dropout)]
    assert dropped == [0.25] * 3
    assert train_main(["--resume", "--out-dir", str(tmp_path / "a"), "--steps", "90"]) == 0
    assert "n_hidden 12, dropout 0.25\n" in capsys.readouterr().out


class Swish(Layer):
    """A layer without declarations and without a hand-derived gradient."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.out = x * torch.sigmoid(x)
        return self.out


def with_swish(*sizes: int) -> list[Layer]:
    return [Swish() if isinstance(layer, Tanh) else layer for layer in hierarchical(*sizes)]


def test_a_network_that_only_autograd_can_train(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NETWORKS, "swish", Plan("swish", 8, 4, 12, with_swish))
    flags = argv(word_file, tmp_path / "a", "--network", "swish", "--steps", 20)
    for engine in ("windows", "backprop"):
        error = error_of(capsys, train_main([*flags, "--engine", engine]))
        assert_matches(rf"2: .* --engine {engine}: there is no hand-derived gradient for Swish\(\)", error)
        assert not (tmp_path / "a").exists()
    # Before the first step, not after the training.
    error = error_of(capsys, train_main([*flags, "--engine", "autograd"]))
    assert_matches(r"2: .* layer 4 is a Swish, .*: call makemore\.register_layer\(Swish", error)
    register_layer(Swish)
    assert train_main([*flags, "--engine", "autograd"]) == 0
    assert sample_main([str(tmp_path / "a"), "--with-score", "-n", "3"]) == 0
    assert len(re.findall(r"\t-\d", capsys.readouterr().out)) == 3


@pytest.mark.parametrize("members", [1, pytest.param(2, marks=pytest.mark.full)])
@pytest.mark.parametrize(
    "engine", ["windows", *(pytest.param(e, marks=pytest.mark.full) for e in ENGINES if e != "windows")]
)
@pytest.mark.parametrize("recipe", RECIPES)
def test_layers_that_draw_random_numbers_resume_bit_for_bit(
    recipe: str,
    engine: str,
    members: int,
    word_file: Path,
    tmp_path: Path,
    start: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Resumed with other log lines, so that batches are drawn in other numbers at a time."""
    monkeypatch.setattr(windows, "MIN_WORK", 0)  # so that batches as small as these have windows
    flags = ["--network", "dropout", "--recipe", recipe, "--engine", engine, "--steps", "75"]
    flags += ["--eval-every", "40", "--ensemble", str(members)]
    assert train_main(argv(word_file, tmp_path / "a", *flags)) == 0
    stop = stops_itself("     20/     75:", signal.SIGTERM)
    assert wait(start(argv(word_file, tmp_path / "b", *flags), tmp_path / "log", stop)) == 143
    assert ("repeated windows computed once" in (tmp_path / "log").read_text()) == (engine == "windows")
    stopped = load_model(tmp_path / "b" / "model.safetensors").progress
    assert stopped.step < 75
    generators = [name for name in stopped.state if name.startswith("generator.")]
    assert len(generators) == 3 * members
    assert len({stopped.state[name].numpy().tobytes() for name in generators}) == 3 * members
    assert train_main(["--resume", "--out-dir", str(tmp_path / "b"), "--log-every", "7"]) == 0
    assert_same_end(tmp_path / "a", tmp_path / "b")


def test_masks_depend_on_the_seed_and_differ_between_steps(word_file: Path, tmp_path: Path) -> None:
    def state(seed: int, steps: int) -> dict[str, torch.Tensor]:
        out = tmp_path / f"{seed}-{steps}"
        flags = ["--network", "dropout", "--steps", steps, "--seed", seed, "--samples", 0]
        assert train_main(argv(word_file, out, *flags)) == 0
        found = load_model(out / "model.safetensors").progress.state
        return {name: state for name, state in found.items() if name.startswith("generator.")}

    states = [state(1, 2), state(1, 3), state(2, 2)]
    assert len({found[name].numpy().tobytes() for found in states for name in found}) == 9


def test_several_processes_refuse_layers_that_draw_random_numbers(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is written, and a run of one process stays as it is."""
    flags = argv(word_file, tmp_path / "a", "--network", "dropout", "--steps", 10, "--samples", 0)
    assert train_main([*flags[:-2], "--out-dir", str(tmp_path / "one"), *flags[-2:]]) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    capsys.readouterr()
    monkeypatch.setattr(train, "connected", lambda device: nullcontext(Processes(2, 0, "gloo")))
    message = r"2: makemore-train: Dropout\(0\.1\) draws random numbers: train this network with one process$"
    assert_matches(message, error_of(capsys, train_main(flags)))
    assert not (tmp_path / "a").exists()
    resume = ["--resume", "--steps", "20", "--out-dir", str(tmp_path / "one")]
    assert_matches(message, error_of(capsys, train_main(resume)))
    assert {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()} == before


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("run:state.generator.5"),
        lambda tensors: tensors.update({"run:state.generator.5": torch.zeros(5056)}),
        lambda tensors: tensors.update({"run:state.generator.5": torch.zeros(7, dtype=torch.uint8)}),
    ],
)
def test_resume_refuses_forged_generators(
    change: Callable[[dict[str, torch.Tensor]], object],
    word_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert train_main(argv(word_file, out, "--network", "dropout", "--steps", 5, "--samples", 0)) == 0
    capsys.readouterr()
    content = content_of((out / "model.safetensors").read_bytes())
    change(content["tensors"])
    (out / "model.safetensors").write_bytes(forged(content))
    code = train_main(["--resume", "--out-dir", str(out), "--steps", "9"])
    assert_matches(r"2: .*model\.safetensors has an invalid training state$", error_of(capsys, code))


@pytest.fixture
def stopped(word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The directory of a run of 40 steps."""
    assert train_main(argv(word_file, tmp_path / "out", "--steps", "40")) == 0
    capsys.readouterr()
    return tmp_path / "out"


@pytest.mark.full
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--lr", "0.2"],
            "2: makemore-train: --lr is 0.1 in the run to resume and cannot be changed to 0.2",
        ),
        (["--n-hidden", "13"], "2: makemore-train: --n-hidden is 12 .*cannot be changed to 13"),
        (["--seed", "1"], "2: makemore-train: --seed is 42"),
        (["--ensemble", "2"], "2: makemore-train: --ensemble is 1"),
        (["--batch-size", "64"], "--batch-size is 32"),
        ([], "2: makemore-train: the run in .* is finished at step 40: give it more --steps"),
        (["--steps", "30"], "finished at step 40: give it more --steps"),
    ],
)
def test_resume_refuses_what_may_not_change(
    stopped: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (stopped / "model.safetensors").read_bytes()
    code = train_main(["--resume", "--out-dir", str(stopped), *flags])
    assert_matches(message, error_of(capsys, code))
    assert (stopped / "model.safetensors").read_bytes() == before


def test_a_setting_that_is_not_in_the_file_has_its_default(
    word_file: Path, stopped: Path, tmp_path: Path
) -> None:
    path = stopped / "model.safetensors"
    content = content_of(path.read_bytes())
    del content["progress"]["settings"]["stacks"]
    path.write_bytes(forged(content))
    assert train_main(["--resume", "--out-dir", str(stopped), "--steps", "60"]) == 0
    assert train_main(argv(word_file, tmp_path / "whole", "--steps", "60", "--lr-drop", "30")) == 0
    resumed, whole = (
        load_model(directory / path.name).progress for directory in (stopped, tmp_path / "whole")
    )
    assert torch.equal(resumed.losses, whole.losses)


def test_resume_refuses_another_list(
    stopped: Path, word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "moved.txt"
    moved.write_bytes(word_file.read_bytes() + b"\nextra\n")
    resume = ["--resume", "--out-dir", str(stopped), "--steps", "60", "--data", str(moved)]
    assert_matches(
        "2: .*the word list .*moved.txt differs from the run's; give that list with --data PATH",
        error_of(capsys, train_main(resume)),
    )
    moved.write_bytes(word_file.read_bytes())
    assert train_main(resume) == 0


def test_a_list_given_again_is_found_from_another_directory(
    stopped: Path, word_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(word_file.parent)
    resume = ["--resume", "--out-dir", str(stopped.resolve())]
    assert train_main([*resume, "--steps", "60", "--data", word_file.name]) == 0
    monkeypatch.chdir(tmp_path)
    assert train_main([*resume, "--steps", "61"]) == 0


def test_resume_needs_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = train_main(["--resume", "--out-dir", str(tmp_path)])
    assert_matches("2: .*no run to resume in", error_of(capsys, code))
    torch.save({"format": "makemore model", "version": 1}, tmp_path / "model.pt")
    code = train_main(["--resume", "--out-dir", str(tmp_path)])
    assert_matches(
        r"2: .*model\.pt was written by a pre-release of makemore; train it again$", error_of(capsys, code)
    )
    (tmp_path / "model.safetensors").write_bytes(b"junk")
    code = train_main(["--resume", "--out-dir", str(tmp_path)])
    assert_matches(r"2: .*model\.safetensors is not a makemore model file", error_of(capsys, code))


def test_resume_refuses_an_empty_file_and_a_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    code = train_main(["--resume", "--out-dir", str(tmp_path)])
    assert_matches(r"2: .*model\.safetensors is not a makemore model file", error_of(capsys, code))
    path.unlink()
    path.mkdir()
    code = train_main(["--resume", "--out-dir", str(tmp_path)])
    assert_matches(r"2: .*cannot read .*model\.safetensors: Is a directory", error_of(capsys, code))


def test_resume_refuses_forged_settings(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (stopped / "model.safetensors").read_bytes()
    for change in ({"steps": "x"}, {"batch_size": 0}, {"lr": None}, {"extra": 1}, {"lr": float("nan")}):
        content = content_of(whole)
        content["progress"]["settings"].update(change)
        (stopped / "model.safetensors").write_bytes(forged(content))
        code = train_main(["--resume", "--out-dir", str(stopped), "--steps", "60"])
        assert_matches("2: .*(must be|has no --extra|has NaN in its JSON)", error_of(capsys, code))
        (stopped / "model.safetensors").write_bytes(whole)


def test_an_unfinished_run_is_not_overwritten(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], start: Callable[..., int]
) -> None:
    pid = start(argv(word_file, tmp_path / "a", "--steps", 10**6), tmp_path / "log")
    wait_for_step(tmp_path / "a", 20)
    os.kill(pid, signal.SIGKILL)
    wait(pid)
    code = train_main(argv(word_file, tmp_path / "a", "--steps", 50))
    assert_matches(
        r"2: .*model\.safetensors already exists: --resume it, --overwrite it, or choose another",
        error_of(capsys, code),
    )


def test_two_runs_in_one_directory(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], start: Callable[..., int]
) -> None:
    pid = start(argv(word_file, tmp_path / "a", "--steps", 10**6), tmp_path / "log")
    wait_for_step(tmp_path / "a", 20)
    for flags in (["--overwrite"], ["--resume"]):
        code = train_main(argv(word_file, tmp_path / "a", *flags))
        assert_matches("2: .*another run is writing to", error_of(capsys, code))
    os.kill(pid, signal.SIGKILL)
    wait(pid)
    assert train_main(argv(word_file, tmp_path / "a", "--steps", 40, "--overwrite")) == 0


@pytest.mark.full
@pytest.mark.parametrize("kilobytes", [1, 4])
def test_a_full_disk_ends_the_run_and_keeps_the_file(
    stopped: Path, kilobytes: int, tmp_path: Path, start: Callable[..., int]
) -> None:
    """A limit on file sizes takes the place of a full disk: at some save the model file exceeds it."""
    before = load_model(stopped / "model.safetensors")
    size = (stopped / "model.safetensors").stat().st_size + 1024 * kilobytes
    pid = start(
        ["--resume", "--out-dir", str(stopped), "--steps", "100000"],
        tmp_path / "log",
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    assert wait(pid) == 1
    error = (tmp_path / "log").read_text().splitlines()[-1]
    after = load_model(stopped / "model.safetensors")
    message = rf"cannot write .*model\.safetensors: File too large; step {after.progress.step:,} is saved;"
    assert_matches(rf"^makemore-train: {message} resume with: makemore-train --resume --out-dir ", error)
    assert after.progress.step > before.progress.step
    assert torch.equal(after.progress.losses[:40], before.progress.losses)
    assert not list(stopped.glob("*.part"))


@pytest.mark.parametrize(("lr_drop", "held"), [(100, 100), (99, 80)])
def test_divergence_keeps_the_last_good_file(
    lr_drop: int, held: int, word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The learning rate jumps right after a save, or right before one, while losses are still finite."""
    flags = ["--steps", "200", "--lr-drop", str(lr_drop), "--lr-final", "1e30"]
    code = train_main(argv(word_file, tmp_path / "a", *flags))
    error = error_of(capsys, code)
    assert_matches(rf"1: .*the training diverged: at step 10\d the .*holds step {held}\)", error)
    model = load_model(tmp_path / "a" / "model.safetensors")
    assert model.progress.step == held
    assert model.progress.losses.isfinite().all()
    assert max(tensor.abs().max() for tensor in model.network.state_dict().values()) < 100


@pytest.mark.full
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_a_full_stdout_is_one_line(word_file: Path, tmp_path: Path) -> None:
    flags = argv(word_file, tmp_path / "a", "--steps", "40")
    script = "import sys; from makemore.commands.cli import train_main; sys.exit(train_main())"
    command = [sys.executable, "-c", script, *flags]
    with open("/dev/full", "w", encoding="utf-8") as full:
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 1
    assert_matches("^makemore-train: cannot write the output: No space left", run.stderr)
    assert len(run.stderr.splitlines()) == 1
    assert progress_on_disk(tmp_path / "a") is not None


@pytest.mark.full
def test_sampling_into_a_pipe_that_closes(stopped: Path) -> None:
    script = "import sys; from makemore.commands.cli import sample_main; sys.exit(sample_main())"
    command = [sys.executable, "-c", script, str(stopped / "model.safetensors"), "-n", "50000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline()
        run.stdout.close()
        assert run.stderr is not None
        assert run.stderr.read() == ""
    assert run.returncode == 0
    if not os.path.exists("/dev/full"):
        return
    with open("/dev/full", "w", encoding="utf-8") as full:
        failed = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert failed.returncode == 1
    assert_matches("^makemore-sample: .*No space left on device\n$", failed.stderr)
