"""A Linux board, reached by the system's OpenSSH client: ~/.ssh/config, agents and jump hosts work as they always do.

One connection is kept and shared by all commands (ControlMaster, with a private socket). It is the lifeline, too: its far end is
a program that waits for the end of its input, so nothing outlives this process, however it ends.
"""

from __future__ import annotations

import hashlib
import math
import re
import secrets
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType

from paceline.devices.transports import supervisor
from paceline.devices.transports.ssh_errors import connection_error
from paceline.devices.transports.supervisor import MarkedStream
from paceline.devices.transports.transport import CommandTimeoutError, Completed
from paceline.errors import DeviceError, TransientDeviceError

_CONNECT_S = 20.0
_PUSH_S = 60.0
_PUSH_BYTES_S = 100_000
"""The slowest link and card that a push waits for."""
_KEPT_DAYS = 30
_SOCKET_FOLDER_CHARACTERS = 60
"""A socket's path has 104 characters at most, of which OpenSSH wants 17 for a temporary name."""
_OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=10",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
    "LogLevel=ERROR",
    "ClearAllForwardings=yes",
    "ForwardX11=no",
    "RequestTTY=no",
    "RemoteCommand=none",
    "ControlPersist=no",
)
_UPLOAD = r"""
umask 077
trap '' PIPE
mkdir -p {folder} || exit
find {folder} -type f -mtime +{days} -exec rm -f {{}} +
command -v sha256sum >/dev/null || {{ echo 'sha256sum not found (coreutils)' >&2; exit 1; }}
if cat >{partial} && case $(sha256sum <{partial}) in {sha256}*) ;; *) echo 'damaged on the way' >&2; false;; esac &&
    chmod {mode} {partial} && mv -f {partial} {path}; then echo done; else rm -f {partial}; df -Pk {folder}; fi
"""
_DOWNLOAD = r"""
if ! [ -e {path} ]; then echo 'no such file' >&2; exit 1; fi
if ! [ -f {path} ]; then echo 'not a file' >&2; exit 1; fi
sha256sum <{path} && cat <{path}
"""


class SshTransport:
    """A Transport (see there) over ssh. `host` may be a name from ~/.ssh/config; `options` are further settings for `ssh -o`.

    It never asks: keys must work without a passphrase or through an agent, and the host must be known. Pushed files stand in
    `folder`, below the home directory unless absolute, and go 30 days after they were last pushed. `python` is the interpreter
    there, for runners that need one. Close it, or use it in a `with` block; it connects when it is first used, and again after
    the link was lost.

    On a link that is cut without a sign the far end notices only after its own timeouts: a command of `run` ends at its deadline
    then, a program of `start` when the server's TCP gives up. Raises DeviceError where ssh refuses the settings.
    """

    def __init__(
        self,
        host: str,
        user: str | None = None,
        port: int | None = None,
        identity: Path | None = None,
        known_hosts: Path | None = None,
        options: Sequence[str] = (),
        python: str = "python3",
        folder: str = ".cache/paceline",
    ) -> None:
        if not re.fullmatch(r"[^-\s@][^\s@]*", host):
            raise DeviceError(f"{host!r} is no host name for ssh; give the user and the port apart from it")
        if identity is not None and not identity.is_file():
            raise DeviceError(f"there is no private key {identity}; make one: ssh-keygen -f {identity}")
        self.host, self.python, self._folder = host, python, folder
        settings = [*_OPTIONS, *options]
        settings += [f'UserKnownHostsFile="{known_hosts}"'] if known_hosts else []
        self._ssh = ["ssh"]
        self._ssh += [argument for setting in settings for argument in ("-o", setting)]
        self._ssh += ["-l", user] if user else []
        self._ssh += ["-p", str(port)] if port else []
        self._ssh += ["-i", str(identity), "-o", "IdentitiesOnly=yes"] if identity else []
        self._lock = threading.Lock()
        self._connection: _Connection | None = None
        self._resolved = self._resolve()

    @property
    def address(self) -> str:
        """With what ~/.ssh/config makes of the host: two names of one board have one address."""
        return "ssh:{user}@{hostname}:{port}".format_map(self._resolved)

    def run(self, command: str, timeout_s: float) -> Completed:
        deadline = time.monotonic() + timeout_s
        connection = self._connected(min(timeout_s, _CONNECT_S))
        left = max(0.0, deadline - time.monotonic())
        return supervisor.run(lambda script: self._argv(connection, script), command, left, self.address)

    def push(self, path: Path, executable: bool = False) -> str:
        try:
            content = path.read_bytes()
        except OSError as e:
            raise DeviceError(f"can't read {path}: {e.strerror}") from e
        timeout_s = _PUSH_S + len(content) / _PUSH_BYTES_S
        sha256 = hashlib.sha256(content).hexdigest()
        suffix = path.suffix if re.fullmatch(r"\.\w+", path.suffix, re.ASCII) else ""
        folder = self._absolute_folder
        remote = f"{folder}/{sha256}{suffix}"
        quoted = shlex.quote(remote)
        mark_used = f"chmod u+x {quoted} && touch {quoted}" if executable else f"touch {quoted}"
        check = f"[ -f {quoted} ] && sha256sum <{quoted} && {mark_used}"
        if self.run(check, timeout_s).text.startswith(sha256):
            return remote
        upload = _UPLOAD.format(
            folder=shlex.quote(folder),
            partial=shlex.quote(f"{folder}/.{secrets.token_hex(8)}.partial"),
            path=quoted,
            sha256=sha256,
            mode="700" if executable else "600",
            days=_KEPT_DAYS,
        )
        self._upload(upload, content, timeout_s, f"{path} ({len(content) / 1e6:.1f} MB)")
        return remote

    def pull(self, remote: str, timeout_s: float) -> bytes:
        done = self.run(_DOWNLOAD.format(path=shlex.quote(remote)), timeout_s)
        if done.code != 0:
            raise DeviceError(f"can't read {remote} on {self.address}: {done.err.decode(errors='replace').strip()}")
        summary, _, content = done.out.partition(b"\n")
        if hashlib.sha256(content).hexdigest().encode() != summary[:64]:
            raise TransientDeviceError(f"{remote} on {self.address} changed while it was read; try again")
        return content

    def start(self, command: str) -> subprocess.Popen[bytes]:
        return self._start(command, grace_s=1)

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def __enter__(self) -> SshTransport:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _resolve(self) -> dict[str, str]:
        """What ssh makes of its settings and its configuration files."""
        try:
            done = subprocess.run(
                [*self._ssh, "-G", self.host], capture_output=True, stdin=subprocess.DEVNULL, timeout=_CONNECT_S
            )
        except FileNotFoundError as e:
            raise DeviceError("the program ssh isn't installed: apt-get install openssh-client") from e
        except subprocess.TimeoutExpired as e:
            raise DeviceError(f"ssh -G {self.host} doesn't answer; look for a Match exec in ~/.ssh/config") from e
        if done.returncode != 0:
            raise DeviceError(f"ssh refuses its settings for {self.host}: {supervisor.last_line(done.stderr)}")
        pairs = (line.partition(" ") for line in done.stdout.decode(errors="replace").splitlines())
        return {name: value for name, _, value in pairs if name in ("user", "hostname", "port")}

    @cached_property
    def _absolute_folder(self) -> str:
        home = self._connected(_CONNECT_S).home
        return self._folder if self._folder.startswith("/") else f"{home.rstrip('/')}/{self._folder}"

    def _connected(self, timeout_s: float) -> _Connection:
        with self._lock:
            if self._connection is not None and self._connection.process.poll() is not None:
                self._connection.close()
                self._connection = None
            if self._connection is None:
                self._connection = self._connect(timeout_s)
            return self._connection

    def _connect(self, timeout_s: float) -> _Connection:
        usual = tempfile.gettempdir()
        folder = Path(tempfile.mkdtemp(prefix="paceline-", dir=usual if len(usual) < _SOCKET_FOLDER_CHARACTERS else "/tmp"))
        mark = secrets.token_hex(8)
        lifeline = f'printf ":%s:%s:%s=0:" {mark} "$HOME" {mark}; cat >/dev/null'
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [*self._ssh, "-M", "-S", str(folder / "socket"), self.host, _in_any_shell(lifeline)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        connection = _Connection(process, folder)
        weakref.finalize(self, connection.close)
        assert process.stdout
        said = MarkedStream(process.stdout, mark)
        deadline = time.monotonic() + timeout_s
        supervisor.read([said], deadline)
        if not said.ended:
            late = time.monotonic() >= deadline
            code = connection.close(0.0 if late else 1.0)
            raise connection_error(self.host, self._resolved, connection.log, None if late else code, timeout_s)
        connection.home, connection.noise = said.content.decode(errors="replace"), said.before
        return connection

    def _argv(self, connection: _Connection, script: str) -> list[str]:
        return [*self._ssh, "-o", "ControlMaster=no", "-S", str(connection.folder / "socket"), self.host, _in_any_shell(script)]

    def _start(self, command: str, grace_s: int) -> subprocess.Popen[bytes]:
        connection = self._connected(_CONNECT_S)
        if connection.noise:
            raise DeviceError(
                f"the login scripts of {self.address} print {connection.noise[:60]!r}, which would be taken for the output of a"
                " program; let them print in interactive shells only"
            )
        return subprocess.Popen(
            self._argv(connection, supervisor.program(command, grace_s)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def _upload(self, command: str, content: bytes, timeout_s: float, what: str) -> None:
        process = self._start(command, grace_s=math.ceil(timeout_s))
        try:
            out, err = process.communicate(content, timeout_s)
        except subprocess.TimeoutExpired as e:
            raise CommandTimeoutError(f"{what} didn't reach {self.address} in {timeout_s:.0f} s") from e
        finally:
            supervisor.end(process, grace_s=0.0)
        if out.strip() == b"done":
            return
        text = err.decode(errors="replace")
        if "No space left" in text or "quota exceeded" in text.lower():
            columns = supervisor.last_line(out).split()
            free = f"{int(columns[3]) / 1e3:.1f} MB free" if len(columns) > 3 and columns[3].isdigit() else "disk full"
            raise DeviceError(
                f"{what} doesn't fit on {self.address}: {free} in {self._absolute_folder}; make room or set `folder`"
            )
        if process.returncode == 255 or "damaged" in text:
            raise TransientDeviceError(f"{what} didn't reach {self.address}: {supervisor.last_line(err) or 'the link was lost'}")
        raise DeviceError(f"can't write {what} to {self._absolute_folder} on {self.address}: {text.strip()}")


@dataclass
class _Connection:
    """The shared connection: a process of ssh, and the private folder of its socket."""

    process: subprocess.Popen[bytes]
    folder: Path
    home: str = ""
    noise: bytes = b""
    log: str = ""

    def close(self, grace_s: float = 1.0) -> int:
        """The exit code. What ssh complained of is in `log` then. May be called again."""
        if self.folder.exists():
            supervisor.end(self.process, grace_s)
            self.log = (self.folder / "log").read_text(errors="replace")
            shutil.rmtree(self.folder, ignore_errors=True)
        return self.process.wait()


def _in_any_shell(script: str) -> str:
    """A command line that runs a POSIX script whatever the login shell is: nothing in it is special to csh or fish."""
    plain = re.sub(rb"[^\w =/.,:;+-]", lambda found: b"\\0%03o" % found[0][0], script.encode())
    return f"""exec sh -c 'eval "$(printf %b "{plain.decode("ascii")}")"'"""
