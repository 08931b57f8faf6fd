"""The commands ``makemore-train`` and ``makemore-sample``; the only module that knows argparse.

torch is imported after the arguments are parsed, so that ``--help`` answers at once. Mistakes end with
one line on stderr: exit code 2 for wrong usage (flags, files, sizes), 1 for a run that failed.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import makemore
from makemore.errors import MakemoreError
from makemore.settings import NAMES, RANGES, Settings, flag


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

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


def train_parser() -> Parser:
    """The flags of ``makemore-train``; the defaults are the lecture's.

    A setting that is not given stays None, so that a resumed run can tell what is asked of it anew.
    """
    parser = Parser(
        prog="makemore-train",
        description="Train a network of the lecture on a word list, plot its loss, print new words.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {makemore.__version__}")
    default = Settings()

    def add(
        name: str, help: str, metavar: str | None = None, parse: Callable[..., Any] | None = None
    ) -> None:
        value = getattr(default, name)
        help += f" (default: {value})" if value is not None else ""
        kind = parse(*RANGES[name]) if parse else str
        parser.add_argument(flag(name), help=help, metavar=metavar, type=kind)

    def number(name: str, help: str) -> None:
        add(name, help, "N", whole)

    add(
        "data",
        "word list, utf-8, one word a line; 'lecture' for the lecture's own, downloaded once"
        " (default: the bundled names)",
        "PATH",
    )
    add(
        "network",
        "mlp, mlp-8, hierarchical-bug, hierarchical or wavenet: the lecture's log, row by row",
        "NAME",
    )
    number("block_size", "characters of context")
    number("n_embd", "channels of a character")
    number("n_hidden", "channels of a hidden layer")
    number("steps", "updates")
    number("batch_size", "examples in each")
    add("lr", "learning rate", "X", real)
    add("lr_final", "its last value (default: lr / 10)", "X", real)
    add("lr_drop", "first step with the last learning rate (default: after 3/4 of the steps)", "STEP", whole)
    number("seed", "seed of weights, batches and new words")
    add("device", "auto, cpu, cuda or cuda:n", "NAME")
    number("threads", "CPU threads; steps as small as these like one")
    number("log_every", "steps from line to line (default: 10,000, or 1/20 of all)")
    number("eval_every", "steps from val loss to val loss (default: as --log-every)")
    add("save_every", "from model file to model file", "SECONDS", real)
    number("samples", "new words at the end")
    own = parser.add_argument
    own("--out-dir", type=Path, default=Path("out"), metavar="DIR", help="where results go (default: out)")
    own("--resume", action="store_true", help="go on with the run in --out-dir")
    own("--overwrite", action="store_true", help="replace the run in --out-dir")
    return parser


def train_main(argv: Sequence[str] | None = None) -> int:
    """``makemore-train``."""
    parser = train_parser()
    args = parser.parse_args(argv)
    if args.resume and args.overwrite:
        parser.error("--resume goes on with a run, --overwrite replaces it: choose one")
    given = {name: value for name in NAMES if (value := getattr(args, name)) is not None}

    def run() -> None:
        from makemore.run import train

        train(given, args.out_dir, resume=args.resume, overwrite=args.overwrite)

    return answer(parser.prog, run)


def sample_parser() -> Parser:
    """The flags of ``makemore-sample``."""
    parser = Parser(
        prog="makemore-sample",
        description="Print new words from a trained network, one a line.",
    )
    add = parser.add_argument
    add("--version", action="version", version=f"%(prog)s {makemore.__version__}")
    add(
        "model", nargs="?", type=Path, default=Path("out/model.pt"), help="model file (default: out/model.pt)"
    )
    add("-n", "--number", type=whole(0, 10**9), default=20, metavar="N", help="words (default: 20)")
    add("--seed", type=whole(0, 2**63 - 1), metavar="N", help="the same words every time (default: new ones)")
    add("--prefix", default="", metavar="TEXT", help="how every word starts")
    add(
        "--temperature",
        type=real(0, 1e6),
        default=1.0,
        metavar="X",
        help="below 1: more usual words, above: wilder ones, 0: the most likely symbol always (default: 1)",
    )
    add("--top-k", type=whole(1, 2**31), metavar="K", help="draw from the K most likely symbols only")
    add("--max-length", type=whole(1, 10_000), default=100, metavar="N", help="longest word (default: 100)")
    return parser


def sample_main(argv: Sequence[str] | None = None) -> int:
    """``makemore-sample``."""
    parser = sample_parser()
    args = parser.parse_args(argv)

    def run() -> None:
        import torch

        from makemore.checkpoint import load_model
        from makemore.sampling import sample_word

        torch.set_num_threads(1)
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
    """Run a command; turn its errors into one line on stderr and an exit code.

    A reader that closes the pipe early (``| head -1``) is no error.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    try:
        run()
        sys.stdout.flush()
        return 0
    except BrokenPipeError:
        drop_stdout()
        return 0
    except MakemoreError as error:
        code, message = error.exit_code, str(error)
    except KeyboardInterrupt:
        code, message = 130, "interrupted"
    except (MemoryError, OSError, RuntimeError) as error:
        code, message = 1, str(error) or type(error).__name__
    with suppress(OSError):
        sys.stdout.flush()
    drop_stdout()
    print(f"{prog}: {' '.join(message.split())}", file=sys.stderr)
    return code


def drop_stdout() -> None:
    """Send what is still to be written nowhere, so that nothing fails while Python shuts down."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
