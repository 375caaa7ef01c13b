"""A simulated phone: its state, its clock, and what an invoke takes on it. Transport, System and Runner share it."""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from paceline.devices.simulated.clock import VirtualClock
from paceline.devices.simulated.costs import Plan, plan
from paceline.devices.simulated.faults import Dice, Faults, Kind
from paceline.devices.simulated.heat import Body
from paceline.devices.simulated.model_file import ModelFile, read_model
from paceline.devices.simulated.profile import Profile
from paceline.errors import ConfigError, DeviceError, TransientDeviceError
from paceline.measurement import Artifact, Bench
from paceline.seeds import Seeds

_ATTEMPT_S = 1.0  # what an attempt to reach a phone that is away takes
_CHUNK_S = 0.25  # for so long the clocks are taken as constant
_REST_S = 0.05  # after so long without work the governor lowers the clock again
_KEPT_PLANS = 512

FIXED = "fixed_performance"
"""The setting under which the clock is constant, heat apart. `SimulatedPhone.true_ms` is what then an invoke takes."""


class SimulatedPhone:
    """All chance comes from `seed`: the same operations in the same order give the same figures, in every process.

    `clock` only moves while the phone is used or waited for; `real_time` (0 to 1) makes that take real time. `faults` may be set
    at any time.
    """

    def __init__(self, name: str, profile: Profile, seed: int, faults: Faults | None = None, real_time: float = 0.0) -> None:
        if not 0 <= real_time <= 1:
            raise ConfigError(f"real_time = {real_time!r} of device {name!r}: give 0 (no waiting) to 1 (as long as a phone)")
        self.name, self.profile = name, profile
        self.address = f"simulated:{name}"
        self.clock = VirtualClock(real_time)
        self.heat = Body(profile.heat)
        self.settings: dict[str, str] = {}
        self.files: dict[str, int] = {}
        """Bytes of what was pushed, by sha256."""
        self.crashing: set[str] = set()
        """sha256 of models that end the runtime here, besides those that `Faults.crash` chooses."""
        self.battery_wh = profile.battery_wh
        self.boots = 1
        self._booted_s, self._lived_s = 0.0, 0.0
        self._seeds = Seeds(seed)
        self._dice = Dice(self._seeds.rng("faults"))
        self._dice.load(faults or Faults())
        self._noise = self._seeds.rng("noise")
        self._drift, self._drift_at_s = float(self._noise.normal(0.0, profile.noise.drift)), 0.0
        self._away_until_s, self._away = -math.inf, ""
        self._ramp_ms, self._worked_s = 0.0, -math.inf
        self._plans: dict[tuple[str, str, bool], Plan] = {}

    @property
    def faults(self) -> Faults:
        return self._dice.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._dice.load(faults)

    def struck(self, kind: Kind) -> bool:
        """Whether this fault strikes the operation under way."""
        return self._dice.struck(kind, self.clock.monotonic())

    def crashes(self, sha256: str) -> bool:
        """Whether running this model ends the runtime."""
        if self._dice.due("crash", self.clock.monotonic()):
            self.crashing.add(sha256)
        rate = self.faults.crash
        return sha256 in self.crashing or (rate > 0 and bool(self._seeds.rng(f"crash of {sha256}").random() < rate))

    def reach(self) -> None:
        """What every operation begins with. Raises TransientDeviceError while the phone is away."""
        if self.struck("reboot"):
            self.settings.clear()
            self.boots += 1
            self._leave(self.faults.reboot_s, "is rebooting; wait until it is back")
            self._booted_s = self._away_until_s
        if self.struck("offline"):
            self._leave(self.faults.offline_s, "is offline; check cable and network")
        if self.struck("unauthorised"):
            self._leave(self.faults.unauthorised_s, "is unauthorised: accept the dialog on the phone")
        if self.clock.monotonic() < self._away_until_s:
            self.spend(_ATTEMPT_S)
            raise TransientDeviceError(f"device {self.address} {self._away}")

    def cut(self, during: str) -> TransientDeviceError:
        return TransientDeviceError(f"the connection to device {self.address} was lost during {during}")

    def receive(self, path: Path, sha256: str | None = None) -> str:
        """A file pushed as a whole or not at all, once: its sha256."""
        self.reach()
        try:
            name, size = sha256 or hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
        except OSError as e:
            raise DeviceError(f"can't read {path}: {e.strerror}") from e
        if name in self.files:
            return name
        seconds = size / (self.profile.link_mb_s * 1e6)
        if self.struck("disconnect_push"):
            self.spend(seconds / 2)
            raise self.cut(f"the push of {path.name}")
        free = 0 if self.struck("full_disk") else round(self.profile.disk_mb * 1e6) - sum(self.files.values())
        if size > free:
            raise DeviceError(f"no space left on device {self.address}: {path.name} takes {size} bytes, {free} are free")
        self.spend(seconds)
        if self.struck("corrupt_push"):
            raise TransientDeviceError(f"{path.name} arrived on device {self.address} with a wrong hash and was removed")
        self.files[name] = size
        return name

    def plan(self, artifact: Artifact, bench: Bench, fallback: bool = False) -> Plan:
        """How this phone runs a model. Raises UnreadableModelError where no runtime would load it."""
        key = (artifact.sha256, f"{bench.delegate} {bench.threads} {bench.precision} {bench.affinity}", fallback)
        found = self._plans.get(key)
        if found is None:
            if len(self._plans) >= _KEPT_PLANS:
                self._plans.clear()
            found = self._plans[key] = plan(_model(artifact.path, artifact.sha256), self.profile, bench, fallback)
        return found

    def true_ms(self, artifact: Artifact, bench: Bench) -> float:
        """The truth that a measurement should find: an invoke at the fixed clock, cool, without noise and drift."""
        return self.plan(artifact, bench).ms

    def invokes(self, planned: Plan, count: int) -> npt.NDArray[np.float64]:
        """Milliseconds of each of `count` back-to-back invokes, with clocks, drift and noise. They take their time, and heat."""
        noise, found = self.profile.noise, []
        if self.clock.monotonic() - self._worked_s > _REST_S:
            self._ramp_ms = 0.0
        while count > 0:
            n = min(count, max(1, int(_CHUNK_S * 1e3 / planned.ms)))
            clocks = self._clocks(planned.ms, n)
            samples = planned.ms * self._pace() / clocks
            samples *= 1 + noise.jitter * np.exp(self._noise.standard_normal(n))
            spikes = np.flatnonzero(self._noise.random(n) < noise.spikes)
            samples[spikes] *= 1 + noise.spike * self._noise.random(len(spikes))
            took_ms = float(samples.sum())
            self.spend(took_ms / 1e3, planned.watts * float(clocks.mean()) ** 3)
            self._ramp_ms, self._worked_s = self._ramp_ms + took_ms, self.clock.monotonic()
            found.append(samples)
            count -= n
        return np.concatenate(found)

    def spend(self, seconds: float, watts: float = 0.0) -> None:
        """Time passes on the phone, under `watts` above idle."""
        self._rest()
        self.clock.sleep(seconds)
        self._live(seconds, watts)

    def condition(self) -> dict[str, str]:
        """Temperature, throttling, clocks, battery; by the names of their units."""
        self._rest()
        part = self.heat.clock * (1.0 if FIXED in self.settings else self.profile.governor.idle)
        return {
            "simulated": "yes",
            "thermal_status": str(self.heat.status),
            "celsius": f"{self.heat.celsius:.1f}",
            "battery_percent": f"{100 * self.battery_wh / self.profile.battery_wh:.1f}",
            **{f"{cluster.name}_mhz": f"{cluster.mhz * part:.0f}" for cluster in self.profile.clusters},
            FIXED: "on" if FIXED in self.settings else "off",
            "uptime_s": f"{self.clock.monotonic() - self._booted_s:.0f}",
        }

    def _leave(self, seconds: float, why: str) -> None:
        self._away_until_s, self._away = self.clock.monotonic() + seconds, why

    def _clocks(self, ms: float, count: int) -> npt.NDArray[np.float64]:
        """The part of the fixed clock that each of the next invokes runs at."""
        if FIXED in self.settings:
            return np.full(count, self.heat.clock)
        governor = self.profile.governor
        climbed = np.minimum(1.0, (self._ramp_ms + ms * np.arange(count)) / governor.ramp_ms)
        clocks: npt.NDArray[np.float64] = self.heat.clock * (governor.idle + (governor.boost - governor.idle) * climbed)
        return clocks

    def _pace(self) -> float:
        """An Ornstein-Uhlenbeck process of the virtual time, as a factor around 1."""
        noise, now_s = self.profile.noise, self.clock.monotonic()
        kept = math.exp(-(now_s - self._drift_at_s) / noise.drift_s)
        self._drift = kept * self._drift + noise.drift * math.sqrt(1 - kept * kept) * float(self._noise.standard_normal())
        self._drift_at_s = now_s
        return math.exp(self._drift)

    def _rest(self) -> None:
        """Catches up with what was waited on the clock from outside."""
        self._live(self.clock.monotonic() - self._lived_s, 0.0)

    def _live(self, seconds: float, watts: float) -> None:
        if seconds <= 0:
            return
        self._lived_s = self.clock.monotonic()
        self.heat.spend(seconds, watts)
        drawn = self.profile.heat.idle_watts + watts - self.profile.charging_watts
        self.battery_wh = min(self.profile.battery_wh, max(0.0, self.battery_wh - drawn * seconds / 3600))


@lru_cache(maxsize=256)
def _model(path: Path, sha256: str) -> ModelFile:
    """Read once for all phones of a process. The hash is what tells files apart."""
    return read_model(path.read_bytes())
