"""The directory of a run: one run writes to it at a time, and none is overwritten by accident."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from makemore.core.errors import ModelFileError, UsageError
from makemore.run.model_file import load_model

LOCK_FILE = ".lock"
"""The name of the file that a run locks in its directory."""


def make_directory(out_dir: Path) -> None:
    """Create the directory. Raises UsageError if it cannot be created or written to."""
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot create the directory {out_dir}: {error.strerror}") from error
    if not os.access(out_dir, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write to the directory {out_dir}: choose another --out-dir")


@contextmanager
def locked(out_dir: Path) -> Iterator[None]:
    """Hold the directory's lock within a ``with`` block. A killed run does not hold it.

    Raises UsageError if another run holds it.
    """
    try:
        with filelock.FileLock(out_dir / LOCK_FILE, timeout=0):
            yield
    except filelock.Timeout as error:
        raise UsageError(f"another run is writing to {out_dir}: choose another --out-dir") from error


def make_room(target: Path, others: Iterable[Path], overwrite: bool) -> None:
    """Delete the ``others``, the files of an earlier run, before a new run writes its model file ``target``.

    Raises UsageError if the model file exists already, unless ``overwrite`` is true.
    """
    if target.exists() and not overwrite:
        how = ""
        with suppress(ModelFileError):
            progress = load_model(target).progress
            how = "--resume it, " if progress and not progress.finished else ""
        raise UsageError(f"{target} already exists: {how}--overwrite it, or choose another --out-dir")
    for path in others:
        if path.is_dir():
            raise UsageError(f"{path} is a directory: choose another --out-dir")
        path.unlink(missing_ok=True)
