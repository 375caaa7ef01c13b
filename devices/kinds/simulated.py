"""Device kind `simulated`: an imitation of a phone, whose rows all say so."""

from __future__ import annotations

from paceline.devices.device import Device
from paceline.devices.simulated.device import simulated_device
from paceline.devices.simulated.faults import Faults
from paceline.devices.simulated.phone import SimulatedPhone
from paceline.devices.simulated.profile import load_profile


def open_simulated(name: str, profile: str, seed: int, faults: Faults | None = None, real_time: float = 0.0) -> Device:
    """`profile` is a shipped one ("simulated-mid", "simulated-wide") or the path of a `.toml` file.

    The same `seed` and operations give the same figures. `real_time` is how many real seconds one of the phone's takes, 0 to 1.
    """
    return simulated_device(SimulatedPhone(name, load_profile(profile), seed, faults, real_time))
