"""What differs between systems: one module knows it, and the commands work without what some systems lack."""

from __future__ import annotations

import ast
import ctypes
import errno
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Generator

import makemore
from makemore.commands.cli import sample_main, train_main
from makemore.core import system
from makemore.core.atomic_write import atomic_write
from makemore.core.errors import UsageError, WriteError
from makemore.core.shell import quoted
from makemore.inference.generation import generate
from makemore.parallel.processes import connected
from makemore.run.model_file import Model
from makemore.run.signals import Signals

TINY = ["--n-hidden", "8", "--n-embd", "4", "--samples", "2", "--device", "cpu", "--steps", "20"]

MODULES = set("ctypes fcntl grp msvcrt platform pty pwd resource termios winreg".split())
"""Modules that only some systems have, or that tell which system this is."""

NAMES = ("sys.platform", "os.name", "os.uname", "os.fork", "os.sched_", "os.SCHED_", "signal.SIG")
"""Beginnings of names that only some systems have, or that tell which system this is."""

FOLDERS = ("/proc/", "/dev/", "/sys/")
"""Folders that only some systems have."""


def asks_for_the_system(node: ast.AST) -> bool:
    """Whether a node of a module's syntax depends on the system."""
    if isinstance(node, ast.Import):
        return any(alias.name in MODULES for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return node.module in MODULES
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        name = f"{node.value.id}.{node.attr}"
        return name.startswith(NAMES) and name not in ("signal.SIGINT", "signal.SIGTERM")
    return isinstance(node, ast.Constant) and str(node.value).startswith(FOLDERS)


def test_one_module_asks_for_the_system() -> None:
    package = Path(makemore.__file__).parent
    asking = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if any(map(asks_for_the_system, ast.walk(ast.parse(path.read_text(encoding="utf-8")))))
    }
    assert asking == {"core/system.py"}


WITHOUT_POSIX = """
import filelock, os, pkgutil, signal, sys, time
import matplotlib.pyplot, torch, tqdm
import makemore.pictures.losses, makemore.run.pictures
for name in ("fork", "sched_getaffinity", "sched_setaffinity", "sched_getscheduler", "sched_setscheduler",
             "SCHED_BATCH", "SCHED_OTHER", "getuid", "geteuid", "mkfifo", "uname", "wait"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGSTOP", "SIGCONT", "SIGALRM", "SIGUSR1", "SIGPIPE", "alarm"):
    if hasattr(signal, name):
        delattr(signal, name)
for name in ("fcntl", "termios", "resource", "pty", "pwd", "grp"):
    sys.modules[name] = None
sys.platform = sys.argv[1]
signal.SIGBREAK = signal.SIGTERM
from makemore.commands.cli import main
words = sys.argv[2]
tiny = ["--n-hidden", "8", "--n-embd", "4", "--samples", "2", "--device", "cpu", "--data", words]
assert main(["train", *tiny, "--recipe", "lecture", "--steps", "20"]) == 0
assert main(["train", "--resume", "--steps", "40"]) == 0
assert main(["train", *tiny, "--recipe", "lecture", "--steps", "20", "--overwrite"]) == 0
assert main(["sample", "--samples", "3", "--novel", "--seed", "1", "--output", "words.txt"]) == 0
assert main(["sample", "--score", words, "--output", "scores.txt"]) == 0
assert main(["draw", "nodes", "nodes.png"]) == 0
assert main(["page", "page.html"]) == 0
assert not list(__import__("pathlib").Path(".").rglob("*.part"))
"""
"""The commands in a process that lacks what other systems lack. The libraries are imported before that."""


@pytest.mark.full
@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_the_commands_work_without_what_only_posix_has(
    platform: str, word_file: Path, tmp_path: Path
) -> None:
    argv = [sys.executable, "-c", WITHOUT_POSIX, platform, str(word_file)]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.full
def test_models_and_commands_work_in_spawned_processes(
    small_model: Model, word_file: Path, tmp_path: Path
) -> None:
    """macOS and Windows spawn processes: what is handed to them is pickled, and nothing is inherited."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, spawn) as pool:
        words = pool.submit(sampled, small_model)
        argv = [*TINY, "--data", str(word_file), "--out-dir", str(tmp_path / "out")]
        code = pool.submit(train_main, argv)
        assert words.result() == sampled(small_model)
        assert code.result() == 0


def sampled(model: Model) -> list[str]:
    return [*generate(model.network, model.vocabulary, Generator().manual_seed(3), 5)]


@pytest.mark.parametrize(
    ("largest", "set_to"),
    [(2**31, [(-3, 2**30), (-1, 2**31 - 1)]), (2**25, [(-3, 2**25), (-1, 2**31 - 1)]), (0, [])],
)
def test_freed_memory_is_kept_with_every_glibc(
    largest: int, set_to: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it refuses one parameter, the other one alone would make sampling slower."""
    done: list[tuple[int, int]] = []

    def mallopt(parameter: int, value: int) -> int:
        if parameter == -3 and value > largest:
            return 0
        done.append((parameter, value))
        return 1

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    system.keep_freed_memory()
    assert done == set_to


def test_freed_memory_is_left_to_other_c_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())  # musl
    system.keep_freed_memory()
    monkeypatch.delattr(ctypes, "CDLL")
    monkeypatch.setattr(sys, "platform", "win32")
    system.keep_freed_memory()


def test_without_schedulers_all_cores_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sched_getaffinity", "sched_setaffinity", "sched_getscheduler", "SCHED_BATCH"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    system.prefer_batch_scheduling()
    system.keep_to_cores([0])
    assert system.allowed_cores() == [0, 1, 2]


def test_a_forbidden_scheduler_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    for name in ("sched_setaffinity", "sched_getscheduler"):
        monkeypatch.setattr(os, name, forbidden, raising=False)
    monkeypatch.setattr(os, "SCHED_BATCH", 3, raising=False)
    system.prefer_batch_scheduling()
    system.keep_to_cores([0])


def test_ctrl_break_stops_a_run_as_ctrl_c_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert system.stop_signals()[:2] == [signal.SIGINT, signal.SIGTERM]
    stand_in = getattr(signal, "SIGBREAK", getattr(signal, "SIGUSR1", None))
    monkeypatch.setattr(signal, "SIGBREAK", stand_in, raising=False)
    before = signal.getsignal(stand_in)
    with Signals() as signals:
        signals.deferred = True
        signal.raise_signal(stand_in)
        assert signals.caught == stand_in
    assert signal.getsignal(stand_in) == before


@pytest.mark.full
def test_a_run_in_another_thread_leaves_signals_alone(word_file: Path, tmp_path: Path) -> None:
    handlers = [signal.getsignal(signum) for signum in system.stop_signals()]
    argv = [*TINY, "--data", str(word_file), "--out-dir", str(tmp_path / "out")]
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(train_main, argv).result() == 0
    assert [signal.getsignal(signum) for signum in system.stop_signals()] == handlers
    assert threading.current_thread() is threading.main_thread()


@pytest.mark.parametrize("refusals", [0, 3, 100])
def test_a_file_that_another_program_has_open_is_replaced_later(
    refusals: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Virus scanners and indexers open files for a moment, and Windows then refuses to rename them."""
    replace, left = os.replace, [refusals]

    def refusing(source: Path, target: Path) -> None:
        if left[0]:
            left[0] -= 1
            raise PermissionError(13, "Access is denied")
        replace(source, target)

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(system.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(os, "replace", refusing)
    path = tmp_path / "file"
    path.write_bytes(b"old")
    refused = pytest.raises(WriteError, match="Access is denied") if refusals == 100 else nullcontext()
    with refused, atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == (b"old" if refusals == 100 else b"new")
    assert [*tmp_path.iterdir()] == [path]


def test_a_read_only_file_is_removed_where_the_system_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, unlink = tmp_path / "file.part", Path.unlink
    path.touch(0o400)

    def refusing(self: Path, missing_ok: bool = False) -> None:
        if self.exists() and not self.stat().st_mode & 0o200:
            raise PermissionError(13, "Access is denied")
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", refusing)
    with pytest.raises(PermissionError):
        system.remove_file(path)
    monkeypatch.setattr(sys, "platform", "win32")
    system.remove_file(path)
    system.remove_file(path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("platform", "error", "closed"),
    [
        ("linux", BrokenPipeError(errno.EPIPE, "Broken pipe"), True),
        ("linux", OSError(errno.EINVAL, "Invalid argument"), False),
        ("win32", OSError(errno.EINVAL, "Invalid argument"), True),
        ("win32", OSError(errno.EINVAL, "Invalid argument", "a?.txt"), False),
        ("win32", OSError(errno.ENOSPC, "No space left on device"), False),
    ],
)
def test_a_closed_pipe_ends_a_command_quietly(
    platform: str,
    error: OSError,
    closed: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failing(*args: object) -> None:
        raise error

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr("makemore.commands.sample.sample", failing)
    assert sample_main([]) == (0 if closed else 1)
    assert (capsys.readouterr().err == "") == closed


def test_a_pipe_that_claims_that_it_can_seek_is_not_believed() -> None:
    """As Python does on Windows (its issue 86768)."""
    reader, writer = os.pipe()
    os.write(writer, b"ava\nemma\n")
    os.close(writer)
    with open(reader, "rb") as pipe:
        claiming = SimpleNamespace(seekable=lambda: True, fileno=pipe.fileno)
        assert not system.can_seek(claiming)
    assert system.can_seek(io.BytesIO(b"ava\n"))


@pytest.mark.parametrize(
    ("path", "command"),
    [
        (r"C:\runs\a-1_b.c", r"C:\runs\a-1_b.c"),
        (r"C:\my runs", r'"C:\my runs"'),
        ("it's", '"it\'s"'),
        ("a;b", '"a;b"'),
        ("ärger", "ärger"),
    ],
)
def test_paths_are_quoted_for_windows(path: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert quoted(path) == command


def test_torch_without_torch_distributed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    with pytest.raises(UsageError, match="this torch was built without"), connected("cpu"):
        pass


@pytest.mark.full
def test_messages_are_utf_8_whatever_the_console_is(tmp_path: Path) -> None:
    code = "import sys; from makemore.commands.cli import train_main; sys.exit(train_main(['--data', 'Zoë']))"
    env = {**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env, cwd=tmp_path)
    assert "Zoë" in done.stderr.decode("utf-8")
