"""Timing for the benchmarks: contestants take turns, so that other load on the machine slows all equally.

A time is the median over the rounds, printed with its quartiles; a ratio is the median of the rounds' ratios.
With ``--cpu-time`` it is CPU time: then other programs on the same cores matter less.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from makemore.core.errors import MakemoreError
from makemore.core.system import allowed_cores

Rows = list[dict[str, Any]]

CORES = len(allowed_cores())
"""The number of cores this process may use. Taken early: torchrun's processes are pinned to fewer later."""


def cpu_seconds() -> float:
    """The CPU time so far of this process, of all its threads, and of the children that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


class Contestant(NamedTuple):
    """One way to do something: ``call()`` does it for ``items`` items at once.

    ``cpu_clock()`` is the CPU time so far of the processes that do it.
    """

    call: Callable[[], object]
    items: int
    cpu_clock: Callable[[], float] = cpu_seconds


def compare(
    title: str, contestants: Mapping[str, Contestant], rounds: int, cpu_time: bool = False, **bases: str
) -> Rows:
    """Time contestants in turns; print and return a row for each.

    Each round starts with another contestant. ``bases`` map the title of a column of ratios to the contestant
    that the others are compared with; a column whose contestant is missing is left out.
    """
    names = list(contestants)
    bases = {column: base for column, base in bases.items() if base in contestants}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for contestant in contestants.values():
        contestant.call()  # warm-up
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            call, items, cpu_clock = contestants[name]
            clock = cpu_clock if cpu_time else time.perf_counter
            start = clock()
            call()
            seconds[name].append((clock() - start) / items)
    print(
        f"\n{title:<34} {'CPU us each' if cpu_time else 'us each':>12} {'quartiles':>23}"
        + "".join(f"{column:>22}" for column in bases)
    )
    rows: Rows = []
    for name in names:
        q25, median, q75 = quartiles([s * 1e6 for s in seconds[name]])
        ratios = {
            column: quartiles([a / b for a, b in zip(seconds[base], seconds[name], strict=True)])[1]
            for column, base in bases.items()
        }
        cells = "".join(f"{ratio:>21.2f}x" for ratio in ratios.values())
        print(f"  {name:<32} {median:>12,.1f} {f'{q25:,.1f} - {q75:,.1f}':>23}{cells}", flush=True)
        rows.append({"title": title, "row": name, "us": median, "q25": q25, "q75": q75, **ratios})
    return rows


def agreeing(
    functions: Mapping[str, Callable[..., Tensor]],
    *batch: Tensor,
    tolerance: float,
    judges: Mapping[str, tuple[str, float]] | None = None,
) -> list[str]:
    """The names of the functions with the right result for a batch; prints why the others drop out.

    By default a result is compared with that of the first function, and no number may differ by more than
    ``tolerance``. ``judges`` maps a name to another function, which has to come earlier, and a tolerance.
    """
    first, *_ = functions
    results: dict[str, Tensor] = {}
    for name, function in functions.items():
        judge, allowed = (judges or {}).get(name, (first, tolerance))
        try:
            result = function(*batch)
            off = 0.0 if name == first else (result - results[judge]).abs().max().item()
            reason = "" if off <= allowed else f"it is off by {off:.1e}"
        except Exception as error:  # torch.compile fails in many ways
            if name == first:
                raise
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        if reason:
            print(f"  {name} drops out: {reason}")
        else:
            results[name] = result
    return list(results)


def final_val_loss(command: Sequence[object], env: Mapping[str, str] | None = None) -> float:
    """The val loss that a makemore-train command prints at its end. Raises SystemExit if the command fails.

    The command writes to a temporary directory.
    """
    with tempfile.TemporaryDirectory() as directory:
        argv = [*map(str, command), "--out-dir", directory]
        done = subprocess.run(argv, capture_output=True, text=True, env=env)
    val = re.search(r"^val +(\S+)", done.stdout, re.MULTILINE)
    if done.returncode or val is None:
        raise SystemExit(done.stderr)
    return float(val[1])


def quartiles(values: Sequence[float]) -> list[float]:
    """The first quartile, the median and the third quartile."""
    at = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    return list(torch.tensor(values, dtype=torch.float64).quantile(at).tolist())


def machine() -> dict[str, Any]:
    """What the times depend on: processor, cores, load, versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": cpu or platform.processor(),
        "cores": CORES,
        "load before": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def at_least(least: int) -> Callable[[str], int]:
    """The argparse type of an integer that is ``least`` or more."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer of {least} or more")
        return int(text)

    return parse


def parser(description: str | None, parts: Mapping[str, object]) -> argparse.ArgumentParser:
    """A parser with the flags that all benchmarks share; ``parts`` are the choices of ``--only``."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument(
        "--only", nargs="+", choices=parts, default=list(parts), metavar="PART", help=", ".join(parts)
    )
    parser.add_argument("--data", help="word list, or 'lecture' (default: the bundled names)")
    parser.add_argument("--rounds", type=at_least(1), default=11, metavar="N", help="default: 11")
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU time in place of wall time")
    parser.add_argument("--quick", action="store_true", help="only test the script; takes seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file")
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
