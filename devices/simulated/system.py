"""What lives on a simulated phone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from paceline.devices.simulated.phone import FIXED, SimulatedPhone
from paceline.errors import TransientDeviceError

_LOW_BATTERY = 20.0


class SimulatedSystem:
    """A System. Its settings end with the process that imitates the phone, so there is nothing to journal on disk."""

    def __init__(self, phone: SimulatedPhone) -> None:
        self.phone = phone
        self._holding = False

    def facts(self) -> dict[str, str]:
        profile = self.phone.profile
        clusters = (f"{c.name}: {len(c.cpus)} x {c.mhz} MHz (CPU {','.join(map(str, c.cpus))})" for c in profile.clusters)
        return {
            "simulated": "yes",
            "model": profile.name,
            "profile": profile.digest,
            "clusters": "; ".join(clusters),
            "cores": str(len(profile.cpus)),
            **profile.facts,
        }

    def condition(self) -> dict[str, str]:
        """Raises TransientDeviceError where the phone has lost what quiet() had set: waiting would not help."""
        self.phone.reach()
        if self._holding and FIXED not in self.phone.settings:
            raise TransientDeviceError(f"device {self.phone.address} lost its settings in a reboot: measure again")
        return self.phone.condition()

    def trouble(self, condition: Mapping[str, str]) -> tuple[str, ...]:
        found = []
        if int(condition["thermal_status"]) > 0:
            found.append(f"throttled at {condition['celsius']} °C (thermal status {condition['thermal_status']}): let it cool")
        if float(condition["battery_percent"]) < _LOW_BATTERY:
            found.append(f"battery at {condition['battery_percent']} %: charge it")
        return tuple(found)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Fixed performance mode, as Android's `cmd power set-fixed-performance-mode-enabled`."""
        self.phone.reach()
        before = self.phone.settings.get(FIXED)
        self.phone.settings[FIXED] = "1"
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
            self.phone.settings.pop(FIXED, None)
            if before is not None:
                self.phone.settings[FIXED] = before

    def cpus(self) -> tuple[int, ...]:
        return self.phone.profile.cpus
