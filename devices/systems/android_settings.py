"""Settings of a phone that are changed for the time of a measurement, written down before, and put back after."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from paceline.devices.state import DeviceState
from paceline.devices.transports.transport import Transport
from paceline.errors import DeviceError

FIXED = "fixed_performance"
"""Clocks that the phone can hold for long, not the highest (Android 11). It doesn't say whether that is on: off is restored."""

QUIET: Mapping[str, str] = {
    "global stay_on_while_plugged_in": "7",  # a phone that falls asleep lowers its clocks
    "system screen_brightness_mode": "0",  # not the ambient light's
    "system screen_brightness": "0",  # the screen heats
}
_S = 20.0
_FIX = "cmd power set-fixed-performance-mode-enabled"


class QuietSettings:
    """Changes settings by way of the journal in `state`. `refused` are those that this phone wouldn't take."""

    def __init__(self, transport: Transport, state: DeviceState, settings: Mapping[str, str] = QUIET) -> None:
        self._transport, self._state, self._settings = transport, state, settings
        self.refused: tuple[str, ...] = ()

    def change(self) -> None:
        wanted = {name: value for name, value in self._settings.items() if self._usable(name)}
        before = self._read(tuple(wanted))
        for name, value in before.items():
            self._state.remember_setting(name, value)
        self._state.remember_setting(FIXED, "false")
        fixed = self._transport.run("\n".join([*(_put(n, v) for n, v in wanted.items()), f"{_FIX} true >&2"]), _S)
        now = self._read(tuple(wanted))
        refused = [name.split()[1] for name, value in wanted.items() if now[name] != value]
        self.refused = tuple(refused + ([] if fixed.code == 0 else [FIXED]))

    def restore(self) -> None:
        """Everything in the journal, also what an earlier process left. Raises DeviceError where the phone refuses."""
        left = self._state.changed_settings()
        if not left:
            return
        settings = {name: value for name, value in left.items() if name != FIXED}
        lines = [_put(name, value) for name, value in settings.items()]
        if FIXED in left:
            lines.append(f"{_FIX} {shlex.quote(left[FIXED])}")
        self._transport.run("\n".join(lines), _S)
        now = self._read(tuple(settings))
        for name, value in left.items():
            if name == FIXED or now[name] == value:
                self._state.forget_setting(name)
        wrong = [f"{name} ({now[name]}, was {value})" for name, value in settings.items() if now[name] != value]
        if wrong:
            raise DeviceError(
                f"{self._transport.address} doesn't let its settings be restored: {', '.join(wrong)}; restore them by hand"
            )
        self.refused = ()

    def _usable(self, name: str) -> bool:
        return name not in self._state.changed_settings()

    def _read(self, names: tuple[str, ...]) -> dict[str, str]:
        if not names:
            return {}
        done = self._transport.run("\n".join(f"settings get {name}" for name in names), _S)
        values = done.out.decode(errors="replace").splitlines()
        if done.code != 0 or len(values) != len(names):
            raise DeviceError(f"can't read the settings of {self._transport.address}: {done.printed}")
        return dict(zip(names, (value.strip() for value in values), strict=True))


def _put(name: str, value: str) -> str:
    """Says nothing; whether the phone took the setting is read back."""
    return f"settings delete {name} >&2" if value == "null" else f"settings put {name} {shlex.quote(value)} >&2"
