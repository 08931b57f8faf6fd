"""Lines of text in and out: from a file or stdin, to a file or stdout, packed or not, in parts."""

from __future__ import annotations

import gzip
import io
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from tqdm import tqdm

from makemore.errors import UsageError
from makemore.files import writing_whole
from makemore.reading import BLOCK, Unpacked, is_packed

CHUNK = 8192
"""Lines that are scored or written at a time."""


def part_of(number: int, shard: str) -> range:
    """The places, of so many, that are in the shard I/N: the I-th of N parts of the same size, or one more.

    Raises UsageError on text that is none.

    >>> [part_of(7, f"{i}/3") for i in (1, 2, 3)]
    [range(0, 2), range(2, 4), range(4, 7)]
    """
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", shard)
    i, n = map(int, found.groups()) if found else (0, 0)
    if not 1 <= i <= n:
        raise UsageError(f"--shard must be I/N, I from 1 to N, got {shard[:80]!r}")
    return range(number * (i - 1) // n, number * i // n)


@contextmanager
def reading(path: str) -> Iterator[io.BufferedReader]:
    """A file, ``-`` for stdin; unpacked if its name asks for it, as a word list is.

    Raises UsageError if it cannot be opened, DataError as soon as it turns out not to be whole.
    """
    with ExitStack() as stack:
        if path == "-":
            yield cast(io.BufferedReader, sys.stdin.buffer)
            return
        try:
            file = stack.enter_context(open(path, "rb"))
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from error
        if is_packed(path):
            if not file.seekable():
                raise UsageError(f"cannot read {path}: only a file can be unpacked, not a pipe")
            file = stack.enter_context(io.BufferedReader(Unpacked(file, path), BLOCK))
        yield file


@contextmanager
def writing(path: str) -> Iterator[BinaryIO]:
    """A file that is there whole in the end or not at all, ``-`` for stdout; packed if it ends in ``.gz``.

    Raises UsageError if the name is another packing's or something else's, WriteError if it is not written.
    """
    if path == "-":
        yield sys.stdout.buffer
        return
    target = Path(path)
    packs = target.suffix.lower() == ".gz"
    if is_packed(path) and not packs:
        raise UsageError(f"cannot write {path}: lines are packed as .gz alone")
    if not target.name or (target.exists() and not target.is_file()):
        raise UsageError(f"cannot write {path}: that is no file")
    with writing_whole(target) as file:
        if packs:  # without name and time: the same lines are the same bytes
            with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
                yield packed  # type: ignore[misc]
        else:
            yield file


def number_of_lines(file: io.BufferedReader) -> int:
    """How many lines a file has from where it stands; it stands there again afterwards."""
    start, number, last = file.tell(), 0, b"\n"
    while block := file.read(BLOCK):
        number, last = number + block.count(b"\n"), block[-1:]
    file.seek(start)
    return number + (last != b"\n")


def skip_lines(file: io.BufferedReader, number: int) -> None:
    """Read past that many lines."""
    while (lines := (block := file.peek()).count(b"\n")) < number and block:
        file.read(len(block))
        number -= lines
    for _ in range(number):
        file.readline()


def write_lines(lines: Iterable[str], number: int | None, file: BinaryIO) -> None:
    """Write some ``number`` of lines, many at a time, with a progress bar where they are not watched.

    What came before an error is written too.
    """
    chunk: list[str] = []

    def write() -> None:
        file.write("".join(chunk).encode("utf-8", "backslashreplace"))
        chunk.clear()

    watched = (file is sys.stdout.buffer and sys.stdout.isatty()) or None
    try:
        for line in tqdm(
            lines, total=number, unit="word", unit_scale=True, delay=2.0, disable=watched, leave=False
        ):
            chunk.append(f"{line}\n")
            if len(chunk) == CHUNK:
                write()
    finally:
        write()
