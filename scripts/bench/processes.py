"""A step of the modern recipe by one process and by several, in turns.

    torchrun --nproc-per-node 2 scripts/bench/processes.py --data lecture

The first process takes all times; while it works alone, the others wait. The losses of the shared training
have to be those of one process. See ``in_turns.py`` for how times are taken, and docs/SCALING.md for where
they go.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import partial

from in_turns import Contestant, Rows, agreeing, at_least, compare, parser, run_parts
from torch import Generator, Tensor

from makemore.backprop.engine import BackpropEngine
from makemore.backprop.windows import WindowsEngine
from makemore.data.word_list import Data, load_words
from makemore.modern.recipe import ModernRecipe
from makemore.modern.trainer import ModernTrainer
from makemore.parallel.engine import ParallelEngine
from makemore.parallel.processes import connected, number_of_processes
from makemore.run.catalog import network_plan
from makemore.training.engine import AutogradEngine, MakeEngine
from makemore.training.processes import Processes

ENGINES: dict[str, MakeEngine] = {
    "windows": WindowsEngine,
    "backprop": BackpropEngine,
    "autograd": AutogradEngine,
}


def new_trainer(args: argparse.Namespace, data: Data, make_engine: MakeEngine) -> ModernTrainer:
    """A new training, always the same."""
    plan, generator = network_plan("wavenet", n_hidden=args.n_hidden), Generator().manual_seed(1)
    network = plan.build(len(data.vocabulary), generator)
    recipe = ModernRecipe.for_examples(len(data.train), batch_size=args.batch_size)
    return ModernTrainer(network, data, recipe, generator, make_engine)


def alone_and_shared(args: argparse.Namespace, data: Data, processes: Processes, name: str) -> Rows:
    """One engine in one process and in all. Every process calls this; the first returns the right rows."""
    one = new_trainer(args, data, ENGINES[name])
    shared = partial(ParallelEngine, make_engine=ENGINES[name], processes=processes)
    several = new_trainer(args, data, shared)
    titles = "1 process", f"{processes.world_size} processes"

    def advance_alone(steps: int) -> Tensor | None:
        return one.advance(steps) if processes.is_first else None

    if processes.is_first:
        first_ten = {titles[0]: partial(one.advance, 10), titles[1]: partial(several.advance, 10)}
        if len(agreeing(first_ten, tolerance=1e-3)) < 2:
            raise SystemExit("the losses of one process and of several differ")
    else:
        several.advance(10)
    contestants = {
        titles[0]: Contestant(partial(advance_alone, args.steps), args.steps),
        titles[1]: Contestant(partial(several.advance, args.steps), args.steps),
    }
    title = f"{name}, batch {args.batch_size:,}, width {args.n_hidden}"
    return compare(title, contestants, args.rounds, args.cpu_time, **{"speed to one": titles[0]})


def main(argv: Sequence[str] | None = None) -> int:
    """The command, in every process."""
    flags = parser(__doc__, ENGINES)
    flags.add_argument("--batch-size", type=at_least(2), default=8192, metavar="N", help="default: 8192")
    flags.add_argument("--n-hidden", type=at_least(1), default=512, metavar="N", help="default: 512")
    flags.add_argument("--steps", type=at_least(1), default=5, metavar="N", help="per round (default: 5)")
    args = flags.parse_args(argv)
    if number_of_processes() == 1:
        flags.error("start it with torchrun and more than one process")
    with connected("cpu") as processes, open(os.devnull, "w", encoding="utf-8") as nowhere:
        data = load_words(args.data).data(8)
        parts = {
            name: partial(alone_and_shared, data=data, processes=processes, name=name) for name in ENGINES
        }
        if processes.is_first:
            return run_parts(args, parts)
        args.json = None
        with redirect_stdout(nowhere):
            return run_parts(args, parts)


if __name__ == "__main__":
    sys.exit(main())
