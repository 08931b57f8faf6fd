"""Times of what is compared, taken in turns: whatever else the machine does meets all of it alike.

A time is the median over the rounds, beside it the quartiles; a ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from makemore.errors import MakemoreError

Run = Callable[[], Any]
Rows = list[dict[str, Any]]

CORES = len(os.sched_getaffinity(0))
"""How many the script may use; later a process of many keeps to its share."""


def compare(title: str, runs: Mapping[str, tuple[Run, int]], rounds: int, **bases: str) -> Rows:
    """Time runs in turns, each round begun by another one; print and return a row for each.

    A run comes with the number of things it does. ``bases`` name the columns of ratios, and what each is to;
    a column to what is not there is left out.
    """
    names = list(runs)
    bases = {base: of for base, of in bases.items() if of in runs}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for run, _ in runs.values():
        run()  # warm-up
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            run, things = runs[name]
            start = time.perf_counter()
            run()
            seconds[name].append((time.perf_counter() - start) / things)
    print(f"\n{title:<34} {'us each':>12} {'quartiles':>23}" + "".join(f"{base:>22}" for base in bases))
    rows: Rows = []
    for name in names:
        q25, median, q75 = quartiles([s * 1e6 for s in seconds[name]])
        ratios = {
            base: quartiles([a / b for a, b in zip(seconds[of], seconds[name], strict=True)])[1]
            for base, of in bases.items()
        }
        cells = "".join(f"{ratio:>21.2f}x" for ratio in ratios.values())
        print(f"  {name:<32} {median:>12,.1f} {f'{q25:,.1f} - {q75:,.1f}':>23}{cells}", flush=True)
        rows.append({"title": title, "row": name, "us": median, "q25": q25, "q75": q75, **ratios})
    return rows


def right(
    contestants: Mapping[str, Callable[..., Tensor]],
    *batch: Tensor,
    tolerance: float,
    judges: Mapping[str, tuple[str, float]] | None = None,
) -> list[str]:
    """The names of those whose results for the batch are right; prints why the others drop out.

    The first one judges: no number may be further off than ``tolerance``. ``judges`` names others, each in
    front of those that it judges, with a tolerance.
    """
    first, *_ = contestants
    results: dict[str, Tensor] = {}
    for name, contestant in contestants.items():
        judge, most = (judges or {}).get(name, (first, tolerance))
        try:
            result = contestant(*batch)
            off = 0.0 if name == first else (result - results[judge]).abs().max().item()
            why = "" if off <= most else f"it is off by {off:.1e}"
        except Exception as error:  # torch.compile fails in many ways
            if name == first:
                raise
            why = f"{type(error).__name__}: {error}".partition("\n")[0]
        if why:
            print(f"  {name} drops out: {why}")
        else:
            results[name] = result
    return list(results)


def val_of(command: Sequence[object], env: Mapping[str, str] | None = None) -> float:
    """The val loss that a command of makemore-train ends with, in a folder that goes; or SystemExit."""
    with tempfile.TemporaryDirectory() as folder:
        words = [*map(str, command), "--out-dir", folder]
        done = subprocess.run(words, capture_output=True, text=True, env=env)
    val = re.search(r"^val +(\S+)", done.stdout, re.MULTILINE)
    if done.returncode or val is None:
        raise SystemExit(done.stderr)
    return float(val[1])


def quartiles(values: Sequence[float]) -> list[float]:
    """The quartiles of some values."""
    at = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    return list(torch.tensor(values, dtype=torch.float64).quantile(at).tolist())


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": cpu or platform.processor(),
        "cores": CORES,
        "load before": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def at_least(least: int) -> Callable[[str], int]:
    """The type of a flag: an integer from ``least`` on."""

    def checked(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer of {least} or more")
        return int(text)

    return checked


def parser(description: str | None, parts: Mapping[str, object]) -> argparse.ArgumentParser:
    """The flags that the benchmarks share; ``parts`` are what can be asked for."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts), metavar="PART")
    parser.add_argument("--data", help="a word list, or 'lecture' (default: the bundled one)")
    parser.add_argument("--rounds", type=at_least(1), default=11, metavar="N", help="default: 11")
    parser.add_argument("--quick", action="store_true", help="a test of the script, within seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    return parser


def run_parts(args: argparse.Namespace, parts: Mapping[str, Callable[[argparse.Namespace], Rows]]) -> int:
    """Run the parts asked for, on one thread; returns the exit code."""
    args.rounds = 2 if args.quick else args.rounds
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    results: dict[str, Any] = {"machine": machine()}
    print(", ".join(f"{name} {value}" for name, value in results["machine"].items()))
    try:
        for part in args.only:
            results[part] = parts[part](args)
    except MakemoreError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    finally:
        torch.set_num_threads(threads)
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0
