"""OpenSSH's server on a loopback port, with keys of its own: what SshTransport is tested against."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from paceline.errors import DeviceError

_START_S = 10.0
_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxStartups 50
"""


def why_not() -> str | None:
    """Why there can't be one here; None where it can."""
    missing = [tool for tool in ("ssh", "ssh-keygen") if not shutil.which(tool)] + ([] if _binary() else ["sshd"])
    return f"{', '.join(missing)} not found: apt-get install openssh-server openssh-client" if missing else None


class Sshd:
    """A server for the user that runs it, in a `with` block. `settings` are further lines of sshd_config.

    Its files, a private key for `user` among them (`identity`), stand in `folder`. Raises DeviceError where it doesn't start.
    """

    host = "127.0.0.1"

    def __init__(self, folder: Path, settings: Sequence[str] = ()) -> None:
        self._folder = folder.absolute()
        self._settings = settings
        self.user = getpass.getuser()
        self.identity = self._folder / "user_key"
        self.known_hosts = self._folder / "known_hosts"
        self.port = 0
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Sshd:
        reason = why_not()
        if reason:
            raise DeviceError(reason)
        self._folder.mkdir(parents=True, exist_ok=True)
        for key in ("host_key", "user_key"):
            new_key(self._folder / key)
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # its unprivileged half is locked up there
        with socket.socket() as probe:
            probe.bind((self.host, 0))
            self.port = probe.getsockname()[1]
        host_key = (self._folder / "host_key.pub").read_text()
        self.known_hosts.write_text(f"[{self.host}]:{self.port} {host_key}")
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Starts it again after `stop`, on the same port with the same keys."""
        config = self._folder / "sshd_config"
        config.write_text(_CONFIG.format(port=self.port, folder=self._folder) + "\n".join(self._settings) + "\n")
        log = self._folder / "log"
        with log.open("wb") as messages:
            self._server = subprocess.Popen(
                [_binary(), "-D", "-e", "-f", config],
                stdin=subprocess.DEVNULL,
                stdout=messages,
                stderr=messages,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._server.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), timeout=1):
                return
            time.sleep(0.02)
        self.stop()
        raise DeviceError(f"sshd didn't start: {log.read_text().strip()}")

    def cut(self) -> None:
        """Ends every connection at once, as a pulled cable would. New ones are accepted."""
        for pid in self.connections():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """Ends the server and its connections."""
        if self._server is not None:
            self._server.send_signal(signal.SIGSTOP)  # no new connection in between
            self.cut()
            self._server.kill()
            self._server.wait()
            self._server = None

    def connections(self) -> list[int]:
        """The processes that serve connections."""
        if self._server is None:
            return []
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                name, _, rest = stat.read_text().partition(" (")[2].rpartition(") ")
                if name.startswith("sshd"):
                    parents[int(stat.parent.name)] = int(rest.split()[1])
        found = [self._server.pid]
        for parent in found:
            found += [pid for pid, its in parents.items() if its == parent]
        return found[1:]


def new_key(path: Path) -> Path:
    """A new key pair without a passphrase; the public half beside it."""
    for stale in (path, path.with_name(f"{path.name}.pub")):
        stale.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "paceline test", "-f", path], check=True)
    return path


def _binary() -> str:
    """By its full path, as sshd wants to be started."""
    return shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])) or ""
