"""What this host remembers about a device between processes: who holds it, which settings are changed, why it is quarantined.

A folder per device under $PACELINE_STATE (default: $XDG_STATE_HOME/paceline, ~/.local/state/paceline).
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from paceline.errors import DeviceError, TransientDeviceError
from paceline.files import write_atomically

_POLL_S = 0.05
_HOLDER_WIDTH = 32


class DeviceState:
    """The state of the device at `address` (see Transport.address). Raises DeviceError where its folder can't be used."""

    def __init__(self, address: str, place: Path | None = None) -> None:
        self.address = address
        self.folder = (place or _place()) / re.sub(r"[^\w.@=-]+", "_", address)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise DeviceError(f"can't keep the state of {address} in {self.folder}: {e.strerror}. Set PACELINE_STATE.") from e

    @contextmanager
    def held(self, wait_s: float) -> Iterator[None]:
        """The device for one process alone, until it ends. Raises TransientDeviceError after `wait_s` seconds."""
        with os.fdopen(os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644), "r+") as lock:
            deadline = time.monotonic() + wait_s
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        lock.seek(0)
                        holder = lock.read().strip() or "another process"
                        raise TransientDeviceError(f"device {self.address} is held by {holder}; wait for it, or end it") from None
                    time.sleep(_POLL_S)
            os.pwrite(lock.fileno(), f"process {os.getpid()}".ljust(_HOLDER_WIDTH).encode(), 0)
            yield

    def changed_settings(self) -> dict[str, str]:
        """Settings that were changed and not yet restored, with their original values."""
        return self._read("changed.json")

    def remember_setting(self, name: str, original: str) -> None:
        """Before a setting is changed. The first original counts."""
        self._write("changed.json", {name: original} | self.changed_settings())

    def forget_setting(self, name: str) -> None:
        """After it is restored."""
        self._write("changed.json", {k: v for k, v in self.changed_settings().items() if k != name})

    @property
    def quarantine(self) -> str | None:
        """Why the device is not to be used, None where it may be."""
        return self._read("trust.json").get("quarantine")

    def trust(self, good: bool, reason: str = "", limit: int | None = None) -> None:
        """Counts measurements that failed in a row for the device's own fault; `limit` of them put it into quarantine."""
        if good and not self._read("trust.json"):
            return
        faults = 0 if good else int(self._read("trust.json").get("faults", "0")) + 1
        quarantine = {"quarantine": reason} if limit is not None and faults >= limit else {}
        self._write("trust.json", {"faults": str(faults), "at": f"{time.time():.0f}", **quarantine})

    def release(self) -> None:
        """Ends a quarantine."""
        self._write("trust.json", {})

    def _read(self, name: str) -> dict[str, str]:
        try:
            found: dict[str, str] = json.loads((self.folder / name).read_text())
        except FileNotFoundError:
            return {}
        return found

    def _write(self, name: str, content: Mapping[str, str]) -> None:
        write_atomically(self.folder / name, json.dumps(dict(content)).encode())


def _place() -> Path:
    named = os.environ.get("PACELINE_STATE")
    if named:
        return Path(named)
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "paceline"
