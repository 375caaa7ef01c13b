"""What runs models on a simulated phone: nothing is computed, the phone's costs say what it takes."""

from __future__ import annotations

import math

import numpy as np

from paceline.devices.runners.runner import Batch
from paceline.devices.simulated.costs import Plan
from paceline.devices.simulated.model_file import UnreadableModelError
from paceline.devices.simulated.phone import SimulatedPhone
from paceline.errors import DeviceError
from paceline.measurement import Artifact, Bench, Delegation, Failure, OpTime, TransientFailure

_LOAD_MS = 8.0
_FEWEST_INVOKES = 10
_PROFILED_INVOKES = 50


class SimulatedRunner:
    """A Runner whose `runtime` is "simulated", so that every row says so."""

    def __init__(self, phone: SimulatedPhone) -> None:
        self.phone = phone

    @property
    def runtime(self) -> str:
        return "simulated"

    @property
    def formats(self) -> tuple[str, ...]:
        return ("tflite",)

    def facts(self) -> dict[str, str]:
        return {"runtime": "simulated"}

    def delegates(self) -> tuple[str, ...]:
        return tuple(self.phone.profile.delegates)

    def session(self, bench: Bench) -> SimulatedSession:
        self._check(bench)
        return SimulatedSession(self.phone, bench)

    def profile(self, artifact: Artifact, bench: Bench) -> list[OpTime]:
        self._check(bench)
        session = SimulatedSession(self.phone, bench)
        loaded = session.load(artifact)
        if isinstance(loaded, Failure):
            raise DeviceError(f"no operator profile of {artifact.path} on device {self.phone.name!r}: {loaded.reason}")
        pace = float(np.median(self.phone.invokes(loaded, _PROFILED_INVOKES))) / loaded.ms
        return [OpTime(part.name, part.ms * pace, part.delegated) for part in loaded.parts]

    def close(self) -> None:
        """There is no process to end."""

    def _check(self, bench: Bench) -> None:
        phone, here = self.phone, f"on device {self.phone.name!r}"
        if bench.runtime != self.runtime:
            raise DeviceError(f"runtime {bench.runtime!r} isn't available {here}; use {self.runtime!r}")
        delegate = phone.profile.delegates.get(bench.delegate)
        if delegate is None:
            raise DeviceError(f"delegate {bench.delegate!r} isn't available {here}; available: {', '.join(self.delegates())}")
        if bench.precision not in delegate.precisions:
            choices = ", ".join(delegate.precisions)
            raise DeviceError(f"precision {bench.precision!r} isn't available for {bench.delegate} {here}; available: {choices}")
        cpus = phone.profile.cpus
        absent = sorted(set(bench.affinity) - set(cpus))
        if absent:
            raise DeviceError(f"CPU {absent[0]} isn't available {here}; usable: {', '.join(map(str, sorted(cpus)))}")
        if not 1 <= bench.threads <= len(cpus):
            raise DeviceError(f"{bench.threads} threads don't fit device {phone.name!r}, which has {len(cpus)} CPUs")
        if bench.options:
            raise DeviceError(f"option {bench.options[0][0]!r} isn't available {here}: a simulated runtime has none")


class SimulatedSession:
    """A Session. Models stay loaded until it is closed."""

    def __init__(self, phone: SimulatedPhone, bench: Bench) -> None:
        self._phone, self._bench = phone, bench
        self._loaded: dict[str, Plan] = {}

    def batch(self, artifact: Artifact) -> Batch | Failure:
        phone, bench = self._phone, self._bench
        planned = self.load(artifact)
        if isinstance(planned, Failure):
            return planned
        phone.spend(phone.profile.command_ms / 1e3)
        if phone.struck("throttle"):
            phone.heat.throttle(phone.faults.throttle_s)
        if phone.struck("hang") or planned.ms * _FEWEST_INVOKES > bench.timeout_s * 1e3:
            phone.spend(bench.timeout_s)
            return TransientFailure(f"no answer within {bench.timeout_s:g} s; it was ended")
        if phone.struck("disconnect_run"):
            phone.invokes(planned, max(1, bench.min_invokes // 2))
            raise phone.cut(f"a batch of {artifact.subject}")
        fastest = float(phone.invokes(planned, max(1, math.ceil(bench.warmup_ms / planned.ms))).min())
        wanted = max(bench.min_invokes, round(bench.batch_ms / fastest))
        allowed = max(_FEWEST_INVOKES, round(bench.max_batch_ms / fastest))
        samples = phone.invokes(planned, min(wanted, allowed, bench.max_invokes))
        if phone.struck("corrupt_result"):
            return TransientFailure(r"the answer makes no sense: '\x00\xff\x07garbage of a broken link\xfe'")
        undisturbed = np.minimum(samples, 1.5 * np.median(samples))
        share = float(undisturbed.sum() / samples.sum()) if bench.threads == 1 and not self._accelerated(planned) else None
        return Batch(tuple(samples.tolist()), share)

    def delegation(self, artifact: Artifact) -> Delegation | None:
        loaded = self._loaded.get(artifact.sha256)
        return loaded.delegation if loaded else None

    def load(self, artifact: Artifact) -> Plan | Failure:
        """Pushes and loads what isn't there yet."""
        phone = self._phone
        phone.receive(artifact.path, artifact.sha256)
        if phone.crashes(artifact.sha256):
            return Failure("the runtime was ended by SIGSEGV while it ran the model")
        if artifact.sha256 not in self._loaded:
            try:
                accelerator = phone.profile.delegates[self._bench.delegate].own_processor
                planned = phone.plan(artifact, self._bench, fallback=accelerator and phone.struck("fallback"))
            except UnreadableModelError as e:
                return Failure(str(e))
            phone.spend(_LOAD_MS / 1e3)
            self._loaded[artifact.sha256] = planned
        return self._loaded[artifact.sha256]

    def close(self) -> None:
        self._loaded.clear()

    def _accelerated(self, planned: Plan) -> bool:
        return self._phone.profile.delegates[self._bench.delegate].own_processor and bool(planned.delegation.delegated)
