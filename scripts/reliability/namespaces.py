"""Two hosts on one machine: network namespaces joined by a virtual cable. Needs Linux, root and iproute2."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

ADDRESSES = ("10.0.0.1", "10.0.0.2")


def ip(*arguments: str) -> str:
    """The output of iproute2's command. Raises SystemExit if it fails."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


@dataclass
class Host:
    """A network namespace, the processes started there, and the directory for its files."""

    name: str
    address: str
    folder: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Start a command in the namespace, with its output appended to a file."""
        # Without an interface gloo looks up the machine's own name, often 127.0.0.1. And with a store shared
        # by all attempts, torchrun 2.13 does not tell a host that comes back where the first one is.
        env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": self.name}
        env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        with log.open("ab") as file:
            command = ["ip", "netns", "exec", self.name, *command]
            self.started.append(subprocess.Popen(command, stdout=file, stderr=file, env=env))
        return self.started[-1]

    def pids(self) -> list[int]:
        """The ids of all processes in the namespace."""
        return [int(pid) for pid in ip("netns", "pids", self.name).split()]


@contextmanager
def two_hosts(folder: Path) -> Iterator[list[Host]]:
    """Two connected hosts within a ``with`` block, which kills their processes at its end."""
    names = [f"mm{os.getpid()}{end}" for end in "ab"]
    hosts = [Host(name, address, folder / name) for name, address in zip(names, ADDRESSES, strict=True)]
    before = [(signum, signal.getsignal(signum)) for signum in (signal.SIGINT, signal.SIGTERM)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        for host in hosts:
            host.folder.mkdir()
            ip("netns", "add", host.name)
        first, second = names
        ip("link", "add", first, "netns", first, "type", "veth", "peer", "name", second, "netns", second)
        for host in hosts:
            ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", host.name)
            for device in ("lo", host.name):
                ip("-n", host.name, "link", "set", device, "up")
        yield hosts
    finally:
        for signum, _ in before:
            signal.signal(signum, signal.SIG_IGN)  # nothing may interrupt the cleaning up
        existing = ip("netns", "list").split()
        for host in hosts:
            if host.name in existing:
                kill(host.pids())
                ip("netns", "delete", host.name)
            for process in host.started:
                process.wait()
        for signum, handler in before:
            signal.signal(signum, handler)


def kill(pids: Sequence[int], signum: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to the processes that still exist."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signum)
