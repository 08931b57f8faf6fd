"""Write the performance log: train every row with several seeds, make the table.

    python scripts/study/performance_log.py --data lecture --out-dir log

The rows are those of the lecture and more. Each run is a ``makemore-train`` command with its own directory: a
finished run is not done again, a stopped one is resumed. ``--jobs`` runs are done at the same time. Writes
``log.md``, the table with the mean ± standard deviation over the seeds, and ``log.png``, the val losses.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from answer import answer
from train_command import Result, finished, train

from makemore.core.figure import Figure
from makemore.pictures.figures import save_figure
from makemore.run.report import SPLITS


@dataclass(frozen=True)
class Row:
    """A row of the log: its name, its flags of makemore-train, and the lecture's losses, "train / val"."""

    name: str
    flags: tuple[str, ...]
    lecture: str = ""

    @property
    def directory(self) -> str:
        """The name of its runs' directories, without the seed."""
        return self.name.replace(" ", "-").replace(",", "")


LECTURE = ("--recipe", "lecture", "--network")
LARGE = ("--context-dropout", "0.3")
"""For networks of about 300,000 parameters."""

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
    Row(
        "wavenet-paper, modern, large",
        ("--network", "wavenet-paper", "--n-embd", "104", "--n-hidden", "144", *LARGE),
    ),
    Row("wavenet, modern, effort best", ("--effort", "best")),
    Row("wavenet, modern, 4 members", ("--ensemble", "4")),
    Row("wavenet 256, modern, 4 teachers", ("--n-hidden", "256", *LARGE, "--teachers", "4")),
    Row("wavenet 256, modern, 8 members", ("--n-hidden", "256", *LARGE, "--ensemble", "8")),
)


def run(row: Row, seed: int, data: str | None, out_dir: Path, flags: Sequence[str]) -> Result:
    """Do one run of a row, unless it is finished."""
    directory = out_dir / f"{row.directory}-{seed}"
    if (done := finished(directory)) is not None:
        return done
    result = train(directory, ["--seed", seed, *row.flags, *flags, *(["--data", data] if data else [])])
    print(f"{row.name}, seed {seed}: val {result.losses['val']:.4f}, {result.seconds:.0f} s", flush=True)
    return result


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Mean and standard deviation; without digits after the point, the mean alone."""
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
        cells += [spread([run.losses[split] for run in runs]) for split in SPLITS]
        lines.append("| " + " | ".join([*cells, row.lecture]) + " |")
    return "\n".join(lines) + "\n"


def picture(results: dict[Row, list[Result]]) -> Figure:
    """The val losses of all runs, one line for each row, with the lecture's losses."""
    figure = Figure(figsize=(8, 0.5 * len(results) + 1.5), layout="constrained")
    axes = figure.add_subplot()
    for y, (row, runs) in enumerate(results.items()):
        label = "ours" if y == 0 else None
        axes.plot([run.losses["val"] for run in runs], [y] * len(runs), "o", color="C0", label=label)
        if row.lecture:
            label = "the lecture" if y == 0 else None
            axes.plot(float(row.lecture.split("/")[1]), y, "|", markersize=14, color="C1", label=label)
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
    parser.add_argument("--out-dir", type=Path, default=Path("log"), metavar="DIR", help="default: log")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[42, 43, 44], metavar="N", help="default: 42 43 44"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at the same time (default: 1)")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="names of rows (default: all)")
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help="further flags of all runs")
    args = parser.parse_args(argv)
    for name in set(args.rows or ()) - {row.name for row in ROWS}:
        parser.error(f"there is no row {name!r}: choose from {', '.join(repr(row.name) for row in ROWS)}")
    rows = [row for row in ROWS if args.rows is None or row.name in args.rows]
    with ThreadPoolExecutor(args.jobs) as pool:
        runs = {
            row: [pool.submit(run, row, seed, args.data, args.out_dir, args.flags) for seed in args.seeds]
            for row in rows
        }
        results = {row: [run.result() for run in futures] for row, futures in runs.items()}
    (args.out_dir / "log.md").write_text(table(results), encoding="utf-8")
    save_figure(picture(results), args.out_dir / "log.png")
    print(table(results))
    return 0


if __name__ == "__main__":
    answer(main)
