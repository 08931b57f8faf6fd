"""Runs that survive: resume bit for bit, signals, locks, full disks, divergence."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from forging import content_of, forged
from kill_and_resume import main as kill_and_resume
from kill_and_resume import progress_on_disk, wait
from kill_and_resume import start as fork_run
from tqdm import tqdm

from makemore.commands.cli import train_main
from makemore.commands.guards import Signals
from makemore.model_file import load_model
from makemore.modern import teachers
from makemore.training import Trainer

TINY = [
    "--recipe", "lecture", "--network", "hierarchical", "--n-embd", "4", "--n-hidden", "12",
    "--device", "cpu", "--log-every", "20", "--save-every", "0",
]  # fmt: skip


def argv(word_file: Path, out_dir: Path, *more: object) -> list[str]:
    return [*TINY, "--data", str(word_file), "--out-dir", str(out_dir), *map(str, more)]


@pytest.fixture
def start() -> Iterator[Callable[..., int]]:
    """Start runs in processes that do not outlive the test."""
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
    raise AssertionError("the run does not get on")


def assert_matches(pattern: str, text: str) -> None:
    assert re.search(pattern, text), text


def wait_for_line(log: Path, text: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if log.exists() and text in log.read_text():
            return
        time.sleep(0.005)
    raise AssertionError(f"{text!r} does not come")


def stops_itself(text: str, signum: signal.Signals) -> Callable[[], None]:
    """What makes a run send itself a signal as it prints some text, however busy the machine is."""

    def prepare() -> None:
        out = sys.stdout
        write = out.write

        def seen(said: str) -> int:
            written = write(said)
            if text in said:
                os.kill(os.getpid(), signum)
            return written

        out.write = seen  # type: ignore[method-assign]

    return prepare


def error_of(capsys: pytest.CaptureFixture[str], code: int) -> str:
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    return f"{code}: {error.strip()}"


def test_killed_at_random_moments_and_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    assert kill_and_resume(["--kills", "10", "--steps", "60"]) == 0
    summary = capsys.readouterr().out
    assert "differences: 0" in summary
    assert "files lost: 0" in summary


def test_a_killed_run_keeps_no_lock_of_the_next(tmp_path: Path, start: Callable[..., int]) -> None:
    """tqdm has one lock for a process and all its forks: a run that died with it held up all others."""
    tqdm.get_lock()

    def take_it(then: int) -> None:
        signal.alarm(20)
        tqdm.get_lock().acquire()
        os.kill(os.getpid(), then)

    assert wait(start([], tmp_path / "log", partial(take_it, signal.SIGKILL))) == -signal.SIGKILL
    assert wait(start([], tmp_path / "log", partial(take_it, signal.SIGTERM))) == -signal.SIGTERM


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_say_how_to_go_on(
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
        f"makemore-train: interrupted; step {progress.step:,} is saved; go on with:"
        f" makemore-train --resume --out-dir {tmp_path / 'a'}"
    )
    assert "Traceback" not in log


def test_a_second_signal_stops_at_once(word_file: Path, tmp_path: Path, start: Callable[..., int]) -> None:
    """Sent once the first is kept, in the midst of a block: two that come at once may be one to a process."""

    def lasts_and_tells() -> None:
        advance, handle = Trainer.advance, Signals._handle

        def lasting(self: Trainer, steps: int) -> torch.Tensor:
            print("a block begins", flush=True)
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                advance(self, 1)
            return advance(self, 1)

        def told(self: Signals, *args: Any) -> None:
            handle(self, *args)
            (tmp_path / "kept").write_text("the first signal")

        Trainer.advance, Signals._handle = lasting, told  # type: ignore[method-assign]

    pid = start(argv(word_file, tmp_path / "a", "--save-every", "1e9"), tmp_path / "log", lasts_and_tells)
    wait_for_line(tmp_path / "log", "a block begins")
    os.kill(pid, signal.SIGINT)
    wait_for_line(tmp_path / "kept", "the first signal")
    os.kill(pid, signal.SIGINT)
    assert wait(pid) == 130
    assert "interrupted; step 0 is saved; go on with" in (tmp_path / "log").read_text()


def test_resuming_a_stopped_run_ends_as_if_never_stopped(word_file: Path, tmp_path: Path) -> None:
    """Stopped by steps and gone on with more; learning rate and evaluations given, as their defaults move."""
    flags = ["--lr-drop", "150", "--eval-every", "60"]
    assert train_main(argv(word_file, tmp_path / "a", "--steps", "200", *flags)) == 0
    assert train_main(argv(word_file, tmp_path / "b", "--steps", "90", *flags)) == 0
    assert train_main(argv(word_file, tmp_path / "b", "--steps", "200", "--resume")) == 0
    whole, resumed = (load_model(tmp_path / name / "model.safetensors") for name in "ab")
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[name])
    assert torch.equal(whole.progress.losses, resumed.progress.losses)
    assert torch.equal(whole.progress.generator, resumed.progress.generator)
    assert whole.progress.evaluations[-1] == resumed.progress.evaluations[-1]


@pytest.mark.parametrize(
    ("recipe", "engine", "members"),
    [
        ("lecture", "backprop", 1),
        ("modern", "backprop", 1),
        ("lecture", "autograd", 1),
        ("modern", "autograd", 1),
        ("lecture", "windows", 2),
        ("modern", "windows", 3),
    ],
)
def test_every_recipe_and_engine_resumes_bit_for_bit(
    word_file: Path, tmp_path: Path, recipe: str, engine: str, members: int, start: Callable[..., int]
) -> None:
    """Stopped by a signal in the midst of an epoch."""
    flags = ["--recipe", recipe, "--engine", engine, "--steps", "150", "--eval-every", "40"]
    flags += ["--members", str(members)]
    assert train_main(argv(word_file, tmp_path / "a", *flags)) == 0
    stop = stops_itself("     60/    150:", signal.SIGTERM)
    assert wait(start(argv(word_file, tmp_path / "b", *flags), tmp_path / "log", stop)) == 143
    assert train_main(["--resume", "--out-dir", str(tmp_path / "b")]) == 0
    assert (tmp_path / "a" / "losses.csv").read_bytes() == (tmp_path / "b" / "losses.csv").read_bytes()
    whole, resumed = (load_model(tmp_path / name / "model.safetensors") for name in "ab")
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[name]), name
    assert torch.equal(whole.progress.generator, resumed.progress.generator)


@pytest.mark.parametrize("members", [1, 2])
def test_a_run_with_teachers_resumes_bit_for_bit(
    members: int, word_file: Path, tmp_path: Path, start: Callable[..., int]
) -> None:
    """Stopped as the second teacher is to learn; the first is not trained again."""

    def stops_at_the_second() -> None:
        trained = teachers.trained_teacher

        def seen(i: int, *rest: Any) -> Trainer:
            if i == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return trained(i, *rest)

        teachers.trained_teacher = seen

    flags = ["--recipe", "modern", "--teachers", "2", "--steps", "150", "--eval-every", "40"]
    flags += ["--members", str(members)]
    assert train_main(argv(word_file, tmp_path / "a", *flags)) == 0
    assert wait(start(argv(word_file, tmp_path / "b", *flags), tmp_path / "log", stops_at_the_second)) == 143
    assert not (tmp_path / "b" / "teacher-2.safetensors").exists()
    first = (tmp_path / "b" / "teacher-1.safetensors").stat().st_mtime_ns
    assert train_main(["--resume", "--out-dir", str(tmp_path / "b")]) == 0
    assert (tmp_path / "b" / "teacher-1.safetensors").stat().st_mtime_ns == first
    assert (tmp_path / "a" / "losses.csv").read_bytes() == (tmp_path / "b" / "losses.csv").read_bytes()
    for file in ("model.safetensors", "teacher-1.safetensors", "teacher-2.safetensors"):
        whole, resumed = (load_model(tmp_path / name / file).network for name in "ab")
        for name, tensor in whole.state_dict().items():
            assert torch.equal(tensor, resumed.state_dict()[name]), (file, name)
    weights = [
        load_model(tmp_path / "a" / f"teacher-{i}.safetensors").network.parameters()[0] for i in (1, 2)
    ]
    assert not torch.equal(*weights)


@pytest.fixture
def stopped(word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The directory of a run of 40 steps."""
    assert train_main(argv(word_file, tmp_path / "out", "--steps", "40")) == 0
    capsys.readouterr()
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--lr", "0.2"],
            "2: makemore-train: --lr was 0.1 in the run to resume and cannot become 0.2",
        ),
        (["--n-hidden", "13"], "2: makemore-train: --n-hidden was 12 .*cannot become 13"),
        (["--seed", "1"], "2: makemore-train: --seed was 42"),
        (["--members", "2"], "2: makemore-train: --members was 1"),
        (["--batch-size", "64"], "--batch-size was 32"),
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


def test_a_run_of_before_there_were_ensembles_goes_on(word_file: Path, stopped: Path, tmp_path: Path) -> None:
    path = stopped / "model.safetensors"
    content = content_of(path.read_bytes())
    del content["progress"]["settings"]["members"]
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
    assert_matches("2: .*not those the run began with", error_of(capsys, train_main(resume)))
    moved.write_bytes(word_file.read_bytes())
    assert train_main(resume) == 0


def test_a_list_given_anew_is_found_from_anywhere(
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
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04")
    code = train_main(["--resume", "--out-dir", str(tmp_path)])
    assert_matches("2: .*model.pt is no safetensors file: makemore 0.1 wrote such", error_of(capsys, code))
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


def test_an_unfinished_run_is_not_overwritten_unasked(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], start: Callable[..., int]
) -> None:
    pid = start(argv(word_file, tmp_path / "a", "--steps", 10**6), tmp_path / "log")
    wait_for_step(tmp_path / "a", 20)
    os.kill(pid, signal.SIGKILL)
    wait(pid)
    code = train_main(argv(word_file, tmp_path / "a", "--steps", 50))
    assert_matches("2: .*is there already: --resume to go on with it", error_of(capsys, code))


def test_two_runs_in_one_directory(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], start: Callable[..., int]
) -> None:
    pid = start(argv(word_file, tmp_path / "a", "--steps", 10**6), tmp_path / "log")
    wait_for_step(tmp_path / "a", 20)
    for flags in (["--overwrite"], ["--resume"]):
        code = train_main(argv(word_file, tmp_path / "a", *flags))
        assert_matches("2: .*another run is writing into", error_of(capsys, code))
    os.kill(pid, signal.SIGKILL)
    wait(pid)
    assert train_main(argv(word_file, tmp_path / "a", "--steps", 40, "--overwrite")) == 0


@pytest.mark.parametrize("kilobytes", [1, 4])
def test_a_full_disk_ends_the_run_and_keeps_the_file(
    stopped: Path, kilobytes: int, tmp_path: Path, start: Callable[..., int]
) -> None:
    """The limit on file sizes stands for a full disk: the run's file outgrows it at some save."""
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
    said = rf"cannot write .*model\.safetensors: File too large; step {after.progress.step:,} is saved; go on"
    assert_matches(rf"^makemore-train: {said} with: makemore-train --resume --out-dir ", error)
    assert after.progress.step > before.progress.step
    assert torch.equal(after.progress.losses[:40], before.progress.losses)
    assert not list(stopped.glob("*.part"))


@pytest.mark.parametrize(("lr_drop", "held"), [(100, 100), (99, 80)])
def test_divergence_keeps_the_last_good_file(
    lr_drop: int, held: int, word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The learning rate jumps right after a save, or right before one: then losses are finite still."""
    flags = ["--steps", "200", "--lr-drop", str(lr_drop), "--lr-final", "1e30"]
    code = train_main(argv(word_file, tmp_path / "a", *flags))
    error = error_of(capsys, code)
    assert_matches(rf"1: .*the training diverged: at step 10\d the .*holds step {held}\)", error)
    model = load_model(tmp_path / "a" / "model.safetensors")
    assert model.progress.step == held
    assert model.progress.losses.isfinite().all()
    assert max(tensor.abs().max() for tensor in model.network.state_dict().values()) < 100


def test_a_full_or_closed_stdout_is_one_line(word_file: Path, tmp_path: Path) -> None:
    flags = argv(word_file, tmp_path / "a", "--steps", "40")
    script = "import sys; from makemore.commands.cli import train_main; sys.exit(train_main())"
    command = [sys.executable, "-c", script, *flags]
    with open("/dev/full", "w") as full:
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 1
    assert_matches("^makemore-train: cannot write the output: No space left", run.stderr)
    assert len(run.stderr.splitlines()) == 1
    assert progress_on_disk(tmp_path / "a") is not None


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
    with open("/dev/full", "w") as full:
        failed = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert failed.returncode == 1
    assert_matches("^makemore-sample: .*No space left on device\n$", failed.stderr)
