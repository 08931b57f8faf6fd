"""What an example costs by the length of its context: the tree over each context, or distinct windows.

    python scripts/benchmark_long.py                  # Python's docstrings, as lines of 200 characters
    python scripts/benchmark_long.py --contexts 256 512

See ``in_turns.py`` for how times are taken. A batch is all positions of some lines, as with ``--chunk``;
the tree gets a part of it, since it takes so much longer. The memory is the peak of a fresh process beyond
what it had before its first step. Seconds are those of a pass over all the lines.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from itertools import cycle

import torch
from benchmark_words import in_fresh_process, peak_mb
from docstring_lines import lines
from in_turns import Rows, Run, at_least, compare, parser, right, run_parts
from torch import Generator, Tensor

from makemore.backprop import BackpropEngine
from makemore.backprop.windows import WindowsEngine
from makemore.layers import Sequential
from makemore.networks import network_plan
from makemore.training import Engine
from makemore.words import Examples, Vocabulary, load_words

LINE = 200
"""Characters of a line, its stop included."""

BATCH_LINES, TREE_LINES = 10, 1
"""Lines of a batch, and how many of them the tree gets."""

ENGINES = {"tree": BackpropEngine, "windows": WindowsEngine}


def long_lines(source: str | None, quick: bool) -> list[str]:
    """All the text of a list, or of Python's docstrings, cut into lines of one length."""
    text = " ".join(load_words(source).words if source else lines())[: 20 * LINE if quick else None]
    return [text[i : i + LINE - 1] for i in range(0, len(text) - LINE, LINE - 1)]


def network_for(vocabulary: Vocabulary, context: int) -> Sequential:
    return network_plan("wavenet", block_size=context).build(len(vocabulary), Generator().manual_seed(1))


def gradients(engine: BackpropEngine, X: Tensor, Y: Tensor) -> Tensor:
    """The gradients of all parameters, in one row."""
    engine.gradients(X, Y)
    return torch.cat([p.grad.flatten() for p in engine.network.parameters()])  # type: ignore[union-attr]


def passes(args: argparse.Namespace) -> Rows:
    words = long_lines(args.data, args.quick)
    vocabulary = Vocabulary("".join(words))
    symbols = vocabulary.encode_all(words)
    rows: Rows = []
    for context in args.contexts:
        examples = Examples(symbols, context)
        starts = range(0, len(examples) // 2, BATCH_LINES * LINE)
        whole = [examples[start : start + BATCH_LINES * LINE] for start in starts]
        part = [(X[: TREE_LINES * LINE], Y[: TREE_LINES * LINE]) for X, Y in whole]
        engines = {name: make(network_for(vocabulary, context)) for name, make in ENGINES.items()}
        right(
            {name: partial(gradients, engine) for name, engine in engines.items()}, *part[0], tolerance=1e-3
        )
        runs = {
            name: (next_step(engines[name], batches), len(batches[0][1]))
            for name, batches in (("tree", part), ("windows", whole))
        }
        title = f"context {context}, {len(words):,} lines"
        found = compare(title, runs, args.rounds, **{"speed to the tree": "tree"})
        for row in found:
            row["seconds"] = row["us"] * len(examples) / 1e6
            row["peak_mb"] = in_fresh_process(step_mb, row["row"], context, args.data, args.quick)
            print(f"  {row['row']:<32} {row['seconds']:,.1f} s a pass, {row['peak_mb']:,.0f} MB for a batch")
        rows += found
    return rows


def next_step(engine: Engine, batches: list[tuple[Tensor, Tensor]]) -> Run:
    """The gradients of the next batch, each time it is called."""
    turns = cycle(batches)
    return lambda: engine.gradients(*next(turns))


def step_mb(name: str, context: int, source: str | None, quick: bool) -> float:
    """What a batch takes at its peak: of ``BATCH_LINES`` lines by either engine."""
    words = long_lines(source, quick)
    vocabulary = Vocabulary("".join(words))
    X, Y = Examples(vocabulary.encode_all(words), context)[: BATCH_LINES * LINE]
    engine = ENGINES[name](network_for(vocabulary, context))
    before = peak_mb()
    engine.gradients(X, Y)
    return peak_mb() - before


PARTS = {"passes": passes}


def main(argv: list[str] | None = None) -> int:
    flags = parser(__doc__, PARTS)
    flags.add_argument("--contexts", type=at_least(16), nargs="+", default=[16, 64, 256])
    return run_parts(flags.parse_args(argv), PARTS)


if __name__ == "__main__":
    sys.exit(main())
