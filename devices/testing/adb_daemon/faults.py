"""What can go wrong with a phone, on command."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, fields
from typing import Any

from paceline.devices.testing.adb_daemon.auth import AuthMode


@dataclass
class Faults:
    """Settable while the daemon runs. An assigned fault lasts until it is set back; one set by `once` fires once.

    Sizes are bytes, times seconds. "Cut" means that the TCP link breaks, as when the cable is pulled.
    """

    offline: bool = False  # the link stands, nothing is answered: adb calls the device "offline"
    auth: AuthMode = "open"  # of hosts that connect from now on; "required": only keys trusted before, "prompt": asks the user
    prompt_s: float = 0.0  # how long the imagined user takes to allow a host
    packet_delay: float = 0.0  # before each packet to the host
    refuse_services: tuple[str, ...] = ()  # beginnings of service names, such as "sync:"
    drop_after: int | None = None  # cut at the shell command after this many more
    reboot: float | None = None  # at the next shell command the device restarts, and is away for so long
    disk_free: int | None = None  # what pushes may still write
    drop_push_after: int | None = None  # cut after so many bytes of a pushed file; the part that came stays
    drop_pull_after: int | None = None
    corrupt_push: bool = False  # one bit of what is stored differs; the host is told that all went well
    corrupt_pull: bool = False
    shell_delay: float = 0.0
    shell_hang: bool = False  # the command is accepted and never answered
    shell_exit: int | None = None  # the exit code reported
    shell_truncate: int | None = None  # cut after so many bytes of output

    _once: set[str] = field(default_factory=set, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def once(self, **faults: Any) -> None:
        """Sets faults that end when they fire: `faults.once(drop_push_after=4096)`. Raises TypeError for an unknown name."""
        known = {f.name for f in fields(self) if not f.name.startswith("_")}
        if unknown := sorted(faults.keys() - known):
            raise TypeError(f"no fault is named {', '.join(unknown)}; there are: {', '.join(sorted(known))}")
        with self._lock:
            for name, value in faults.items():
                setattr(self, name, value)
                self._once.add(name)

    def clear(self) -> None:
        """As on the first day."""
        with self._lock:
            for name, value in vars(Faults()).items():
                if not name.startswith("_"):
                    setattr(self, name, value)
            self._once.clear()

    def fired(self, name: str) -> None:
        """The daemon says that it acted on a fault."""
        with self._lock:
            if name in self._once:
                self._once.discard(name)
                setattr(self, name, getattr(Faults(), name))

    def take(self, name: str) -> Any:
        """The value of a fault that fires wherever it is looked at."""
        value = getattr(self, name)
        if value != getattr(Faults(), name):
            self.fired(name)
        return value

    def counts_down(self) -> bool:
        """One more shell command: whether `drop_after` hits it."""
        with self._lock:
            if self.drop_after is None:
                return False
            if self.drop_after > 0:
                self.drop_after -= 1
                return False
        self.drop_after = None  # a count has an end of its own
        return True

    def room_for(self, size: int) -> bool:
        """Takes `size` bytes of the free disk; False where they don't fit."""
        with self._lock:
            if self.disk_free is None:
                return True
            fits = size <= self.disk_free
            self.disk_free -= size if fits else 0
        if not fits:
            self.fired("disk_free")
        return fits
