"""Two hosts on one machine: network namespaces with a virtual cable between. Linux, root, iproute2's ip."""

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
    """What iproute2's command says."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


@dataclass
class Host:
    """A network namespace, what runs there, and the folder of its files."""

    name: str
    address: str
    folder: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Run a command there."""
        # Without an interface gloo looks up the machine's own name, often 127.0.0.1. And torchrun 2.13 tells
        # a host that comes back nothing of the first one, unless each start has a store of its own.
        env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": self.name}
        env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        with log.open("ab") as file:
            command = ["ip", "netns", "exec", self.name, *command]
            self.started.append(subprocess.Popen(command, stdout=file, stderr=file, env=env))
        return self.started[-1]

    def pids(self) -> list[int]:
        """All processes there."""
        return [int(pid) for pid in ip("netns", "pids", self.name).split()]


@contextmanager
def two_hosts(folder: Path) -> Iterator[list[Host]]:
    """Two hosts with a cable between; whatever runs there ends with the block."""
    names = [f"mm{os.getpid()}{end}" for end in "ab"]
    hosts = [Host(*both, folder / both[0]) for both in zip(names, ADDRESSES, strict=True)]
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
            signal.signal(signum, signal.SIG_IGN)  # nothing may stop the cleaning
        there = ip("netns", "list").split()
        for host in hosts:
            if host.name in there:
                kill(host.pids())
                ip("netns", "delete", host.name)
            for process in host.started:
                process.wait()
        for signum, handler in before:
            signal.signal(signum, handler)


def kill(pids: Sequence[int], signum: signal.Signals = signal.SIGKILL) -> None:
    """A signal for those that are still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signum)
