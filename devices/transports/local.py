"""This machine, reached by a shell."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
import threading
import weakref
from pathlib import Path

from paceline.devices.transports import supervisor
from paceline.devices.transports.transport import Completed
from paceline.errors import DeviceError, StoreError
from paceline.files import write_atomically

_EXECUTABLE, _PLAIN = 0o755, 0o644


class LocalTransport:
    """A Transport (see there) to this machine. Commands run by `sh`, in a session of their own (see supervisor.py).

    Copies of pushed files stand in `folder`, or in a temporary folder that ends with the transport.
    """

    address = "local"

    def __init__(self, folder: Path | None = None) -> None:
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="paceline-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.folder = folder
        self._lock = threading.Lock()

    def run(self, command: str, timeout_s: float) -> Completed:
        return supervisor.run(_by_sh, command, timeout_s, "this machine")

    def push(self, path: Path, executable: bool = False) -> str:
        content = _content(path)
        copy = self.folder / (hashlib.sha256(content).hexdigest() + path.suffix)
        try:
            with self._lock:
                if not copy.is_file() or copy.read_bytes() != content:
                    write_atomically(copy, content, sync=False)
            mode = _EXECUTABLE if executable else _PLAIN
            if executable or copy.stat().st_mode & 0o777 != _EXECUTABLE:
                copy.chmod(mode)
        except (OSError, StoreError) as e:
            raise DeviceError(f"can't copy {path} to {self.folder}: {e}") from e
        return str(copy.absolute())

    def pull(self, remote: str, timeout_s: float) -> bytes:
        return _content(Path(remote))

    def start(self, command: str) -> subprocess.Popen[bytes]:
        return _Program(
            _by_sh(supervisor.program(command)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )


class _Program(subprocess.Popen[bytes]):
    """The supervisor of a program: who kills it means the program, which ends with its input."""

    def kill(self) -> None:
        if self.stdin:
            self.stdin.close()
        super().kill()


def _by_sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise DeviceError(f"can't read {path}: {e.strerror}") from e
