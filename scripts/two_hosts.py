"""One run on two hosts: compare it with one process's, kill a host or a worker at random, let it go on.

    sudo .venv/bin/python scripts/two_hosts.py --kills 8

The hosts are two network namespaces of this machine (Linux, iproute2, root), joined by a virtual cable; they
go when the script ends. Each has a torchrun and an output folder of its own.

* The losses on two hosts are those of one process, to 1e-4. A run begun on two hosts can be gone on with by
  one process, or by two on each host, with the same losses.
* A lost worker, or all of a lost host, ends the run with one line on each host that is left, at most, and
  on one at least; ``--resume`` then goes on to the bits of a run left alone.
* With torchrun's restarts a run goes on by itself after a lost worker, or once a lost second host is back,
  to the same bits. The first host keeps what torchrun knows: if it is lost, both are to be started anew.

Prints what happened; exits with 1 if anything differed.
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

from makemore.commands.train import LOSSES_FILE
from makemore.model_file import MODEL_FILE, load_model
from makemore.words import load_words

PORTS = count(29_500)
LIMIT = 300.0
"""Seconds that a start may take to its end."""


@dataclass
class Started:
    """One run on both hosts, by a torchrun on each."""

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
        """Start it on one host.

        An address alone does not tell torchrun which host keeps the store: it looks up the machine's name.
        """
        host = self.hosts[i]
        flags = ["--nnodes", "2", "--nproc-per-node", str(self.processes), "--rdzv-backend", "c10d"]
        flags += ["--rdzv-endpoint", f"{ADDRESSES[0]}:{self.port}", "--rdzv-conf", f"is_host={int(i == 0)}"]
        flags += ["--local-addr", host.address, "--max-restarts", str(self.restarts)]
        flags += ["-m", "makemore", "train"]
        command = [sys.executable, "-m", "torch.distributed.run", *flags, *self.arguments]
        return host.start([*command, "--out-dir", str(host.folder / "out")], self.logs[i])

    def wait(self) -> list[int]:
        """Both exit codes."""
        deadline = time.monotonic() + LIMIT
        try:
            return [t.wait(max(0.1, deadline - time.monotonic())) for t in self.torchruns]
        except subprocess.TimeoutExpired:
            fail(f"no end within {LIMIT:g} s", self)

    def lines(self) -> list[list[str]]:
        """What makemore told on each host when something went wrong."""
        told = [log.read_text(errors="replace").splitlines() for log in self.logs]
        return [[line for line in lines if line.startswith("makemore-train: ")] for lines in told]


def fail(what: str, started: Started | None = None) -> NoReturn:
    """End it all, with the last lines of what the hosts said."""
    print(what, file=sys.stderr)
    for log in started.logs if started else []:
        last = log.read_text(errors="replace").splitlines()[-15:]
        print(f"-- {log.parent.name}", *last, sep="\n", file=sys.stderr)
    raise SystemExit(1)


def losses(out: Path) -> list[float]:
    """The batch losses of a finished run."""
    with (out / LOSSES_FILE).open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]


def furthest(a: Sequence[float], b: Sequence[float]) -> float:
    """How far the losses of two runs are apart, relatively."""
    if len(a) != len(b):
        fail(f"{len(a)} steps, not {len(b)}")
    return max(abs(x - y) / abs(y) for x, y in zip(a, b, strict=True))


def bits(out: Path) -> tuple[object, ...]:
    """All that has to be the same, to the bit."""
    tensors = load_model(out / MODEL_FILE).network.state_dict()
    return {name: t.detach().numpy().tobytes() for name, t in tensors.items()}, (
        out / LOSSES_FILE
    ).read_bytes()


def alone(arguments: Sequence[str], out: Path) -> list[float]:
    """The losses of a run by one process."""
    command = [sys.executable, "-m", "makemore", "train", *arguments, "--out-dir", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        fail(done.stderr)
    return losses(out)


def leave_alone(hosts: list[Host], arguments: list[str]) -> tuple[object, ...]:
    """The bits of a run without a kill."""
    started = Started(hosts, [*arguments, "--overwrite"])
    if started.wait() != [0, 0]:
        fail("the run failed by itself", started)
    return bits(hosts[0].folder / "out")


def compare_with_others(hosts: list[Host], arguments: list[str], steps: int, here: Path) -> float:
    """How far the run's losses are from one process's, and those of going on by four from going on by one."""
    out, more = hosts[0].folder / "out", ["--resume", "--steps", str(steps + 20)]
    off = furthest(losses(out)[:100], alone(arguments, here / "one")[:100])
    shutil.copytree(out, here / "go-on")
    four = Started(hosts, more, processes=2)
    if four.wait() != [0, 0]:
        fail("two processes on each host failed", four)
    return max(off, furthest(losses(out)[steps:], alone(more, here / "go-on")[steps:]))


def saved_step(model_file: Path, since: float = 0) -> int | None:
    """The last step that a run saved which began then, -1 before the first; None once it has finished."""
    if not (model_file.exists() and model_file.stat().st_mtime > since):
        return -1
    progress = load_model(model_file).progress
    if progress is None:
        fail(f"{model_file} has no progress")
    return None if progress.finished else progress.step


def stop(host: Host, started: Started, model_file: Path, at: int, later: float) -> int | None:
    """Stop a host's processes some seconds after a step is saved; the last step saved, None if it's over.

    Where one stands still the other cannot end, so that a run that is not over by then will not be.
    """
    began = time.time()
    while (step := saved_step(model_file, began)) is not None and step < at:
        time.sleep(0.02)
        if time.time() > began + LIMIT or any(t.poll() for t in started.torchruns):
            fail("the run did not begin", started)
    time.sleep(later)
    kill(host.pids(), signal.SIGSTOP)
    return saved_step(model_file, began)


def kill_one(hosts: list[Host], arguments: list[str], steps: int, rng: random.Random, what: str) -> str:
    """A run that loses a worker or a host, and comes to its end for all that; returns how."""
    i, restarts = rng.choice((0, 1)), 0 if what.endswith("ends") else 3
    host, model_file = hosts[i], hosts[0].folder / "out" / MODEL_FILE
    while True:
        started = Started(hosts, [*arguments, "--overwrite"], restarts)
        step = stop(host, started, model_file, rng.randrange(steps), rng.uniform(0, 0.3))
        if step is not None:
            break
        kill(host.pids(), signal.SIGCONT)
        if started.wait() != [0, 0]:
            fail("a run that was over did not end", started)
    if what.startswith("worker"):
        kill([pid for pid in host.pids() if pid != started.torchruns[i].pid][-1:])
        kill(host.pids(), signal.SIGCONT)
    else:
        kill(host.pids())
    load_model(model_file)  # raises if the kill spoilt it
    if restarts and what.startswith("host") and i == 1:
        started.torchruns[1] = started.torchrun(1)
    codes, told = started.wait(), started.lines()
    report = f"{what:<14} on {'first' if i == 0 else 'second'} host at step {step:>5,}: "
    if max(map(len, told)) > 1:
        fail(f"{report}more than one line: {told}", started)
    if codes == [0, 0]:
        return report + "went on by itself"
    if restarts and (what.startswith("worker") or i == 1):
        fail(f"{report}did not go on", started)
    if not any(told):
        fail(f"{report}not a word", started)
    report += f"{sum(map(len, told))} lines, "
    if saved_step(model_file) is None:
        return report + "all written"
    again = Started(hosts, ["--resume"])
    if again.wait() != [0, 0]:
        fail(f"{report}cannot be resumed", again)
    return report + "resumed"


KINDS = ("host restarts", "worker ends", "host ends", "worker restarts")


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1500, help="of the runs that are killed")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments and of who is hit")
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
        expected = leave_alone(hosts, arguments)
        off, out = compare_with_others(hosts, arguments, args.steps, here), hosts[0].folder / "out"
        print(f"two hosts, and two processes on each, against one: losses {off:.1e} apart", flush=True)
        if off > 1e-4:
            fail("that is too far")
        for number in range(args.kills):
            report = kill_one(hosts, arguments, args.steps, rng, KINDS[number % len(KINDS)])
            same = bits(out) == expected
            print(report, "to the same bits" if same else "TO OTHER BITS", sep=", ", flush=True)
            if not same:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
