"""A device made of three parts: how it is reached (Transport), what lives there (System), what runs the models (Runner)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from types import TracebackType

from paceline.devices.clock import Clock
from paceline.devices.device import Health
from paceline.devices.gate import ConditionWatch, Gate
from paceline.devices.rounds import measure_rounds
from paceline.devices.runners.runner import Batch, Runner, Session
from paceline.devices.state import DeviceState
from paceline.devices.systems.system import System
from paceline.devices.transports.transport import Transport
from paceline.errors import DeviceError, TransientDeviceError
from paceline.measurement import Artifact, Bench, Delegation, DeviceInfo, Failure, Measurement, OpTime, TransientFailure

CPU_DELEGATES = frozenset({"xnnpack", "builtin", "cpu"})
"""Where falling back to the runtime's own kernels stays on the CPU; for any other delegate it makes the figure a lie."""


class ComposedDevice:
    """The Device of a Transport, a System and a Runner. Close it, or use it in a `with` block.

    `hold_s` is how long it waits for another process that measures on the same hardware; after a lost connection it waits up to
    `patience_s` for the device to come back.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        transport: Transport,
        system: System,
        runner: Runner,
        gate: Gate,
        *,
        state: DeviceState | None = None,
        simulated: bool = False,
        hold_s: float = 600.0,
        patience_s: float = 60.0,
        clock: Clock = time,
    ) -> None:
        self._name, self._kind, self._simulated = name, kind, simulated
        self.transport, self.system, self.runner = transport, system, runner
        self.state = state or DeviceState(transport.address)
        self._gate, self._hold_s, self._patience_s, self.clock = gate, hold_s, patience_s, clock

    @cached_property
    def info(self) -> DeviceInfo:
        facts = self.system.facts() | self.runner.facts()
        return DeviceInfo(self._name, self._kind, facts, self._simulated, self.runner.delegates())

    @property
    def address(self) -> str:
        return self.transport.address

    def default_bench(self, delegate: str | None = None, threads: int = 1) -> Bench:
        chosen = delegate or self.runner.delegates()[0]
        bench = Bench(self.runner.runtime, chosen, threads, affinity=self.system.cpus()[-threads:])
        self.check(bench)
        return bench

    def check(self, bench: Bench) -> None:
        """Raises DeviceError where this device can't measure under `bench`."""
        here = f"on device {self._name!r}"
        if bench.runtime != self.runner.runtime:
            raise DeviceError(f"runtime {bench.runtime!r} isn't available {here}; use {self.runner.runtime!r}")
        delegates = self.runner.delegates()
        if bench.delegate not in delegates:
            raise DeviceError(f"delegate {bench.delegate!r} isn't available {here}; available: {', '.join(delegates)}")
        cpus = self.system.cpus()
        absent = sorted(set(bench.affinity) - set(cpus))
        if absent:
            raise DeviceError(f"CPU {absent[0]} isn't available {here}; usable: {', '.join(map(str, sorted(cpus)))}")
        if not 1 <= bench.threads <= len(cpus):
            raise DeviceError(f"{bench.threads} threads don't fit device {self._name!r}, which has {len(cpus)} CPUs")

    def health(self) -> Health:
        """Never raises: a device that can't be reached is not ready, and says why."""
        reasons = [f"in quarantine: {self.state.quarantine}"] if self.state.quarantine else []
        try:
            condition = self.system.condition()
            reasons += self.system.trouble(condition)
        except DeviceError as e:
            condition = {}
            reasons.append(str(e))
        return Health(not reasons, condition, tuple(reasons))

    def measure(self, artifacts: Sequence[Artifact], bench: Bench, reference: Artifact | None = None) -> list[Measurement]:
        self.check(bench)
        watch = ConditionWatch(self.system, self._gate, self.clock)
        with self._held(), self.system.quiet():
            watch.settle()
            before = {f"{name}_before": value for name, value in watch.condition.items()}
            session = _PatientSession(self.runner, bench, self.transport, self._patience_s, self.clock)
            try:
                found = measure_rounds(session, artifacts, bench, self.info.fingerprint, reference, before, watch)
            finally:
                session.close()
            facts = self._condition_after()
        facts |= {"trouble": "; ".join(watch.troubles)} if watch.troubles else {}
        facts |= {"waited_s": f"{watch.waited_s:.0f}"} if watch.waited_s else {}
        told = [
            replace(m, delegation=session.delegation(artifact), context={**m.context, **facts})
            for artifact, m in zip(artifacts, found, strict=True)
        ]
        self._judge(told, bench)
        return told

    def profile(self, artifact: Artifact, bench: Bench) -> list[OpTime]:
        self.check(bench)
        with self._held(), self.system.quiet():
            return self.runner.profile(artifact, bench)

    def close(self) -> None:
        self.runner.close()
        self.transport.close()

    def __enter__(self) -> ComposedDevice:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def _held(self) -> Iterator[None]:
        if self.state.quarantine:
            remedy = f"mend it, then: paceline devices doctor {self._name} --release"
            raise TransientDeviceError(f"device {self._name!r} is in quarantine: {self.state.quarantine}; {remedy}")
        with self.state.held(self._hold_s):
            yield

    def _condition_after(self) -> dict[str, str]:
        try:
            return {f"{name}_after": value for name, value in self.system.condition().items()}
        except TransientDeviceError as e:
            return {"condition_after": str(e)}

    def _judge(self, found: list[Measurement], bench: Bench) -> None:
        """A device that is lost, or that gives no stable figure, too often in a row goes into quarantine."""
        limit = self._gate.quarantine_after
        figures = [m for m in found if m.failure is None]
        lost = [m.failure.reason for m in found if isinstance(m.failure, TransientFailure)]
        if lost and not figures:
            self.state.trust(False, lost[-1], limit)
        elif len(figures) > 1 and all(m.unstable(bench.tolerance) for m in figures):
            self.state.trust(False, f"none of {len(figures)} figures was stable", limit)
        elif figures:
            self.state.trust(True)


class _PatientSession:
    """A Session that is opened anew when the device was lost and came back in time. One loss is forgiven per batch."""

    def __init__(self, runner: Runner, bench: Bench, transport: Transport, patience_s: float, clock: Clock) -> None:
        self._runner, self._bench, self._transport = runner, bench, transport
        self._patience_s, self._clock = patience_s, clock
        self._session: Session | None = None
        self.delegations: dict[str, Delegation | None] = {}
        """By sha256 of the artifacts of which a batch was run."""

    def batch(self, artifact: Artifact) -> Batch | Failure:
        if artifact.format not in self._runner.formats:
            return Failure(f"runtime {self._runner.runtime!r} doesn't run .{artifact.format} files")
        try:
            return self._batch(artifact)
        except TransientDeviceError as e:
            self.close()
            self._wait(e)
            return self._batch(artifact)

    def _batch(self, artifact: Artifact) -> Batch | Failure:
        """A figure of a GPU that was the CPU's is none."""
        if self._session is None:
            self._session = self._runner.session(self._bench)
        found = self._session.batch(artifact)
        if isinstance(found, Failure):
            return found
        delegation = self.delegations[artifact.sha256] = self._session.delegation(artifact)
        if self._bench.delegate in CPU_DELEGATES or (delegation is not None and delegation.state != "none"):
            return found
        known = "took no operator: silent fallback to the CPU" if delegation else "doesn't say whether it ran the model"
        return Failure(f"delegate {self._bench.delegate!r} {known}")

    def delegation(self, artifact: Artifact) -> Delegation | None:
        return self.delegations.get(artifact.sha256)

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _wait(self, loss: TransientDeviceError) -> None:
        left = self._patience_s
        while True:
            try:
                self._transport.run("true", 10.0)
                return
            except TransientDeviceError:
                if left <= 0:
                    raise loss from None
                self._clock.sleep(min(1.0, left))
                left -= 1.0
