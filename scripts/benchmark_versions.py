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
from in_turns import Rows, Run, at_least, compare, parser, run_parts, val_of
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


def environment(folder: Path) -> dict[str, str]:
    """Of a Python that imports the version in that folder, on one thread."""
    return {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}


def gradients(args: argparse.Namespace) -> Rows:
    from benchmark import PLAN, dropped_batches

    from makemore.modern.soft_targets import SoftTargets
    from makemore.words import load_words

    data, rows = load_words(args.data).data(PLAN.block_size), list[dict[str, Any]]()
    targets = SoftTargets(data.train, len(data.vocabulary))
    for batch_size in args.batch_sizes:
        drawn = dropped_batches(targets, batch_size, args.quick)
        with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
            path = Path(directory) / "batches"
            tensors = zip(NAMES, zip(*drawn, strict=True), strict=True)
            safetensors.torch.save_file({name: torch.stack(parts) for name, parts in tensors}, path)
            runs, norms = dict[str, tuple[Run, int]](), dict[str, float]()
            for name, folder in args.versions.items():
                process = subprocess.Popen(
                    [sys.executable, __file__, "--serve", path],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=environment(folder),
                )
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
        run = [sys.executable, "-P", "-m", "makemore", "train"]  # -P: no makemore of the working directory
        run += ["--seed", str(seed)] + ["--data", str(args.data)] * bool(args.data)
        run += ["--steps", "20"] * args.quick
        vals: dict[str, float] = {}
        runs: dict[str, tuple[Run, int]] = {
            name: (partial(whole_run, run, folder, vals, name), 1) for name, folder in args.versions.items()
        }
        rows += compare(f"the default command, seed {seed}", runs, min(3, args.rounds), **base(args))
        print(", ".join(f"val of {name} {val:.4f}" for name, val in vals.items()))
    return rows


def whole_run(run: Sequence[str], folder: Path, vals: dict[str, float], name: str) -> None:
    """A run of makemore-train by the version in that folder; notes its val loss by the version's name."""
    vals[name] = val_of(run, environment(folder))


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
