"""Waiting until a device is fit to be measured, and noticing when it no longer is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from paceline.devices.clock import Clock
from paceline.devices.systems.system import System
from paceline.errors import TransientDeviceError


class Watch(Protocol):
    """Looks after the condition of a device while it is measured."""

    def settle(self) -> None:
        """Before a round of batches: waits until the device is fit. May raise TransientDeviceError."""

    def disturbance(self) -> str:
        """After a round: why its batches don't count; empty where they do."""


@dataclass(frozen=True)
class Gate:
    """How to treat a device in trouble (hot, throttled, busy, low battery).

    It is given `wait_s` seconds to recover, looked at every `poll_s`. Then it is refused, or measured all the same where `refuse`
    is False: the measurement's context tells. With `throughout` it is looked at after every round too, and rounds in trouble are
    repeated; without, only at the start (a host's load is its own measurement, soon after). After `quarantine_after` measurements
    in a row that failed by the device's fault it isn't used any more until someone has looked at it (None: never).
    """

    wait_s: float = 0.0
    poll_s: float = 5.0
    refuse: bool = False
    throughout: bool = False
    quarantine_after: int | None = None


class ConditionWatch:
    """The Watch of a System under a Gate. `waited_s` and `troubles` say what there was."""

    def __init__(self, system: System, gate: Gate, clock: Clock = time) -> None:
        self._system, self._gate, self._clock = system, gate, clock
        self._left_s = gate.wait_s
        self._started = False
        self.waited_s = 0.0
        self.troubles: dict[str, None] = {}
        self.condition: Mapping[str, str] = {}

    def settle(self) -> None:
        if self._started and not self._gate.throughout:
            return
        self._started = True
        while trouble := self._look():
            if self._left_s <= 0:
                if self._gate.refuse:
                    waited = f" after {self.waited_s:.0f} s of waiting" if self.waited_s else ""
                    raise TransientDeviceError(f"not fit to be measured{waited}: {'; '.join(trouble)}")
                return
            pause = min(self._gate.poll_s, self._left_s)
            self._clock.sleep(pause)
            self._left_s -= pause
            self.waited_s += pause

    def disturbance(self) -> str:
        return "; ".join(self._look()) if self._gate.throughout else ""

    def _look(self) -> tuple[str, ...]:
        self.condition = self._system.condition()
        found = self._system.trouble(self.condition)
        self.troubles |= dict.fromkeys(found)
        return found
