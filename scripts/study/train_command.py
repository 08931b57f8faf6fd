"""Runs of makemore-train in directories of their own, with their cost: used by the studies."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from makemore.core.errors import ModelFileError
from makemore.run.model_file import MODEL_FILE, load_model
from makemore.run.report import SPLITS

COST_FILE = "cost.json"
"""Processor seconds and peak MB of a run's commands so far."""


@dataclass(frozen=True)
class Result:
    """A finished run: the size of its network, its steps, the cost of its commands, its final losses.

    ``seconds`` are processor seconds of all the run's commands, ``mb`` is the peak memory of one. They are
    nan if a command ended without its cost being noted.
    """

    parameters: int
    steps: int
    seconds: float
    mb: float
    losses: dict[str, float]


def finished(directory: Path) -> Result | None:
    """The result of the run in a directory; None if there is no run or it is not finished."""
    try:
        model = load_model(directory / MODEL_FILE)
    except ModelFileError:
        return None
    progress = model.progress
    if progress is None or not progress.finished:
        return None
    parameters = sum(p.numel() for p in model.network.parameters())
    losses = asdict(progress.evaluations[-1])
    return Result(parameters, progress.step, *_cost(directory), {split: losses[split] for split in SPLITS})


def train(directory: Path, flags: Sequence[object]) -> Result:
    """Do the run with these flags of makemore-train in a directory; returns its result.

    A finished run is not done again, and a stopped one is resumed. The command prints to ``log.txt``. Raises
    SystemExit if it fails.
    """
    if (result := finished(directory)) is not None:
        return result
    directory.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "makemore", "train", "--out-dir", str(directory)]
    seconds, mb = 0.0, 0.0
    if (directory / MODEL_FILE).exists():
        command.append("--resume")
        seconds, mb = _cost(directory)
    else:
        command += map(str, flags)
    (directory / COST_FILE).unlink(missing_ok=True)  # until the command has ended
    with (directory / "log.txt").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    cost = {"seconds": seconds + usage.ru_utime + usage.ru_stime, "mb": max(mb, usage.ru_maxrss / 1024)}
    (directory / COST_FILE).write_text(json.dumps(cost) + "\n", encoding="utf-8")
    result = finished(directory)
    if process.returncode != 0 or result is None:
        raise SystemExit(f"{directory}: exit code {process.returncode}; see its log.txt")
    return result


def _cost(directory: Path) -> tuple[float, float]:
    """The seconds and MB noted for the run in a directory."""
    if not (directory / COST_FILE).exists():
        return math.nan, math.nan
    cost = json.loads((directory / COST_FILE).read_text(encoding="utf-8"))
    return cost["seconds"], cost["mb"]
