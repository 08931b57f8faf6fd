"""Files of words: plain or compressed, or on stdin, read in blocks of whole lines.

Word lists to train on and words to score are read by the same class.
"""

from __future__ import annotations

import codecs
import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import BinaryIO, cast

from makemore.core.errors import DataError
from makemore.core.progress import progress_bar
from makemore.core.system import can_seek
from makemore.core.text import quote
from makemore.data.file_kinds import START, FileKind, file_kind, is_text, why_not_opened

STDIN = "-"
"""The path that means stdin."""

BLOCK = LONGEST_LINE = 2**20
"""Bytes that are read at a time, and the largest number of bytes in a line."""

COMPRESSION = {
    ".gz": ["gzip"],
    ".bz2": ["bz2"],
    ".xz": ["lzma"],
    ".zst": ["compression.zstd", "backports.zstd"],
}
"""The modules that decompress a file, by its suffix. The first that can be imported is used."""


class WordFile:
    """A file of words, one a line; stdin if the path is ``-``. A context manager.

    It is decompressed if its name ends in .gz, .bz2, .xz or .zst. A line ends in ``\\n``, ``\\r\\n`` or
    ``\\r``. A byte-order mark is left out.

    Each method reads from the start of the file, or from where stdin was. A pipe can be read only once; what
    has arrived is returned without waiting for more. No more than about two blocks are kept in memory.

    All methods raise DataError if the file cannot be read or decompressed, if it is of another kind (see
    ``file_kind``), if it changes while it is read, or if a line has more than ``LONGEST_LINE`` bytes.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = display_name(path)
        with self._data_errors():
            self._file: io.BufferedReader = (
                cast(io.BufferedReader, sys.stdin.buffer) if path == STDIN else open(path, "rb")  # noqa: SIM115
            )
            self._start = self._file.tell() if can_seek(self._file) else None
            self._size = _size(self._file)

    def __enter__(self) -> WordFile:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.path != STDIN:
            self._file.close()

    def texts(self) -> Iterator[str]:
        """The text in blocks of whole lines that end in ``\\n``, with a progress bar.

        Raises DataError also if the file is not utf-8 text.
        """
        num_lines = 0
        for block in self._with_progress(self.blocks()):
            if b"\0" in block:
                line = num_lines + block.count(b"\n", 0, block.index(b"\0")) + 1
                raise DataError(
                    f"{self.name} is a binary file, not a word list: line {line:,} has a NUL byte"
                )
            try:
                text = block.decode()
            except UnicodeDecodeError as error:
                line = num_lines + block.count(b"\n", 0, error.start) + 1
                byte = block[error.start]
                in_latin_1 = f", which is {quote(chr(byte))} in latin-1" if byte > 0xA0 else ""
                raise DataError(
                    f"{self.name} is not a utf-8 word list: line {line:,} has the byte"
                    f" 0x{byte:02x}{in_latin_1}; save it as utf-8, one word a line"
                ) from error
            yield text
            num_lines += block.count(b"\n")

    def lines(self, start: int = 0) -> Iterator[str]:
        """The lines from number ``start`` on, counted from 0. Bytes that are not utf-8 become U+FFFD."""
        for block in self.blocks():
            num_lines = _num_lines(block)
            if start < num_lines:
                yield from block.decode(errors="replace").removesuffix("\n").split("\n")[start:]
            start = max(0, start - num_lines)

    def num_lines(self) -> int | None:
        """The number of lines, with a progress bar; None for a pipe."""
        if self._start is None:
            return None
        return sum(map(_num_lines, self._with_progress(self.blocks())))

    def blocks(self) -> Iterator[bytes]:
        """The decompressed bytes in blocks of whole lines that end in ``\\n``; the last line may lack it."""
        num_lines, begun, after_return = 0, bytearray(), False
        mark = codecs.BOM_UTF8
        for number, block in enumerate(self._read()):
            if number == 0:
                self._check_kind(block)
            if after_return:
                block = block.removeprefix(b"\n")  # the second half of "\r\n"
            after_return = block.endswith(b"\r")
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            end = block.rfind(b"\n") + 1
            if len(begun) + (block.index(b"\n") if end else len(block)) > LONGEST_LINE:
                raise DataError(
                    f"line {num_lines + 1:,} of {self.name} has more than {LONGEST_LINE:,} bytes: a word list"
                    " has one word a line"
                )
            if end:
                whole = bytes(begun + block[:end])
                yield whole.removeprefix(mark)
                num_lines += whole.count(b"\n")
                begun, mark = bytearray(), b""
            begun += block[end:]
        if begun:
            yield bytes(begun.removeprefix(mark))

    def _check_kind(self, start: bytes) -> None:
        """Raise DataError if the bytes at the beginning of the text show that it is not a word list."""
        if (kind := file_kind(start[:START])) is None:
            return
        if is_compressed(self.path):
            raise DataError(f"the content of {self.name} is {kind.what}: {kind.model_advice or kind.advice}")
        raise DataError(f"{self.name} is {kind.what}: {self._advice(kind)}")

    def _check_compressed(self, start: bytes) -> None:
        """Raise DataError if a file with the suffix of a compressed file is of another kind."""
        suffix, kind = Path(self.path).suffix, file_kind(start)
        if kind is None and start and is_text(start):
            raise DataError(f"{self.name} is not compressed: name it {self.path.removesuffix(suffix)}")
        if kind is not None and not kind.advice.endswith(suffix.lower()):
            raise DataError(f"{self.name} is {kind.what}: {self._advice(kind)}")

    def _advice(self, kind: FileKind) -> str:
        """What to do with a file of that kind; stdin cannot be renamed."""
        return (
            (kind.model_advice or kind.advice) if self.path == STDIN else kind.advice.format(path=self.path)
        )

    def _read(self) -> Iterator[bytes]:
        """The decompressed bytes, up to ``BLOCK`` at a time."""
        file, size = self._file, self._size
        with self._data_errors():
            if self._start is not None:
                file.seek(self._start)
            if is_compressed(self.path):
                self._check_compressed(file.peek(START)[:START])
            # read1 returns what a pipe holds, read waits for a whole block.
            read = _Decompressed(file, self.path).read if is_compressed(self.path) else file.read1
            while block := read(BLOCK):
                yield block
                if size is not None and file.tell() > size:
                    break
            if size != _size(file):
                raise DataError(f"{self.name} changed while it was read: wait until it is complete")

    def _with_progress(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        """The same blocks, with a progress bar that counts the bytes read from the file."""
        with progress_bar(self._size, "B", f"reading {Path(self.name).name}") as progress:
            for block in blocks:
                yield block
                progress.update(len(block) if self._size is None else self._file.tell() - progress.n)

    @contextmanager
    def _data_errors(self) -> Iterator[None]:
        """Turn errors of the system into DataError."""
        try:
            yield
        except DataError:
            raise
        except OSError as error:
            reason = why_not_opened(self.path, error)
            raise DataError(f"cannot read the word list {self.name}: {reason}") from error
        except ValueError as error:  # for example a NUL character in the path
            raise DataError(f"cannot read the word list {self.path!r}: {error}") from error


def _num_lines(block: bytes) -> int:
    return block.count(b"\n") + (not block.endswith(b"\n"))


def _size(file: BinaryIO) -> int | None:
    """The size of a file in bytes; None for a stream, and for a file that does not report its size."""
    try:
        status = os.fstat(file.fileno())
    except OSError:  # not a file of the system
        return None
    is_file = stat.S_ISREG(status.st_mode) and file is not sys.stdin.buffer
    return (status.st_size or None) if is_file else None  # in /proc all files have 0 bytes


class _CompressedFile:
    """A file that records whether its end was reached.

    bz2 and lzma need this: they ignore bytes after a complete stream that they cannot decompress.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.at_end = False

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(size)
        self.at_end = not block
        return block


class _Decompressed:
    """The decompressed content of a file. Raises DataError if it is broken or cannot be decompressed here."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        self._path, self._compressed = path, _CompressedFile(file)
        for module in COMPRESSION[Path(path).suffix.lower()]:
            with suppress(ImportError):
                self._stream: BinaryIO = import_module(module).open(self._compressed)
                return
        raise DataError(
            f"Python before 3.14 needs a package to decompress {path}: pip install backports.zstd; or pipe"
            f" the words in: zstd -dc {path} | ..., with - in place of the path"
        )

    def read(self, size: int) -> bytes:
        try:
            block = self._stream.read(size)
            if not block and not self._compressed.at_end:
                raise EOFError("other data follows the compressed words")
        except Exception as error:  # each format raises errors of different classes
            if isinstance(error, OSError) and error.errno is not None:
                raise
            why = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"{self._path} is broken or cut short, it cannot be decompressed: {why}"
            ) from error
        return block


def is_compressed(path: str) -> bool:
    """Whether the suffix of a file's name is that of a compressed file."""
    return Path(path).suffix.lower() in COMPRESSION


def display_name(path: str) -> str:
    """The name of a file in messages."""
    return "stdin" if path == STDIN else path
