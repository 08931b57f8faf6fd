"""The time to the lecture's val loss, 1.9937: the notebook's training against the modern recipe in a hurry.

    python scripts/bench/time_to_loss.py --data lecture                # a fiftieth of the notebook's steps
    python scripts/bench/time_to_loss.py --data lecture --share 1      # all of them, some minutes each

The notebook's training is ``--recipe lecture --engine autograd``: 200,000 steps by autograd, which end at
1.9937 with the lecture's seed. Before each run of ours a share of these steps is timed, and the time of all
is computed from it. Our runs are ``--seed 1``, 2 and 3 with the settings ``HURRY``; each has to reach
1.9937. The parts:

* training: from the encoded words to the trained network, within this process.
* command: our whole command, with Python's start, the import of torch, reading, training, evaluation,
  picture and words, against the notebook's training alone.

Neither counts the start, end and evaluation of the notebook.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from in_turns import Rows, final_val_loss, parser, quartiles, run_parts
from torch import Generator

from makemore.backprop.windows import WindowsEngine
from makemore.data.word_list import Data, load_words
from makemore.inference.scoring import loss
from makemore.modern.recipe import ModernRecipe
from makemore.modern.trainer import ModernTrainer
from makemore.run.catalog import NETWORKS
from makemore.run.settings import flag
from makemore.training.recipe import LectureRecipe
from makemore.training.trainer import Trainer

PLAN = NETWORKS["wavenet"]
LECTURE_VAL = 1.9937
HURRY: dict[str, Any] = {
    "steps": 165,
    "batch_size": 2048,
    "lr": 0.12,
    "lr_adamw": 0.03,
    "warm_up": 0.02,
    "context_dropout": 0,
    "examples_per_row": 8,
}
"""The settings that reach the lecture's val loss soonest, on the lecture's list."""

Once = Callable[[int], tuple[float, float]]
"""Does our run with a seed; returns its seconds and its val loss."""


def notebook(data: Data, share: float) -> Callable[[], float]:
    """A function that does the next share of the notebook's training and returns the seconds of the whole."""
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


def our_training(data: Data, settings: Mapping[str, Any], seed: int) -> tuple[float, float]:
    """Seconds and val loss of our training."""
    start = time.perf_counter()
    generator = Generator().manual_seed(seed)
    network = PLAN.build(len(data.vocabulary), generator)
    recipe = ModernRecipe.for_examples(len(data.train), **settings)
    for _ in ModernTrainer(network, data, recipe, generator, WindowsEngine).run(recipe.steps):
        pass
    return time.perf_counter() - start, loss(network, data.val)


def our_command(data: str | None, settings: Mapping[str, Any], seed: int) -> tuple[float, float]:
    """Seconds and val loss of our command, which evaluates only at its end."""
    settings = {**settings, "eval_every": settings["steps"], "seed": seed}
    flags = [text for name, value in settings.items() for text in (flag(name), str(value))]
    command = [sys.executable, "-m", "makemore", "train", "--ensemble", "1", *flags]
    command += ["--data", data] if data else []
    start = time.perf_counter()
    val = final_val_loss(command)
    return time.perf_counter() - start, val


def compare_with_notebook(title: str, once: Once, args: argparse.Namespace, data: Data) -> Rows:
    """Time a share of the notebook's training before each of our runs; print and return the rows."""
    notebook_seconds, rows = notebook(data, args.share), Rows()
    print(f"\n{title:<12} {'seed':>4} {'val':>8} {'seconds':>9} {'notebook':>10} {'faster':>9}")
    for seed in (1, 2, 3):
        whole, (seconds, val) = notebook_seconds(), once(seed)
        faster = whole / seconds
        late = "" if val <= LECTURE_VAL else f"   val is not {LECTURE_VAL} yet"
        print(f"{'':<12} {seed:>4} {val:>8.4f} {seconds:>9.2f} {whole:>10.1f} {faster:>8.1f}x{late}")
        row = {"seed": seed, "val": val, "seconds": seconds, "notebook": whole, "faster": faster}
        rows.append({"title": title, **row})
    median = quartiles([row["faster"] for row in rows])[1]
    print(f"{'':<12} the median: {median:.1f} times as fast", flush=True)
    return rows


def training(args: argparse.Namespace) -> Rows:
    """The training alone."""
    data = load_words(args.data).data(PLAN.block_size)
    our_training(data, args.settings | {"steps": 3}, 0)  # warm-up
    return compare_with_notebook("training", partial(our_training, data, args.settings), args, data)


def command(args: argparse.Namespace) -> Rows:
    """The whole command."""
    data = load_words(args.data).data(PLAN.block_size)
    return compare_with_notebook("command", partial(our_command, args.data, args.settings), args, data)


PARTS: Mapping[str, Callable[[argparse.Namespace], Rows]] = {"training": training, "command": command}


def share(text: str) -> float:
    """The argparse type of a number above 0 and up to 1."""
    if not 0 < float(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0 and up to 1")
    return float(text)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    flags = parser(__doc__, PARTS)
    flags.add_argument("--share", type=share, default=0.02, help="of the notebook's steps (default: 0.02)")
    args = flags.parse_args(argv)
    args.settings = HURRY | {"steps": 3} if args.quick else HURRY
    args.share = 1e-4 if args.quick else args.share
    return run_parts(args, PARTS)


if __name__ == "__main__":
    sys.exit(main())
