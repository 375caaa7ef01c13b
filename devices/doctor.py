"""What is the matter with a device, and what to do."""

from __future__ import annotations

from dataclasses import dataclass

from paceline.devices.composed import ComposedDevice
from paceline.devices.device import Health
from paceline.devices.kinds import DeviceEntry, open_device
from paceline.errors import DeviceError, PacelineError, TransientDeviceError
from paceline.measurement import DeviceInfo


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    what: str
    good: bool
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Checkup:
    """What was found out about a device; `info` and `health` are None where it didn't get that far."""

    name: str
    kind: str
    address: str
    info: DeviceInfo | None
    health: Health | None
    checks: tuple[Check, ...]

    @property
    def ready(self) -> bool:
        return all(check.good for check in self.checks)


def examine(entry: DeviceEntry, release: bool = False) -> Checkup:
    """Opens the device of an entry, looks at it, closes it; trouble is told, not raised. `release` ends its quarantine."""
    try:
        device = open_device(entry)
    except PacelineError as e:
        return Checkup(entry.id, entry.kind, "", None, None, (Check("opened", False, str(e)),))
    try:
        checks = _state(device, release) if isinstance(device, ComposedDevice) else []
        info, health = None, None
        try:
            info = device.info
            checks.append(Check("reached", True, f"fingerprint {info.fingerprint}"))
            health = device.health()
            troubles = [] if health.ready else [text for text in health.advice if not text.startswith("in quarantine")]
            checks += [Check("condition", False, text) for text in troubles] or [Check("condition", True, _brief(health))]
        except DeviceError as e:
            checks.append(Check("reached", False, str(e)))
        return Checkup(entry.id, entry.kind, device.address, info, health, tuple(checks))
    finally:
        device.close()


def _state(device: ComposedDevice, release: bool) -> list[Check]:
    """Quarantine, who holds it, settings that a killed process left changed."""
    state = device.state
    if release:
        state.release()
    checks = []
    if state.quarantine:
        remedy = "mend it, then: paceline devices doctor NAME --release"
        checks.append(Check("quarantine", False, state.quarantine, remedy))
    elif release:
        checks.append(Check("quarantine", True, "released"))
    try:
        with state.held(0.0):
            checks.append(Check("held", True, "by nobody"))
            left = state.changed_settings()
    except TransientDeviceError as e:
        return [*checks, Check("held", False, str(e))]
    if left:
        names = ", ".join(f"{name} (was {value})" for name, value in left.items())
        checks.append(
            Check(
                "settings", False, f"left changed by a process that ended: {names}", "they are put back when it is attached next"
            )
        )
    return checks


def _brief(health: Health) -> str:
    return ", ".join(f"{name} {value}" for name, value in health.facts.items()) or "nothing to tell"
