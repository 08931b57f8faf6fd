"""A step of the modern recipe by one process and by many, in turns.

    torchrun --nproc-per-node 2 scripts/benchmark_processes.py --data lecture

The first process times both: while it works alone the others wait. The losses of the many have to be those of
the one first. See ``in_turns.py`` for how times are taken, docs/SCALING.md for what they are made of.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial

from in_turns import Rows, Run, at_least, compare, parser, right, run_parts
from torch import Generator, Tensor

from makemore.backprop import BackpropEngine
from makemore.backprop.windows import WindowsEngine
from makemore.layers import Sequential
from makemore.modern.trainer import ModernTrainer
from makemore.networks import network_plan
from makemore.parallel.engine import ParallelEngine
from makemore.parallel.processes import Processes, joined, number_of_processes
from makemore.recipes import ModernRecipe
from makemore.training import AutogradEngine, Engine
from makemore.words import Data, load_words

ENGINES: dict[str, Callable[[Sequential], Engine]] = {
    "windows": WindowsEngine,
    "backprop": BackpropEngine,
    "autograd": AutogradEngine,
}


def trainer(args: argparse.Namespace, data: Data, make: Callable[[Sequential], Engine]) -> ModernTrainer:
    """A training, always the same one."""
    plan, generator = network_plan("wavenet", n_hidden=args.n_hidden), Generator().manual_seed(1)
    network = plan.build(len(data.vocabulary), generator)
    recipe = ModernRecipe.for_examples(len(data.train), batch_size=args.batch_size)
    return ModernTrainer(network, data, recipe, generator, make)


def in_turns(args: argparse.Namespace, data: Data, processes: Processes, name: str) -> Rows:
    """One engine alone and on all processes. Every process comes here; the first one's rows count."""
    one = trainer(args, data, ENGINES[name])
    many = trainer(args, data, partial(ParallelEngine, make_engine=ENGINES[name], processes=processes))
    titles = "1 process", f"{processes.number} processes"

    def alone(steps: int) -> Tensor | None:
        return one.advance(steps) if processes.is_first else None

    if processes.is_first:
        first_ten = {titles[0]: partial(one.advance, 10), titles[1]: partial(many.advance, 10)}
        if len(right(first_ten, tolerance=1e-3)) < 2:
            raise SystemExit("they train differently")
    else:
        many.advance(10)
    runs: dict[str, tuple[Run, int]] = {
        titles[0]: (partial(alone, args.steps), args.steps),
        titles[1]: (partial(many.advance, args.steps), args.steps),
    }
    title = f"{name}, batch {args.batch_size:,}, width {args.n_hidden}"
    return compare(title, runs, args.rounds, **{"speed to one": titles[0]})


def main(argv: Sequence[str] | None = None) -> int:
    """The command, in every process."""
    flags = parser(__doc__, ENGINES)
    flags.add_argument("--batch-size", type=at_least(2), default=8192, metavar="N")
    flags.add_argument("--n-hidden", type=at_least(1), default=512, metavar="N")
    flags.add_argument("--steps", type=at_least(1), default=5, metavar="N", help="in each round")
    args = flags.parse_args(argv)
    if number_of_processes() == 1:
        flags.error("start it by torchrun, with more than one process")
    with joined("cpu") as processes, open(os.devnull, "w", encoding="utf-8") as nowhere:
        data = load_words(args.data).data(8)
        parts = {name: lambda args, name=name: in_turns(args, data, processes, name) for name in ENGINES}
        if processes.is_first:
            return run_parts(args, parts)
        args.json = None
        with redirect_stdout(nowhere):
            return run_parts(args, parts)


if __name__ == "__main__":
    sys.exit(main())
