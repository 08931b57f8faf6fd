"""Contents of files that are not word lists, each with a part of the error message."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import random
import sqlite3
import tarfile
import zipfile

import pytest
import safetensors.torch
import torch

NAMES = ["anna", "berta", "clara", "dora", "emma", "frida", "greta", "hanna"]
LINES = "\n".join(NAMES)


def zipped(*names: str, start: str = "") -> bytes:
    """A zip file with files of these names, and the same bytes each time."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        if start:
            archive.writestr(zipfile.ZipInfo("mimetype"), start, zipfile.ZIP_STORED)
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), LINES, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo("words.txt")
        entry.size = len(LINES)
        archive.addfile(entry, io.BytesIO(LINES.encode()))
    return file.getvalue()


def saved(content: object, zipped: bool = True) -> bytes:
    """What torch.save writes."""
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def database() -> bytes:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("create table words (word text)")
        return connection.serialize()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 318224\n"
PAGE = "\n\n<!DOCTYPE html>\n<html><body>\n" + "<br>\n".join(NAMES)

OTHER_FILES: dict[str, tuple[bytes, str]] = {
    "gzip": (gzip.compress(LINES.encode(), mtime=0), "is a gzip file"),
    "bzip2": (bz2.compress(LINES.encode()), "is a bzip2 file"),
    "xz": (lzma.compress(LINES.encode()), "is an xz file"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(20), "is a zstd file"),
    "zip": (zipped("words.txt"), "is a zip file"),
    "empty zip": (zipped(), "is a zip file"),
    "xlsx": (zipped("[Content_Types].xml", "_rels/.rels", "xl/workbook.xml"), "is an Excel workbook"),
    "docx": (zipped("[Content_Types].xml", "word/document.xml"), "is a Word document"),
    "ods": (zipped("content.xml", start="application/vnd.oasis"), "is an OpenDocument file"),
    "tar": (tarred(), "is a tar archive"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + LINES.encode(), "is a PDF"),
    "rtf": (b"{\\rtf1\\ansi anna\\par berta}", "is a rich text file"),
    "doc": (bytes.fromhex("d0cf11e0a1b11ae1") + bytes(100), "is an old file of Microsoft Office"),
    "sqlite": (database(), "is an SQLite database"),
    "pickle": (pickle.dumps(NAMES), "is a Python pickle"),
    "parquet": (b"PAR1" + bytes(50) + b"PAR1", "is a Parquet file"),
    "arrow": (b"ARROW1\0\0" + bytes(50), "is an Arrow file"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(50), "is a picture"),
    "html": (PAGE.encode(), "is an HTML page"),
    "xhtml": (b'<?xml version="1.0"?>\n<html xmlns="x">', "is an HTML page"),
    "xml": (b'<?xml version="1.0"?>\n<names><name>anna</name></names>', "is an XML file"),
    "json": (json.dumps(NAMES, indent=1).encode(), "is a JSON file"),
    "json lines": (b'{"name": "anna"}\n{"name": "berta"}', "is a JSON file"),
    "lfs pointer": (POINTER, "is a Git LFS pointer"),
    "torch": (saved({"weight": torch.ones(3)}), "is a PyTorch file"),
    "old torch": (saved({"weight": torch.ones(3)}, zipped=False), "is a Python pickle"),
    "old model": (saved({"format": "makemore model"}), "is a model file of a pre-release of makemore"),
    "safetensors": (safetensors.torch.save({"weight": torch.ones(3)}), "is a safetensors file"),
    "utf-16": (LINES.encode("utf-16"), "is UTF-16 text"),
    "utf-16-le": (LINES.encode("utf-16-le"), "is UTF-16 text"),
    "utf-16-be": ("Жанна\nПётр\nЛев\n".encode("utf-16-be"), "is UTF-16 text"),
    "utf-32": (LINES.encode("utf-32"), "is UTF-32 text"),
    "utf-32-be": ("王\n李\n".encode("utf-32-be"), "is UTF-32 text"),
}
"""The content of files of other kinds, and what a message says they are."""

TEXTS = [
    (b"", "has 0 words; at least 6 are needed for train, val and test: it is empty"),
    (b"\n \n\r\n", "has 0 words"),
    ("\ufeff\u200b\n\u2060\n".encode(), "has 0 words"),
    (b"emma\n", "has 1 word; at least 6 are needed"),
    (", ".join(NAMES).encode(), "has one line with 7 commas: put each word on a line of its own"),
    (";".join(NAMES).encode() + b"\n", "has one line with 7 semicolons: put each word on a line of its own"),
    ("\t".join(NAMES).encode(), "has one line with 7 tabs"),
    (" ".join(NAMES).encode(), "has one line with 7 blanks"),
    (b"anna, berta,\nclara, dora,\nemma, frida", "has 3 lines with 5 commas"),
    (b"anna\nberta, clara\n", "has 2 words; at least 6"),
    (
        b"anna\nb\xff\n",
        "not a utf-8 word list: line 2 has the byte 0xff, which is 'ÿ' in latin-1; save it as",
    ),
    ("anna\nzoë\n".encode("latin-1"), "line 2 has the byte 0xeb, which is 'ë' in latin-1; save it as utf-8"),
    (b"anna\no\x92brien\n", "line 2 has the byte 0x92; save it as utf-8"),
    (b"\xff\xfe\0e\0m\0m\0a", "is UTF-16 text: save it as utf-8"),
    (b"a\0b\nc\nd\ne\nf\ng\n", "binary file"),
    (random.Random(0).randbytes(1000), "utf-8|binary"),
]
"""Contents that are text or next to it, each with a part of the error message."""

BAD_LISTS = [
    *(pytest.param(*case, id=case[1]) for case in TEXTS),
    *(pytest.param(*case, id=name) for name, case in OTHER_FILES.items()),
]
"""All of them, as cases of a test. Their names are short, and the same in all processes of pytest-xdist."""
