"""A device that the checks of the adb contract are run on."""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from paceline.devices.testing.adb_daemon import AdbServer

PATIENCE_S = 10.0
EVERY_BYTE = bytes(range(256)) * 40


@dataclass(frozen=True)
class Target:
    """A device and how to reach it.

    base: stands before every path on it
    hangs_up: its shell ends what it runs when the host goes away, as Android's does
    """

    adb: AdbServer
    serial: str
    base: str
    local: Path  # folder on the host
    hangs_up: bool

    @property
    def remote(self) -> str:
        return f"{self.base}/data/local/tmp"

    def run(self, *arguments: str, stdin: bytes = b"") -> tuple[int, str]:
        """Exit code and both streams without this machine's paths."""
        done = self.adb.run("-s", self.serial, *arguments, stdin=stdin)
        text = (done.stdout + done.stderr).decode(errors="replace")
        return done.returncode, (text.replace(self.base, "") if self.base else text).strip()

    def file(self, data: bytes, mode: int = 0o644) -> Path:
        path = self.local / uuid.uuid4().hex
        path.write_bytes(data)
        path.chmod(mode)
        return path

    def push(self, data: bytes, name: str = "", mode: int = 0o644) -> str:
        remote = f"{self.remote}/{name or uuid.uuid4().hex}"
        code, text = self.run("push", str(self.file(data, mode)), remote)
        assert code == 0, text
        return remote

    def pull(self, remote: str) -> bytes:
        path = self.local / uuid.uuid4().hex
        code, text = self.run("pull", remote, str(path))
        assert code == 0, text
        return path.read_bytes()

    @contextmanager
    def service(self, name: str) -> Iterator[socket.socket]:
        """A device's service by the adb server's own protocol, for what the client program never asks."""
        with socket.create_connection(("127.0.0.1", self.adb.port), timeout=PATIENCE_S) as link:
            for request in (f"host:transport:{self.serial}", name):
                link.sendall(f"{len(request):04x}{request}".encode())
                answer = link.recv(4)
                if answer != b"OKAY":
                    raise ConnectionRefusedError(link.recv(1000)[4:].decode())
            yield link

    def is_running(self, command: str) -> bool:
        """Whether the program itself runs, not a shell that is about to start it."""
        return self.run("shell", f"pgrep -f '^{command}$'")[0] == 0


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def received(link: socket.socket) -> bytes:
    parts = []
    while data := link.recv(65536):
        parts.append(data)
    return b"".join(parts)


def unique_sleep() -> str:
    return f"sleep 9{uuid.uuid4().int % 10**6:06d}"


def exactly(link: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += link.recv(size - len(data)) or pytest.fail(f"closed after {len(data)} of {size} bytes")
    return data
