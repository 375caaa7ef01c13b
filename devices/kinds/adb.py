"""Device kind `adb`: an Android phone on a cable or in the network, measured by TFLite's benchmark_model."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from paceline.devices.composed import ComposedDevice
from paceline.devices.device import Device
from paceline.devices.gate import Gate
from paceline.devices.runners.benchmark_model import BenchmarkModelRunner
from paceline.devices.state import DeviceState
from paceline.devices.systems.android import AndroidLimits, AndroidSystem
from paceline.devices.transports.adb import AdbTransport
from paceline.errors import TransientDeviceError


def open_adb(
    name: str,
    serial: str,
    benchmark_model: Path,
    sha256: str | None = None,
    libraries: Sequence[Path] = (),
    adb: Path | None = None,
    server_port: int | None = None,
    wait_s: float = 900.0,
    poll_s: float = 10.0,
    refuse: bool = True,
    quarantine_after: int | None = 3,
    skin_celsius: float = 40.0,
    battery_celsius: float = 38.0,
    battery_percent: float = 30.0,
) -> Device:
    """The phone `serial` of `adb devices` (HOST:PORT in the network), by the program `benchmark_model` built for it.

    `sha256` is what the program must be, `libraries` what it loads. A phone in trouble (throttled, hot, battery low; limits in °C
    and percent) is waited for up to `wait_s`, then refused, or measured all the same where `refuse` is False.
    """
    transport = AdbTransport(serial, adb, server_port)
    state = DeviceState(transport.address)
    limits = AndroidLimits(skin_celsius=skin_celsius, battery_celsius=battery_celsius, battery_percent=battery_percent)
    system = AndroidSystem(transport, state, limits)
    runner = BenchmarkModelRunner(transport, benchmark_model, sha256, libraries)
    gate = Gate(wait_s, poll_s, refuse, throughout=True, quarantine_after=quarantine_after)
    # Left by a process that was killed. Where another one measures now, or the phone is away, they are put back later.
    with contextlib.suppress(TransientDeviceError), state.held(0.0):
        system.restore_leftovers()
    return ComposedDevice(name, "adb", transport, system, runner, gate, state=state)
