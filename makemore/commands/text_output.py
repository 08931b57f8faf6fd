"""Write lines of text to a file or to stdout, compressed or not."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterable, Iterator
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
