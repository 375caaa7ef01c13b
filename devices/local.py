"""This machine as a device: LiteRT with the XNNPACK delegate or its built-in kernels, in a worker process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from paceline.devices import host
from paceline.devices.device import Health
from paceline.devices.rounds import Batch, measure_rounds
from paceline.devices.worker_process import WorkerEndedError, WorkerProcess
from paceline.errors import DeviceError
from paceline.measurement import Artifact, Bench, DeviceInfo, Failure, Measurement, OpTime, TransientFailure

DELEGATES = ("xnnpack", "builtin")
_MAX_BATCH_MS = 400.0
_BUSY_LOAD = 0.5


class LocalDevice:
    """The CPU of this machine. One worker process serves one Bench; close it, or use the device in a `with` block."""

    def __init__(self, name: str = "local") -> None:
        self._info = DeviceInfo(name, "local", host.facts())
        self._session: _WorkerSession | None = None

    @property
    def info(self) -> DeviceInfo:
        return self._info

    def default_bench(self, delegate: str = "xnnpack", threads: int = 1) -> Bench:
        """A Bench pinned to the last `threads` CPUs, away from CPU 0 where most interrupts land."""
        bench = Bench(delegate=delegate, threads=threads, affinity=host.cpus()[-threads:])
        self.check(bench)
        return bench

    def check(self, bench: Bench) -> None:
        """Raises DeviceError where this machine can't measure under `bench`."""
        if bench.runtime != "litert":
            raise DeviceError(f"runtime {bench.runtime!r} isn't available on device {self.info.name!r}; use 'litert'")
        if bench.delegate not in DELEGATES:
            raise DeviceError(
                f"delegate {bench.delegate!r} isn't available on device {self.info.name!r}; available: {', '.join(DELEGATES)}"
            )
        absent = sorted(set(bench.affinity) - set(host.cpus()))
        if absent:
            allowed = ", ".join(map(str, host.cpus()))
            raise DeviceError(f"CPU {absent[0]} isn't available on device {self.info.name!r}; this process may use {allowed}")
        if not 1 <= bench.threads <= len(host.cpus()):
            raise DeviceError(f"{bench.threads} threads don't fit device {self.info.name!r}, which has {len(host.cpus())} CPUs")
        if bench.precision != "fp32":
            raise DeviceError(
                f"precision {bench.precision!r} isn't available on device {self.info.name!r}; it runs models as they are"
            )

    def health(self) -> Health:
        """Ready when nothing else keeps the machine busy."""
        facts = host.condition()
        busy = float(facts["load"]) > _BUSY_LOAD * len(host.cpus())
        advice = ("other programs keep this machine busy: stop them, or expect wide intervals",) if busy else ()
        return Health(not busy, facts, advice)

    def measure(self, artifacts: Sequence[Artifact], bench: Bench, reference: Artifact | None = None) -> list[Measurement]:
        self.check(bench)
        session = self._session_for(bench)
        before = {f"{name}_before": value for name, value in host.condition().items()}
        found = measure_rounds(session, artifacts, bench, self.info.fingerprint, reference, before)
        delegations = session.delegations
        session.unload()
        return [
            replace(m, context={**m.context, **delegations.get(str(a.path), {})}) for a, m in zip(artifacts, found, strict=True)
        ]

    def profile(self, artifact: Artifact, bench: Bench, runs: int = 200) -> list[OpTime]:
        self.check(bench)
        session = self._session_for(bench)
        answer = session.ask("profile", path=str(artifact.path), delegate=bench.delegate, threads=bench.threads, runs=runs)
        if isinstance(answer, Failure):
            raise DeviceError(f"no operator profile of {artifact.path} on device {self.info.name!r}: {answer.reason}")
        return [OpTime(name, ms, delegated) for name, ms, delegated in answer["operators"]]

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def __enter__(self) -> LocalDevice:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _session_for(self, bench: Bench) -> _WorkerSession:
        if self._session is None or self._session.bench != bench:
            self.close()
            self._session = _WorkerSession(bench)
        return self._session


class _WorkerSession:
    """A Session (paceline.devices.rounds) on a worker process that is started again after a crash."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._worker: WorkerProcess | None = None
        self.delegations: dict[str, dict[str, str]] = {}
        """By path of the loaded models: in how many partitions the delegate took how many operators, and which it left."""

    def batch(self, artifact: Artifact) -> Batch | Failure:
        path = str(artifact.path)
        if path not in self.delegations:
            failure = self._load(path)
            if failure is not None:
                return failure
        answer = self.ask(
            "batch",
            path=path,
            warmup_ms=self.bench.warmup_ms,
            batch_ms=self.bench.batch_ms,
            min_invokes=self.bench.min_invokes,
            max_ms=_MAX_BATCH_MS,
        )
        if isinstance(answer, Failure):
            return answer
        return Batch(tuple(ns / 1e6 for ns in answer["samples_ns"]), answer["cpu_share"])

    def _load(self, path: str) -> Failure | None:
        answer = self.ask("load", path=path, delegate=self.bench.delegate, threads=self.bench.threads)
        if isinstance(answer, Failure):
            return answer
        self.delegations[path] = {
            "partitions": str(answer["partitions"]),
            "delegated": str(answer["delegated"]),
            "left": ", ".join(answer["left"]),
        }
        return None

    def ask(self, do: str, **arguments: object) -> dict[str, Any] | Failure:
        if self._worker is None:
            self._worker = WorkerProcess(self.bench.affinity)
        try:
            answer = self._worker.request(do, self.bench.timeout_s, **arguments)
        except WorkerEndedError as e:
            self.close()
            return TransientFailure(str(e))
        return Failure(answer["error"]) if "error" in answer else answer

    def unload(self) -> None:
        if self._worker is not None and self.delegations:
            self.ask("unload")
        self.delegations = {}

    def close(self) -> None:
        self.delegations = {}
        if self._worker is not None:
            self._worker.close()
            self._worker = None
