"""What this version takes against an earlier one, each in processes of its own, in turns.

    python scripts/benchmark_versions.py 09a5992 --data lecture

The earlier one is a commit of this repository, with which the same torch has to work. See ``in_turns.py`` for
how times are taken. The parts, each chosen by ``--only``:

* ``gradients``: of batches of the modern recipe, by its engine here and there
* ``command``: makemore-train with its defaults, from the start of Python to the picture, for some seeds
"""

from __future__ import annotations

import argparse
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from in_turns import Rows, Run, at_least, compare, parser, run_parts
from torch import Generator, Tensor

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("X", "Y", "keep")


@contextmanager
def both_versions(commit: str) -> Iterator[dict[str, Path]]:
    """The folders of both, that of the commit within the block. Raises SystemExit if there is none such."""
    found = subprocess.run(["git", "-C", ROOT, "archive", commit], capture_output=True)
    if found.returncode:
        raise SystemExit(f"{commit}: {found.stderr.decode(errors='replace').strip()}")
    with tempfile.TemporaryDirectory() as directory:
        with tarfile.open(fileobj=io.BytesIO(found.stdout)) as archive:
            archive.extractall(directory, filter="data")
        yield {commit: Path(directory), "this version": ROOT}


def started(folder: Path, *arguments: object, **more: Any) -> subprocess.Popen[str]:
    """A Python that imports the version in that folder, on one thread."""
    env = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, **more)


def gradients(args: argparse.Namespace) -> Rows:
    from benchmark import dropped_batches

    from makemore.words import load_words

    rows: Rows = []
    for batch_size in args.batch_sizes:
        drawn = dropped_batches(load_words(args.data).data(8), batch_size, args.quick)
        with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
            path = Path(directory) / "batches"
            tensors = zip(NAMES, zip(*drawn, strict=True), strict=True)
            safetensors.torch.save_file({name: torch.stack(parts) for name, parts in tensors}, path)
            runs, norms = dict[str, tuple[Run, int]](), dict[str, float]()
            for name, folder in args.versions.items():
                process = started(folder, __file__, "--serve", path, stdin=subprocess.PIPE)
                stack.enter_context(process)  # its end closes stdin, which ends the process
                runs[name] = partial(served, process), len(drawn)
                norms[name] = served(process)
            before, now = norms.values()
            if not abs(now - before) <= 1e-4 * before:
                raise SystemExit(f"the gradients' norms differ: {norms}")
            rows += compare(f"gradients, batch {batch_size:,}", runs, args.rounds, **base(args))
    return rows


def served(process: subprocess.Popen[str]) -> float:
    """Let the other process do its batches; the norm of the last one's gradients."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("once more\n")
    process.stdin.flush()
    return float(process.stdout.readline() or "nan")


def serve(path: Path) -> None:
    """The gradients of the batches in a file whenever a line comes in, by this process's version."""
    from makemore.networks import NETWORKS

    try:
        from makemore.backprop.windows import WindowsEngine as Engine
    except ImportError:  # before distinct windows
        from makemore.backprop import BackpropEngine as Engine
    torch.set_num_threads(1)
    tensors = safetensors.torch.load_file(path)
    drawn: list[tuple[Tensor, ...]] = list(zip(*(tensors[name] for name in NAMES), strict=True))
    network = NETWORKS["wavenet"].build(drawn[0][1].shape[1], Generator().manual_seed(1))
    engine = Engine(network)
    for _ in sys.stdin:
        for batch in drawn:
            engine.gradients(*batch)
        print(torch.cat([p.grad.flatten() for p in network.parameters()]).norm().item(), flush=True)


def command(args: argparse.Namespace) -> Rows:
    rows: Rows = []
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as directory:
            flags: list[object] = [
                "-P",
                "-m",
                "makemore",
                "train",
            ]  # -P: no makemore of the working directory
            flags += ["--out-dir", directory, "--overwrite", "--seed", seed]
            flags += ["--data", args.data] * bool(args.data) + ["--steps", 20] * args.quick
            vals: dict[str, str] = {}
            runs: dict[str, tuple[Run, int]] = {
                name: (partial(whole_run, name, folder, flags, vals), 1)
                for name, folder in args.versions.items()
            }
            title = f"the default command, seed {seed}"
            rows += compare(title, runs, min(3, args.rounds), **base(args))
            print(", ".join(f"val of {name} {val}" for name, val in vals.items()))
    return rows


def whole_run(name: str, folder: Path, flags: Sequence[object], vals: dict[str, str]) -> None:
    """A run of makemore-train; notes its val loss."""
    process = started(folder, *flags)
    told, _ = process.communicate()
    found = re.search(r"^val +([0-9.]+)", told, re.MULTILINE)
    if process.returncode or found is None:
        raise SystemExit(f"makemore-train of {name} failed")
    vals[name] = found[1]


def base(args: argparse.Namespace) -> dict[str, str]:
    """The column of ratios, to the earlier version."""
    return {f"speed to {args.commit}": args.commit}


PARTS: Mapping[str, Callable[[argparse.Namespace], Rows]] = {"gradients": gradients, "command": command}


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    flags = parser(__doc__, PARTS)
    flags.add_argument("commit", help="the earlier version: a commit, tag or branch")
    flags.add_argument("--batch-sizes", type=at_least(2), nargs="+", default=[32, 128, 1024, 4096])
    flags.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the command's runs")
    args = flags.parse_args(argv)
    with both_versions(args.commit) as args.versions:
        return run_parts(args, PARTS)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]))
    else:
        sys.exit(main())
