"""Which devices a host has (devices.toml), and how each is opened: its kind is an entry point of the group `paceline.devices`.

[[device]]
id = "desk-phone"
kind = "adb"
labels = ["desk"]
serial = "R5CT10"        # all else is a setting of the kind: an argument of its factory
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, validate_call

from paceline.devices.device import Device
from paceline.errors import ConfigError

GROUP = "paceline.devices"
_Name = Annotated[str, StringConstraints(pattern=r"^[\w.:@-]+$")]
_Label = Annotated[str, StringConstraints(pattern=r"^[\w.:@-]+(=[\w.:@ -]+)?$")]


class DeviceEntry(BaseModel):
    """One `[[device]]`: its id, its kind, labels to select it by ("desk", "rack=2"), and the settings of its kind."""

    model_config = ConfigDict(frozen=True, extra="allow")

    id: _Name
    kind: _Name
    labels: tuple[_Label, ...] = ()

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.model_extra or {}


LOCAL = DeviceEntry(id="local", kind="local")


def load_devices(path: Path | None) -> tuple[DeviceEntry, ...]:
    """The devices in a TOML file; without one, this machine alone. Raises ConfigError for what makes no sense."""
    if path is None:
        return (LOCAL,)
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"can't read the devices in {path}: {getattr(e, 'strerror', None) or e}") from e
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"{path} is not TOML: {e}") from e
    for name in values:
        if name != "device":
            raise ConfigError(f"{path}: unknown section {name!r}; a device starts with the line [[device]]")
    tables = values.get("device", [])
    if not isinstance(tables, list) or not tables:
        raise ConfigError(f"{path} names no device; each starts with the line [[device]]")
    entries = tuple(_entry(table, f"{path}: device {at}") for at, table in enumerate(tables, 1))
    seen: set[str] = set()
    for entry in entries:
        if entry.id in seen:
            raise ConfigError(f"{path}: two devices have the id {entry.id!r}; give each its own")
        seen.add(entry.id)
    return entries


def kinds() -> tuple[str, ...]:
    """The kinds of devices that are installed."""
    return tuple(sorted({found.name for found in entry_points(group=GROUP)}))


def open_device(entry: DeviceEntry) -> Device:
    """The device of an entry, by the factory of its kind: `factory(name=entry.id, **entry.settings)`.

    Raises ConfigError for an unknown kind or setting (it suggests the nearest) or an impossible value, DeviceError or
    TransientDeviceError where the device can't be had.
    """
    factory = _factory(entry)
    checked = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(factory)
    try:
        return checked(name=entry.id, **entry.settings)
    except ValidationError as e:
        if not e.title == getattr(factory, "__name__", e.title):
            raise  # of the factory's own making
        reasons = [_explain(error, _settings_of(factory)) for error in e.errors()]
        raise ConfigError(f"device {entry.id!r} of kind {entry.kind!r}: {'; '.join(reasons)}") from e


def _entry(table: Any, place: str) -> DeviceEntry:
    try:
        return DeviceEntry.model_validate(table)
    except ValidationError as e:
        raise ConfigError(f"{place}: " + "; ".join(_explain(error, ("id", "kind", "labels")) for error in e.errors())) from e


def _factory(entry: DeviceEntry) -> Callable[..., Device]:
    found = tuple(entry_points(group=GROUP, name=entry.kind))
    if not found:
        raise ConfigError(f"device {entry.id!r}: unknown kind {entry.kind!r}; {_nearest(entry.kind, kinds(), 'kinds')}")
    return _load(found[0], entry)


def _load(point: EntryPoint, entry: DeviceEntry) -> Callable[..., Device]:
    try:
        factory: Callable[..., Device] = point.load()
    except (ImportError, AttributeError) as e:
        raise ConfigError(f"device {entry.id!r}: kind {entry.kind!r} ({point.value}) can't be loaded: {e}") from e
    return factory


def _settings_of(factory: Callable[..., Device]) -> tuple[str, ...]:
    return tuple(name for name in getattr(factory, "__annotations__", {}) if name not in ("name", "return"))


def _explain(error: Any, known: Sequence[str]) -> str:
    names = [str(part) for part in error["loc"]]
    name = ".".join(names) or "the entry"
    if error["type"] == "unexpected_keyword_argument":
        return f"unknown setting {name!r}; {_nearest(name, known, 'settings')}"
    if error["type"].startswith("missing"):
        return f"{name} is missing"
    return f"{name} = {error['input']!r}: {error['msg']}"


def _nearest(name: str, known: Collection[str], what: str) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known {what}: {', '.join(known) or 'none'}"
