"""Write a file whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from makemore.core.errors import WriteError


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Write to a temporary file beside the target, and rename it once all is on disk.

    If anything fails, an existing file stays as it was and nothing else is left behind. A killed process may
    leave a file named ``*.part``, which the next write replaces. Raises WriteError if the file cannot be
    written, or if the path names something other than a regular file.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise WriteError(f"cannot write {path}: it is not a regular file")
    target = Path(os.path.realpath(path))  # a symbolic link stays one
    part = target.with_name(target.name + ".part")
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, WriteError):
            raise WriteError(f"cannot write {path}: {error.strerror or error}") from error
        raise
