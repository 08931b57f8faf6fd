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
from typing import NoReturn

import makemore
from makemore.errors import MakemoreError, UsageError
from makemore.settings import CHOICES, NAMES, RANGES, flag


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """As ``parse_args``; ``--flag=--``, of which argparse makes a list, is refused."""
        parsed = self.parse_args(argv)
        for name, value in vars(parsed).items():
            if isinstance(value, list):
                self.error(f"argument {flag(name)}: expected one argument")
        return parsed

    def error(self, message: str) -> NoReturn:
        message = " ".join(message.split())
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def whole(low: float, high: float) -> Callable[[str], int]:
    """A flag's type: a whole number within bounds."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = int(low) - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"must be a whole number from {low} to {high}, got {text[:80]!r}"
            )
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
            raise argparse.ArgumentTypeError(f"must be a number from {low:g} to {high:g}, got {text[:80]!r}")
        return value

    return parse


def train_parser() -> Parser:
    """The flags of ``makemore-train``.

    A setting that is not given stays None, so that a resumed run can tell what is asked of it anew.
    """
    parser = Parser(
        prog="makemore-train",
        description="Train a network of the lecture on a word list, plot its loss, print new words.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {makemore.__version__}")

    def text(name: str, help: str, metavar: str | None = None) -> None:
        parser.add_argument(flag(name), help=help, metavar=metavar, choices=CHOICES.get(name))

    def number(name: str, help: str, kind: Callable[[float, float], Callable[[str], float]] = whole) -> None:
        metavar = "N" if kind is whole else "X"
        parser.add_argument(flag(name), help=help, metavar=metavar, type=kind(*RANGES[name]))

    text("recipe", "how to train (default: modern; lecture: the lecture's run, digit for digit)")
    text(
        "data",
        "word list, utf-8, one word a line; 'lecture' for the lecture's own, downloaded once"
        " (default: the bundled names)",
        "PATH",
    )
    text(
        "network",
        "mlp, mlp-8, hierarchical-bug, hierarchical or wavenet: the lecture's log, row by row"
        " (default: wavenet)",
        "NAME",
    )
    number("block_size", "characters of context")
    number("n_embd", "channels of a character")
    number("n_hidden", "channels of a hidden layer")
    number("steps", "updates (default: lecture 200,000, modern by the number of words)")
    number("batch_size", "examples in each (default: lecture 32, modern up to 1,024)")
    number("lr", "learning rate (default: lecture 0.1, modern 0.02, of Muon)", real)
    number("lr_final", "lecture: the last learning rate (default: lr / 10)", real)
    number("lr_drop", "lecture: the first step with it (default: after 3/4 of the steps)")
    number("lr_other", "modern: peak learning rate of AdamW (default: 0.008)", real)
    number("weight_decay", "modern: of the last layer (default: by the number of words)", real)
    number("warm_up", "modern: share of the steps in which learning rates rise (default: 0.05)", real)
    number("drop", "modern: probability to drop old characters (default: by the number of words)", real)
    text("targets", "modern: soft, the distribution after a context, or hard (default: soft)")
    number("shared", "modern: examples of one context in one row (default: 4, with teachers 2)")
    number("teachers", "modern: networks to train first and learn from (default: 0; 4: better, slower)")
    number("patience", "modern: evaluations without a lower val loss before it stops (default: 5)")
    text("engine", "gradients derived by hand, or the lecture's autograd (default: backprop)")
    number("seed", "seed of weights, batches and new words (default: 42)")
    text("device", "auto, cpu, cuda or cuda:n (default: auto)", "NAME")
    number("threads", "CPU threads (default: 1, the fastest for steps as small as these)")
    number("log_every", "steps from line to line (default: 1/20 of all, 10,000 at most)")
    number("eval_every", "steps from val loss to val loss (default: as --log-every)")
    number("save_every", "seconds from model file to model file (default: 10)", real)
    number("samples", "new words at the end (default: 20)")
    own = parser.add_argument
    own("--out-dir", type=Path, default=Path("out"), metavar="DIR", help="where results go (default: out)")
    own("--resume", action="store_true", help="go on with the run in --out-dir")
    own("--overwrite", action="store_true", help="replace the run in --out-dir")
    return parser


def train_main(argv: Sequence[str] | None = None) -> int:
    """``makemore-train``."""
    parser = train_parser()
    args = parser.parse(argv)
    if args.resume and args.overwrite:
        parser.error("--resume goes on with a run, --overwrite replaces it: choose one")
    given = {name: value for name in NAMES if (value := getattr(args, name)) is not None}

    def run() -> None:
        from makemore.run import train

        train(given, args.out_dir, resume=args.resume, overwrite=args.overwrite)

    return answer(parser.prog, run)


FILTERS = """\
At each character the flags above work in this order: --temperature, --min-length (no end before
it), --top-k, --top-p, --max-length (ends the word there). Then whole words are passed over:
--novel, --unique; the number counts the words that are left. --with-score tells the likelihood
under the model itself, without any of these. The seed fixes the words.
"""


def sample_parser() -> Parser:
    """The flags of ``makemore-sample``."""
    parser = Parser(
        prog="makemore-sample",
        description="Print new words from a trained network, one a line, or score given ones.",
        epilog=FILTERS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--version", action="version", version=f"%(prog)s {makemore.__version__}")
    add("model", nargs="?", type=Path, default=Path("out/model.pt"), help="default: out/model.pt")
    add("-n", "--number", type=whole(0, 10**9), default=20, metavar="N", help="words (default: 20)")
    add("--seed", type=whole(0, 2**63 - 1), metavar="N", help="the same words each time (default: new ones)")
    add("--prefix", default="", metavar="TEXT", help="how every word starts")
    add(
        "--temperature",
        type=real(0, 1e6),
        default=1.0,
        metavar="X",
        help="below 1: more usual words, above: wilder ones, 0: always the likeliest symbol (default: 1)",
    )
    add("--min-length", type=whole(0, 10_000), default=0, metavar="N", help="shortest word (default: 0)")
    add("--top-k", type=whole(1, 2**31), metavar="K", help="draw from the K likeliest symbols only")
    add(
        "--top-p",
        type=real(0, 1),
        metavar="P",
        help="draw from the fewest symbols whose probabilities come to P only",
    )
    add("--max-length", type=whole(1, 10_000), default=100, metavar="N", help="longest word (default: 100)")
    add("--novel", action="store_true", help="no words of the list the model was trained on")
    add("--unique", action="store_true", help="no word twice")
    add("--with-score", action="store_true", help="log-likelihood in nats behind each word and a tab")
    add("--data", metavar="PATH", help="where the training list lies now, for --novel")
    add(
        "--score",
        metavar="FILE",
        help="draw nothing; print each word of a file (- for stdin) with its log-likelihood in nats,"
        " and that per character",
    )
    add("--device", default="cpu", metavar="NAME", help="auto, cpu, cuda or cuda:n (default: cpu)")
    return parser


def sample_main(argv: Sequence[str] | None = None) -> int:
    """``makemore-sample``."""
    parser = sample_parser()
    args = parser.parse(argv)

    def run() -> None:
        import torch

        from makemore.generation import Filters
        from makemore.run import resolve_device
        from makemore.writing import Wanted, open_model, write_scores, write_words

        torch.set_num_threads(1)
        try:
            filters = Filters(args.temperature, args.min_length, args.top_k, args.top_p, args.max_length)
        except ValueError as error:
            raise UsageError(str(error)) from error
        model = open_model(args.model, resolve_device(args.device))
        if args.score == "-":
            write_scores(model, sys.stdin.buffer, "stdin")
        elif args.score is not None:
            try:
                file = open(args.score, "rb")  # noqa: SIM115
            except OSError as error:
                raise UsageError(f"cannot read {args.score}: {error.strerror}") from error
            with file:
                write_scores(model, file, args.score)
        else:
            if len(args.prefix) > args.max_length:
                raise UsageError(f"--prefix {args.prefix!r} is longer than --max-length {args.max_length}")
            wanted = Wanted(args.number, args.prefix, filters, args.unique, args.novel, args.with_score)
            generator = torch.Generator()
            generator.manual_seed(generator.seed() if args.seed is None else args.seed)
            write_words(model, wanted, generator, args.data)

    return answer(parser.prog, run)


def answer(prog: str, run: Callable[[], None]) -> int:
    """Run a command; turn its errors into one line on stderr and an exit code.

    A reader that closes the pipe early (``| head -1``) is no error.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
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
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
