"""Write a file whole or not at all."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from makemore.core.errors import WriteError
from makemore.core.system import remove_file, replace_file


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Write to a temporary file beside the target, and rename it once all is on disk.

    A file that is replaced keeps its permissions; those of a new file follow the umask. If anything fails, an
    existing file stays as it was and nothing else is left behind. A killed process may leave a file named
    ``*.part``, which the next write replaces. Raises WriteError if the file cannot be written, or if the path
    names something other than a regular file.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise WriteError(f"cannot write {path}: it is not a regular file")
    target = Path(os.path.realpath(path))  # a symbolic link stays one
    part = target.with_name(target.name + ".part")
    try:
        remove_file(part)  # it may be read-only
        with open(part, "wb", opener=_as_private_as(target)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        replace_file(part, target)
    except BaseException as error:
        with suppress(OSError):
            remove_file(part)
        if isinstance(error, OSError) and not isinstance(error, WriteError):
            raise WriteError(f"cannot write {path}: {error.strerror or error}") from error
        raise


def _as_private_as(target: Path) -> Callable[[str, int], int] | None:
    """What opens a new file with the permissions of the target, if that exists."""
    try:
        mode = stat.S_IMODE(target.stat().st_mode)
    except OSError:
        return None

    def opener(path: str, flags: int) -> int:
        descriptor = os.open(path, flags, mode)
        with suppress(OSError):  # some file systems have no permissions
            os.chmod(path, mode)  # whatever the umask
        return descriptor

    return opener
