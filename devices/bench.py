"""What `paceline bench` does where the device is: functions of a device that a farm can call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from paceline.devices.comparison import Comparison, compare
from paceline.devices.device import Device
from paceline.errors import DeviceError
from paceline.measurement import Artifact, Bench, DeviceInfo, Measurement, OpTime, Progress, silent


@dataclass(frozen=True)
class BenchOptions:
    """What a user said; the device's own default for the rest (see Device.default_bench). `changes` are fields of Bench."""

    delegate: str | None = None
    threads: int = 1
    changes: Mapping[str, Any] | None = None

    def of(self, device: Device) -> Bench:
        return replace(device.default_bench(self.delegate, self.threads), **(self.changes or {}))


@dataclass(frozen=True)
class Benched:
    """A model on a device: its figure or why there is none, and the runtime's own time per operator (empty: not asked for).

    `profile_failure` is why there are no operators although they were asked for.
    """

    info: DeviceInfo
    bench: Bench
    measurement: Measurement
    operators: tuple[OpTime, ...] = ()
    profile_failure: str = ""


def bench_models(device: Device, models: Sequence[Artifact], options: BenchOptions, operators: bool) -> list[Benched]:
    """Interleaved, in their order. Raises as Device.measure does."""
    bench = options.of(device)
    found = device.measure(models, bench)
    return [_benched(device, model, bench, m, operators) for model, m in zip(models, found, strict=True)]


def compare_models(
    device: Device, first: Artifact, other: Artifact, options: BenchOptions, seed: int, progress: Progress = silent
) -> tuple[DeviceInfo, Bench, Comparison]:
    """See paceline.devices.comparison."""
    bench = options.of(device)
    return device.info, bench, compare(device, first, other, bench, np.random.default_rng(seed), progress=progress)


def _benched(device: Device, model: Artifact, bench: Bench, m: Measurement, operators: bool) -> Benched:
    if not operators or m.failure is not None:
        return Benched(device.info, bench, m)
    try:
        return Benched(device.info, bench, m, tuple(device.profile(model, bench)))
    except DeviceError as e:
        return Benched(device.info, bench, m, profile_failure=str(e))
