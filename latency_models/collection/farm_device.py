"""A device of a farm as a Device: what plans sits here, what measures is where the device is."""

from __future__ import annotations

from collections.abc import Sequence

from paceline.devices.bench import BenchOptions
from paceline.devices.device import Device, Health
from paceline.devices.farm.farm import DeviceExecutor
from paceline.latency_models.collection.collect import measure_timed
from paceline.measurement import Artifact, Bench, DeviceInfo, Measurement, OpTime


class FarmDevice:
    """The Device behind `executor` (`Farm.on`). Its calls take turns with those of others; time is that of the calls alone."""

    def __init__(self, executor: DeviceExecutor) -> None:
        self._executor = executor
        self._info, self._address = executor.submit(_described).result()

    @property
    def info(self) -> DeviceInfo:
        return self._info

    @property
    def address(self) -> str:
        return self._address

    def default_bench(self, delegate: str | None = None, threads: int = 1) -> Bench:
        return self._executor.submit(_bench, BenchOptions(delegate, threads)).result()

    def health(self) -> Health:
        return self._executor.submit(_health).result()

    def measure(self, artifacts: Sequence[Artifact], bench: Bench, reference: Artifact | None = None) -> list[Measurement]:
        """Every measurement says how long the device was busy for it (see `collect`)."""
        return self._executor.submit(measure_timed, artifacts, bench, reference).result()

    def profile(self, artifact: Artifact, bench: Bench) -> list[OpTime]:
        return self._executor.submit(_profile, artifact, bench).result()

    def close(self) -> None:
        """The farm closes its devices."""


def _described(device: Device) -> tuple[DeviceInfo, str]:
    return device.info, device.address


def _bench(device: Device, options: BenchOptions) -> Bench:
    return options.of(device)


def _health(device: Device) -> Health:
    return device.health()


def _profile(device: Device, artifact: Artifact, bench: Bench) -> list[OpTime]:
    return device.profile(artifact, bench)
