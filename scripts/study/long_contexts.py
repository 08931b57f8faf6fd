"""Measure val loss, time and memory by the length of the context, on lines of several hundred characters.

    python scripts/study/long_contexts.py runs                # half an hour on one core
    python scripts/study/long_contexts.py runs --steps 300    # sooner, with a higher loss

Trains with ``makemore-train`` on the paragraphs of Python's docstrings (``docstring_lines.py``), on batches
of consecutive examples. Prints a table and writes ``long.png``. Finished runs are not done again. Seconds
are processor seconds of the whole command, memory is its peak.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from answer import answer
from docstring_lines import lines
from train_command import Result, train

from makemore.core.figure import Figure
from makemore.pictures.figures import save_figure
from makemore.pictures.palette import COLORS

RUNS = [("wavenet", context) for context in (8, 16, 64, 128, 256)] + [("wavenet-paper", 64)]
"""Network and context of each run."""

Results = Mapping[tuple[str, int], Result]


def run(network: str, context: int, steps: int, directory: Path) -> Result:
    """Do one run, unless it is finished."""
    flags = {"--network": network, "--block-size": context, "--steps": steps, "--samples": 0}
    flags |= {"--data": directory / "lines.txt", "--consecutive": 128, "--batch-size": 2048}
    return train(directory / f"{network}-{context}", [text for pair in flags.items() for text in pair])


def table(results: Results) -> str:
    """The results as a table in Markdown."""
    text = [
        "| network | context | parameters | train | val | test | CPU seconds | MB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for (network, context), r in results.items():
        losses = " | ".join(f"{r.losses[split]:.4f}" for split in ("train", "val", "test"))
        cost = f"{r.seconds:,.0f} | {r.mb:,.0f}"
        text.append(f"| {network} | {context} | {r.parameters:,} | {losses} | {cost} |")
    return "\n".join(text)


def picture(results: Results) -> Figure:
    """Val loss, seconds and memory over the context."""
    figure = Figure(figsize=(9.4, 3.2), layout="constrained")
    panels = {
        "val loss, nats a character": {key: r.losses["val"] for key, r in results.items()},
        "processor seconds": {key: r.seconds for key, r in results.items()},
        "peak memory, MB": {key: r.mb for key, r in results.items()},
    }
    contexts = sorted({context for _, context in results})
    networks = dict.fromkeys(network for network, _ in results)
    for axes, (title, values) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for network, color in zip(networks, COLORS, strict=False):
            points = [(context, value) for (name, context), value in values.items() if name == network]
            axes.plot(*zip(*points, strict=True), "o-", color=color, label=network)
        axes.set_xscale("log", base=2)
        axes.set_xticks(contexts, [str(context) for context in contexts])
        axes.set_xlabel("characters of context")
        axes.set_title(title, fontsize=10)
        if title != "val loss, nats a character":
            axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="lower right")
    return figure


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", type=Path, help="directory to write to")
    parser.add_argument("--steps", type=int, default=3000, metavar="N", help="default: 3000")
    args = parser.parse_args(argv)
    args.directory.mkdir(parents=True, exist_ok=True)
    (args.directory / "lines.txt").write_text("\n".join(lines()) + "\n", encoding="utf-8")
    results = {
        (network, context): run(network, context, args.steps, args.directory) for network, context in RUNS
    }
    print(table(results))
    save_figure(picture(results), args.directory / "long.png")
    return 0


if __name__ == "__main__":
    answer(main)
