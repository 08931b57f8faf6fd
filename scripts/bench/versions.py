"""This version's times against those of an earlier version, each in processes of its own, in turns.

    python scripts/bench/versions.py 09a5992 --data lecture

The earlier version is a commit of this repository, which has to work with the installed torch. See
``in_turns.py`` for how times are taken. The parts, to be chosen by ``--only``:

* gradients: of batches of the modern recipe, by the default engine of each version
* command: makemore-train with its default settings, from the start of Python to the picture, for several
  seeds
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
from engines import PLAN, modern_batches
from in_turns import Contestant, Rows, at_least, compare, final_val_loss, parser, run_parts

from makemore.data.word_list import load_words
from makemore.modern.soft_targets import SoftTargets

ROOT = Path(__file__).resolve().parents[2]
SERVER = Path(__file__).with_name("gradient_server.py")


@contextmanager
def both_versions(commit: str) -> Iterator[dict[str, Path]]:
    """The directories of both versions by name; that of the commit exists within the ``with`` block.

    Raises SystemExit if there is no such commit.
    """
    done = subprocess.run(["git", "-C", ROOT, "archive", commit], capture_output=True)
    if done.returncode:
        raise SystemExit(f"{commit}: {done.stderr.decode(errors='replace').strip()}")
    with tempfile.TemporaryDirectory() as directory:
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(directory, filter="data")
        yield {commit: Path(directory), "this version": ROOT}


def environment(directory: Path) -> dict[str, str]:
    """The environment of a Python that imports makemore from a directory, on one thread."""
    return {**os.environ, "PYTHONPATH": str(directory), "OMP_NUM_THREADS": "1"}


def gradients(args: argparse.Namespace) -> Rows:
    """The gradients of a batch of the modern recipe."""
    data, rows = load_words(args.data).data(PLAN.block_size), Rows()
    targets = SoftTargets(data.train, len(data.vocabulary))
    for batch_size in args.batch_sizes:
        batches = modern_batches(targets, batch_size, args.quick)
        with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
            path = Path(directory) / "batches"
            columns = zip(("X", "Y", "keep_mask"), zip(*batches, strict=True), strict=True)
            safetensors.torch.save_file({name: torch.stack(tensors) for name, tensors in columns}, path)
            contestants, norms = dict[str, Contestant](), dict[str, float]()
            for name, version in args.versions.items():
                server = subprocess.Popen(
                    [sys.executable, SERVER, path],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=environment(version),
                )
                stack.enter_context(server)  # its end closes stdin, which ends the process
                contestants[name] = Contestant(
                    partial(served, server), len(batches), partial(answer, server, "time")
                )
                norms[name] = served(server)
            before, now = norms.values()
            if not abs(now - before) <= 1e-4 * before:
                raise SystemExit(f"the norms of the gradients differ: {norms}")
            rows += compare(
                f"gradients, batch {batch_size:,}", contestants, args.rounds, args.cpu_time, **base(args)
            )
    return rows


def served(server: subprocess.Popen[str]) -> float:
    """Let a server compute its batches; returns the norm of the last one's gradients, nan if it failed."""
    return answer(server, "gradients")


def answer(server: subprocess.Popen[str], question: str) -> float:
    """What a server answers, see ``gradient_server.py``; nan if it failed."""
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(f"{question}\n")
    server.stdin.flush()
    return float(server.stdout.readline() or "nan")


def command(args: argparse.Namespace) -> Rows:
    """The default command."""
    rows: Rows = []
    for seed in args.seeds:
        # -P: not the makemore of the working directory
        argv = [sys.executable, "-P", "-m", "makemore", "train", "--seed", str(seed)]
        argv += ["--data", args.data] if args.data else []
        argv += ["--steps", "20"] if args.quick else []
        vals: dict[str, float] = {}
        contestants = {
            name: Contestant(partial(whole_command, argv, version, vals, name), 1)
            for name, version in args.versions.items()
        }
        rows += compare(
            f"the default command, seed {seed}", contestants, min(3, args.rounds), args.cpu_time, **base(args)
        )
        print(", ".join(f"val of {name} {val:.4f}" for name, val in vals.items()))
    return rows


def whole_command(argv: Sequence[str], version: Path, vals: dict[str, float], name: str) -> None:
    """Call makemore-train of a version; its val loss goes to ``vals[name]``."""
    vals[name] = final_val_loss(argv, environment(version))


def base(args: argparse.Namespace) -> dict[str, str]:
    """The column of ratios, to the earlier version."""
    return {f"speed to {args.commit}": args.commit}


PARTS: Mapping[str, Callable[[argparse.Namespace], Rows]] = {"gradients": gradients, "command": command}


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    flags = parser(__doc__, PARTS)
    flags.add_argument("commit", help="the earlier version: a commit, tag or branch")
    flags.add_argument(
        "--batch-sizes",
        type=at_least(2),
        nargs="+",
        default=[32, 128, 1024, 4096],
        metavar="N",
        help="default: 32 128 1024 4096",
    )
    flags.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[1, 2, 3],
        metavar="N",
        help="of the commands (default: 1 2 3)",
    )
    args = flags.parse_args(argv)
    with both_versions(args.commit) as args.versions:
        return run_parts(args, PARTS)


if __name__ == "__main__":
    sys.exit(main())
