"""The commands ``makemore-train`` and ``makemore-sample``; the only module that knows argparse.

torch is imported after the arguments are parsed, so that ``--help`` answers at once. Mistakes end with
one line on stderr: exit code 2 for wrong usage (flags, files, sizes), 1 for a run that failed.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import makemore


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and whose help states the plain defaults."""

    def flag(self, *names: str, help: str, **options: Any) -> None:
        """Add a flag; its default, if it has one of its own, is stated in the help."""
        default = options.get("default")
        if default not in (None, ""):
            help += f" (default: {default})"
        self.add_argument(*names, help=help, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def whole(low: int, high: int) -> Callable[[str], int]:
    """A flag's type: a whole number within bounds."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}, got {text!r}")
        return value

    return parse


def real(low: float, high: float) -> Callable[[str], float]:
    """A flag's type: a number within bounds."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be a number from {low:g} to {high:g}, got {text!r}")
        return value

    return parse


SEED = whole(0, 2**63 - 1)
MOST_STEPS = 10**9


def train_parser() -> Parser:
    """The flags of ``makemore-train``; the defaults are the lecture's."""
    parser = Parser(
        prog="makemore-train",
        description="Train a network of the lecture on a word list, plot its loss, print new words.",
    )
    add = parser.flag
    parser.add_argument("--version", action="version", version=f"%(prog)s {makemore.__version__}")
    add(
        "--data",
        metavar="PATH",
        help="word list, utf-8, one word a line; 'lecture' for the lecture's own,"
        " downloaded once (default: the bundled names)",
    )
    add(
        "--network",
        metavar="NAME",
        default="wavenet",
        help="mlp, mlp-8, hierarchical-bug, hierarchical or wavenet: the lecture's log, row by row",
    )
    size = {"metavar": "N"}
    add("--block-size", type=whole(1, 1024), help="characters of context", **size)
    add("--n-embd", type=whole(1, 4096), help="channels of a character", **size)
    add("--n-hidden", type=whole(1, 16384), help="channels of a hidden layer", **size)
    add("--steps", type=whole(1, MOST_STEPS), default=200_000, metavar="N", help="updates")
    add("--batch-size", type=whole(2, 2**20), default=32, metavar="N", help="examples in each")
    add("--lr", type=real(0, 1e30), default=0.1, help="learning rate")
    add("--lr-final", type=real(0, 1e30), help="learning rate of the last steps (default: lr / 10)")
    add(
        "--lr-drop",
        type=whole(0, MOST_STEPS),
        metavar="STEP",
        help="first step with the final learning rate (default: after 3/4 of the steps)",
    )
    add("--seed", type=SEED, default=42, metavar="N", help="seed of weights, batches and new words")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:n")
    add("--threads", type=whole(1, 1024), default=1, metavar="N", help="CPU threads; small steps like one")
    add("--out-dir", type=Path, default=Path("out"), metavar="DIR", help="where results go")
    add("--overwrite", action="store_true", help="replace a finished run in --out-dir")
    every = {"type": whole(1, MOST_STEPS), "metavar": "N"}
    add("--log-every", help="steps between log lines (default: 10,000, or 1/20 of a shorter run)", **every)
    add("--eval-every", help="steps between val losses for the curve (default: as --log-every)", **every)
    add("--samples", type=whole(0, 10**6), default=20, metavar="N", help="new words at the end")
    return parser


def train_main(argv: Sequence[str] | None = None) -> int:
    """``makemore-train``."""
    parser = train_parser()
    args = parser.parse_args(argv)

    from makemore.networks import network_plan
    from makemore.run import Settings, train
    from makemore.training import Schedule

    def run() -> None:
        schedule = Schedule(
            steps=args.steps,
            batch_size=args.batch_size,
            lr=args.lr,
            lr_final=args.lr / 10 if args.lr_final is None else args.lr_final,
            lr_drop=args.steps * 3 // 4 if args.lr_drop is None else args.lr_drop,
        )
        log_every = args.log_every or max(1, min(10_000, args.steps // 20))
        train(
            Settings(
                data=args.data,
                plan=network_plan(args.network, args.block_size, args.n_embd, args.n_hidden),
                schedule=schedule,
                seed=args.seed,
                device=args.device,
                threads=args.threads,
                out_dir=args.out_dir,
                overwrite=args.overwrite,
                log_every=log_every,
                eval_every=args.eval_every or log_every,
                samples=args.samples,
            )
        )

    return answer(parser.prog, run)


def sample_parser() -> Parser:
    """The flags of ``makemore-sample``."""
    parser = Parser(
        prog="makemore-sample",
        description="Print new words from a trained network, one a line.",
    )
    add = parser.flag
    parser.add_argument("--version", action="version", version=f"%(prog)s {makemore.__version__}")
    add("model", nargs="?", type=Path, default=Path("out/model.pt"), help="the model file")
    add("--number", "-n", type=whole(0, 10**9), default=20, metavar="N", help="how many words")
    add("--seed", type=SEED, metavar="N", help="the same words every time (default: new ones)")
    add("--prefix", default="", metavar="TEXT", help="how every word starts")
    add(
        "--temperature",
        type=real(0, 1e6),
        default=1.0,
        metavar="X",
        help="below 1: more usual words; above: wilder ones; 0: the most likely symbol always",
    )
    add("--top-k", type=whole(1, 2**31), metavar="K", help="draw from the K most likely symbols")
    add("--max-length", type=whole(1, 10_000), default=100, metavar="N", help="longest word")
    return parser


def sample_main(argv: Sequence[str] | None = None) -> int:
    """``makemore-sample``."""
    parser = sample_parser()
    args = parser.parse_args(argv)

    import torch

    from makemore.checkpoint import load_model
    from makemore.sampling import sample_word

    def run() -> None:
        model = load_model(args.model)
        generator = torch.Generator()
        if args.seed is None:
            generator.seed()
        else:
            generator.manual_seed(args.seed)
        for _ in range(args.number):
            word = sample_word(
                model.network,
                model.vocabulary,
                generator,
                prefix=args.prefix,
                temperature=args.temperature,
                top_k=args.top_k,
                max_length=args.max_length,
            )
            print(word)

    return answer(parser.prog, run)


def answer(prog: str, run: Callable[[], None]) -> int:
    """Run a command; turn its errors into one line on stderr and an exit code."""
    from makemore.checkpoint import CheckpointError
    from makemore.run import UsageError
    from makemore.training import TrainingError
    from makemore.words import DataError

    try:
        run()
    except TrainingError as error:
        code, message = 1, str(error)
    except (UsageError, DataError, CheckpointError, ValueError) as error:
        code, message = 2, str(error)
    except (MemoryError, OSError, RuntimeError) as error:
        code, message = 1, str(error) or type(error).__name__
    except KeyboardInterrupt:
        code, message = 130, "interrupted"
    else:
        return 0
    print(f"{prog}: {' '.join(message.split())}", file=sys.stderr)
    return code
