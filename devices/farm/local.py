"""A farm without a server: the devices of this host, one thread each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from paceline.devices.device import Device
from paceline.devices.farm.farm import DeviceExecutor, Member
from paceline.devices.farm.held import HeldDevices
from paceline.devices.kinds import DeviceEntry
from paceline.errors import TransientDeviceError


class LocalFarm:
    """The Farm of opened `devices` by id. Closes them at the end."""

    def __init__(self, devices: Mapping[str, Device] | HeldDevices) -> None:
        self._held = devices if isinstance(devices, HeldDevices) else _held(devices)
        self._executors = {member.id: _OneDevice(self._held, member.id) for member in self._held.members()}

    @classmethod
    def of(cls, entries: Iterable[DeviceEntry], claim: bool = False) -> LocalFarm:
        """Opens the devices of a devices.toml; with `claim` for this agent alone (see HeldDevices)."""
        return cls(HeldDevices.of(tuple(entries), claim))

    def members(self) -> Sequence[Member]:
        return self._held.members()

    def on(self, device: str) -> DeviceExecutor:
        if device not in self._executors:
            raise TransientDeviceError(f"no device {device!r} here; there are: {', '.join(self._executors)}")
        return self._executors[device]

    def close(self) -> None:
        for executor in self._executors.values():
            executor.shutdown(cancel_futures=True)
        self._held.close()

    def __enter__(self) -> LocalFarm:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _OneDevice(DeviceExecutor):
    def __init__(self, held: HeldDevices, device: str) -> None:
        self._held, self._device = held, device
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=device)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._pool.submit(self._held.call, self._device, fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.shutdown(wait, cancel_futures=cancel_futures)


def _held(devices: Mapping[str, Device]) -> HeldDevices:
    def opened(device: Device) -> Callable[[], Device]:
        return lambda: device

    return HeldDevices({name: opened(device) for name, device in devices.items()}, {})
