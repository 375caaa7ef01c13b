"""This machine, reached by a shell."""

from __future__ import annotations

import contextlib
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


class LocalTransport:
    """A Transport (see there) to this machine. Commands run by `sh`, in a session of their own (see supervisor.py).

    Copies of pushed files stand in `folder`, or in a temporary folder that ends with the transport.
    """

    address = "local"

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._lock = threading.Lock()

    def run(self, command: str, timeout_s: float) -> Completed:
        return supervisor.run(_by_sh, command, timeout_s, "this machine")

    def push(self, path: Path, executable: bool = False) -> str:
        content = _content(path)
        with self._lock:
            folder = self._made_folder()
            copy = folder.absolute() / (hashlib.sha256(content).hexdigest() + path.suffix)
            try:
                if not copy.is_file() or copy.read_bytes() != content:
                    write_atomically(copy, content, sync=False)
                if executable:
                    copy.chmod(0o755)
            except (OSError, StoreError) as e:
                raise DeviceError(f"can't copy {path} to {folder}: {e}") from e
        return str(copy)

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

    def _made_folder(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="paceline-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    def close(self) -> None:
        """Nothing is kept open."""


class _Program(subprocess.Popen[bytes]):
    """The supervisor of a program: who kills it means the program, which ends with its input."""

    def kill(self) -> None:
        if self.stdin:
            with contextlib.suppress(OSError):  # unsent input
                self.stdin.close()
        super().kill()


def _by_sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise DeviceError(f"can't read {path}: {e.strerror}") from e
