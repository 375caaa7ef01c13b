"""The Device of a simulated phone."""

from __future__ import annotations

from paceline.devices.composed import ComposedDevice
from paceline.devices.gate import Gate
from paceline.devices.simulated.phone import SimulatedPhone
from paceline.devices.simulated.runner import SimulatedRunner
from paceline.devices.simulated.system import SimulatedSystem
from paceline.devices.simulated.transport import SimulatedTransport
from paceline.devices.transports.local import LocalTransport

GATE = Gate(wait_s=1200.0, poll_s=10.0, refuse=True, throughout=True, quarantine_after=3)
"""As for a real phone; waiting is on the phone's clock."""


def simulated_device(phone: SimulatedPhone, gate: Gate = GATE) -> ComposedDevice:
    """`phone` stays in the caller's hands: its faults, its ambient temperature, its truth."""
    transport = SimulatedTransport(phone, LocalTransport())
    system, runner = SimulatedSystem(phone), SimulatedRunner(phone)
    return ComposedDevice(phone.name, "simulated", transport, system, runner, gate, simulated=True, clock=phone.clock)
