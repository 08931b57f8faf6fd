"""The commands ``makemore-train``, ``makemore-sample``, ``makemore-draw``. Only this module knows argparse.

torch is imported after the arguments are parsed, so that ``--help`` answers at once. Mistakes end with
one line on stderr: exit code 2 for wrong usage (flags, files, sizes), 1 for a run that failed.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import io
import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import makemore
from makemore.commands.settings import NETWORK, OUTPUT, TRAINING, flag, flags
from makemore.errors import MakemoreError, UsageError
from makemore.recipes import FIRST


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
        tell(f"{self.prog}: {message} (see {self.prog} --help)")
        self.exit(2)


def number_type(kind: type, low: float, high: float) -> Callable[[str], float]:
    """A flag's type: a whole number (``kind`` int) or any number (float) within bounds."""
    what = "a whole number" if kind is int else "a number"
    bounds = f"from {low} to {high}" if kind is int else f"from {low:g} to {high:g}"

    def parse(text: str) -> float:
        try:
            value: float = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be {what} {bounds}, got {text[:80]!r}")
        return value

    return parse


def whole(low: int, high: int) -> Callable[[str], float]:
    """A flag's type: a whole number within bounds."""
    return number_type(int, low, high)


def real(low: float, high: float) -> Callable[[str], float]:
    """A flag's type: a number within bounds."""
    return number_type(float, low, high)


def train_parser() -> Parser:
    """The flags of ``makemore-train``, made from the knobs.

    A setting that is not given stays None, so that a resumed run can tell what is asked of it anew.
    """
    parser = Parser(
        prog="makemore-train",
        description="Train a network of the lecture on a word list, plot its loss, print new words.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {makemore.__version__}")
    knobs = list(flags())
    titles = [FIRST, NETWORK, TRAINING, *(knob.group for knob in knobs if knob.group != OUTPUT), OUTPUT]
    groups = {title: parser.add_argument_group(title) for title in dict.fromkeys(titles)}
    for knob in knobs:
        number = knob.kind is not str
        groups[knob.group].add_argument(
            flag(knob.name),
            help=knob.help.replace("%", "%%"),
            choices=knob.choices or None,
            type=number_type(knob.kind, knob.low, knob.high) if number else str,
            metavar=("N" if knob.kind is int else "X") if number else knob.metavar,
        )
    own = groups[FIRST].add_argument
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
    names = [knob.name for knob in flags()]
    given = {name: value for name in names if (value := getattr(args, name)) is not None}

    def run() -> None:
        from makemore.commands.train import train

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
    add(
        "model",
        nargs="?",
        type=Path,
        default=Path("out/model.safetensors"),
        help="default: out/model.safetensors",
    )
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

        from makemore.commands.guards import resolve_device
        from makemore.commands.sample import Wanted, open_model, write_scores, write_words
        from makemore.convolution import Filters

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


def draw_parser() -> Parser:
    """The flags of ``makemore-draw``."""
    parser = Parser(
        prog="makemore-draw",
        description="Draw which characters each node of a network sees: the tree, and the dilated"
        " convolutions it is one output of.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {makemore.__version__}")
    parser.add_argument(
        "picture", nargs="?", type=Path, default=Path("nodes.png"), help="PNG to write (default: nodes.png)"
    )
    parser.add_argument(
        "--network", metavar="NAME", help="a network of the lecture's log by name (default: wavenet)"
    )
    parser.add_argument("--model", type=Path, metavar="FILE", help="draw the network of a model file instead")
    parser.add_argument(
        "--word", default="diondre", metavar="TEXT", help="the word to draw (default: diondre)"
    )
    return parser


def draw_main(argv: Sequence[str] | None = None) -> int:
    """``makemore-draw``."""
    parser = draw_parser()
    args = parser.parse(argv)
    if args.model is not None and args.network is not None:
        parser.error("--model has a network of its own: leave out --network")

    def run() -> None:
        from makemore.commands.draw import draw

        draw(args.picture, args.network, args.model, args.word)

    return answer(parser.prog, run)


COMMANDS = {"train": train_main, "sample": sample_main, "draw": draw_main}


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m makemore``: each command by its name."""
    parser = Parser(prog="python -m makemore", description="One command for each thing that makemore does.")
    parser.add_argument("command", choices=COMMANDS, help="makemore-train, makemore-sample or makemore-draw")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="see --help of each command")
    args = parser.parse_args(argv)
    return COMMANDS[args.command](args.flags)


def answer(prog: str, run: Callable[[], None]) -> int:
    """Run a command; turn its errors into one line on stderr and an exit code.

    A reader that closes the pipe early (``| head -1``) is no error.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        import_torch()
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
    tell(f"{prog}: {message}")
    return code


def import_torch() -> None:
    """Import torch without a search for garbage among its many objects, which all stay.

    Later searches leave them out too, the last one at the end of the process above all: 0.4 s in all.
    """
    if "torch" not in sys.modules:
        gc.disable()
        importlib.import_module("torch")
        gc.freeze()
        gc.enable()


def tell(message: str) -> None:
    """Print a message in one line on stderr; of many processes the first one speaks."""
    if os.environ.get("RANK", "0") == "0":
        print(" ".join(message.split()), file=sys.stderr)


def drop_stdout() -> None:
    """Send what is still to be written nowhere, so that nothing fails while Python shuts down."""
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
