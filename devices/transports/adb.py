"""Android phones, and whatever else runs adbd, through the adb program.

adb's own word is taken for nothing: it hides cut links (adb 29 ends with exit code 0 after half of an output), changed files and
unfinished ones. Commands run beside a supervisor whose marks their output stands between, files are compared by their hash on the
device, and after a failure the server is asked for the state of the phone.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import shlex
import subprocess
import threading
import time
from functools import cached_property
from pathlib import Path

from paceline.devices.transports import supervisor
from paceline.devices.transports.adb_client import AdbClient, FoundDevice, is_tcp
from paceline.devices.transports.transport import CommandTimeoutError, Completed
from paceline.errors import DeviceError, TransientDeviceError

_POLL_S = 0.2
_SHORT_S = 5.0
_PREPARE_S = 60.0
_CHANGED = 9
_SHOWN = 80
_SLOWEST_PUSH = 500_000.0
"""Bytes a second. USB 2 makes 30 MB, a bad Wi-Fi one."""


class AdbTransport:
    """The device `serial` (`adb devices`), an address HOST:PORT for one in the network, which is connected where it isn't yet.

    `adb` and `server_port` as for AdbClient. Files go to `folder` on the device. A phone that is away is waited for `wait_s`
    seconds. Raises DeviceError for one before Android 7, whose adbd hides exit codes.
    """

    def __init__(
        self,
        serial: str,
        adb: Path | None = None,
        server_port: int | None = None,
        folder: str = "/data/local/tmp/paceline",
        wait_s: float = 8.0,
    ) -> None:
        self.serial = serial
        self._adb = AdbClient(adb, server_port)
        self._folder = folder
        self._wait_s = wait_s
        self._lock = threading.RLock()
        self._attached = False
        self._partial: set[str] = set()

    @property
    def address(self) -> str:
        return f"adb:{self.serial}"

    def run(self, command: str, timeout_s: float) -> Completed:
        started = time.monotonic()
        self._attach(min(self._wait_s, timeout_s))
        left_s = max(0.1, timeout_s - (time.monotonic() - started))
        try:
            return supervisor.run(self._shell, command, left_s, self.address)
        except CommandTimeoutError:
            self._attached = False
            raise
        except TransientDeviceError as e:
            line = " ".join(command.split())
            shown = line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
            raise self._lost(f"the answer to `{shown}`", str(e)) from e

    def push(self, path: Path, executable: bool = False) -> str:
        try:
            content = path.read_bytes()
        except OSError as e:
            raise DeviceError(f"can't read {path}: {e.strerror}. Name a file that is there.") from e
        name, sha256 = re.sub(r"[^\w.+-]", "_", path.name), hashlib.sha256(content).hexdigest()
        remote = f"{self._folder}/{sha256[:32]}-{name}"
        wanted = self._digest_of(content)
        if self._partial:
            self._discard_partial()
        mode = "755" if executable else "644"
        there = self.run(
            f"mkdir -p {self._folder} && {self._tool} <{remote} && chmod {mode} {remote} && touch {remote}",
            self._push_s(len(content)),
        )
        if there.code == 0 and _digest(there) == wanted:
            return remote
        partial = f"{self._folder}/{secrets.token_hex(8)}.partial"
        try:
            self._send(path, partial, len(content))
            self._accept(path, partial, remote, mode, wanted)
        except BaseException:
            self._partial.add(partial)
            self._discard_partial()
            raise
        return remote

    def pull(self, remote: str, timeout_s: float) -> bytes:
        name = shlex.quote(remote)
        done = self.run(
            f"[ -f {name} ] || {{ echo 'no such file' >&2; exit 1; }}; {self._tool} <{name} && cat <{name}", timeout_s
        )
        if done.code != 0:
            raise DeviceError(f"can't read {remote} on {self.serial}: {done.printed[-500:]}")
        said, content = done.out.split(b"\n", 1)
        wanted = self._digest_of(content)
        if said.split()[0].decode(errors="replace") != wanted:
            raise TransientDeviceError(
                f"{remote} on {self.serial} arrived changed, or was written meanwhile ({len(content)} bytes); try again"
            )
        return content

    def start(self, command: str) -> subprocess.Popen[bytes]:
        self._attach(self._wait_s)
        return subprocess.Popen(
            self._shell(supervisor.program(command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def close(self) -> None:
        """Nothing is kept open."""

    def _shell(self, script: str) -> list[str]:
        return self._adb.command("-s", self.serial, "shell", "-T", script)

    def _attach(self, wait_s: float) -> None:
        """Makes sure that the device can be used."""
        with self._lock:
            if self._attached:
                return
            self._wait(wait_s)
            features = self._adb.call(["-s", self.serial, "features"], _SHORT_S)
            if features is None or features.code != 0:
                raise self._lost("its features", "" if features is None else features.printed)
            if "shell_v2" not in features.text.split():
                raise DeviceError(f"{self.serial} is too old: its adbd has no shell protocol, which came with Android 7")
            self._attached = True

    def _wait(self, wait_s: float) -> None:
        """Until the server has the device. Connects one in the network; raises TransientDeviceError after `wait_s`."""
        deadline = time.monotonic() + wait_s
        while True:
            found = self._found()
            if found.state == "device":
                return
            left = deadline - time.monotonic()
            if found.state.startswith("no permissions") or left <= 0:
                raise self._away(found, "")
            if is_tcp(self.serial) and found.state in ("absent", "offline"):
                if found.state == "offline":
                    self._adb.call(["disconnect", self.serial], left)  # a server doesn't connect anew what it believes connected
                self._adb.call(["connect", self.serial], left)
            time.sleep(_POLL_S)

    def _found(self) -> FoundDevice:
        found = {device.serial: device for device in self._adb.devices()}
        return found.get(self.serial, FoundDevice(self.serial, "absent"))

    def _lost(self, what: str, detail: str) -> TransientDeviceError:
        """The error for a failure of the link; the next call attaches anew."""
        self._attached = False
        try:
            found = self._found()
        except TransientDeviceError as e:
            return TransientDeviceError(f"{what} from {self.serial} was lost: {e}")
        lines = "; ".join(line.strip() for line in detail[-500:].splitlines() if line.startswith(("adb: ", "error: ")))
        said = f" ({lines})" if lines else ""
        if found.state == "device":
            return TransientDeviceError(f"the link to {self.serial} was cut, {what} was lost{said}; it is back: try again")
        return self._away(found, f", {what} was lost{said}")

    def _away(self, found: FoundDevice, lost: str) -> TransientDeviceError:
        state = "not connected" if found.state == "absent" else found.state
        return TransientDeviceError(f"device {self.serial} is {state}{lost}: {found.remedy}")

    def _send(self, path: Path, partial: str, size: int) -> None:
        done = self._adb.call(["-s", self.serial, "push", str(path), partial], self._push_s(size))
        if done is not None and done.code == 0:
            return
        said = "adb: no answer" if done is None else done.printed[-300:]
        if "No space left" in said:
            raise DeviceError(
                f"{path} ({size} bytes) doesn't fit {self.serial}: {self._free()} in {self._folder}; delete something"
            )
        if re.search(r"Permission denied|Read-only|Is a directory|couldn't create|Not a directory", said):
            raise DeviceError(f"can't write {path} into {self._folder} on {self.serial}: {said}")
        raise self._lost(f"{path.name} on its way to the phone", said)

    def _accept(self, path: Path, partial: str, remote: str, mode: str, wanted: str) -> None:
        """Gives a file its name where it arrived as it was sent."""
        moved = self.run(
            f'digest=$({self._tool} <{partial}) && case "$digest" in {wanted}*) ;; *) echo "$digest"; exit {_CHANGED};; esac && '
            f"chmod {mode} {partial} && touch {partial} && mv -f {partial} {remote}",
            self._push_s(path.stat().st_size),
        )
        if moved.code == _CHANGED:
            raise TransientDeviceError(
                f"{path} arrived on {self.serial} changed ({self._tool} {_digest(moved)}, not {wanted}); "
                "try again, and another cable if it happens again"
            )
        if moved.code != 0:
            raise DeviceError(f"can't put {path} to {remote} on {self.serial}: {moved.printed}")

    def _free(self) -> str:
        try:
            lines = self.run(f"df -k {self._folder}", _SHORT_S).text.splitlines()
            return f"{int(lines[-1].split()[3])} kB are free"
        except (TransientDeviceError, IndexError, ValueError):
            return "no space is left"

    def _discard_partial(self) -> None:
        """Removes unfinished files; what can't be removed now goes the next time."""
        with self._lock, contextlib.suppress(TransientDeviceError):
            names = sorted(self._partial)
            if self.run(f"rm -f {' '.join(names)}", _SHORT_S).code == 0:
                self._partial -= set(names)

    @cached_property
    def _tool(self) -> str:
        """The device's hash command. Once: also removes what nobody has used for a week."""
        old = f"find {self._folder} -type f '(' -mtime +7 -o -name '*.partial' -mmin +60 ')' -delete"
        found = self.run(
            f"[ -d {self._folder} ] && {old} >&2; "
            "for tool in sha256sum md5sum; do command -v $tool >/dev/null && echo $tool && break; done",
            _PREPARE_S,
        )
        if found.text not in ("sha256sum", "md5sum"):
            raise DeviceError(f"{self.serial} has neither sha256sum nor md5sum: no file on it can be trusted")
        return found.text

    def _digest_of(self, content: bytes) -> str:
        """What the device's hash command must say."""
        return hashlib.new(self._tool.removesuffix("sum"), content).hexdigest()

    @staticmethod
    def _push_s(size: int) -> float:
        return 30.0 + size / _SLOWEST_PUSH


def _digest(done: Completed) -> str:
    return done.text.split()[0] if done.text else ""
