"""The directory of a run: one run writes to it at a time, and none is overwritten by accident."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from makemore.core.errors import ModelFileError, UsageError
from makemore.pictures.recorder import GRADIENTS_FILE
from makemore.run.callbacks import LOG_DIRECTORY
from makemore.run.frames import frame_files
from makemore.run.model_file import MODEL_FILE, load_model
from makemore.run.teacher_files import TEACHER_FILE

LOCK_FILE = ".lock"
"""The name of the file that a run locks in its directory."""

LOSSES_FILE = "losses.csv"
"""The name of a run's file of losses."""

PICTURE_FILE = "loss.png"
"""The name of a run's picture of its losses."""

CONFUSION_FILE = "confusion-{}.png"
"""The name of a run's picture of which labels its network takes words for, by the number of the column."""


def make_directory(out_dir: Path) -> None:
    """Create the directory. Raises UsageError if it cannot be created or written to."""
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot create the directory {out_dir}: {error.strerror}") from error
    if not os.access(out_dir, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write to the directory {out_dir}: choose another --out-dir")


def run_files(out_dir: Path) -> Iterator[Path]:
    """The files that a run leaves in its directory, besides its model file."""
    for name in (LOSSES_FILE, PICTURE_FILE, GRADIENTS_FILE):
        yield out_dir / name
    yield from sorted(out_dir.glob(CONFUSION_FILE.format("[0-9]*")))
    yield from sorted(out_dir.glob(TEACHER_FILE.format("[0-9]*")))
    yield from frame_files(out_dir).values()
    yield from sorted((out_dir / LOG_DIRECTORY).glob("events.out.tfevents.*"))


@contextmanager
def locked(out_dir: Path) -> Iterator[None]:
    """Hold the directory's lock within a ``with`` block. A killed run does not hold it.

    Raises UsageError if another run holds it, and if the directory cannot be written to.
    """
    try:
        lock = filelock.FileLock(out_dir / LOCK_FILE, timeout=0)
        lock.acquire()
    except filelock.Timeout as error:
        raise UsageError(f"another run is writing to {out_dir}: choose another --out-dir") from error
    except OSError as error:
        raise UsageError(f"cannot write to the directory {out_dir}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def make_room(out_dir: Path, overwrite: bool) -> None:
    """Delete the files of an earlier run, exactly these, before a new run writes its model file.

    Raises UsageError if the model file exists already, unless ``overwrite`` is true.
    """
    target = out_dir / MODEL_FILE
    if target.exists() and not overwrite:
        how = ""
        with suppress(ModelFileError):
            progress = load_model(target).progress
            how = "--resume it, " if progress and not progress.finished else ""
        raise UsageError(f"{target} already exists: {how}--overwrite it, or choose another --out-dir")
    for path in run_files(out_dir):
        if path.is_dir():
            raise UsageError(f"{path} is a directory: choose another --out-dir")
        path.unlink(missing_ok=True)
