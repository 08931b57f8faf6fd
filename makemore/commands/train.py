"""The command ``makemore-train``: start or resume a run, in one process or in those that torchrun started."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Mapping
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any

from makemore.core.device import resolve_device
from makemore.core.errors import DivergedError, Interrupted, TrainingError, UsageError, WriteError
from makemore.core.system import is_closed_pipe
from makemore.core.terminal import say
from makemore.data.reading import STDIN
from makemore.parallel.processes import connected, number_of_processes
from makemore.run.callbacks import callbacks_for, check_possible
from makemore.run.lock import locked, make_directory, make_room
from makemore.run.model_file import MODEL_FILE, load_model, read_bytes, read_model
from makemore.run.opened_model import LECTURE
from makemore.run.report import describe, network_summary
from makemore.run.settings import RUN
from makemore.run.signals import Signals
from makemore.run.training_run import TrainingRun, new_run, resume_command, resumed_run
from makemore.training.processes import Processes

OLD_MODEL_FILE = "model.pt"
"""The name of a run's model file in the first pre-releases."""

WRITING = {errno.EPIPE, errno.ENOSPC, getattr(errno, "EDQUOT", None), errno.EFBIG, errno.EROFS}
"""Errors that only writing has. Files are written by ``atomic_write``, which tells its own errors."""

RESUMED = b"resumed"
"""Sent to other processes before the bytes of the model file, which may be empty."""


def train(given: Mapping[str, Any], out_dir: Path, resume: bool = False, overwrite: bool = False) -> None:
    """Do a run and print its progress. ``given`` has the settings that differ from their defaults.

    With ``resume`` the run in ``out_dir`` is resumed; with ``overwrite`` it is replaced. Raises DataError,
    UsageError or ModelFileError before anything is written, and TrainingError, WriteError or Interrupted if
    the run cannot continue.
    """
    started = time.perf_counter()
    with Signals() as signals:
        try:
            with (
                connected(resolve_device(given.get("device", "auto")).type) as processes,
                ExitStack() as stack,
            ):
                if not processes.is_first:
                    nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                    stack.enter_context(redirect_stdout(nowhere))
                run = begin(with_absolute_path(given), out_dir, resume, overwrite, processes, stack)
                if run is not None:
                    carry_out(run, signals, started)
        except RuntimeError as error:
            if number_of_processes() == 1:
                raise
            # gloo's messages begin with a place in its source, in brackets.
            reason = re.sub(r"^\[\S+\]\s*", "", str(error)) or type(error).__name__
            raise TrainingError(
                f"this process or another one failed ({reason.splitlines()[0][:80]});"
                f" resume with: {resume_command(out_dir)}"
            ) from error


def with_absolute_path(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings with absolute paths of the word lists: the run may be resumed from another directory."""
    data = RUN["data"].normalized(given.get("data"))
    if data is None:
        return given
    return {**given, "data": tuple(map(absolute_path, data))}


def absolute_path(path: str) -> str:
    """The absolute path of a file or a directory; others, such as a pipe from the shell, as they are."""
    is_kept = path in (LECTURE, STDIN) or not (os.path.isfile(path) or os.path.isdir(path))
    return path if is_kept else os.path.abspath(path)  # not that of a link's target: its name may be a label


def begin(
    given: Mapping[str, Any],
    out_dir: Path,
    resume: bool,
    overwrite: bool,
    processes: Processes,
    stack: ExitStack,
) -> TrainingRun | None:
    """The run to do, new or resumed, once its directory is locked and its model file is written.

    Of several processes the first one alone writes files and holds the lock, which is released when ``stack``
    is closed. Returns None if torchrun started the processes again, but the run had finished.
    """
    model_file, content = out_dir / MODEL_FILE, b""
    if processes.is_first and (resume or (processes.restarted and model_file.exists())):
        check_resumable(out_dir)
        stack.enter_context(locked(out_dir))
        content = RESUMED + read_bytes(model_file)
    elif processes.is_first and processes.has_started():
        raise UsageError(
            f"torchrun restarted the run, but its model file is not on this machine, in {out_dir}: resume"
            " where it is, or share the directory among the machines"
        )
    content = processes.broadcast_bytes(content)
    if content:
        model = read_model(content.removeprefix(RESUMED), str(model_file))
        if processes.restarted and model.progress is not None and model.progress.finished:
            return None
        run = resumed_run(given, out_dir, model, processes)
    else:
        run = new_run(given, out_dir, processes)
    check_possible(run.settings)
    if processes.is_first:
        if not content:
            make_directory(out_dir)
            stack.enter_context(locked(out_dir))
            make_room(out_dir, overwrite)
            run.keep_teacher()
        run.callbacks += callbacks_for(out_dir, run.settings, run.model, run.trainer)
    run.save()
    processes.mark_started()
    return run


def check_resumable(out_dir: Path) -> None:
    """Raise UsageError or ModelFileError unless there is a run to resume."""
    if not (out_dir / MODEL_FILE).exists():
        if (out_dir / OLD_MODEL_FILE).exists():
            load_model(out_dir / OLD_MODEL_FILE)  # raises ModelFileError, which says what the file is
        raise UsageError(f"there is no run to resume in {out_dir}: leave out --resume to start one")


def carry_out(run: TrainingRun, signals: Signals, started: float) -> None:
    """Print the header of a run, train and finish it. Errors say how to resume or what to try.

    ``started`` is the value of ``time.perf_counter()`` at the start of the command.
    """
    try:
        say(describe(run.settings, run.words, run.trainer, run.out_dir, run.processes))
        say(network_summary(run.trainer.network, run.settings.recipe.batch_size) + "\n")
        run.train(signals)
        if run.processes.is_first:
            run.save()
            run.finish()
            say(f"\n{time.perf_counter() - started:.1f} s")
    except DivergedError as error:
        raise run.diverged(error) from error
    except Interrupted as stop:
        raise Interrupted(stop.signum, f"interrupted; {run.how_to_resume()}") from stop
    except WriteError as error:
        raise WriteError(f"{error}; {run.how_to_resume()}") from error
    except OSError as error:
        if error.errno in WRITING or is_closed_pipe(error):
            reason = error.strerror or error
            raise WriteError(f"cannot write the output: {reason}; {run.how_to_resume()}") from error
        raise TrainingError(f"{error}; {run.how_to_resume()}") from error
