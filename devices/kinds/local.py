"""Device kind `local`: this machine, whose models run in a Python worker."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Literal

from paceline.devices.composed import ComposedDevice
from paceline.devices.gate import Gate
from paceline.devices.runners.python_worker import PythonWorkerRunner
from paceline.devices.systems.linux import LinuxSystem
from paceline.devices.transports.local import LocalTransport

Runtime = Literal["litert", "onnxruntime", "tflite_runtime"]


def open_local(
    name: str = "local",
    runtime: Runtime = "litert",
    python: str | None = None,
    environment: Mapping[str, str] | None = None,
    wait_s: float = 0.0,
    refuse: bool = False,
) -> ComposedDevice:
    """This machine. `python` is the interpreter that has the runtime (default: this one).

    A busy machine is waited for up to `wait_s`, then measured all the same (its rows tell), or refused where `refuse` says so.
    """
    transport = LocalTransport()
    runner = PythonWorkerRunner(transport, runtime, python or sys.executable, environment)
    return ComposedDevice(name, "local", transport, LinuxSystem(transport), runner, Gate(wait_s, refuse=refuse))
