"""The devices that one process holds for a farm: opened, asked what they are, tried again where they can't be reached."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from paceline.devices.device import Device
from paceline.devices.farm.farm import Member
from paceline.devices.kinds import DeviceEntry, open_device
from paceline.devices.state import DeviceState
from paceline.errors import DeviceError, TransientDeviceError
from paceline.measurement import DeviceInfo

_RETRY_S = 3.0


@dataclass
class _Held:
    open: Callable[[], Device]
    labels: tuple[str, ...]
    device: Device | None = None
    info: DeviceInfo | None = None
    trouble: str = ""


class HeldDevices:
    """Devices by id, for one call at a time (see LocalFarm). One that can't be reached is in trouble, and tried every 3 seconds.

    With `claim` they are this process's alone among the agents of this host: raises DeviceError where another one has them.
    """

    def __init__(
        self, openers: Mapping[str, Callable[[], Device]], labels: Mapping[str, tuple[str, ...]], claim: bool = False
    ) -> None:
        self._held = {name: _Held(opener, labels.get(name, ())) for name, opener in openers.items()}
        self._claims: ExitStack | None = ExitStack() if claim else None
        self._ending = threading.Event()
        try:
            for name, held in self._held.items():
                self._attach(name, held)
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._keep_trying, name="attach", daemon=True).start()

    @classmethod
    def of(cls, entries: Sequence[DeviceEntry], claim: bool = False) -> HeldDevices:
        """The devices of a devices.toml."""
        openers = {entry.id: _opener(entry) for entry in entries}
        return cls(openers, {entry.id: entry.labels for entry in entries}, claim)

    def members(self) -> list[Member]:
        """Without asking the devices."""
        return [Member(name, held.labels, held.info, "", self._trouble(held)) for name, held in self._held.items()]

    def call(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """`function(device, *args, **kwargs)`."""
        held = self._held.get(name)
        if held is None:
            raise TransientDeviceError(f"no device {name!r} here; there are: {', '.join(self._held)}")
        if held.device is None:
            raise TransientDeviceError(f"device {name!r} can't be used now: {held.trouble}")
        return function(held.device, *args, **kwargs)

    def close(self) -> None:
        self._ending.set()
        for held in self._held.values():
            if held.device is not None:
                held.device.close()
        if self._claims is not None:
            self._claims.close()

    def _attach(self, name: str, held: _Held) -> None:
        try:
            if held.device is None:
                device = held.open()
                self._claim(name, device)
                held.device = device
            held.info, held.trouble = held.device.info, ""
        except TransientDeviceError as e:
            held.trouble = str(e)

    def _claim(self, name: str, device: Device) -> None:
        if self._claims is None:
            return
        try:
            self._claims.enter_context(DeviceState(f"{device.address}.agent").held(0.0))
        except TransientDeviceError as e:
            raise DeviceError(f"device {name!r} is taken by another agent of this host: {e}") from e

    def _trouble(self, held: _Held) -> str:
        quarantine = DeviceState(held.device.address).quarantine if held.device is not None else None
        return f"in quarantine: {quarantine}" if quarantine else held.trouble

    def _keep_trying(self) -> None:
        while not self._ending.wait(_RETRY_S):
            for name, held in self._held.items():
                if held.info is None:
                    try:
                        self._attach(name, held)
                    except DeviceError as e:
                        held.trouble = str(e)


def _opener(entry: DeviceEntry) -> Callable[[], Device]:
    return lambda: open_device(entry)
