"""The commands, from ``makemore-train`` to ``makemore-page``. Only this module knows argparse.

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
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NoReturn

import makemore
from makemore.commands.settings import NETWORK, OUTPUT, PICTURES, TRAINING, SampleSettings, flag, flags
from makemore.errors import Interrupted, MakemoreError
from makemore.recipes import FIRST, Knob


class Parser(argparse.ArgumentParser):
    """An argument parser of one command, whose errors are one line."""

    def __init__(self, prog: str, description: str, **more: Any) -> None:
        super().__init__(prog=prog, description=description, **more)
        self.add_argument("--version", action="version", version=f"%(prog)s {makemore.__version__}")

    def parse(self, argv: Sequence[str] | None, *, apart: bool = False) -> argparse.Namespace:
        """As ``parse_args``; ``--flag=--``, of which argparse makes a list, is refused.

        With ``apart``, flags may stand between the arguments that have none.
        """
        parsed = self.parse_intermixed_args(argv) if apart else self.parse_args(argv)
        for name, value in vars(parsed).items():
            if isinstance(value, list):
                self.error(f"argument {flag(name)}: expected one argument")
        return parsed

    def error(self, message: str) -> NoReturn:
        tell(f"{self.prog}: {message} (see {self.prog} --help)")
        self.exit(2)


def add_flag(container: argparse._ActionsContainer, knob: Knob, *aliases: str) -> None:
    """Add the flag of a setting. One that is not given stays None, so that a default can depend on others."""
    said = knob.said_default
    help = (f"{knob.help} (default: {said})" if said else knob.help).replace("%", "%%")
    add = partial(container.add_argument, *aliases, flag(knob.name), help=help, default=None)
    if knob.kind is bool:
        add(action=argparse.BooleanOptionalAction if knob.default else "store_true")
    elif knob.kind is str:
        add(choices=knob.choices or None, metavar=knob.metavar)
    else:
        add(type=number_type(knob), metavar=knob.metavar or ("N" if knob.kind is int else "X"))


def number_type(knob: Knob) -> Callable[[str], float]:
    """A flag's type: a whole number, or any number, within the setting's bounds."""
    what = "a whole number from {} to {}" if knob.kind is int else "a number from {:g} to {:g}"

    def parse(text: str) -> float:
        try:
            value: float = knob.kind(text)
        except ValueError:
            value = math.nan
        if not knob.low <= value <= knob.high:
            needed = what.format(knob.low, knob.high)
            raise argparse.ArgumentTypeError(f"must be {needed}, got {text[:80]!r}")
        return value

    return parse


def given(args: argparse.Namespace, knobs: Iterable[Knob]) -> dict[str, Any]:
    """The settings that were given, by name."""
    return {knob.name: value for knob in knobs if (value := getattr(args, knob.name)) is not None}


def train_parser() -> Parser:
    """The flags of ``makemore-train``, made from the knobs."""
    parser = Parser(
        "makemore-train", "Train a network of the lecture on a word list, plot its loss, print new words."
    )
    knobs = list(flags())
    titles = [FIRST, NETWORK, TRAINING, *(knob.group for knob in knobs if knob.group != OUTPUT), OUTPUT]
    groups = {title: parser.add_argument_group(title) for title in dict.fromkeys(titles)}
    for knob in knobs:
        add_flag(groups[knob.group], knob)
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
    settings = given(args, flags())
    return answer(
        parser.prog, "makemore.commands.train:train", settings, args.out_dir, args.resume, args.overwrite
    )


FILTERS = """\
At each character the flags above work in this order: --temperature, --min-length (no end before
it), --top-k, --top-p, --max-length (ends the word there). Then whole words are passed over:
--novel, --unique; the number counts the words that are left, --draws those before. --with-score
tells the likelihood under the model itself, without any of these. The seed fixes the words.

In eight processes, here by GNU parallel, the words of one, in their order:
  parallel -k makemore-sample --number 1000000 --seed 1 --shard {}/8 ::: $(seq 8) > words.txt
"""

FOR_SCORES = {"score", "shard", "output", "device"}
"""What ``makemore-sample`` may be told of given words; all else is about words that it draws."""

DEFAULT_MODEL = "model file, or folder of a run (default: out, else the network that ships with makemore)"


def sample_parser() -> Parser:
    """The flags of ``makemore-sample``, made from the knobs."""
    parser = Parser(
        "makemore-sample",
        "Print new words from a trained network, one a line, or score given ones.",
        epilog=FILTERS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?", type=Path, help=DEFAULT_MODEL)
    short = {"number": ["-n"], "output": ["-o"]}
    how_many = parser.add_mutually_exclusive_group()
    for name, knob in SampleSettings.knobs().items():
        add_flag(how_many if name in ("number", "draws") else parser, knob, *short.get(name, ()))
    return parser


def sample_main(argv: Sequence[str] | None = None) -> int:
    """``makemore-sample``."""
    parser = sample_parser()
    args = parser.parse(argv)
    wanted = given(args, SampleSettings.knobs().values())
    drawing = [flag(name) for name in wanted if name not in FOR_SCORES]
    if "score" in wanted and drawing:
        parser.error(f"--score draws nothing: leave out {', '.join(drawing)}")
    return answer(parser.prog, "makemore.commands.sample:sample", args.model, SampleSettings(**wanted))


def draw_main(argv: Sequence[str] | None = None) -> int:
    """``makemore-draw``."""
    names = max(map(len, PICTURES)) + 2
    rows = [f"  {name:<{names}}{what}\n" for name, what in PICTURES.items()]
    parser = Parser(
        "makemore-draw",
        "Draw a picture of a network.",
        epilog=f"what there is:\n{''.join(rows)}  {'all':<{names}}each of them, into a folder\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("what", nargs="?", help="a picture of those below (default: nodes)")
    add("picture", nargs="?", type=Path, help="PNG, SVG or PDF to write, by its ending (default: WHAT.png)")
    add("--model", type=Path, metavar="FILE", help=DEFAULT_MODEL)
    add("--network", metavar="NAME", help="nodes alone: of a network by name, untrained")
    add("--word", metavar="TEXT", help="the word to draw (default: diondre)")
    args = parser.parse(argv, apart=True)
    if args.model is not None and args.network is not None:
        parser.error("--model has a network of its own: leave out --network")
    what, picture = args.what or "nodes", args.picture
    if what not in PICTURES and what != "all" and picture is None and Path(what).suffix:
        what, picture = "nodes", Path(what)  # a file to write alone
    if what not in (*PICTURES, "all"):
        parser.error(f"unknown picture {what!r}: choose from {', '.join(PICTURES)}, all")
    if picture is None:
        picture = Path("pictures") if what == "all" else Path(f"{what}.png")
    if what != "all" and picture.suffix.lower() not in ("", ".png", ".svg", ".pdf"):
        parser.error(f"a picture is a .png, .svg or .pdf file, not {picture.name!r}")
    asked = (what, picture, args.network, args.model, args.word)
    return answer(parser.prog, "makemore.commands.draw:draw", *asked)


def page_main(argv: Sequence[str] | None = None) -> int:
    """``makemore-page``."""
    parser = Parser(
        "makemore-page",
        "Write a page to play with a network in a browser: one HTML file, without server or network.",
    )
    add, page = parser.add_argument, Path("page.html")
    add("page", nargs="?", type=Path, default=page, help=f"HTML file to write (default: {page})")
    add("--model", type=Path, metavar="FILE", help=DEFAULT_MODEL)
    add("--data", metavar="PATH", help="where the training list lies now, if it was moved")
    add(
        "--without-words",
        action="store_true",
        help="leave the training list out: whoever has the page cannot read it there, and the page cannot"
        " tell which words are new",
    )
    args = parser.parse(argv)
    if args.data is not None and args.without_words:
        parser.error("--without-words leaves the list of --data out: choose one")
    asked = (args.page, args.model, args.data, args.without_words)
    return answer(parser.prog, "makemore.commands.page:page", *asked)


COMMANDS = {"train": train_main, "sample": sample_main, "draw": draw_main, "page": page_main}


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m makemore``: each command by its name."""
    parser = Parser("python -m makemore", "One command for each thing that makemore does.")
    parser.add_argument("command", choices=COMMANDS, help="each is makemore-COMMAND as well")
    rest = parser.add_argument("flags", nargs=argparse.REMAINDER, help="see --help of each command")
    rest.required = False
    args = parser.parse_args(argv)
    return COMMANDS[args.command](args.flags)


def answer(prog: str, command: str, *asked: Any) -> int:
    """Import a command's function and call it; turn its errors into one line on stderr and an exit code.

    A reader that closes the pipe early (``| head -1``) is no error.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by what started us
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        import_torch()
        resolve_name(command)(*asked)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:
        drop_stdout()
        return 0
    except (MakemoreError, Interrupted) as error:
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
    """Print a message in one line on stderr; of many processes on a host one speaks."""
    if "LOCAL_RANK" in os.environ:  # torchrun's
        from makemore.parallel.processes import speaks

        if not speaks():
            return
    print(" ".join(message.split()), file=sys.stderr)


def drop_stdout() -> None:
    """Send what is still to be written nowhere, so that nothing fails while Python shuts down."""
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
