"""Write lines of text, csv or jsonl to a file or to stdout, compressed or not."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from tqdm import tqdm

from makemore.core.atomic_write import atomic_write
from makemore.core.errors import UsageError
from makemore.core.text import show_controls
from makemore.data.reading import is_compressed

STDOUT = "-"
"""The path that means stdout."""

LINES_AT_ONCE = 8192
"""Lines that are collected before they are written."""


@contextmanager
def open_output(path: str) -> Iterator[BinaryIO]:
    """Open a file to write, or stdout for ``-``. It is compressed if its name ends in ``.gz``.

    The file is written whole or not at all. Raises UsageError if the name is that of a directory, a device or
    another compressed format, and WriteError if the file cannot be written.
    """
    if path == STDOUT:
        yield sys.stdout.buffer
        return
    target = Path(path)
    gzipped = target.suffix.lower() == ".gz"
    if is_compressed(path) and not gzipped:
        raise UsageError(f"cannot write {path}: the only compressed output is .gz")
    if not target.name or (target.exists() and not target.is_file()):
        raise UsageError(f"cannot write {path}: it is not a regular file")
    with atomic_write(target) as file:
        if gzipped:
            # Without a name and a time in the file, the same lines give the same bytes.
            with gzip.GzipFile("", "wb", 6, file, mtime=0) as compressed:
                yield cast(BinaryIO, compressed)
        else:
            yield file


def write_lines(lines: Iterable[str], total: int | None, file: BinaryIO) -> None:
    """Write lines, with a progress bar unless they are shown on a terminal.

    ``total`` is their number if it is known. If ``lines`` raises an error, the lines before it are written. A
    terminal gets control characters as escapes.
    """
    collected: list[str] = []

    def write() -> None:
        file.write("".join(collected).encode("utf-8", "backslashreplace"))
        collected.clear()

    on_terminal = file is sys.stdout.buffer and sys.stdout.isatty()
    hidden = True if on_terminal else None  # None: unless stderr is a terminal
    try:
        for line in tqdm(
            lines, total=total, unit="word", unit_scale=True, delay=2.0, disable=hidden, leave=False
        ):
            collected.append((show_controls(line) if on_terminal else line) + "\n")
            if len(collected) == LINES_AT_ONCE:
                write()
    finally:
        write()


Cell = str | float | bool | None
Row = Mapping[str, Cell]
"""The cells of a row by the names of their columns: the same columns in every row. None is unknown."""

UNESCAPED_IN_JSON = re.compile("[\x7f-\x9f\u2028\u2029]")
"""Control characters and line ends that ``json.dumps`` leaves as they are."""

DIGITS = 4
"""Digits of a number after the point."""


def text_lines(rows: Iterable[Row]) -> Iterator[str]:
    """The rows as lines of text: the cells, separated by tabs."""
    for row in rows:
        yield "\t".join(_text_of(cell, unknown="nan") for cell in row.values())


def csv_lines(rows: Iterable[Row], columns: Sequence[str], *, header: bool) -> Iterator[str]:
    """The rows as lines of csv, after a line with the names of the columns; an unknown cell is empty."""
    if header:
        yield _csv_line(columns)
    for row in rows:
        yield _csv_line(_text_of(row[name], unknown="") for name in columns)


def jsonl_lines(rows: Iterable[Row]) -> Iterator[str]:
    """The rows as one JSON object a line; an unknown cell is null."""
    for row in rows:
        cells = {name: _json_value(cell) for name, cell in row.items()}
        line = json.dumps(cells, ensure_ascii=False, allow_nan=False)
        yield UNESCAPED_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", line)


def _text_of(cell: Cell, unknown: str) -> str:
    if cell is None:
        return unknown
    if isinstance(cell, bool):
        return str(cell).lower()
    return f"{cell:.{DIGITS}f}" if isinstance(cell, float) else str(cell)


def _json_value(cell: Cell) -> Cell:
    if isinstance(cell, float):
        return round(cell, DIGITS) if math.isfinite(cell) else None
    return cell


def _csv_line(cells: Iterable[str]) -> str:
    """The cells as a line of csv. They are quoted where needed, also if one has a carriage return."""
    line = io.StringIO(newline="")
    csv.writer(line).writerow(cells)
    return line.getvalue().removesuffix("\r\n")
