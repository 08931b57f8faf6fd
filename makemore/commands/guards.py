"""What a run must not collide with: signals, other runs, directories, devices (beyond the lecture)."""

import os
import re
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Self

import filelock
import torch

from makemore.errors import Interrupted, ModelFileError, UsageError
from makemore.model_file import load_model

LOCK_FILE = ".lock"


class Signals:
    """SIGINT and SIGTERM within a ``with`` block.

    The first is kept in ``caught`` while ``deferred`` is set, so that the loop can end where a
    checkpoint is whole; a second one, or one at another time, raises Interrupted at once.
    """

    def __init__(self) -> None:
        self.caught: int | None = None
        self.deferred = False

    def __enter__(self) -> Self:
        self._before = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.caught is not None or not self.deferred:
            raise Interrupted(signum)
        self.caught = signum


def make_directory(out_dir: Path) -> None:
    """Make the directory. Raises UsageError if it cannot be made or written into."""
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the directory {out_dir}: {error.strerror}") from error
    if not os.access(out_dir, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write into the directory {out_dir}: choose another --out-dir")


@contextmanager
def locked(out_dir: Path) -> Iterator[None]:
    """Keep other runs out. Raises UsageError while one lives; a killed one holds no lock."""
    try:
        with filelock.FileLock(out_dir / LOCK_FILE, timeout=0):
            yield
    except filelock.Timeout as error:
        raise UsageError(f"another run is writing into {out_dir}: choose another --out-dir") from error


def make_room(target: Path, others: Iterable[Path], overwrite: bool) -> None:
    """Clear the way for a new run's model file and the ``others``.

    Raises UsageError if there is a run already, unless it is to be overwritten.
    """
    if target.exists() and not overwrite:
        how = ""
        with suppress(ModelFileError):
            progress = load_model(target).progress
            how = "--resume to go on with it, " if progress and not progress.finished else ""
        raise UsageError(f"{target} is there already: {how}--overwrite it, or choose another --out-dir")
    for path in others:
        if path.is_dir():
            raise UsageError(f"{path} is a directory: choose another --out-dir")
        path.unlink(missing_ok=True)


def resolve_device(name: str) -> torch.device:
    """The device of "auto", "cpu", "cuda" or "cuda:n". Raises UsageError on one that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if re.fullmatch(r"cpu|cuda(:\d{1,3})?", name) is None:
        raise UsageError(f"unknown device {name!r}: choose auto, cpu, cuda or cuda:n")
    device, count = torch.device(name), torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UsageError(f"device {name} is not there: torch sees {count} CUDA devices; use cpu")
    return device
