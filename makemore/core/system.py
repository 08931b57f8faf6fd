"""What differs between Linux, macOS and Windows.

No other module asks which system this is, or uses a function that only some systems have. A function that
only saves time does nothing where the system lacks what it needs.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import stat
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt: the sizes from which freed memory is given back to the system."""

CPUINFO = Path("/proc/cpuinfo")
"""Where Linux describes the processors."""

PAUSES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Seconds between the attempts to replace a file that another program has open, on Windows."""


def on_windows() -> bool:
    """Whether this is Windows."""
    return sys.platform == "win32"


def stop_signals() -> list[signal.Signals]:
    """The signals that ask a process to end: those of Ctrl-C and kill, and that of Ctrl-Break on Windows."""
    names = ("SIGINT", "SIGTERM", "SIGBREAK")
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


def is_closed_pipe(error: OSError) -> bool:
    """Whether an error of writing says that the reader has closed the pipe.

    On Windows it is the error of an invalid argument, which has no file name.
    """
    if isinstance(error, BrokenPipeError):
        return True
    return on_windows() and error.errno == errno.EINVAL and error.filename is None


def can_seek(file: BinaryIO) -> bool:
    """Whether a file can be read again from where it is. On Windows a pipe may say so, and cannot."""
    if not file.seekable():
        return False
    try:
        return not stat.S_ISFIFO(os.fstat(file.fileno()).st_mode)
    except OSError:  # not a file of the system
        return True


def replace_file(source: Path, target: Path) -> None:
    """Rename a file; one that has the target's name is replaced.

    Windows refuses that while another program, such as a virus scanner, has one of them open. It is then
    tried again for a second.
    """
    for pause in PAUSES if on_windows() else ():
        try:
            os.replace(source, target)
            return
        except PermissionError:
            time.sleep(pause)
    os.replace(source, target)


def remove_file(path: Path) -> None:
    """Remove a file if it exists, even if it is read-only, which Windows refuses."""
    try:
        path.unlink(missing_ok=True)
    except PermissionError:
        if not on_windows():
            raise
        path.chmod(stat.S_IWRITE)
        path.unlink()


def allowed_cores() -> list[int]:
    """The numbers of the cores that this process may use: all, if the system cannot tell."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def keep_to_cores(cores: Sequence[int]) -> None:
    """Let this process use these cores only, where that is possible and allowed."""
    if hasattr(os, "sched_setaffinity"):
        with suppress(OSError):
            os.sched_setaffinity(0, cores)


def prefer_batch_scheduling() -> None:
    """Use Linux' scheduling policy for batch processes, where that is possible and allowed.

    Their threads do not interrupt each other. A policy that the user has chosen is kept.
    """
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):
            if os.sched_getscheduler(0) == os.SCHED_OTHER:
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def keep_freed_memory() -> None:
    """Let glibc, if that is the C library, keep freed memory for the next tensors.

    Otherwise the system clears new pages for each large tensor, which takes a tenth of the time of sampling.
    """
    mallopt = getattr(ctypes.CDLL(None) if sys.platform == "linux" else None, "mallopt", None)
    # Older versions refuse more than 32 MB; the second parameter alone would then keep the first at 128 KB.
    if mallopt is not None and (mallopt(M_MMAP_THRESHOLD, 2**30) or mallopt(M_MMAP_THRESHOLD, 2**25)):
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


@cache
def is_intel() -> bool:
    """Whether the processor is one of Intel's. False if the system does not say."""
    text = CPUINFO.read_text(encoding="utf-8", errors="replace") if CPUINFO.exists() else platform.processor()
    return "GenuineIntel" in text
