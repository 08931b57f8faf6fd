"""What a file is, by its first bytes: people give word lists and model files under many names.

The kinds are those that are given by mistake, so that a message can say what the file is and what to do.
"""

from __future__ import annotations

import codecs
import errno
import os
import re
import unicodedata
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from makemore.core.text import CONTROLS

START = 2**16
"""The number of bytes at the beginning of a file that its kind is read from."""

MAX_ENTRIES = 10_000
"""The largest number of files in a directory whose names are compared with that of a missing file."""

SIMILAR = 0.7
"""How similar two names must be, from 0 to 1, for one to be suggested in place of the other."""


class FileKind(NamedTuple):
    """What a file is, such as "a PDF", and what to do for a word list.

    ``{path}`` in the advice is the path of the file. ``model_advice`` is what to do for a model file.
    """

    what: str
    advice: str
    model_advice: str = ""


EXPORT = "write its words to a text file, one a line"
SAVE = "save it as text in utf-8, one word a line"
UNPACK = "unpack it"
NOT_TEXT = "a word list is text, one word a line"


def _compressed(what: str, suffix: str) -> FileKind:
    return FileKind(what, f"name it {{path}}{suffix}", "decompress it")


MAGIC_NUMBERS = (
    (0, b"\x1f\x8b", _compressed("a gzip file", ".gz")),
    (0, b"BZh", _compressed("a bzip2 file", ".bz2")),
    (0, b"\xfd7zXZ\0", _compressed("an xz file", ".xz")),
    (0, b"\x28\xb5\x2f\xfd", _compressed("a zstd file", ".zst")),
    (0, b"7z\xbc\xaf\x27\x1c", FileKind("a 7z archive", UNPACK, UNPACK)),
    (0, b"Rar!\x1a\x07", FileKind("a rar archive", UNPACK, UNPACK)),
    (257, b"ustar", FileKind("a tar archive", UNPACK, UNPACK)),
    (0, b"%PDF-", FileKind("a PDF", "copy its words into a text file, one a line")),
    (0, b"{\\rtf", FileKind("a rich text file", SAVE)),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", FileKind("an old file of Microsoft Office", SAVE)),
    (0, b"SQLite format 3\0", FileKind("an SQLite database", EXPORT)),
    (0, b"PAR1", FileKind("a Parquet file", EXPORT)),
    (0, b"ARROW1", FileKind("an Arrow file", EXPORT)),
    (0, b"FEA1", FileKind("a Feather file", EXPORT)),
    (0, b"\x89HDF\r\n\x1a\n", FileKind("an HDF5 file", EXPORT)),
    (0, b"\x93NUMPY", FileKind("a NumPy file", EXPORT)),
    (0, b"\x89PNG\r\n\x1a\n", FileKind("a picture", NOT_TEXT)),
    (0, b"\xff\xd8\xff", FileKind("a picture", NOT_TEXT)),
    (0, b"GIF8", FileKind("a picture", NOT_TEXT)),
    *((0, b"\x80" + bytes([protocol]), FileKind("a Python pickle", EXPORT)) for protocol in range(2, 6)),
    (
        0,
        b"version https://git-lfs.github.com/spec/",
        FileKind(
            "a Git LFS pointer",
            "get the file with git lfs pull",
            "get the file with git lfs pull",
        ),
    ),
)
"""The offset of a magic number, its bytes, and the kind of file that has it."""

OLD_MODEL = FileKind("a model file of a pre-release of makemore", NOT_TEXT)
PYTORCH = FileKind("a PyTorch file", NOT_TEXT)
SAFETENSORS = FileKind("a safetensors file", NOT_TEXT)
ZIP = FileKind("a zip file", UNPACK, UNPACK)
OFFICE = {
    b"xl/": FileKind("an Excel workbook", SAVE),
    b"word/": FileKind("a Word document", SAVE),
    b"ppt/": FileKind("a PowerPoint file", SAVE),
    b"mimetype": FileKind("an OpenDocument file or an e-book", SAVE),
}
"""The kinds of zip files by how the name of a file in them begins."""

HTML = FileKind("an HTML page", "download the text itself", "download the file itself")
XML = FileKind("an XML file", EXPORT)
JSON = FileKind("a JSON file", EXPORT)

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",  # begins with the mark of utf-16-le
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
"""The marks of the encodings other than utf-8."""


def file_kind(start: bytes) -> FileKind | None:
    """The kind of a file that begins with these bytes, ``START`` of them or the whole file.

    None for a text in utf-8, and for bytes that are not known.
    """
    if start[4:10] == b'\0\0\0\0{"':  # first, since the length of the header may be any magic number
        return SAFETENSORS
    for offset, magic, kind in MAGIC_NUMBERS:
        if start.startswith(magic, offset):
            return kind
    if start.startswith((b"PK\3\4", b"PK\5\6")):
        return _kind_of_zip(start)
    if encoding := encoding_of(start):
        name = encoding[:6].upper()
        return FileKind(f"{name} text", f"save it as utf-8 (iconv -f {encoding} -t utf-8)")
    return _kind_of_text(start.removeprefix(codecs.BOM_UTF8).lstrip())


def _kind_of_zip(start: bytes) -> FileKind:
    names = list(_names_in_zip(start))
    if any(name.endswith(b"/data.pkl") for name in names):
        return OLD_MODEL if b"makemore model" in start else PYTORCH
    return next((kind for part, kind in OFFICE.items() if any(n.startswith(part) for n in names)), ZIP)


def _names_in_zip(start: bytes) -> Iterator[bytes]:
    """The names of the files at the beginning of a zip file."""
    for header in re.finditer(b"PK\3\4", start):
        length = int.from_bytes(start[header.start() + 26 : header.start() + 28], "little")
        yield start[header.start() + 30 : header.start() + 30 + length]


def _kind_of_text(text: bytes) -> FileKind | None:
    beginning = text[:500].lower()
    if beginning.startswith((b"<!doctype html", b"<html", b"<head>", b"<body")):
        return HTML
    if beginning.startswith(b"<?xml"):
        return HTML if b"<html" in beginning else XML
    return JSON if re.match(rb'(\[\s*)?\{\s*"|\[\s*"', text) else None


def is_text(start: bytes) -> bool:
    """Whether the bytes at the beginning of a file are text in utf-8, without control characters."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return not set(text) & set(CONTROLS)


def encoding_of(start: bytes) -> str | None:
    """The encoding of a text in UTF-16 or UTF-32; None for other encodings and for bytes that are not text.

    Without a byte-order mark, it is the encoding in which the bytes are text with most ASCII characters, if
    there are NUL bytes, which a text in utf-8 does not have.

    >>> encoding_of("emma\\nava\\n".encode("utf-16-le"))
    'utf-16-le'
    """
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if start.startswith(mark):
            return encoding
    if b"\0" not in start:
        return None
    texts = {encoding: _decoded(start, encoding) for encoding in BYTE_ORDER_MARKS.values()}
    best = max(
        texts, key=lambda encoding: sum(map(str.isascii, texts[encoding])) / (len(texts[encoding]) or 1)
    )
    return best if texts[best] else None


def _decoded(start: bytes, encoding: str) -> str:
    """The text of bytes in an encoding; empty if they are not text in it."""
    try:
        whole = len(start) < START  # else the last character may be cut
        text = codecs.getincrementaldecoder(encoding)().decode(start, whole)
    except UnicodeDecodeError:
        return ""
    categories = {ch: unicodedata.category(ch) for ch in set(text) - {*"\t\n\v\f\r"}}
    return text if all(kind[0] != "C" or kind == "Cf" for kind in categories.values()) else ""


def why_not_opened(path: str, error: OSError) -> str:
    """Why a file cannot be opened, and what to do about it."""
    reason = error.strerror or str(error)
    if is_url(path):
        return "it is a URL: download the file, and give the path of that"
    if error.errno == errno.EISDIR:
        return f"{reason}: give the path of a file in it"
    if error.errno == errno.ENOENT and (near := near_file(path)):
        return f"{reason}; did you mean {near}?"
    return reason


def is_url(path: str) -> bool:
    """Whether a path is a URL. A ``Path`` of one has a single slash."""
    return re.match(r"(https?|ftp|file|s3|gs|hf):/", path) is not None


def near_file(path: str) -> str | None:
    """The path of the file in the same directory whose name is most similar to that of a missing one.

    None if no name is similar: at least ``SIMILAR``, apart from the suffix.
    """
    directory, missing = os.path.split(path)
    try:
        with os.scandir(directory or ".") as entries:
            names = [entry.name for entry in islice(entries, MAX_ENTRIES) if entry.is_file()]
    except (OSError, ValueError):
        return None
    similar = [name for name in names if _similarity(Path(name).stem, Path(missing).stem) >= SIMILAR]
    nearest = max(similar, key=lambda name: (_similarity(name, missing), name), default=None)
    return nearest and os.path.join(directory, nearest)


def _similarity(name: str, other: str) -> float:
    return SequenceMatcher(None, name.lower(), other.lower()).ratio()
