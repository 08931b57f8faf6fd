"""Kill training runs at random moments, resume them to their end, and compare them with uninterrupted runs.

    python scripts/reliability/kill_and_resume.py --kills 200

Each command runs in its own process (forked, so that torch is imported once) and is killed by SIGKILL. When
a run has come to its end it is compared, file by file and line by line, with the same run uninterrupted;
then the next run begins, with another seed, until there were enough kills. Prints a summary, and exits with
1 if anything differed or was lost.
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
from makemore.core.errors import ModelFileError
from makemore.data.word_list import load_words
from makemore.pictures.losses import draw_losses
from makemore.run.lock import LOSSES_FILE, PICTURE_FILE
from makemore.run.model_file import MODEL_FILE, Progress, load_model

LONGEST = 1.2
"""The longest time before a process is killed, as a share of the time of the uninterrupted run."""

STUCK = 120
"""Seconds: a run that makes no progress in a process that lives that long counts as stuck."""

KINDS = (("--recipe", "lecture"), ("--recipe", "modern"), ("--recipe", "modern", "--ensemble", "2"))
"""Flags of the runs, in turn."""


@dataclass
class Summary:
    """Counts over all runs."""

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
    """Fork a process that calls makemore-train, with its output in a file; returns its process id.

    The process calls ``prepare`` first. Only systems that can fork can do this: Linux and macOS.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            sys.stdout = log.open("w", encoding="utf-8")
            sys.stderr = log.open("a", encoding="utf-8", buffering=1)
            tqdm.set_lock(
                threading.RLock()
            )  # tqdm's own lock is shared by all forks: a killed one would keep it
            prepare()
            code = train_main(argv)
            sys.stdout.flush()
        finally:
            os._exit(code)
    return pid


def wait(pid: int) -> int:
    """Wait for a process; returns its exit code, or the negative number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def result(log: Path, out_dir: Path) -> tuple[object, ...]:
    """Everything that a finished run leaves: the printed losses and words, and the content of the files."""
    printed = log.read_text(encoding="utf-8").partition("\ntrain ")[2].partition("\nwrote ")[0].strip()
    model = load_model(out_dir / MODEL_FILE)
    progress = model.progress
    assert progress is not None
    assert progress.finished
    tensors = {name: t.detach().numpy().tobytes() for name, t in model.network.state_dict().items()}
    files = [(out_dir / name).read_bytes() for name in (LOSSES_FILE, PICTURE_FILE)]
    return printed, tensors, progress.generator.tolist(), progress.evaluations, progress.step, files


def progress_on_disk(out_dir: Path) -> Progress | None:
    """The state of the run in its model file, None without a file. Raises ModelFileError on a bad file."""
    if not (out_dir / MODEL_FILE).exists():
        return None
    return load_model(out_dir / MODEL_FILE).progress


def kill_until_done(
    argv: Sequence[str], out_dir: Path, log: Path, rng: random.Random, summary: Summary, longest: float
) -> None:
    """Do one run, killed and resumed until it ends by itself.

    A process is killed within ``longest`` seconds.
    """
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
        if progress.step == step:  # on a busy machine the rest may take longer than the whole run did
            longest *= 1.1
        if longest > STUCK:
            raise SystemExit(f"the run makes no progress from step {step}: {log.read_text(encoding='utf-8')}")
        summary.steps_lost += max(0, (step or 0) - progress.step)
        step = progress.step
        if progress.finished:
            return


def survive(kills: int, argv: Sequence[str], seed: int = 0, report: Callable[[str], None] = print) -> Summary:
    """Do runs of ``argv``, each with another seed, until there were that many kills."""
    rng = random.Random(seed)
    summary = Summary()
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        while summary.kills < kills:
            kind = KINDS[summary.runs % len(KINDS)]
            run_argv = [*argv, "--seed", str(summary.runs), *kind]
            began = time.monotonic()
            whole = start([*run_argv, "--overwrite", "--out-dir", str(here / "whole")], here / "whole.log")
            if wait(whole) != 0:
                raise SystemExit((here / "whole.log").read_text())
            longest = LONGEST * (time.monotonic() - began)
            kill_until_done(run_argv, here / "killed", here / "killed.log", rng, summary, longest)
            expected = result(here / "whole.log", here / "whole")
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
    parser.add_argument("--kills", type=int, default=200, metavar="N", help="default: 200")
    parser.add_argument("--steps", type=int, default=150, metavar="N", help="of a run (default: 150)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the moments (default: 0)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    draw_losses(torch.ones(10))  # loads matplotlib and its fonts once, not in every process
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as words:
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
