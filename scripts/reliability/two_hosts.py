"""Train a run on two hosts: compare it with a run of one process, kill a host or a worker, resume.

    sudo .venv/bin/python scripts/reliability/two_hosts.py --kills 8

The hosts are two network namespaces of this machine (Linux, iproute2, root), joined by a virtual cable;
they are deleted when the script ends. Each has a torchrun and an output directory of its own. What is
tested:

* The losses on two hosts are those of one process, to 1e-4. A run begun on two hosts can be resumed by one
  process, or by two on each host, with the same losses.
* Losing a worker, or a whole host, ends the run. Each remaining host prints one line at most, and at least
  one does; ``--resume`` then continues the run to the same bits as an uninterrupted run.
* With torchrun's restarts, a run continues by itself after a worker was lost, or once a lost second host is
  back, to the same bits. The first host keeps torchrun's store: if it is lost, both have to be started
  again.

Prints a line for each kill; exits with 1 if anything differed.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import NoReturn

from namespaces import ADDRESSES, Host, kill, two_hosts

from makemore.data.word_list import load_words
from makemore.run.lock import LOSSES_FILE
from makemore.run.model_file import MODEL_FILE, load_model

PORTS = count(29_500)
LIMIT = 300.0
"""The largest number of seconds from a run's start to its end."""


@dataclass
class Started:
    """A run on both hosts, started by a torchrun on each."""

    hosts: list[Host]
    arguments: list[str]
    restarts: int = 0
    processes: int = 1
    port: int = field(default_factory=lambda: next(PORTS))

    def __post_init__(self) -> None:
        self.logs = [host.folder / "log" for host in self.hosts]
        for log in self.logs:
            log.write_bytes(b"")
        self.torchruns = [self.torchrun(i) for i in (0, 1)]

    def torchrun(self, i: int) -> subprocess.Popen[bytes]:
        """Start torchrun on one host.

        An address alone does not tell torchrun which host has the store, since it looks up the machine's
        name.
        """
        host = self.hosts[i]
        flags = ["--nnodes", "2", "--nproc-per-node", str(self.processes), "--rdzv-backend", "c10d"]
        flags += ["--rdzv-endpoint", f"{ADDRESSES[0]}:{self.port}", "--rdzv-conf", f"is_host={int(i == 0)}"]
        flags += ["--local-addr", host.address, "--max-restarts", str(self.restarts)]
        flags += ["-m", "makemore", "train"]
        command = [sys.executable, "-m", "torch.distributed.run", *flags, *self.arguments]
        return host.start([*command, "--out-dir", str(host.folder / "out")], self.logs[i])

    def wait(self) -> list[int]:
        """Wait for both torchruns; returns their exit codes."""
        deadline = time.monotonic() + LIMIT
        try:
            return [t.wait(max(0.1, deadline - time.monotonic())) for t in self.torchruns]
        except subprocess.TimeoutExpired:
            fail(f"the run did not end within {LIMIT:g} s", self)

    def lines(self) -> list[list[str]]:
        """The lines with makemore-train's errors on each host."""
        texts = [log.read_text(errors="replace").splitlines() for log in self.logs]
        return [[line for line in lines if line.startswith("makemore-train: ")] for lines in texts]


def fail(message: str, started: Started | None = None) -> NoReturn:
    """End the script with a message and the last lines that the hosts printed."""
    print(message, file=sys.stderr)
    for log in started.logs if started else []:
        last = log.read_text(errors="replace").splitlines()[-15:]
        print(f"-- {log.parent.name}", *last, sep="\n", file=sys.stderr)
    raise SystemExit(1)


def losses(out: Path) -> list[float]:
    """The batch losses of a finished run."""
    with (out / LOSSES_FILE).open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]


def largest_difference(a: Sequence[float], b: Sequence[float]) -> float:
    """The largest relative difference between the losses of two runs."""
    if len(a) != len(b):
        fail(f"one run has {len(a)} steps, the other {len(b)}")
    return max(abs(x - y) / abs(y) for x, y in zip(a, b, strict=True))


def bits(out: Path) -> tuple[object, ...]:
    """Network and losses of a run, as bytes."""
    tensors = load_model(out / MODEL_FILE).network.state_dict()
    network = {name: t.detach().numpy().tobytes() for name, t in tensors.items()}
    return network, (out / LOSSES_FILE).read_bytes()


def train_on_one_process(arguments: Sequence[str], out: Path) -> list[float]:
    """Do a run on one process; returns its losses."""
    command = [sys.executable, "-m", "makemore", "train", *arguments, "--out-dir", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        fail(done.stderr)
    return losses(out)


def uninterrupted(hosts: list[Host], arguments: list[str]) -> tuple[object, ...]:
    """Do a run without a kill; returns its bits."""
    started = Started(hosts, [*arguments, "--overwrite"])
    if started.wait() != [0, 0]:
        fail("the run failed without a kill", started)
    return bits(hosts[0].folder / "out")


def compare_with_one_process(hosts: list[Host], arguments: list[str], steps: int, here: Path) -> float:
    """The largest relative difference of the losses from those of one process.

    Both for the run, and for resuming it by two processes on each host.
    """
    out, more = hosts[0].folder / "out", ["--resume", "--steps", str(steps + 20)]
    off = largest_difference(losses(out)[:100], train_on_one_process(arguments, here / "one")[:100])
    shutil.copytree(out, here / "resumed")
    four = Started(hosts, more, processes=2)
    if four.wait() != [0, 0]:
        fail("two processes on each host failed", four)
    resumed = train_on_one_process(more, here / "resumed")
    return max(off, largest_difference(losses(out)[steps:], resumed[steps:]))


def saved_step(model_file: Path, since: float = 0) -> int | None:
    """The step that a run has saved, -1 before it has saved any, None once it is finished.

    A model file older than ``since``, in seconds since the epoch, is of an earlier run.
    """
    if not (model_file.exists() and model_file.stat().st_mtime > since):
        return -1
    progress = load_model(model_file).progress
    if progress is None:
        fail(f"{model_file} has only a network")
    return None if progress.finished else progress.step


def suspend(host: Host, started: Started, model_file: Path, at: int, later: float) -> int | None:
    """Suspend a host's processes ``later`` seconds after the step ``at`` is saved.

    Returns the step saved by then, None if the run is finished. While one host is suspended the other
    cannot end, so a run that is not finished by then stays unfinished.
    """
    began = time.time()
    while (step := saved_step(model_file, began)) is not None and step < at:
        time.sleep(0.02)
        if time.time() > began + LIMIT or any(t.poll() for t in started.torchruns):
            fail(f"the run did not reach step {at}", started)
    time.sleep(later)
    kill(host.pids(), signal.SIGSTOP)
    return saved_step(model_file, began)


def kill_one(hosts: list[Host], arguments: list[str], steps: int, rng: random.Random, kind: str) -> str:
    """Do a run that loses a worker or a host, and bring it to its end; returns a line that says how."""
    i, restarts = rng.choice((0, 1)), 0 if kind.endswith("ends") else 3
    host, model_file = hosts[i], hosts[0].folder / "out" / MODEL_FILE
    while True:
        started = Started(hosts, [*arguments, "--overwrite"], restarts)
        step = suspend(host, started, model_file, rng.randrange(steps), rng.uniform(0, 0.3))
        if step is not None:
            break
        kill(host.pids(), signal.SIGCONT)
        if started.wait() != [0, 0]:
            fail("a finished run did not end", started)
    if kind.startswith("worker"):
        kill([pid for pid in host.pids() if pid != started.torchruns[i].pid][-1:])
        kill(host.pids(), signal.SIGCONT)
    else:
        kill(host.pids())
    load_model(model_file)  # raises if the kill damaged it
    if restarts and kind.startswith("host") and i == 1:
        started.torchruns[1] = started.torchrun(1)
    codes, lines = started.wait(), started.lines()
    report = f"{kind:<14} on {'first' if i == 0 else 'second'} host at step {step:>5,}: "
    if max(map(len, lines)) > 1:
        fail(f"{report}more than one line: {lines}", started)
    if codes == [0, 0]:
        return report + "went on by itself"
    if restarts and (kind.startswith("worker") or i == 1):
        fail(f"{report}did not go on", started)
    if not any(lines):
        fail(f"{report}no error printed", started)
    report += f"{sum(map(len, lines))} lines, "
    if saved_step(model_file) is None:
        return report + "already finished"
    again = Started(hosts, ["--resume"])
    if again.wait() != [0, 0]:
        fail(f"{report}cannot be resumed", again)
    return report + "resumed"


KINDS = ("host restarts", "worker ends", "host ends", "worker restarts")
"""What is killed, and whether torchrun restarts it."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=8, metavar="N", help="default: 8")
    parser.add_argument("--steps", type=int, default=1500, metavar="N", help="of a run (default: 1500)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of what is killed and when (default: 0)"
    )
    args = parser.parse_args(argv)
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise SystemExit("two network namespaces need root and the command ip (iproute2)")
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as directory, two_hosts(Path(directory)) as hosts:
        here = Path(directory)
        (here / "words.txt").write_text("\n".join(random.Random(0).sample(load_words().words, 300)))
        words = ["--data", str(here / "words.txt"), "--network", "hierarchical", "--n-embd", "4"]
        words += ["--n-hidden", "12", "--device", "cpu", "--samples", "0", "--log-every", "50"]
        words += ["--recipe", "lecture"]
        arguments = [*words, "--save-every", "0", "--steps", str(args.steps)]
        expected = uninterrupted(hosts, arguments)
        off, out = compare_with_one_process(hosts, arguments, args.steps, here), hosts[0].folder / "out"
        print(f"two hosts, and two processes on each, against one: losses {off:.1e} apart", flush=True)
        if off > 1e-4:
            fail("the losses differ by more than 1e-4")
        for number in range(args.kills):
            report = kill_one(hosts, arguments, args.steps, rng, KINDS[number % len(KINDS)])
            same = bits(out) == expected
            print(report, "to the same bits" if same else "TO OTHER BITS", sep=", ", flush=True)
            if not same:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
