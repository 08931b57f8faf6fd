"""The lecture's performance log, and ours: train every row with several seeds, write the table.

    python scripts/performance_log.py --data lecture --out-dir log

Every run is a ``makemore-train`` of its own in a directory of its own: what is finished is not done
again, what was stopped goes on. ``--jobs`` runs are done side by side. Writes ``log.md`` (the table: mean
and, behind a plus-minus sign, the standard deviation over the seeds) and ``log.png`` (the val losses).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.figure import Figure

from makemore.commands.report import SPLITS
from makemore.errors import ModelFileError
from makemore.model_file import MODEL_FILE, load_model
from makemore.plotting import save_figure

SECONDS_FILE = "seconds.json"


@dataclass(frozen=True)
class Row:
    """A line of the log: its name, the flags that make it, and what the lecture says of it."""

    name: str
    flags: tuple[str, ...]
    lecture: str = ""

    @property
    def directory(self) -> str:
        """Where its runs lie."""
        return self.name.replace(" ", "-").replace(",", "")


LECTURE = ("--recipe", "lecture", "--network")
LARGE, PAPER_LARGE = ("--drop", "0.3"), ("--n-embd", "104", "--n-hidden", "144")
"""Flags of networks of some 300,000 parameters."""

ROWS = (
    Row("mlp, lecture", (*LECTURE, "mlp"), "2.058 / 2.105"),
    Row("mlp-8, lecture", (*LECTURE, "mlp-8"), "1.918 / 2.027"),
    Row("hierarchical-bug, lecture", (*LECTURE, "hierarchical-bug"), "1.941 / 2.029"),
    Row("hierarchical, lecture", (*LECTURE, "hierarchical"), "1.912 / 2.022"),
    Row("wavenet, lecture", (*LECTURE, "wavenet"), "1.769 / 1.993"),
    Row("wavenet, modern, effort quick", ("--effort", "quick")),
    Row("wavenet, modern", ()),
    Row("wavenet, modern, 4 teachers", ("--teachers", "4")),
    Row("gated, modern", ("--network", "gated")),
    Row("wavenet-paper, modern", ("--network", "wavenet-paper")),
    Row("wavenet, modern, large", ("--n-hidden", "264", *LARGE)),
    Row("gated, modern, large", ("--network", "gated", "--n-hidden", "185", *LARGE)),
    Row("wavenet-paper, modern, large", ("--network", "wavenet-paper", *PAPER_LARGE, *LARGE)),
    Row("wavenet, modern, effort best", ("--effort", "best")),
    Row("wavenet, modern, 4 members", ("--members", "4")),
    Row("wavenet 256, modern, 4 teachers", ("--n-hidden", "256", "--drop", "0.3", "--teachers", "4")),
    Row("wavenet 256, modern, 8 members", ("--n-hidden", "256", "--drop", "0.3", "--members", "8")),
)


@dataclass(frozen=True)
class Result:
    """What one run came to: processor's seconds of the whole command, losses in nats per character."""

    parameters: int
    steps: int
    seconds: float
    train: float
    val: float
    test: float
    unseen_val: float
    unseen_test: float


def finished(directory: Path) -> Result | None:
    """The result of a run, None if it is not finished."""
    try:
        model = load_model(directory / MODEL_FILE)
    except ModelFileError:
        return None
    progress = model.progress
    if progress is None or not progress.finished:
        return None
    losses = asdict(progress.evaluations[-1])
    seconds = json.loads((directory / SECONDS_FILE).read_text())
    parameters = sum(p.numel() for p in model.network.parameters())
    return Result(parameters, progress.step, seconds, **{split: losses[split] for split in SPLITS})


def do(row: Row, seed: int, data: str | None, out_dir: Path, flags: Sequence[str]) -> Result:
    """Do one run to its end, or go on with it; the processor's seconds of all its parts add up."""
    directory = out_dir / f"{row.directory}-{seed}"
    done = finished(directory)
    if done is not None:
        return done
    command = [
        sys.executable,
        "-c",
        "import sys; from makemore.commands.cli import train_main; sys.exit(train_main())",
    ]
    command += ["--out-dir", str(directory)]
    before = 0.0
    if (directory / MODEL_FILE).exists():
        command.append("--resume")
        if (directory / SECONDS_FILE).exists():
            before = json.loads((directory / SECONDS_FILE).read_text())
    else:
        command += ["--seed", str(seed), *row.flags, *flags, *(["--data", data] if data else [])]
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "log.txt").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    (directory / SECONDS_FILE).write_text(json.dumps(before + usage.ru_utime + usage.ru_stime))
    result = finished(directory)
    if process.returncode != 0 or result is None:
        raise SystemExit(f"{directory}: exit code {process.returncode}; see its log.txt")
    print(f"{row.name}, seed {seed}: val {result.val:.4f}, {result.seconds:.0f} s", flush=True)
    return result


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Mean and standard deviation."""
    mean = f"{statistics.fmean(values):,.{digits}f}"
    return mean + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 and digits else "")


def table(results: dict[Row, list[Result]]) -> str:
    """The log as Markdown."""
    lines = [
        "| network, recipe | parameters | steps | CPU seconds | train | val | test | unseen val | unseen test"
        " | lecture: train / val |",
        "|---|--:|--:|--:|---|---|---|---|---|---|",
    ]
    for row, runs in results.items():
        cells = [row.name, f"{runs[0].parameters:,}", f"{max(run.steps for run in runs):,}"]
        cells.append(spread([run.seconds for run in runs], 0))
        cells += [spread([getattr(run, split) for run in runs]) for split in SPLITS]
        lines.append("| " + " | ".join([*cells, row.lecture]) + " |")
    return "\n".join(lines) + "\n"


def picture(results: dict[Row, list[Result]]) -> Figure:
    """Val losses of all runs, a row each, the lecture's figure beside them."""
    figure = Figure(figsize=(8, 0.5 * len(results) + 1.5), layout="constrained")
    axes = figure.add_subplot()
    for y, (row, runs) in enumerate(results.items()):
        axes.plot(
            [run.val for run in runs], [y] * len(runs), "o", color="C0", label="ours" if y == 0 else None
        )
        if row.lecture:
            lecture = float(row.lecture.split("/")[1])
            axes.plot(lecture, y, "|", markersize=14, color="C1", label="the lecture" if y == 0 else None)
    axes.axvline(1.993, color="C1", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(results)), [row.name for row in results])
    axes.invert_yaxis()
    axes.set_xlabel("val loss (nats per character), a dot for each seed")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", help="word list, or 'lecture' (default: the bundled names)")
    parser.add_argument("--out-dir", type=Path, default=Path("log"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--rows", nargs="+", help="names of rows (default: all)")
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help="further flags for every run")
    args = parser.parse_args(argv)
    rows = [row for row in ROWS if args.rows is None or row.name in args.rows]
    with ThreadPoolExecutor(args.jobs) as pool:
        runs = {
            row: [pool.submit(do, row, seed, args.data, args.out_dir, args.flags) for seed in args.seeds]
            for row in rows
        }
        results = {row: [run.result() for run in futures] for row, futures in runs.items()}
    (args.out_dir / "log.md").write_text(table(results))
    save_figure(picture(results), args.out_dir / "log.png")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
