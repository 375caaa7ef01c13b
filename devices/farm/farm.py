"""What a farm is: devices by id, each behind a `concurrent.futures.Executor` that has it for one call at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from paceline.devices.device import Device
from paceline.devices.farm.job import Job
from paceline.measurement import DeviceInfo, Measurement

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Member:
    """A device of a farm. `trouble` says why it can't be used now; `info` is None where it could not be asked yet."""

    id: str
    labels: tuple[str, ...]
    info: DeviceInfo | None
    agent: str = ""
    trouble: str = ""


class DeviceExecutor(Executor):
    """A `concurrent.futures.Executor` whose functions are given a device first. The device does one call at a time, in order."""

    def submit(  # type: ignore[override]
        self, fn: Callable[Concatenate[Device, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """The future of `fn(device, *args, **kwargs)`, called where the device is.

        Artifacts among the arguments travel along. `fn` must be a function that can be imported there. The future of a call
        whose device is lost raises TransientDeviceError.
        """
        raise NotImplementedError


class Farm(Protocol):
    """LocalFarm: the devices of this host. DaskFarm: those of many hosts."""

    def members(self) -> Sequence[Member]:
        """The devices that are there now."""

    def on(self, device: str) -> DeviceExecutor:
        """Raises TransientDeviceError where the device isn't there."""

    def close(self) -> None: ...


def take(device: Device, job: Job) -> tuple[DeviceInfo, list[Measurement]]:
    """What is called on a device for a job. The context tells when (Unix time) and for how long the job had the device."""
    at, start = time.time(), time.monotonic()
    info, found = device.info, device.measure(job.artifacts, job.bench, job.reference)
    told = {"taken_at": f"{at:.3f}", "took_s": f"{time.monotonic() - start:.3f}"}
    return info, [replace(m, context={**m.context, **told}) for m in found]
