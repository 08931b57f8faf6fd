"""Kill a training process at random moments, resume it until it is done, compare with one left alone.

    python scripts/kill_and_resume.py --kills 200

Every run is a process of its own (forked, so that torch is imported once), killed by SIGKILL. A run that
got to its end is compared, file by file and line by line, with the same run left alone; then the
next begins with another seed, until there were enough kills. Prints a summary, and exits with 1 if
anything differed or was lost.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from tqdm import tqdm

from makemore.commands.cli import train_main
from makemore.commands.train import LOSSES_FILE, PICTURE_FILE
from makemore.errors import ModelFileError
from makemore.model_file import MODEL_FILE, Progress, load_model
from makemore.plotting import plot_losses
from makemore.words import load_words

LONGEST = 1.2
"""How long a process lives at most, as a share of what the whole run takes."""

STUCK = 120
"""Seconds that a process may live until the run counts as one that does not get on."""

KINDS = (("--recipe", "lecture"), ("--recipe", "modern"), ("--recipe", "modern", "--members", "2"))
"""Flags of the runs, in turn."""


@dataclass
class Summary:
    """What happened, over all runs."""

    runs: int = 0
    kills: int = 0
    kills_before_the_first_save: int = 0
    kills_that_hit_a_write: int = 0
    steps_lost: int = 0
    differences: int = 0
    files_lost: int = 0

    def __str__(self) -> str:
        return "\n".join(f"{f.name.replace('_', ' ')}: {getattr(self, f.name)}" for f in fields(self))


def start(argv: Sequence[str], log: Path, prepare: Callable[[], object] = bool) -> int:
    """Fork a process that runs makemore-train with its output in a file; returns its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            sys.stdout, sys.stderr = log.open("w"), log.open("a", buffering=1)
            tqdm.set_lock(threading.RLock())  # its own one is all forks' together: a killed one would keep it
            prepare()
            code = train_main(argv)
            sys.stdout.flush()
        finally:
            os._exit(code)
    return pid


def wait(pid: int) -> int:
    """Exit code of a process; negative for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def result(log: Path, out_dir: Path) -> tuple[object, ...]:
    """All that a finished run leaves: printed figures and words, and the files' content."""
    printed = log.read_text().partition("\ntrain ")[2].partition("\nwrote ")[0].strip()
    model = load_model(out_dir / MODEL_FILE)
    progress = model.progress
    assert progress is not None
    assert progress.finished
    tensors = {name: t.detach().numpy().tobytes() for name, t in model.network.state_dict().items()}
    files = [(out_dir / name).read_bytes() for name in (LOSSES_FILE, PICTURE_FILE)]
    return printed, tensors, progress.generator.tolist(), progress.evaluations, progress.step, files


def progress_on_disk(out_dir: Path) -> Progress | None:
    """Where the run stands by its model file, if there is one. Raises ModelFileError on a broken one."""
    if not (out_dir / MODEL_FILE).exists():
        return None
    return load_model(out_dir / MODEL_FILE).progress


def kill_until_done(
    argv: Sequence[str], out_dir: Path, log: Path, rng: random.Random, summary: Summary, longest: float
) -> None:
    """One run, killed and resumed until it ends by itself."""
    argv = [*argv, "--out-dir", str(out_dir)]
    step = None
    while True:
        pid = start([*argv, "--resume"] if step is not None else [*argv, "--overwrite"], log)
        deadline = time.monotonic() + rng.uniform(0, longest)
        while time.monotonic() < deadline and os.waitpid(pid, os.WNOHANG) == (0, 0):
            time.sleep(0.001)
        try:
            os.kill(pid, signal.SIGKILL)
            code = wait(pid)
        except (ProcessLookupError, ChildProcessError):
            return
        if code != -signal.SIGKILL:
            return
        summary.kills += 1
        summary.kills_that_hit_a_write += any(out_dir.glob("*.part"))
        try:
            progress = progress_on_disk(out_dir)
        except ModelFileError as error:
            print(error, file=sys.stderr)
            summary.files_lost += 1
            return
        if progress is None:
            summary.kills_before_the_first_save += 1
            summary.files_lost += step is not None
            continue
        if progress.step == step:  # on a busy machine what is left may take longer than the whole run did
            longest *= 1.1
        if longest > STUCK:
            raise SystemExit(f"the run does not get on from step {step}: {log.read_text()}")
        summary.steps_lost += max(0, (step or 0) - progress.step)
        step = progress.step
        if progress.finished:
            return


def survive(kills: int, argv: Sequence[str], seed: int = 0, report: Callable[[str], None] = print) -> Summary:
    """Runs of ``argv`` with ever new seeds until there were that many kills."""
    rng = random.Random(seed)
    summary = Summary()
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        while summary.kills < kills:
            kind = KINDS[summary.runs % len(KINDS)]
            run_argv = [*argv, "--seed", str(summary.runs), *kind]
            began = time.monotonic()
            alone = start([*run_argv, "--overwrite", "--out-dir", str(here / "alone")], here / "alone.log")
            if wait(alone) != 0:
                raise SystemExit((here / "alone.log").read_text())
            longest = LONGEST * (time.monotonic() - began)
            kill_until_done(run_argv, here / "killed", here / "killed.log", rng, summary, longest)
            expected = result(here / "alone.log", here / "alone")
            got = result(here / "killed.log", here / "killed")
            summary.differences += sum(a != b for a, b in zip(got, expected, strict=True))
            for path in (here / "killed").iterdir():
                path.unlink()
            summary.runs += 1
            report(f"run {summary.runs}: {summary.kills} kills so far, differences {summary.differences}")
    return summary


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    plot_losses(torch.ones(10))  # matplotlib and its fonts are loaded once, not in every process
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as words:
        words.write("\n".join(random.Random(0).sample(load_words().words, 300)))
        words.flush()
        train = ["--data", words.name, "--steps", str(args.steps), "--network", "hierarchical"]
        train += ["--n-embd", "4", "--n-hidden", "12", "--device", "cpu", "--log-every", "5"]
        train += ["--save-every", "0", "--samples", "5"]
        summary = survive(args.kills, train, args.seed)
    print(summary)
    return 1 if summary.differences or summary.files_lost or summary.steps_lost else 0


if __name__ == "__main__":
    sys.exit(main())
