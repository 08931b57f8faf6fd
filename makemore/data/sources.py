"""Where words come from: files, directories of files, and stdin, each a list or a table."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from makemore.core.errors import DataError
from makemore.core.text import normalize, plural
from makemore.data.labels import LabelEncoder
from makemore.data.reading import STDIN, WordFile, display_name, is_compressed
from makemore.data.tables import SAMPLE, Block, Columns, Notes, TableReader, check_is_list

LABEL = "label"
"""The name of the column of labels that are the names of files."""

MAX_NAMES = 3
"""The largest number of files that the name of several lists has."""


class WordSource:
    """The words of one or more files, of the files in directories, or of stdin (``-``).

    The label of a word is the name of its file, without suffixes, if the files have at least two different
    names and ``columns.labels`` is empty. Messages call the whole list ``name``. Files in
    directories within a directory, and files whose names begin with a dot, are left out.

    Raises DataError if a directory cannot be read or has no files, or if a file is given twice.
    """

    def __init__(self, paths: Sequence[str], columns: Columns) -> None:
        if not paths:
            raise DataError("no word list is given")
        self.name = _name_of(paths)
        self._paths, self._columns, self._notes = paths, columns, Notes()
        self._files = [file for path in paths for file in self._files_of(path)]
        for file, times in Counter(map(_real_path, self._files)).items():
            if times > 1:
                raise DataError(f"the word list {file} is given twice: give each list once")
        self._table = TableReader(columns, self._notes) if columns.is_table else None
        self.encoder = self._table.encoder if self._table is not None else None
        self._has_file_labels = not columns.labels and len({*map(label_of_file, self._files)}) > 1
        if self._has_file_labels:
            self.encoder = LabelEncoder([LABEL])
        if len(self._files) > 1:
            labels = "; the name of a file is the label of its words" if self._has_file_labels else ""
            self._notes.files.append(f"{len(self._files):,} files{labels}")

    def _files_of(self, path: str) -> list[str]:
        """The path itself, or the files in a directory in the order of their names."""
        if not os.path.isdir(path):
            return [path]
        try:
            with os.scandir(path) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"cannot read the directory {path}: {error.strerror}") from error
        visible = [entry for entry in found if not entry.name.startswith(".")]
        files = [os.path.join(path, entry.name) for entry in visible if not entry.is_dir()]
        others = [
            plural(number, what)
            for number, what in (
                (len(visible) - len(files), "nested folder"),
                (len(found) - len(visible), "hidden file"),
            )
            if number
        ]
        if not files:
            has = f"only {' and '.join(others)}" if others else "no files"
            raise DataError(f"the directory {path} has {has}: give a directory of word lists, or the files")
        if others:
            self._notes.files.append(f"left out in {path}: {', '.join(others)}")
        return files

    def blocks(self) -> Iterator[Block]:
        """The words of all files in turn. Raises DataError, see ``WordFile`` and ``TableReader``."""
        for path in self._files:
            label = None
            if self._has_file_labels and self.encoder is not None:
                label = self.encoder.encode((label_of_file(path),))
            with WordFile(path) as file:
                for block in self._blocks_of(file):
                    if label is None:
                        yield block
                    else:
                        lines = block.text.count("\n") + (not block.text.endswith("\n"))
                        yield block._replace(rows=array("i", [label]) * lines)

    def _blocks_of(self, file: WordFile) -> Iterator[Block]:
        texts = file.texts()
        begun = ""
        for text in texts:
            begun += text
            if len(begun) >= SAMPLE:
                break
        start = begun if len(begun) <= SAMPLE else begun[: begun.rfind("\n", 0, SAMPLE) + 1]
        texts = chain([begun], texts)
        if self._table is not None:
            yield from self._table.blocks(texts, start, file.name)
            return
        if self._columns.word is None:
            check_is_list(start, file.path, self._paths)
        yield from (Block(text) for text in texts if text)

    def notes(self) -> list[str]:
        """What is to be said about the files once they are read, each in a line of text."""
        return self._notes.describe()

    def left_out(self) -> list[str]:
        """The rows that were left out, each kind in a text."""
        return self._notes.left_out()


def _real_path(path: str) -> str:
    """The path by which a file is known however it is given; itself if it cannot be one."""
    try:
        return path if path == STDIN else os.path.realpath(path)
    except ValueError:  # a NUL character
        return path


def _name_of(paths: Sequence[str]) -> str:
    if len(paths) == 1:
        return display_name(paths[0])
    names = [Path(display_name(path)).name for path in paths[:MAX_NAMES]]
    more = f" and {len(paths) - MAX_NAMES:,} more" if len(paths) > MAX_NAMES else ""
    return ", ".join(names) + more


def label_of_file(path: str) -> str:
    """The label of the words of a file: its name without the suffixes of its kind and its compression.

    Bytes of the name that are not utf-8 become U+FFFD.

    >>> label_of_file("lists/Irish.txt.gz")
    'Irish'
    """
    name = Path(display_name(path)).name
    if is_compressed(name):
        name = Path(name).stem
    text = Path(name).stem.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return normalize(text).strip()
