"""Files that are there whole or not at all (beyond the lecture)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from makemore.errors import WriteError


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Write beside the target, and rename over it once all is on disk.

    Whatever fails in between, the file that was there before stays as it was, and nothing else is
    left behind; after a kill, a file named ``*.part`` may be, which the next write replaces. Raises
    OSError.
    """
    path = Path(os.path.realpath(path))  # a link stays one
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def writing_whole(path: str | Path) -> Iterator[BinaryIO]:
    """As ``replacing``. Raises WriteError, also where something else than a file is in the way."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise WriteError(f"cannot write {path}: that is no file")
    try:
        with replacing(path) as file:
            yield file
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error
