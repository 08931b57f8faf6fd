"""On any input the commands end with exit code 0, or with 1 or 2 and one line on stderr.

Word lists of any text or bytes, model files that are cut, damaged or forged, and flags of any value go
through ``train_main`` and ``sample_main``: they raise nothing but argparse's SystemExit, print no traceback
and do not hang. By default there are 2,100 cases, the same every time; ``scripts/reliability/fuzz.py`` draws
as many others as wanted. A case that once failed stays as an ``@example``.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import io
import lzma
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

import pytest
import torch
from bad_lists import OTHER_FILES
from forged_files import content_of, forged, signed
from hypothesis import HealthCheck, Phase, event, example, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from matplotlib.figure import Figure

import makemore.commands.cli
import makemore.pictures.figures
import makemore.run.callbacks
from makemore.commands.cli import sample_main, sample_parser, train_main, train_parser
from makemore.core.layer import Layer
from makemore.core.text import DROPPED, SEPARATORS
from makemore.data.word_list import LECTURE_VARIABLE
from makemore.lecture.layers import Sequential
from makemore.run.architecture import register_layer
from makemore.run.model_file import load_model, save_model

TESTS = 6
FUZZ_CASES = int(os.environ.get("MAKEMORE_FUZZ_CASES", "0"))
"""The number of new cases in all, set by ``scripts/reliability/fuzz.py``; 0 for the default cases."""

DEFAULT_CASES = 2100 if os.environ.get("MAKEMORE_CASES") == "full" else 140
LONGEST = 30
"""Seconds after which a case counts as hanging; most take 0.01."""

CODES: dict[str, Counter[int]] = defaultdict(Counter)
"""For each test, how often a case ended with which exit code."""

SLOWEST: dict[str, float] = defaultdict(float)
"""For each test, the seconds of its slowest case."""

TINY = [
    *("--network", "hierarchical", "--n-embd", "2", "--n-hidden", "2", "--block-size", "2"),
    *("--steps", "3", "--samples", "1", "--device", "cpu"),
]
KINDS = {
    "modern": ("--recipe", "modern"),
    "lecture": ("--recipe", "lecture"),
    "ensemble": ("--recipe", "modern", "--ensemble", "2"),
    "dropout": ("--recipe", "lecture", "--network", "dropout"),
    "own layer": ("--recipe", "lecture"),
}
"""Flags of the runs that model files are taken from. One gets an own layer and a frozen parameter."""

SHORT = ["-n", "2", "--max-length", "5"]
WORDS = "emma\nava\nbob\nzoë\nann\nkim\nlee\nava\n"

cases = settings(
    max_examples=-(-(FUZZ_CASES or DEFAULT_CASES) // TESTS),
    derandomize=not FUZZ_CASES,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


class Hang(BaseException):
    """A case takes too long. No ``except Exception`` catches this."""


def call(
    main: Callable[[Sequence[str]], int], argv: Sequence[str], stdin: bytes = b"ava\n"
) -> tuple[int, str]:
    """The exit code and the stderr of a command, after checking that it ended as it should."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Hang

    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    has_alarm = hasattr(signal, "SIGALRM")  # not on Windows, where a case that hangs hangs
    if has_alarm:
        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
            buffered = io.BufferedReader(io.BytesIO(stdin))  # type: ignore[arg-type]
            patch.setattr(sys, "stdin", io.TextIOWrapper(buffered, encoding="utf-8"))
            code = main(argv)
    except SystemExit as end:
        code = int(end.code or 0)
    except Hang as hang:
        raise AssertionError(f"hangs: {argv}") from hang
    finally:
        if has_alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    err.flush()
    printed = err.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert code in (0, 1, 2), (code, printed)
    assert code == 0 or (len(printed.splitlines()) == 1 and printed.endswith("\n")), (code, printed)
    assert not re.search(r"Traceback \(|, line \d+, in |frame #\d", printed), printed
    return code, printed


def case(
    name: str, main: Callable[[Sequence[str]], int], argv: Sequence[str], stdin: bytes = b"ava\n"
) -> int:
    """One case of a test: call the command and count its exit code."""
    start = time.perf_counter()
    code, printed = call(main, argv, stdin)
    SLOWEST[name] = max(SLOWEST[name], time.perf_counter() - start)
    CODES[name][code] += 1
    event(f"exit code {code}")
    if code == 1:
        event(f"code 1: {re.sub(r'[^ ]*/[^ ]*|[0-9]+', '_', printed)[:70]}")
    return code


def every_eighth(save_figure: Callable[[Any, BinaryIO], None]) -> Callable[[Any, BinaryIO], None]:
    """Draw one picture of eight, and only the title of the others: pictures take longer than all the rest."""
    drawn = 0

    def save(figure: Any, file: BinaryIO) -> None:
        nonlocal drawn
        drawn += 1
        if drawn % 8 == 1:
            save_figure(figure, file)
        else:
            title = Figure(figsize=(6, 0.5))
            title.suptitle(figure.axes[0].get_title(), parse_math=figure.axes[0].title.get_parse_math())
            save_figure(title, file)

    return save


ODD_NAMES = [
    r"le $\foo$.txt",
    "_^{}$$.txt",
    "words\udcff.txt",
    "日本語.txt",
    "a\nb.txt",
    "%s$.txt",
    "\u202eemma.txt",
]


@pytest.fixture(scope="module", autouse=True)
def fast_and_isolated() -> Iterator[None]:
    """Run in a new directory, without a disk, with few pictures and without a download."""
    ram = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=ram) as root, pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(tempfile, "tempdir", root)
        patch.setattr(os, "fsync", lambda fd: None)
        save_figure = makemore.pictures.figures.save_figure
        patch.setattr(makemore.pictures.figures, "save_figure", every_eighth(save_figure))
        patch.setattr(makemore.run.callbacks, "PICTURES", {})  # those in TensorBoard's log
        patch.setattr(makemore.commands.cli, "drop_stdout", lambda: None)  # it opens a file for every case
        patch.setenv(LECTURE_VARIABLE, str(Path(root, "other.txt")))
        Path(root, "other.txt").write_text(WORDS, encoding="utf-8")
        yield
    torch.set_num_threads(1)
    runs.cache_clear()


@cache
def runs(recipe: str) -> tuple[bytes, bytes]:
    """The model files of a run of three steps: after two steps, and at its end."""
    written: list[bytes] = []

    def rename_and_keep(source: str | Path, target: str | Path) -> None:
        if Path(target).name == "model.safetensors":
            written.append(Path(source).read_bytes())
        os.rename(source, target)

    words, out = Path("words.txt").resolve(), Path(recipe).resolve()
    words.write_text(WORDS, encoding="utf-8")
    shutil.copy(words, words.with_name("words\udcff.txt"))
    argv = [*TINY, *KINDS[recipe], "--save-every", "0", "--data", str(words), "--out-dir", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", rename_and_keep)
        assert call(train_main, argv)[0] == 0
    stopped = next(whole for whole in written if content_of(whole)["progress"]["step"] == 2)
    return (
        (own_layer_in(stopped), own_layer_in(written[-1]))
        if recipe == "own layer"
        else (stopped, written[-1])
    )


class Halve(Layer):
    """A user's layer."""

    pointwise = True

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.out = x / 2
        return self.out


register_layer(Halve)


def own_layer_in(whole: bytes) -> bytes:
    """The model file with a user's layer before the last one, and with the first parameter frozen."""
    path = Path("own layer.safetensors")
    path.write_bytes(whole)
    model = load_model(path)
    assert isinstance(model.network, Sequential)
    model.network.layers.insert(-1, Halve())
    model.network.parameters()[0].requires_grad = False
    save_model(model, path)
    return path.read_bytes()


# Word lists

ODD_CHARACTERS = (
    "\0\t\v\f\x1c\x1f\x7f\x85\xa0\xad\u0301\u200b\u200d\u200f\u2028\u2029\u3000\ufeff\uffff😀.\U0010ffff"
)
ODD_WORDS = [
    *ODD_CHARACTERS[1:],
    "e\u0301",
    "مرحبا",
    "שלום",
    "👩‍👩‍👧",
    "ß" * 300,
    "İ",
    "漢字",
    "a b",
    "...",
    "1e5",
    "-n",
]

letters = st.text(st.characters(categories=["L"]), min_size=1, max_size=8)
any_word = st.one_of(
    letters,
    st.sampled_from(ODD_WORDS),
    st.text(st.characters(codec="utf-8"), max_size=12),
    st.text("ab", min_size=1, max_size=3),
    st.builds(lambda ch: ch * 10_000, st.characters(codec="utf-8")),
)


def joined(words: list[str], repeat: int, separator: str, mark: str) -> str:
    return mark + separator.join(words * repeat)


def in_form(text: str, form: Any, places: list[tuple[int, str]]) -> str:
    """The text in a Unicode form, with characters inserted; places count modulo the length."""
    for place, ch in places:
        place %= len(text) + 1
        text = text[:place] + ch + text[place:]
    return unicodedata.normalize(form, text) if form else text


def in_any_form(texts: SearchStrategy[str]) -> SearchStrategy[str]:
    """Half of the texts as they are, the others in another Unicode form or with invisible characters."""
    invisible = st.sampled_from(sorted(DROPPED | {*SEPARATORS, *"\u200c\u200d\ufe0f\u0301\u0308"}))
    places = st.lists(st.tuples(st.integers(0, 2**16), invisible), max_size=4)
    return texts | st.builds(in_form, texts, st.sampled_from(["", "NFC", "NFD", "NFD", "NFKD"]), places)


accented = st.text("aeiouyäëïéèàâêôçñåİỹ한가", min_size=1, max_size=8)
plain_lists = in_any_form(
    st.builds(
        joined,
        st.lists(letters | accented, min_size=6, max_size=20),
        st.integers(1, 3),
        st.sampled_from(["\n", "\r\n", "\n\n"]),
        st.sampled_from(["", "\ufeff"]),
    )
).map(str.encode)
odd_lists = st.builds(
    lambda text, codec: text.encode(codec, "replace"),
    in_any_form(
        st.builds(
            joined,
            st.lists(any_word, max_size=20),
            st.integers(1, 6),
            st.sampled_from(["\n", "\n", "\r\n", "\r", "\n\r", " \n\t", "\x85", "\u2028", "\0", ",", ""]),
            st.sampled_from(["", "\ufeff", "\n", "\ufeff\ufeff"]),
        )
    ),
    st.sampled_from(["utf-8"] * 4 + ["utf-16", "utf-16-le", "utf-16-be", "utf-32-le", "latin-1", "cp037"]),
)
mixed_lists = st.builds(lambda a, b, c: a + b + c, plain_lists, st.binary(max_size=6), odd_lists)
other_kinds = st.sampled_from([content for content, _ in OTHER_FILES.values()])
other_files = st.one_of(
    other_kinds,
    st.builds(lambda whole, n: whole[: n % len(whole)], other_kinds, st.integers(0, 2**16)),
    st.builds(lambda start, rest: start[:12] + rest, other_kinds, st.binary(max_size=300)),
)
"""Files of other kinds, whole, cut, and only their beginnings."""

word_lists = st.one_of(plain_lists, odd_lists, odd_lists, mixed_lists, st.binary(max_size=200), other_files)

Bend = tuple[str, int, int, Any]

bends: SearchStrategy[Bend] = st.tuples(
    st.sampled_from(["flip", "cut", "insert", "copy", "overwrite", "zero", "move"]),
    st.integers(0, 2**32),
    st.integers(0, 2**32),
    st.binary(min_size=1, max_size=8),
)


def bent(whole: bytes, changes: Sequence[Bend]) -> bytes:
    """Bytes with some of them changed; positions count modulo the length."""
    for kind, first, second, new in changes:
        at, other = sorted((first % (len(whole) + 1), second % (len(whole) + 1)))
        chunk = whole[at : at + second % 64]
        whole = {
            "flip": whole[:at] + bytes(b ^ 1 << second % 8 for b in whole[at : at + 1]) + whole[at + 1 :],
            "cut": whole[:other],
            "insert": whole[:at] + new + whole[at:],
            "copy": whole[:other] + chunk + whole[other:],
            "overwrite": whole[:at] + new + whole[at + len(new) :],
            "zero": whole[:at] + bytes(len(chunk)) + whole[at + len(chunk) :],
            "move": whole[:at] + whole[other:],
        }[kind]
    return whole


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": partial(gzip.compress, compresslevel=1),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: content,  # damaged, or it needs a package
}
packings = st.sampled_from(["", "", "", "-", *PACKERS])
"""How a list is given: plain, on stdin, or compressed."""


@pytest.mark.full
@cases
@given(word_lists, st.sampled_from(["words.txt", *ODD_NAMES]), packings, st.lists(bends, max_size=1))
def test_any_word_list(content: bytes, name: str, packing: str, changes: list[Bend]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path, out = Path(directory, name + packing), Path(directory, "out")
        if packing in PACKERS:
            content = bent(PACKERS[packing](content), changes)
        path.write_bytes(content)
        source = "-" if packing == "-" else str(path)
        code = case("word lists", train_main, [*TINY, "--data", source, "--out-dir", str(out)], content)
        assert code == 0 or not (out / "losses.csv").exists()
        assert code != 0 or (out / "loss.png").read_bytes().startswith(b"\x89PNG")
        if code == 0:
            assert call(sample_main, [str(out / "model.safetensors"), *SHORT])[0] == 0
            assert not DROPPED.union(SEPARATORS) & set(
                load_model(out / "model.safetensors").vocabulary.characters
            )


@pytest.mark.full
@cases
@given(word_lists)
def test_scoring_any_word_list(content: bytes) -> None:
    runs("modern")
    case("scored word lists", sample_main, ["modern/model.safetensors", "--score", "-"], content)


# Model files


def tree_of(content: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every part of a model file's content: its path, the dict or list that it is in, and its key there."""
    items: Any = ()
    if isinstance(content, dict):
        items = list(content.items())
    elif isinstance(content, list):
        items = list(enumerate(content))
    for key, value in items:
        yield f"{path}/{key}", content, key
        yield from tree_of(value, f"{path}/{key}")


def tensor(kind: torch.dtype, shape: list[int], value: float) -> torch.Tensor:
    return torch.full(shape, value).to(kind)


any_text = st.text(st.characters(), max_size=8) | st.sampled_from(
    ["\udcff", "a\0b", "\n", "/", "cuda", "mlp"]
)
some_ints = st.integers(-2, 40) | st.sampled_from([2**31, 2**63, -(2**63), 10**30, 10**400, 10**5000])
some_tensors = st.builds(
    tensor,
    st.sampled_from([torch.float32, torch.float64, torch.uint8, torch.int64]),
    st.lists(st.integers(0, 4), max_size=3),
    st.floats(width=32),
)
any_value = st.one_of(
    st.none(),
    st.booleans(),
    some_ints,
    st.floats(),
    any_text,
    st.just(b"ab"),
    st.lists(st.none() | some_ints | st.floats() | any_text, max_size=5),
    st.lists(st.tuples(some_ints, st.floats(), st.floats(), st.floats()).map(list), max_size=2),
    st.dictionaries(any_text, some_ints, max_size=2),
    some_tensors,
)

Forgery = tuple[str, str, Any]


def forgeries(recipe: str) -> SearchStrategy[Forgery]:
    """Changes of one part of the content, mostly to a value of the same type."""
    parts = [(path, holder[key]) for path, holder, key in tree_of(content_of(runs(recipe)[0]))]
    alike = {
        bool: st.booleans(),
        int: some_ints,
        float: st.floats(),
        str: any_text,
        torch.Tensor: some_tensors,
    }
    one = st.sampled_from(parts).flatmap(
        lambda part: st.tuples(
            st.just("set"), st.just(part[0]), alike.get(type(part[1]), any_value) | any_value
        )
    )
    path = st.sampled_from([path for path, _ in parts])
    return st.one_of(
        one,
        one,
        one,
        st.tuples(st.just("add"), path, any_value),
        st.tuples(st.just("delete"), path, st.none()),
        st.tuples(st.just("scale"), path, st.floats(width=32)),
    )


def changed(whole: bytes, changes: Sequence[Forgery]) -> bytes:
    """A file with some parts of its content changed, and a correct sha256."""
    content = content_of(whole)
    for kind, wanted, value in changes:
        for path, holder, key in tree_of(content):
            if path != wanted:
                continue
            if kind == "set":
                holder[key] = value
            elif kind == "add" and isinstance(holder, dict):
                holder[f"{key}+"] = value
            elif kind == "delete":
                del holder[key]
            elif kind == "scale" and isinstance(holder[key], torch.Tensor | float):
                holder[key] = holder[key] * value
            break
    return forged(content)


def model_bytes(recipe: str) -> SearchStrategy[tuple[str, str, list[Bend], list[Forgery], bytes]]:
    """The arguments of ``made`` for a model file."""
    return st.tuples(
        st.just(recipe),
        st.sampled_from(["bent", "bent and signed", "forged", "forged", "forged", "foreign", "other"]),
        st.lists(bends, max_size=4),
        st.lists(forgeries(recipe), max_size=2),
        other_files,
    )


def made(
    recipe: str, how: str, bends: Sequence[Bend], forgeries: Sequence[Forgery], other: bytes = b""
) -> bytes:
    """The bytes of a stopped run's model file, changed in some way, or of another file."""
    whole = runs(recipe)[0]
    if how == "other":
        return other
    if how == "bent":
        return bent(whole, bends)
    if how == "bent and signed":
        return signed(bent(whole, bends))
    if how == "forged":
        return changed(whole, forgeries)
    return b"".join(new for *_, new in bends)


model_files = st.sampled_from([*KINDS]).flatmap(lambda recipe: st.deferred(lambda: model_bytes(recipe)))


def forgery(recipe: str, path: str, value: object) -> Any:
    """An ``@example``: a model file with another value at a path."""
    return example(changes=(recipe, "forged", [], [("set", path, value)]))


@cases
@given(changes=model_files)
@forgery("modern", "/plan", torch.tensor(0.0))
@forgery("modern", "/progress", torch.tensor(0.0))
@forgery("modern", "/characters", "abeiklmnovz\udcff")
@forgery("lecture", "/tensors/network.0.weight", torch.full((13, 2), 3e38))
@forgery("modern", "/tensors/network.3.running_var", torch.tensor([-1.0, -1.0]))
@forgery("lecture", "/tensors/network.5.weight", torch.full((2, 13), 3e38))
def test_sampling_from_any_model_file(changes: Any) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "model.safetensors")
        path.write_bytes(made(*changes))
        case("sampling from model files", sample_main, [str(path), *SHORT])


@pytest.mark.full
@cases
@given(changes=model_files)
@forgery("modern", "/progress/settings/seed", 10**5000)
@forgery("modern", "/progress/settings/data", "a\0b")
@forgery("modern", "/progress/settings/network", "\udcff")
@forgery("modern", "/progress/settings/batch_size", None)
@forgery("modern", "/tensors/state.epoch_start", torch.zeros(5056))
@forgery("modern", "/tensors/state.batches_done", torch.tensor(-3))
@forgery("modern", "/tensors/state.adamw.mean", torch.zeros(0))
@forgery("modern", "/tensors/state.best.0.weight", torch.tensor(0.0))
@forgery("modern", "/tensors/state.epoch_start", torch.zeros(3, dtype=torch.uint8))
@forgery("modern", "/tensors/state.muon.2.weight", torch.zeros(4, 2, dtype=torch.int64))
@forgery("lecture", "/progress/evaluations", [[1, 0.0, -1.0, float("nan"), None, None]])
@forgery("modern", "/progress/evaluations/1/2", None)
@forgery("dropout", "/tensors/state.generator.5", torch.zeros(5056))
@forgery("dropout", "/tensors/state.generator.5", torch.zeros(7, dtype=torch.uint8))
@forgery("dropout", "/tensors/state.generator.5", torch.zeros(5056, dtype=torch.uint8))
def test_resuming_any_model_file(changes: Any) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "model.safetensors").write_bytes(made(*changes))
        case("resuming model files", train_main, ["--resume", "--samples", "1", "--out-dir", directory])


# Flags

LARGEST = {
    **{"steps": 3, "batch_size": 64, "block_size": 16, "n_embd": 8, "n_hidden": 16, "samples": 2},
    **{"samples": 3, "max_length": 20, "ensemble": 3},
}
"""The largest values of flags that make a case slow; 50 for flags that are not here."""

ANY_SIZE = {"seed", "lr_drop", "log_every", "eval_every", "top_k", "threads"}

ODD_VALUES = [
    *"0 -0 -1 +1 1_0 1__0 ١ ½ ² 0x10 1e3 1. .5 nan inf -inf infinity 1e400 1e-400 5e-324".split(),
    *"None true -n -- --seed --l --s= = - lecture words.txt other.txt %s {}".split(),
    *"2147483648 9223372036854775807 9223372036854775808".split(),
    *("", " ", " 2 ", "2\n", "a\nb", "-\n", "--a\nb", "--l=\n", "a\u2028b", "\x1b[31m", "\udcff", "9" * 5000),
]
odd_values = st.one_of(
    st.sampled_from(ODD_VALUES),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
    st.integers().map(str),
    st.floats().map(str),
)


def work(action: argparse.Action, text: str) -> float:
    """How slow a value makes a case, as a share of the slowest that is wanted; -1 if it is not a value."""
    try:
        value: Any = action.type(text) if callable(action.type) else text
    except (argparse.ArgumentTypeError, ValueError):
        return -1
    counts = isinstance(value, int) and action.dest not in ANY_SIZE
    return value / LARGEST.get(action.dest, 50) if counts else 0


def given_flag(action: argparse.Action) -> SearchStrategy[list[str]]:
    """A flag, perhaps shortened, with a value of any kind if it takes one."""
    options = st.sampled_from(action.option_strings)
    if action.nargs == 0:
        return st.tuples(options).map(list)
    words = re.findall(r"[\w:-]+", action.help or "") + [str(choice) for choice in action.choices or ()]
    numbers = [*map(str, range(21)), "0.0", "0.01", "0.5", "1.5", "1e-30", "1e30"]
    usual = words if action.type in (None, str, Path) else numbers
    if action.dest == "shard":
        usual = ["1/1", "1/2", "2/2", "3/4", "99/999999999", "0/2", "3/2", "1/0", "1", "/", "1/2/3", "-1/2"]
    usual = [text for text in usual if 0 <= work(action, text) <= 1]
    odd = odd_values.filter(lambda text: work(action, text) <= 1)
    values = st.one_of(st.sampled_from(usual), st.sampled_from(usual), st.sampled_from(usual), odd)
    if action.dest in ("out_dir", "output"):
        values = values.map(lambda text: "in/" + text.replace("..", "."))
    return st.one_of(
        st.tuples(options, values).map(list),
        st.builds(lambda option, value: [f"{option}={value}"], options, values),
        st.builds(lambda option, n, value: [option[: 4 + n], value], options, st.integers(0, 9), values),
    )


def flags_of(parser: argparse.ArgumentParser) -> SearchStrategy[list[str]]:
    """Flags of a parser, and sometimes text that is not a flag."""
    own = st.one_of([given_flag(action) for action in parser._actions if action.option_strings])
    one = st.one_of(*[own] * 9, odd_values.map(lambda text: [text]))
    return st.lists(one, max_size=5).map(lambda flags: [text for flag in flags for text in flag])


@pytest.mark.full
@cases
@given(
    flags=flags_of(train_parser()),
    recipe=st.sampled_from([*KINDS]),
    state=st.sampled_from(["new", "new", "finished", "stopped", "stopped", "broken", "file"]),
)
@example(flags=["--l=\n"], recipe="modern", state="new")
@example(flags=["--out-dir=--"], recipe="modern", state="new")
@example(flags=["--out-dir", "in/\udcff"], recipe="modern", state="new")
@example(flags=["--data", "words\udcff.txt"], recipe="lecture", state="new")
@example(flags=["--tensorboard", "--record-every", "1"], recipe="lecture", state="stopped")
def test_any_flags_of_train(flags: list[str], recipe: str, state: str) -> None:
    stopped, finished = runs(recipe)
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory, "out")
        argv = [*TINY, *KINDS[recipe], "--data", str(Path("words.txt").resolve())]
        if state == "file":
            out.write_bytes(finished)
        elif state != "new":
            out.mkdir()
            whole = {"finished": finished, "stopped": stopped, "broken": stopped[:-100]}[state]
            (out / "model.safetensors").write_bytes(whole)
        if state == "stopped":
            argv.append("--resume")
        case("flags of train", train_main, [*argv, "--out-dir", str(out), *flags])
    shutil.rmtree("in", ignore_errors=True)


@cases
@given(flags=flags_of(sample_parser()))
@example(flags=["a\nb"])
@example(flags=["--device=--"])
@example(flags=["--top-k=--"])
@example(flags=["--seed=--"])
@example(flags=["--prefix", "\udcff"])
@example(flags=["--shard", "2/3", "--seed", "1", "-o", "in/a.gz"])
@example(flags=["--shard", "1/2", "--score", "words.txt", "--output", "in/\udcff"])
@example(flags=["--score", "in/.gz", "--shard", "1/2"])
def test_any_flags_of_sample(flags: list[str]) -> None:
    runs("modern")
    Path("in").mkdir(exist_ok=True)
    case("flags of sample", sample_main, ["modern/model.safetensors", *SHORT, *flags])
    shutil.rmtree("in", ignore_errors=True)


def test_forgeries_are_drawn_from_tensors_in_one_order() -> None:
    """safetensors gives a file's tensors in any order, and then the cases would differ from time to time."""
    tensors = content_of(runs("modern")[0])["tensors"]
    assert [*tensors] == sorted(tensors)


def test_there_were_enough_cases_of_each_kind() -> None:
    """Checked only if all of the tests above have run."""
    if len(CODES) < TESTS:
        pytest.skip("not all of the tests have run")
    assert sum(codes.total() for codes in CODES.values()) >= (FUZZ_CASES or DEFAULT_CASES)
    for name, codes in CODES.items():
        assert codes[0] >= codes.total() / 20, f"{name}: {dict(codes)}"
        # Words that cannot be scored are reported, which is not an error.
        assert name == "scored word lists" or codes[2] >= codes.total() / 20, f"{name}: {dict(codes)}"
