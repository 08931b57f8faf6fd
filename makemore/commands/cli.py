"""The command line of all commands. Only this module uses argparse.

torch is imported after the arguments are parsed, so that ``--help`` answers at once. An error ends a command
with one line on stderr and an exit code: 2 for wrong usage (flags, files, sizes), 1 for a run that failed.
With the environment variable MAKEMORE_TRACEBACK=1 Python's traceback comes before that line.
"""

from __future__ import annotations

import argparse
import codecs
import gc
import importlib
import io
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NoReturn, TextIO, cast

import makemore
from makemore.core.errors import Interrupted, MakemoreError
from makemore.core.settings import FIRST, Knob
from makemore.core.shell import expand_user
from makemore.core.system import is_closed_pipe
from makemore.core.terminal import say
from makemore.run.catalog import PICTURES
from makemore.run.settings import (
    COLUMNS,
    FORMATS,
    NETWORK,
    OUTPUT,
    RUN,
    TRAINING,
    SampleSettings,
    flag,
    flags,
    sample_settings,
)

BACKEND_VARIABLE = "MPLBACKEND"
"""The environment variable that names matplotlib's backend."""

TRACEBACK_VARIABLE = "MAKEMORE_TRACEBACK"
"""The environment variable that makes errors print Python's traceback too."""


class Parser(argparse.ArgumentParser):
    """The argument parser of a command. Its errors are one line."""

    def __init__(self, prog: str, description: str, **more: Any) -> None:
        super().__init__(prog=prog, description=description, **more)
        self.add_argument("--version", action="version", version=f"%(prog)s {makemore.__version__}")

    def parse(self, argv: Sequence[str] | None, *, intermixed: bool = False) -> argparse.Namespace:
        """The parsed arguments. With ``intermixed``, flags and positional arguments may come in any order.

        Refuses ``--flag=--``, which argparse turns into a list.
        """
        parsed = self.parse_intermixed_args(argv) if intermixed else self.parse_args(argv)
        for name, value in vars(parsed).items():
            if value == []:
                self.error(f"argument {flag(name)}: expected one argument")
        return parsed

    def error(self, message: str) -> NoReturn:
        tell(f"{self.prog}: {message} (see {self.prog} --help)")
        self.exit(2)


def add_flag(container: argparse._ActionsContainer, knob: Knob, *aliases: str) -> None:
    """Add the flag of a setting. A flag that is not given is None: its default can depend on other flags."""
    default = knob.default_label
    help = (f"{knob.help} (default: {default})" if default else knob.help).replace("%", "%%")
    add = partial(container.add_argument, *aliases, flag(knob.name), help=help, default=None)
    if knob.type is bool:
        add(action=argparse.BooleanOptionalAction if knob.default else "store_true")
    elif knob.type in (str, tuple):
        several: dict[str, Any] = {}
        if knob.type is tuple:
            several = {"action": "append"} if knob.repeated else {"nargs": "+", "action": "extend"}
        kind = expand_user if knob.metavar in ("PATH", "FILE") else str
        add(choices=knob.choices or None, metavar=knob.metavar, type=kind, **several)
    else:
        add(type=number_type(knob), metavar=knob.metavar or ("N" if knob.type is int else "X"))


def path_type(text: str) -> Path:
    """The argparse type of a path, which may begin with ``~``."""
    return Path(expand_user(text))


def one_of(parser: Parser, positional: Any, named: Any, name: str) -> Any:
    """The value that is given by position or by name. Both at once are an error."""
    if positional is not None and named is not None:
        parser.error(f"{name} is given twice, by position and by {flag(name)}: choose one")
    return positional if named is None else named


def number_type(knob: Knob) -> Callable[[str], float]:
    """The argparse type of a flag: a whole number, or any number, in the range of its setting."""

    def parse(text: str) -> float:
        try:
            value: float = knob.type(text)
        except ValueError:
            value = math.nan
        if not knob.low <= value <= knob.high:
            raise argparse.ArgumentTypeError(f"must be {knob.needed}, got {text[:80]!r}")
        return value

    return parse


def given(args: argparse.Namespace, knobs: Iterable[Knob]) -> dict[str, Any]:
    """The settings that were given, by name."""
    values = {knob.name: knob.normalized(getattr(args, knob.name)) for knob in knobs}
    return {name: value for name, value in values.items() if value is not None}


OUT_DIR = Path("out")
"""The directory that ``makemore-train`` writes to, unless another one is given."""


def train_parser() -> Parser:
    """The flags of ``makemore-train``, made from the settings."""
    parser = Parser("makemore-train", "Train a network on a word list, plot its losses and print new words.")
    parser.add_argument(
        "words", nargs="*", default=(), type=expand_user, help="word lists, as --data", metavar="LIST"
    )
    knobs = list(flags())
    others = [knob.group for knob in knobs if knob.group != OUTPUT]
    titles = [FIRST, COLUMNS, NETWORK, TRAINING, *others, OUTPUT]
    groups = {title: parser.add_argument_group(title) for title in dict.fromkeys(titles)}
    for knob in knobs:
        add_flag(groups[knob.group], knob)
    add = groups[FIRST].add_argument
    add(
        "--out-dir",
        type=path_type,
        metavar="DIR",
        help=f"directory to write to (default: {OUT_DIR})",
    )
    add("--resume", action="store_true", help="resume the run in --out-dir")
    add("--overwrite", action="store_true", help="replace the run in --out-dir by a new one")
    return parser


def train_main(argv: Sequence[str] | None = None) -> int:
    """``makemore-train``."""
    parser = train_parser()
    args = parse_run(parser, argv)
    asked = (given(args, flags()), args.out_dir or OUT_DIR, args.resume, args.overwrite)
    return answer(parser.prog, "makemore.commands.train:train", *asked)


def parse_run(parser: Parser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The parsed flags of ``train_parser``, with the word lists in ``data``."""
    args = parser.parse(argv, intermixed=True)
    if args.resume and args.overwrite:
        parser.error("--resume continues a run, --overwrite replaces it: choose one")
    args.data = one_of(parser, args.words or None, args.data, "data")
    return args


SAMPLE_NOTES = """\
A word that is too long, begins or ends with a blank, or is left out by --novel or --not-near, is replaced by
another one. The log-likelihood of a word is that under the model itself, whatever these flags are.

To sample the same words in the same order with eight processes, here by GNU parallel:
  parallel -k makemore-sample --samples 1000000 --seed 1 --shard {}/8 ::: $(seq 8) > words.txt
"""
"""The end of the help of ``makemore-sample``."""

UNWRITABLE = (".json", ".parquet", ".xlsx", ".xls", ".html", ".xml", ".npy", ".npz", ".pt")
"""Endings of files that ``makemore-sample`` does not write."""

ALONE = {
    "score": {"shard", "output", "format", "device", "label"},
    "classify": {"shard", "output", "format", "device", "top"},
    "labels": {"output"},
}
"""Settings of ``makemore-sample`` that do something else than sample, and those that work with each."""

NOT_INTERACTIVE = ("samples", "prefix", "unique", "output", "format", "with_score", "shard")
"""Settings of ``makemore-sample`` that do not work with --interactive."""

MODEL_HELP = (
    "model file, directory of a run, or bundled: the network that comes with makemore (default: out, or"
    " bundled if out has no run)"
)
"""The help for the model of all commands but ``makemore-train``."""


def sample_parser() -> Parser:
    """The flags of ``makemore-sample``, made from the settings."""
    parser = Parser(
        "makemore-sample",
        "Sample new words from a trained network, or score given words.",
        epilog=SAMPLE_NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", nargs="?", type=path_type, help="as --model", metavar="MODEL")
    parser.add_argument("--model", type=path_type, metavar="PATH", help=MODEL_HELP)
    short = {"samples": ["-n"], "output": ["-o"]}
    knobs = SampleSettings.knobs()
    groups = {t: parser.add_argument_group(t) for t in dict.fromkeys(knob.group for knob in knobs.values())}
    for name, knob in knobs.items():
        add_flag(groups[knob.group], knob, *short.get(name, ()))
    return parser


def sample_main(argv: Sequence[str] | None = None) -> int:
    """``makemore-sample``."""
    parser = sample_parser()
    args = parser.parse(argv)
    wanted = given(args, SampleSettings.knobs().values())
    check_kind_of_sampling(parser, wanted)
    ending, output = ending_of(wanted.get("output", "")), wanted.get("output", "")
    if ending in UNWRITABLE:
        parser.error(f"the output is a .txt, .csv or .jsonl file, not {Path(output).name!r}")
    if ending.removeprefix(".") in FORMATS:
        wanted.setdefault("format", ending.removeprefix("."))
    model = one_of(parser, args.path, args.model, "model")
    return answer(parser.prog, "makemore.commands.sample:sample", model, sample_settings(wanted))


def ending_of(path: str) -> str:
    """The ending of a file's name, without that of its compression.

    >>> ending_of("words.CSV.gz"), ending_of("words")
    ('.csv', '')
    """
    return Path(path.lower().removesuffix(".gz")).suffix


def check_kind_of_sampling(parser: Parser, wanted: dict[str, Any]) -> None:
    """Refuse flags that do not go together."""
    asked = [flag(name) for name in (*ALONE, "interactive") if name in wanted]
    if len(asked) > 1:
        parser.error(f"{' and '.join(asked)} do different things: choose one")
    for alone, others in ALONE.items():
        for_new_words = [flag(name) for name in wanted if name not in (alone, *others)]
        if alone in wanted and for_new_words:
            parser.error(f"{flag(alone)} samples no words: leave out {', '.join(for_new_words)}")
    if "top" in wanted and "classify" not in wanted:
        parser.error("--top is for --classify")
    for_lists = [flag(name) for name in wanted if name in NOT_INTERACTIVE]
    if "interactive" in wanted and for_lists:
        parser.error(f"--interactive answers on the terminal: leave out {', '.join(for_lists)}")


ENDINGS = (".png", ".svg", ".pdf")
"""Endings of the files that ``makemore-draw`` writes."""


def draw_main(argv: Sequence[str] | None = None) -> int:
    """``makemore-draw``."""
    shown = {name: text for name, (text, _) in PICTURES.items()} | {"all": "all pictures, in a directory"}
    width = max(map(len, shown)) + 2
    parser = Parser(
        "makemore-draw",
        "Draw a picture of a network.",
        epilog="pictures:\n" + "".join(f"  {name:<{width}}{text}\n" for name, text in shown.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("what", nargs="?", help="name of a picture, see below (default: nodes)")
    add(
        "picture",
        nargs="?",
        type=path_type,
        help="file to write: .png, .svg or .pdf (default: WHAT.png); for all a directory (default: pictures)",
    )
    add("--model", type=path_type, metavar="PATH", help=MODEL_HELP)
    add("--network", metavar="NAME", help="for nodes: an untrained network, named as in makemore-train")
    add("--word", metavar="TEXT", help="word whose characters are the input (default: diondre)")
    add(
        "--label",
        action="append",
        metavar="LABEL",
        help="label of the word, as in makemore-sample (default: the mean of all labels)",
    )
    args = parser.parse(argv, intermixed=True)
    if args.model is not None and args.network is not None:
        parser.error("--model and --network both name a network: choose one")
    what, picture = args.what or "nodes", args.picture
    if what not in PICTURES and what != "all" and picture is None and Path(what).suffix:
        what, picture = "nodes", path_type(what)  # only a file to write
    if what not in (*PICTURES, "all"):
        parser.error(f"unknown picture {what!r}: choose from {', '.join(PICTURES)}, all")
    if picture is None:
        picture = Path("pictures") if what == "all" else Path(f"{what}.png")
    if what == "all" and picture.suffix.lower() in ENDINGS and not picture.is_dir():
        parser.error(f"all pictures are written to a directory, not to one file: give {picture.stem!r}")
    if what != "all" and picture.suffix.lower() not in ("", *ENDINGS):
        parser.error(f"a picture is a .png, .svg or .pdf file, not {picture.name!r}")
    if args.label and args.network is not None:
        parser.error("--label is for a trained network, --network names an untrained one: choose one")
    asked = (what, picture, args.network, args.model, args.word, args.label or ())
    return answer(parser.prog, "makemore.commands.draw:draw", *asked)


def page_main(argv: Sequence[str] | None = None) -> int:
    """``makemore-page``."""
    parser = Parser(
        "makemore-page",
        "Write a page to explore a network in a browser. It is one HTML file and needs no server.",
    )
    add, page = parser.add_argument, Path("page.html")
    add("page", nargs="?", type=path_type, default=page, help=f"HTML file to write (default: {page})")
    add("--model", type=path_type, metavar="PATH", help=MODEL_HELP)
    add(
        "--data",
        nargs="+",
        action="extend",
        type=expand_user,
        metavar="PATH",
        help="path of the training word list, or of all of them, if moved",
    )
    add(
        "--without-words",
        action="store_true",
        help="do not store the training word list in the page, which then cannot say which words are new",
    )
    add("--word", metavar="TEXT", help="beginning that the page opens with (default: the likeliest)")
    add(
        "--compare",
        type=path_type,
        metavar="PATH",
        help="model file, or directory of a run, of a network that the page shows beside the first one",
    )
    add(
        "--frames",
        type=path_type,
        metavar="DIR",
        help="directory of a run made with --keep-every: the page shows its networks step by step",
    )
    args = parser.parse(argv)
    if args.frames is not None and args.model is not None:
        parser.error("--frames shows the networks of a run, and --model another one: choose one")
    if args.data is not None and args.without_words:
        parser.error("--without-words leaves out the list of --data: choose one")
    asked = (args.page, args.model, args.data, args.without_words, args.word, args.compare)
    return answer(parser.prog, "makemore.commands.page:page", *asked, args.frames)


EXPORTED = (".onnx", ".pt2")
"""Endings of the files that ``makemore-export`` writes."""


def export_main(argv: Sequence[str] | None = None) -> int:
    """``makemore-export``."""
    parser = Parser(
        "makemore-export",
        "Write a network as a file for other programs: ONNX, or torch.export's format. The file has the"
        " characters and labels in its metadata, and is checked by running it.",
    )
    add = parser.add_argument
    add(
        "file",
        type=path_type,
        help="file to write: .onnx (needs the packages onnx, onnxscript and onnxruntime) or .pt2",
    )
    add("--model", type=path_type, metavar="PATH", help=MODEL_HELP)
    add(
        "--label",
        action="append",
        metavar="LABEL",
        help="choose a label, as in makemore-sample: the file then needs none in its column",
    )
    args = parser.parse(argv)
    if args.file.suffix.lower() not in EXPORTED:
        parser.error(f"the file ends in .onnx or .pt2, not as {args.file.name!r}")
    return answer(parser.prog, "makemore.commands.export:export", args.file, args.model, args.label or ())


SEARCH_NOTES = """\
A setting of the recipe or the network is searched in a range, LOW:HIGH, in steps, LOW:HIGH:STEP, on a
logarithmic scale, LOW:HIGH:log, or among values, A,B,C. After -- come flags of makemore-train for all runs:

  makemore-search --search lr=0.005:0.05:log --search n_hidden=64:256:64 --search targets=soft,hard \\
      --trials 60 --seeds 1 2 -- --data words.txt

The first trial has the default settings. A trial does one run for each seed, and its value is the mean of
their final val losses. A trial that is worse than the median of the others at an evaluation is pruned.

The study is stored in OUT_DIR/study.db, or in the database of --storage, for example
postgresql+psycopg://user@host/name. The same command continues a search that was stopped, and any number of
processes can work on one study at the same time: start the same command again, on any machine that reaches
the database. The trial of a stopped or killed process is done again. At the end the best flags are printed,
and Optuna's pictures are written to OUT_DIR.
"""
"""The end of the help of ``makemore-search``."""


def split_at_dashes(argv: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """The arguments before and after ``--``; by default those of the process."""
    argv = list(sys.argv[1:] if argv is None else argv)
    end = argv.index("--") if "--" in argv else len(argv)
    return argv[:end], argv[end + 1 :]


def search_main(argv: Sequence[str] | None = None) -> int:
    """``makemore-search``."""
    own, of_runs = split_at_dashes(argv)
    parser = Parser(
        "makemore-search",
        "Search for the best settings of makemore-train with many training runs. Needs the package optuna.",
        epilog=SEARCH_NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="makemore-search --search NAME=RANGE [--search ...] [flags] [-- flags of makemore-train]",
    )
    add, whole = parser.add_argument, Knob(50, "", 1, 10**9, type=int)
    add(
        "--search",
        action="append",
        required=True,
        metavar="NAME=RANGE",
        help="setting of makemore-train to search, and its range; may be given for several settings",
    )
    add(
        "--trials",
        type=number_type(whole),
        default=whole.default,
        metavar="N",
        help="trials of the study, those of all processes together (default: %(default)s)",
    )
    add(
        "--seeds",
        type=number_type(RUN["seed"]),
        nargs="+",
        default=[1],
        metavar="N",
        help="random seeds of a trial's runs (default: 1)",
    )
    out_dir = Path("search")
    add(
        "--out-dir",
        type=path_type,
        default=out_dir,
        metavar="DIR",
        help=f"directory of the study and its pictures (default: {out_dir})",
    )
    add("--storage", metavar="ADDRESS", help="database of the study (default: sqlite:///OUT_DIR/study.db)")
    add("--study", default="makemore", metavar="NAME", help="name of the study (default: %(default)s)")
    args, run = parser.parse(own), parse_run(train_parser(), of_runs)
    if run.resume or run.overwrite or run.out_dir is not None:
        parser.error(
            "a search keeps no runs: leave out the flags --out-dir, --resume and --overwrite after --"
        )
    common = given(run, flags())
    if "seed" in common or "-" in common.get("data", ()):
        parser.error("a search has --seeds and reads its list many times: leave out --seed and --data -")
    asked = (args.search, common, args.seeds, args.trials, args.out_dir, args.storage, args.study)
    return answer(parser.prog, "makemore.commands.search:search", *asked)


COMMANDS = {
    "train": train_main,
    "sample": sample_main,
    "draw": draw_main,
    "page": page_main,
    "export": export_main,
    "search": search_main,
}


def main(argv: Sequence[str] | None = None) -> int:
    """``makemore`` and ``python -m makemore``: each command by its name."""
    parser = Parser("makemore", "Train networks, sample words, draw pictures, write pages, export, search.")
    parser.add_argument("command", choices=COMMANDS, help="what to do; also installed as makemore-COMMAND")
    rest = parser.add_argument("flags", nargs=argparse.REMAINDER, help="flags of the command: see its --help")
    rest.required = False
    args = parser.parse_args(argv)
    return COMMANDS[args.command](args.flags)


def answer(prog: str, command: str, *asked: Any) -> int:
    """Import a command's function and call it; turn its errors into one line on stderr and an exit code.

    It is not an error if a reader closes the pipe early (``| head -1``).
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the parent process
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):  # whatever the encoding of the console
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    if not hasattr(sys.stdout, "buffer"):  # in a notebook, or with redirect_stdout
        with redirect_stdout(cast(TextIO, StreamOfBytes(sys.stdout))):
            return answer(prog, command, *asked)
    drop_unusable_backend()
    try:
        import_torch()
        resolve_name(command)(*asked)
        sys.stdout.flush()
        return 0
    except (MakemoreError, Interrupted, KeyboardInterrupt, MemoryError, OSError, RuntimeError) as error:
        if isinstance(error, OSError) and is_closed_pipe(error):
            drop_stdout()
            return 0
        with suppress(OSError):
            sys.stdout.flush()
        drop_stdout()
        if os.environ.get(TRACEBACK_VARIABLE):
            say("".join(traceback.format_exception(error)).rstrip(), sys.stderr)
        code, message = code_and_message(error)
        tell(f"{prog}: {message}")
        return code


def code_and_message(error: BaseException) -> tuple[int, str]:
    """The exit code and the message of an error that ends a command."""
    if isinstance(error, MakemoreError | Interrupted):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT, "interrupted"
    return 1, str(error) or type(error).__name__


class StreamOfBytes:
    """A text stream that also takes utf-8 bytes, as ``sys.stdout.buffer`` does."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.buffer = stream, self
        self.decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def write(self, content: str | bytes) -> int:
        self.stream.write(content if isinstance(content, str) else self.decoder.decode(content))
        return len(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def drop_unusable_backend() -> None:
    """Drop the environment variable MPLBACKEND if it names a backend that is not installed here.

    Jupyter exports the backend of its own environment. Pictures are written to files, which needs none, but
    matplotlib refuses to be imported with a backend that it does not know.
    """
    name = os.environ.get(BACKEND_VARIABLE)
    if not name or "matplotlib" in sys.modules:
        return
    del os.environ[BACKEND_VARIABLE]
    with suppress(ImportError, ValueError):
        if name.startswith("module://"):
            usable = find_spec(name.removeprefix("module://")) is not None
        else:
            importlib.import_module("matplotlib").rcParams["backend"] = name  # ValueError if unknown
            usable = True
        if usable:
            os.environ[BACKEND_VARIABLE] = name


def import_torch() -> None:
    """Import torch with the garbage collector paused, and exclude its many objects from later collections.

    This saves 0.4 s, most of it at the end of the process.
    """
    if "torch" not in sys.modules:
        gc.disable()
        importlib.import_module("torch")
        gc.freeze()
        gc.enable()


def tell(message: str) -> None:
    """Print a message in one line on stderr; of several processes on a host only one prints."""
    if "LOCAL_RANK" in os.environ:  # torchrun's
        from makemore.parallel.processes import is_reporter

        if not is_reporter():
            return
    say(" ".join(message.split()), sys.stderr)


def drop_stdout() -> None:
    """Discard what is still to be written to stdout, so that nothing fails while Python shuts down.

    The stdout of a notebook stays as it is.
    """
    stdout = sys.__stdout__
    if stdout is None or sys.stdout is not stdout:
        return
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stdout.fileno())
