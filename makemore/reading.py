"""Word lists as they lie: plain or packed, in files or on stdin, read block by block (beyond the lecture)."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from makemore.bars import bar
from makemore.errors import DataError

STDIN = "-"
"""The name of the list that comes on stdin."""

BLOCK = LONGEST_LINE = 2**20
"""Bytes that are read at a time, and the most that a line may have."""

PACKED = {
    ".gz": [("gzip", "GzipFile")],
    ".bz2": [("bz2", "BZ2File")],
    ".xz": [("lzma", "LZMAFile")],
    ".zst": [("compression.zstd", "ZstdFile"), ("backports.zstd", "ZstdFile")],
}
"""What unpacks a list, by the ending of its name: the first module and class that are there."""


def texts(path: str) -> Iterator[str]:
    """The text of a list in pieces that end at line ends, without its byte-order mark.

    Raises DataError if it cannot be read, or is not utf-8.
    """
    lines, codec = 0, "utf-8-sig"
    for block in blocks(path):
        try:
            text = block.decode(codec)
        except UnicodeDecodeError as error:
            undecoded, at = error.object, error.start  # in what is behind a byte-order mark
            line = lines + undecoded.count(b"\n", 0, at) + 1
            raise DataError(
                f"{named(path)} is not a utf-8 word list: line {line:,} holds the byte"
                f" 0x{undecoded[at]:02x}; save it as utf-8, one word a line"
            ) from error
        if "\0" in text:
            raise DataError(f"{named(path)} is a binary file, not a word list")
        yield text
        lines, codec = lines + block.count(b"\n"), "utf-8"


def blocks(path: str) -> Iterator[bytes]:
    """The bytes of a list, unpacked, in blocks that end at line ends. Raises DataError."""
    lines, begun = 0, list[bytes]()
    for block in _read(path):
        first = len(block.replace(b"\r", b"\n").split(b"\n", 1)[0])
        if sum(map(len, begun)) + first > LONGEST_LINE:
            raise too_long(lines + 1, path)
        # After a lone carriage return a block may end too: what is left of "\r\n" is a blank line.
        end = max(block.rfind(b"\n"), block.rfind(b"\r")) + 1
        if end:
            whole = b"".join([*begun, block[:end]])
            yield whole
            lines, begun = lines + whole.count(b"\n"), []
        begun.append(block[end:])
    if any(begun):
        yield b"".join(begun)


def too_long(line: int, path: str) -> DataError:
    """The error of a line, counted from 1, of more than ``LONGEST_LINE`` bytes."""
    why = f"has more than {LONGEST_LINE:,} bytes: a word list has one word a line"
    return DataError(f"line {line:,} of {named(path)} {why}")


def _read(path: str) -> Iterator[bytes]:
    """What a list's file holds, unpacked, with a bar that tells how far it is read."""
    try:
        with nullcontext(sys.stdin.buffer) if path == STDIN else open(path, "rb") as file:
            size = _size(file)
            unpacked = Unpacked(file, path) if is_packed(path) else file
            with bar(size, "B", f"reading {Path(named(path)).name}") as shown:
                while block := unpacked.read(BLOCK):
                    yield block
                    at = shown.n + len(block) if size is None else file.tell()
                    shown.update(at - shown.n)
                    if size is not None and at > size:
                        break
            if size != _size(file):
                raise DataError(f"{named(path)} changed while it was read: wait until it is whole")
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"cannot read the word list {named(path)}: {error.strerror}") from error
    except ValueError as error:  # a NUL character in the path
        raise DataError(f"cannot read the word list {path!r}: {error}") from error


def _size(file: BinaryIO) -> int | None:
    """The bytes of a file, None of a stream."""
    try:
        status = os.fstat(file.fileno())
    except OSError:  # not of the system
        return None
    is_file = stat.S_ISREG(status.st_mode) and file is not sys.stdin.buffer
    return (status.st_size or None) if is_file else None  # in /proc all files have 0 bytes


class _Packed(io.BufferedReader):
    """A packed file that knows whether all of it was read: bz2 and lzma pass over what they cannot unpack."""

    at_end = False

    def read(self, size: int | None = -1, /) -> bytes:
        block = super().read(size)
        self.at_end = not block
        return block


class Unpacked(io.RawIOBase):
    """What a packed file holds, as the ending of its name asks. Raises DataError where it is broken."""

    def __init__(self, file: Any, path: str) -> None:
        self._path, self._packed = path, _Packed(file)
        for module, kind in PACKED[Path(path).suffix.lower()]:
            with suppress(ImportError):
                opener = getattr(import_module(module), kind)
                packed = self._packed
                self._file: BinaryIO = opener(packed) if kind != "GzipFile" else opener(fileobj=packed)
                return
        raise DataError(
            f"to unpack {path} Python before 3.14 needs one more package: pip install backports.zstd;"
            f" or unpack it in front: zstd -dc {path} | …, with - in place of its name"
        )

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any, /) -> int:
        try:
            block = self._file.read(len(buffer))
            if not block and not self._packed.at_end:
                raise EOFError("behind a whole part something else follows")
        except Exception as error:  # whatever gzip and its like make of it
            if isinstance(error, OSError) and error.errno is not None:
                raise
            why = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"{self._path} is broken or cut short, it cannot be unpacked: {why}") from error
        buffer[: len(block)] = block
        return len(block)


def is_packed(path: str) -> bool:
    """Whether the ending of a name asks for unpacking."""
    return Path(path).suffix.lower() in PACKED


def named(path: str) -> str:
    """What a list is called."""
    return "stdin" if path == STDIN else path
