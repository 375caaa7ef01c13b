"""How much CPU time a phone's programs take, and the files that tell of it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path

from paceline.devices.testing.adb_daemon.isolation import cpu_seconds
from paceline.devices.testing.phone import Phone


class Activity:
    """Keeps count of running programs, by process id. Safe with threads."""

    def __init__(self) -> None:
        self._running: dict[int, float] = {}  # CPU seconds counted so far
        self._waiting = 0.0  # CPU seconds not yet taken
        self._lock = threading.Lock()

    @property
    def busy(self) -> bool:
        return bool(self._running)

    def started(self, pid: int) -> None:
        with self._lock:
            self._running[pid] = 0.0

    def ended(self, pid: int, cpu_s: float) -> None:
        """A program ended that took `cpu_s` in all, what it started included."""
        with self._lock:
            self._waiting += max(0.0, cpu_s - self._running.pop(pid, 0.0))

    def kill(self) -> None:
        """Ends what runs, with its process group."""
        with self._lock:
            for pid in self._running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)

    def take(self) -> float:
        """CPU seconds since the last call."""
        with self._lock:
            for pid, counted in self._running.items():
                now = max(counted, cpu_seconds(pid))
                self._waiting += now - counted
                self._running[pid] = now
            taken, self._waiting = self._waiting, 0.0
            return taken


class PhoneFiles:
    """The phone's files below /sys and /proc in the folder `root`."""

    def __init__(self, root: Path, phone: Phone) -> None:
        self.root = root
        self.phone = phone
        self._written: dict[str, str] = {}

    @property
    def proc(self) -> tuple[str, ...]:
        """Names of the files directly below /proc."""
        return tuple(path.removeprefix("/proc/") for path in self.phone.files() if path.startswith("/proc/"))

    def refresh(self) -> None:
        """Writes those that changed, so that what a command wrote into others stays."""
        for path, text in self.phone.files().items():
            if self._written.get(path) == text:
                continue
            file = self.root / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("r+" if file.exists() else "w", encoding="utf-8") as out:  # in place: it may be mounted elsewhere
                out.write(text)
                out.truncate()
            self._written[path] = text
