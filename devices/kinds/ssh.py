"""Device kind `ssh`: a Linux host, a board for example, whose models run in a Python worker there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from paceline.devices.composed import ComposedDevice
from paceline.devices.gate import Gate
from paceline.devices.kinds.local import Runtime
from paceline.devices.runners.python_worker import PythonWorkerRunner
from paceline.devices.systems.linux import LinuxSystem
from paceline.devices.transports.ssh import SshTransport


def open_ssh(
    name: str,
    host: str,
    user: str | None = None,
    port: int | None = None,
    identity: Path | None = None,
    known_hosts: Path | None = None,
    options: Sequence[str] = (),
    runtime: Runtime = "litert",
    python: str = "python3",
    environment: Mapping[str, str] | None = None,
    hot_celsius: float = 80.0,
    wait_s: float = 300.0,
    refuse: bool = True,
) -> ComposedDevice:
    """A Linux host reached by the system's ssh, without a password; `options` are ssh's own (-o).

    `python` there has numpy and the runtime. In trouble (busy, throttled, hotter than `hot_celsius`) it is waited for up to
    `wait_s`, then refused, or measured all the same where `refuse` is False.
    """
    transport = SshTransport(host, user, port, identity, known_hosts, options)
    runner = PythonWorkerRunner(transport, runtime, python, environment)
    gate = Gate(wait_s, refuse=refuse, quarantine_after=3)
    system = LinuxSystem(transport, hot_celsius)
    return ComposedDevice(name, "ssh", transport, system, runner, gate)
