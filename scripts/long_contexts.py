"""Val loss, time and memory by the length of the context, on lines of some hundred characters.

    python scripts/long_contexts.py runs                # half an hour of one core; finished runs are kept
    python scripts/long_contexts.py runs --steps 300    # sooner, worse

Trains ``makemore-train`` on the paragraphs of Python's docstrings (``docstring_lines.py``), batches made of
consecutive examples, and prints a row for each run; the picture goes beside them. Seconds are the processor's
of the whole command, memory is its peak.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docstring_lines import lines
from matplotlib.figure import Figure

from makemore.model_file import MODEL_FILE, load_model
from makemore.plotting import save_figure

RUNS = [("wavenet", context) for context in (8, 16, 64, 128, 256)] + [("wavenet-paper", 64)]

COLOURS = {"wavenet": "#0072B2", "wavenet-paper": "#D55E00"}
"""Of Okabe and Ito's palette, which the colour-blind tell apart."""


PANELS = {"val": "val loss, nats a character", "seconds": "processor seconds", "mb": "peak memory, MB"}


def run(name: str, context: int, steps: int, directory: Path) -> dict[str, Any]:
    """The figures of one training; if it was done before, those of then."""
    out = directory / f"{name}-{context}"
    result = out / "result.json"
    if not result.exists():
        flags = {"--network": name, "--block-size": context, "--steps": steps, "--out-dir": out}
        flags |= {"--data": directory / "lines.txt", "--chunk": 128, "--batch-size": 2048, "--samples": 0}
        argv = [
            sys.executable,
            "-m",
            "makemore",
            "train",
            "--overwrite",
            *(str(x) for f in flags.items() for x in f),
        ]
        _, status, usage = os.wait4(os.posix_spawn(sys.executable, argv, os.environ), 0)
        if status != 0:
            raise SystemExit(f"{out}: the training failed")
        model = load_model(out / MODEL_FILE)
        assert model.progress is not None
        losses = model.progress.evaluations[-1]
        row = {
            "network": name,
            "context": context,
            "val": losses.val,
            "test": losses.test,
            "train": losses.train,
        }
        row |= {"parameters": sum(p.numel() for p in model.network.parameters())}
        row |= {"seconds": usage.ru_utime + usage.ru_stime, "mb": usage.ru_maxrss / 1024}
        result.write_text(json.dumps(row) + "\n", encoding="utf-8")
    done: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return done


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a table in markdown."""
    text = [
        "| network | context | parameters | train | val | test | CPU seconds | MB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for r in rows:
        losses = " | ".join(f"{r[split]:.4f}" for split in ("train", "val", "test"))
        cost = f"{r['seconds']:,.0f} | {r['mb']:,.0f}"
        text.append(f"| {r['network']} | {r['context']} | {r['parameters']:,} | {losses} | {cost} |")
    return "\n".join(text)


def picture(rows: list[dict[str, Any]]) -> Figure:
    """Val loss, seconds and memory over the context."""
    figure = Figure(figsize=(9.4, 3.2), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for name, colour in COLOURS.items():
            own = [(r["context"], r[key]) for r in rows if r["network"] == name]
            axes.plot(*zip(*own, strict=True), "o-", color=colour, label=name)
        axes.set_xscale("log", base=2)
        contexts = sorted({r["context"] for r in rows})
        axes.set_xticks(contexts, [str(context) for context in contexts])
        axes.set_xlabel("characters of context")
        axes.set_title(title, fontsize=10)
        if key != "val":
            axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="lower right")
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    args = parser.parse_args(argv)
    args.directory.mkdir(parents=True, exist_ok=True)
    (args.directory / "lines.txt").write_text("\n".join(lines()) + "\n", encoding="utf-8")
    rows = [run(name, context, args.steps, args.directory) for name, context in RUNS]
    print(table(rows))
    with open(args.directory / "long.png", "wb") as file:
        save_figure(picture(rows), file)


if __name__ == "__main__":
    main()
