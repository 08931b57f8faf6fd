"""The time and memory of an example by the length of its context: distinct windows against whole contexts.

    python scripts/bench/context_lengths.py                  # Python's docstrings, as lines of 200 characters
    python scripts/bench/context_lengths.py --contexts 256 512

See ``in_turns.py`` for how times are taken. A batch is all positions of some lines, as with
``--consecutive``. The row "tree" computes the tree of nodes over every context separately; it gets only a
part of a batch, since it takes much longer. The row "windows" computes each distinct window once. Memory is
the peak of a fresh process beyond what it has before its first step. Seconds are those of a pass over all
lines.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path

import torch
from fresh_process import in_fresh_process, peak_mb
from in_turns import Contestant, Rows, agreeing, at_least, compare, parser, run_parts
from torch import Generator, Tensor

from makemore.backprop.engine import BackpropEngine
from makemore.backprop.windows import WindowsEngine
from makemore.data.encoding import encode_words
from makemore.data.word_list import load_words
from makemore.lecture.layers import Sequential
from makemore.lecture.words import Examples, Vocabulary
from makemore.run.catalog import network_plan
from makemore.training.engine import Engine

sys.path.append(str(Path(__file__).resolve().parents[1] / "study"))
from docstring_lines import lines

LINE = 200
"""Characters of a line, its stop included."""

BATCH_LINES, TREE_LINES = 10, 1
"""Lines of a batch, and the number of these that the tree gets."""

ENGINES: dict[str, type[BackpropEngine]] = {"tree": BackpropEngine, "windows": WindowsEngine}


def long_lines(source: str | None, quick: bool) -> list[str]:
    """The whole text of a word list, or of Python's docstrings, cut into lines of one length."""
    text = " ".join(load_words(source).words if source else lines())[: 20 * LINE if quick else None]
    return [text[i : i + LINE - 1] for i in range(0, len(text) - LINE, LINE - 1)]


def network_for(vocabulary: Vocabulary, context: int) -> Sequential:
    """The untrained network for a context, always the same."""
    return network_plan("wavenet", block_size=context).build(len(vocabulary), Generator().manual_seed(1))


def gradients(engine: BackpropEngine, X: Tensor, Y: Tensor) -> Tensor:
    """The gradients of all parameters: (parameters,)."""
    engine.gradients(X, Y)
    return torch.cat([p.grad.flatten() for p in engine.network.parameters() if p.grad is not None])


def passes(args: argparse.Namespace) -> Rows:
    """The gradients of one example, by the length of its context."""
    words = long_lines(args.data, args.quick)
    vocabulary = Vocabulary("".join(words))
    symbols = encode_words(vocabulary, words)
    rows: Rows = []
    for context in args.contexts:
        examples = Examples(symbols, context)
        starts = range(0, len(examples) // 2, BATCH_LINES * LINE)
        whole = [examples[start : start + BATCH_LINES * LINE] for start in starts]
        part = [(X[: TREE_LINES * LINE], Y[: TREE_LINES * LINE]) for X, Y in whole]
        engines = {
            name: make_engine(network_for(vocabulary, context)) for name, make_engine in ENGINES.items()
        }
        ways = {name: partial(gradients, engine) for name, engine in engines.items()}
        names = agreeing(ways, *part[0], tolerance=1e-3)
        batches = {"tree": part, "windows": whole}
        contestants = {
            name: Contestant(next_batch(engines[name], batches[name]), len(batches[name][0][1]))
            for name in names
        }
        title = f"context {context}, {len(words):,} lines"
        found = compare(title, contestants, args.rounds, args.cpu_time, **{"speed to the tree": "tree"})
        for row in found:
            row["seconds"] = row["us"] * len(examples) / 1e6
            row["peak_mb"] = in_fresh_process(step_mb, row["row"], context, args.data, args.quick)
            print(f"  {row['row']:<32} {row['seconds']:,.1f} s a pass, {row['peak_mb']:,.0f} MB for a batch")
        rows += found
    return rows


def next_batch(engine: Engine, batches: list[tuple[Tensor, Tensor]]) -> Callable[[], object]:
    """A function that computes the gradients of the next batch each time it is called."""
    turns = cycle(batches)
    return lambda: engine.gradients(*next(turns))


def step_mb(name: str, context: int, source: str | None, quick: bool) -> float:
    """By how many MB a batch of ``BATCH_LINES`` lines raises the peak memory of this process."""
    words = long_lines(source, quick)
    vocabulary = Vocabulary("".join(words))
    X, Y = Examples(encode_words(vocabulary, words), context)[: BATCH_LINES * LINE]
    engine = ENGINES[name](network_for(vocabulary, context))
    before = peak_mb()
    engine.gradients(X, Y)
    return peak_mb() - before


PARTS: Mapping[str, Callable[[argparse.Namespace], Rows]] = {"passes": passes}


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    flags = parser(__doc__, PARTS)
    flags.add_argument(
        "--contexts",
        type=at_least(16),
        nargs="+",
        default=[16, 64, 256],
        metavar="N",
        help="default: 16 64 256",
    )
    return run_parts(flags.parse_args(argv), PARTS)


if __name__ == "__main__":
    sys.exit(main())
