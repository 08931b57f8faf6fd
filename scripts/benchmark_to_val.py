"""Time to the lecture's val loss, 1.9937: the notebook's own training against the modern recipe in a hurry.

    python scripts/benchmark_to_val.py --data lecture                # a fiftieth of the notebook's steps
    python scripts/benchmark_to_val.py --data lecture --share 1      # all of them, some minutes each

The notebook's training is ``--recipe lecture --engine autograd``: 200,000 steps by autograd, 1.9937 with the
lecture's seed. A share of them is timed before each of ours, and the time of the whole worked out from it.
Ours are ``--seed 1``, 2 and 3 with the flags in HURRY; every one of them has to reach 1.9937. The parts:

* training: from the encoded words to the trained network, one after the other in this process.
* command: ours as a command, from its start to its end: Python, torch, reading, training, evaluating, the
  picture and the words; against the notebook's training alone.

Start, stop and evaluation of the notebook are left out in both.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from in_turns import Rows, parser, quartiles, run_parts, val_of
from torch import Generator

from makemore.backprop.windows import WindowsEngine
from makemore.convolution import loss
from makemore.modern.trainer import ModernTrainer
from makemore.networks import NETWORKS
from makemore.recipes import LectureRecipe, ModernRecipe
from makemore.training import Trainer
from makemore.words import Data, load_words

PLAN = NETWORKS["wavenet"]
NOTEBOOKS_VAL = 1.9937
HURRY: dict[str, Any] = {
    "steps": 165,
    "batch_size": 2048,
    "lr": 0.12,
    "lr_other": 0.03,
    "warm_up": 0.02,
    "drop": 0,
    "examples_per_row": 8,
}
"""Settings that reach the notebook's val loss soonest, on the lecture's list."""


def notebook(data: Data, share: float) -> Callable[[], float]:
    """What does the next share of the notebook's training, and tells the seconds of the whole."""
    recipe, generator = LectureRecipe(), Generator().manual_seed(42)
    trainer = Trainer(PLAN.build(len(data.vocabulary), generator), data, recipe, generator)
    steps = max(1, round(share * recipe.steps))

    def seconds() -> float:
        start = time.perf_counter()
        for done in range(0, steps, 500):
            trainer.advance(min(500, steps - done))
        return (time.perf_counter() - start) / steps * recipe.steps

    trainer.advance(1)
    return seconds


def ours(data: Data, hurry: dict[str, Any], seed: int) -> tuple[float, float]:
    """Seconds and val loss of a training."""
    start = time.perf_counter()
    generator = Generator().manual_seed(seed)
    network = PLAN.build(len(data.vocabulary), generator)
    recipe = ModernRecipe.for_examples(len(data.train), **hurry)
    for _ in ModernTrainer(network, data, recipe, generator, WindowsEngine).run(recipe.steps):
        pass
    return time.perf_counter() - start, loss(network, data.val)


def our_command(data: str | None, hurry: dict[str, Any], seed: int) -> tuple[float, float]:
    """Seconds and val loss of the command, which evaluates at its end alone."""
    hurry = hurry | {"eval_every": hurry["steps"]}
    flags = [text for name, value in hurry.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "makemore", "train", *flags, "--seed", str(seed)]
    command += ["--data", data] if data else []
    start = time.perf_counter()
    val = val_of(command)
    return time.perf_counter() - start, val


def in_turns(
    title: str, once: Callable[[int], tuple[float, float]], args: argparse.Namespace, data: Data
) -> Rows:
    """A share of the notebook's training before each of ours: print and return a row for each seed."""
    of_the_notebook, rows = notebook(data, args.share), list[dict[str, Any]]()
    print(f"\n{title:<12} {'seed':>4} {'val':>8} {'seconds':>9} {'notebook':>10} {'faster':>9}")
    for seed in (1, 2, 3):
        notebooks, (seconds, val) = of_the_notebook(), once(seed)
        faster = notebooks / seconds
        late = "" if val <= NOTEBOOKS_VAL else f"   val is not {NOTEBOOKS_VAL} yet"
        print(f"{'':<12} {seed:>4} {val:>8.4f} {seconds:>9.2f} {notebooks:>10.1f} {faster:>8.1f}x{late}")
        row = {"seed": seed, "val": val, "seconds": seconds, "notebook": notebooks, "faster": faster}
        rows.append({"title": title, **row})
    median = quartiles([row["faster"] for row in rows])[1]
    print(f"{'':<12} the median: {median:.1f} times as fast", flush=True)
    return rows


def training(args: argparse.Namespace) -> Rows:
    data = load_words(args.data).data(PLAN.block_size)
    ours(data, args.hurry | {"steps": 3}, 0)  # warm-up
    return in_turns("training", partial(ours, data, args.hurry), args, data)


def command(args: argparse.Namespace) -> Rows:
    data = load_words(args.data).data(PLAN.block_size)
    return in_turns("command", partial(our_command, args.data, args.hurry), args, data)


PARTS = {"training": training, "command": command}


def a_share(text: str) -> float:
    """The type of a flag: above 0, up to 1."""
    if not 0 < float(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0 and up to 1")
    return float(text)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    flags = parser(__doc__, PARTS)
    flags.add_argument("--share", type=a_share, default=0.02, help="of the notebook's steps (default: 0.02)")
    args = flags.parse_args(argv)
    args.hurry = HURRY | {"steps": 3} if args.quick else HURRY
    args.share = 1e-4 if args.quick else args.share
    return run_parts(args, PARTS)


if __name__ == "__main__":
    sys.exit(main())
