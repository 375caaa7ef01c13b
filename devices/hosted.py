"""The devices of this host that a selector means, opened: no other phone is touched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from paceline.devices.device import Device
from paceline.devices.farm.farm import Member
from paceline.devices.farm.local import LocalFarm
from paceline.devices.kinds import LOCAL, DeviceEntry, load_devices, open_device
from paceline.devices.selection import parse_selector
from paceline.errors import ConfigError, TransientDeviceError

_FILE = Path("devices.toml")


def entries_of(path: Path | None) -> tuple[DeviceEntry, ...]:
    """Those of the file, of `devices.toml` in this folder, or none; and this machine, unless the file says what "local" is."""
    named = load_devices(path or _FILE) if path or _FILE.is_file() else ()
    return named if any(entry.id == LOCAL.id for entry in named) else (LOCAL, *named)


def open_named(name: str, path: Path | None) -> Device:
    """The device of that id. Raises ConfigError where there is none, and as open_device does."""
    entries = {entry.id: entry for entry in entries_of(path)}
    if name not in entries:
        raise ConfigError(f"no device has the id {name!r}; there are: {', '.join(entries)}")
    return open_device(entries[name])


def candidates(entries: Sequence[DeviceEntry], selector: str) -> tuple[DeviceEntry, ...]:
    """The entries that may be meant, judged by their ids, labels and kinds alone."""
    conditions = [c for c in parse_selector(selector).conditions if c.key in ("", "id")]
    members = {entry.id: Member(entry.id, entry.labels, None) for entry in entries}
    return tuple(entry for entry in entries if all(c.holds(members[entry.id]) for c in conditions)) or tuple(entries)


def chosen(farm: LocalFarm, selector: str) -> list[Member]:
    """The usable devices that the selector means. Raises where there are too few, and says why."""
    wanted = parse_selector(selector)
    found = wanted.of(farm.members())
    ready = [member for member in found if not member.trouble]
    if wanted.count is None and len(ready) == len(found):
        return ready
    if wanted.count is not None and len(ready) >= wanted.count:
        return ready[: wanted.count]
    raise TransientDeviceError("; ".join(f"device {m.id!r}: {m.trouble}" for m in found if m.trouble))
