"""How a device is reached: commands, files, interactive programs."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from paceline.errors import TransientDeviceError


@dataclass(frozen=True)
class Completed:
    """A command that came to its end by itself. `code` is its exit code, 128 and the signal's number where a signal ended it."""

    code: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        return self.out.decode(errors="replace").strip()

    @property
    def printed(self) -> str:
        """Both streams, for messages."""
        return "\n".join(part.decode(errors="replace").strip() for part in (self.out, self.err) if part.strip())


class CommandTimeoutError(TransientDeviceError):
    """A command that was ended at its deadline, on the device too."""


class Transport(Protocol):
    """A connection to one device. Every method may raise TransientDeviceError (offline, unauthorised, link cut) and DeviceError.

    `paceline.devices.testing.transports.TransportTestSuite` is what it must pass.
    """

    @property
    def address(self) -> str:
        """What a lock on the device is named after: "local", "adb:SERIAL", "ssh:USER@HOST:PORT"."""

    def run(self, command: str, timeout_s: float) -> Completed:
        """Runs a POSIX shell command line with an empty standard input.

        `timeout_s` is a deadline for the whole. Whatever the command started is gone on return, also after the deadline, when
        CommandTimeoutError is raised. A result that the link may have truncated is never returned.
        """

    def push(self, path: Path, executable: bool = False) -> str:
        """The path of a copy on the device, named after its content; sent only where it isn't there yet, whole or not at all."""

    def pull(self, remote: str, timeout_s: float) -> bytes:
        """A file's content. Raises DeviceError where there is no such file."""

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Starts an interactive program, its three streams as binary pipes. It ends with the returned process's streams."""

    def close(self) -> None:
        """Gives up a connection that is kept open between calls. The next call opens another."""
