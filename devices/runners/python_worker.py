"""LiteRT, ONNX Runtime and tflite-runtime, in a Python worker on whatever host a transport reaches."""

from __future__ import annotations

import base64
import shlex
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from paceline.devices.runners.runner import Batch
from paceline.devices.runners.worker_process import WorkerEndedError, WorkerProcess, zipapp
from paceline.devices.transports.transport import Transport
from paceline.errors import DeviceError
from paceline.measurement import Artifact, Bench, Delegation, Failure, OpTime, TransientFailure

Array = np.ndarray[Any, Any]
ENGINES = ("litert", "onnxruntime", "tflite_runtime")
_UNLOAD_S = 10.0


class PythonWorkerRunner:
    """A Runner (paceline.devices.runners.runner) of the runtime `engine`: "litert", "onnxruntime", "tflite_runtime", or a file.

    Such a file is a Python module with a class `Engine` (paceline.devices.measuring_worker.engine); its name names the runtime.
    `python` is the device's interpreter that has the engine's library; `environment` is added to its variables, and to the facts.
    """

    def __init__(
        self,
        transport: Transport,
        engine: str | Path = "litert",
        python: str = "python3",
        environment: Mapping[str, str] | None = None,
        *,
        profile_runs: int = 200,
        start_timeout_s: float = 120.0,
    ) -> None:
        if isinstance(engine, str) and engine not in ENGINES:
            raise DeviceError(f"no engine {engine!r}; there are {', '.join(ENGINES)}, or a Path to a module with a class Engine")
        self._transport, self._engine, self._python = transport, engine, python
        self._environment = dict(environment or {})
        self._profile_runs, self._start_timeout_s = profile_runs, start_timeout_s
        self._idle: dict[tuple[int, ...], WorkerProcess] = {}
        """A worker by its affinity, for the next session."""

    @property
    def runtime(self) -> str:
        return self._engine if isinstance(self._engine, str) else self._engine.stem

    @property
    def formats(self) -> tuple[str, ...]:
        return tuple(self._hello["formats"])

    def facts(self) -> dict[str, str]:
        """The runtime's version and architecture (an interpreter may have another one than its host); GPUs; the environment."""
        environment = {f"env {name}": value for name, value in self._environment.items()}
        runtime = {self.runtime: self._hello["version"], "architecture": self._hello["machine"]}
        return {**runtime, **self._hello["facts"], **environment}

    def delegates(self) -> tuple[str, ...]:
        return tuple(self._hello["delegates"])

    def session(self, bench: Bench) -> WorkerSession:
        self._check(bench)
        return WorkerSession(self, self._transport, bench)

    def profile(self, artifact: Artifact, bench: Bench) -> list[OpTime]:
        session = self.session(bench)
        try:
            operators = session.profile(artifact, self._profile_runs)
        finally:
            session.close()
        if isinstance(operators, Failure):
            raise DeviceError(f"no operator profile of {artifact.path} by {self.runtime}: {operators.reason}")
        return operators

    def close(self) -> None:
        while self._idle:
            self._idle.popitem()[1].close()

    def worker(self, affinity: tuple[int, ...]) -> WorkerProcess:
        """A worker for one session, which gives it back. Raises DeviceError where none can start."""
        idle = self._idle.pop(affinity, None)
        if idle is not None and idle.alive:
            return idle
        if idle is not None:  # its link was cut, or someone killed it
            idle.close()
        self.close()  # of another affinity: needed no more, but would hold memory
        variables = [f"{name}={value}" for name, value in self._environment.items()]
        program = ["env", *variables, self._python, self._pushed(), self.runtime, ",".join(map(str, affinity))]
        try:
            worker = WorkerProcess(self._transport.start("exec " + shlex.join(program)), self._start_timeout_s)
        except WorkerEndedError as e:
            self.raise_where_lost()
            raise DeviceError(f"the measuring worker doesn't start on {self._transport.address}: {e}") from None
        if "unavailable" in worker.hello:
            worker.close()
            raise DeviceError(f"{self._transport.address}: {worker.hello['unavailable']}")
        return worker

    def give_back(self, worker: WorkerProcess, affinity: tuple[int, ...]) -> None:
        if affinity in self._idle:  # two sessions at once
            worker.close()
        else:
            self._idle[affinity] = worker

    def raise_where_lost(self) -> None:
        """After a worker ended: TransientDeviceError where it is the link that was lost."""
        self._transport.run("true", self._start_timeout_s)

    @cached_property
    def _hello(self) -> dict[str, Any]:
        worker = self.worker(())
        self.give_back(worker, ())
        return worker.hello

    def _pushed(self) -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "measuring_worker.pyz"
            path.write_bytes(zipapp(self._engine if isinstance(self._engine, Path) else None))
            return self._transport.push(path)

    def _check(self, bench: Bench) -> None:
        here = f"with runtime {self.runtime!r} on {self._transport.address}"
        if bench.runtime != self.runtime:
            raise DeviceError(f"runtime {bench.runtime!r} isn't available on {self._transport.address}; use {self.runtime!r}")
        if bench.delegate not in self.delegates():
            raise DeviceError(f"delegate {bench.delegate!r} isn't available {here}; available: {', '.join(self.delegates())}")
        precisions = self._hello["delegates"][bench.delegate]
        if bench.precision not in precisions:
            choices = ", ".join(precisions) + (" (models run as they are)" if precisions == ["fp32"] else "")
            raise DeviceError(f"precision {bench.precision!r} isn't available for {bench.delegate} {here}; available: {choices}")
        if bench.threads < 1:
            raise DeviceError(f"{bench.threads} threads can't run a model; use 1 or more")


class WorkerSession:
    """A Session (paceline.devices.runners.runner) on a worker that is started again after a crash."""

    def __init__(self, runner: PythonWorkerRunner, transport: Transport, bench: Bench) -> None:
        self._runner, self._transport, self._bench = runner, transport, bench
        self._worker: WorkerProcess | None = None
        self._loaded: dict[str, str] = {}
        """Paths on the device, by the artifact's hash: what the worker holds now."""
        self._delegations: dict[str, Delegation] = {}

    def batch(self, artifact: Artifact) -> Batch | Failure:
        path = self._load(artifact)
        if isinstance(path, Failure):
            return path
        limits = ("warmup_ms", "batch_ms", "min_invokes", "max_batch_ms", "max_invokes")
        answer = self._ask("batch", path=path, **{name: getattr(self._bench, name) for name in limits})
        if isinstance(answer, Failure):
            return answer
        return Batch(tuple(ns / 1e6 for ns in answer["samples_ns"]), answer["cpu_share"])

    def delegation(self, artifact: Artifact) -> Delegation | None:
        return self._delegations.get(artifact.sha256)

    def outputs(self, artifact: Artifact) -> list[Array] | Failure:
        """What the model computes on the device, from inputs that are the same for every delegate of a runtime."""
        path = self._load(artifact)
        answer = path if isinstance(path, Failure) else self._ask("outputs", path=path)
        if isinstance(answer, Failure):
            return answer
        return [np.frombuffer(base64.b64decode(data), dtype).reshape(shape) for dtype, shape, data in answer["outputs"]]

    def profile(self, artifact: Artifact, runs: int) -> list[OpTime] | Failure:
        answer = self._ask("profile", path=self._transport.push(artifact.path), runs=runs, **self._settings())
        if isinstance(answer, Failure):
            return answer
        return [OpTime(name, ms, delegated) for name, ms, delegated in answer["operators"]]

    def close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        try:
            worker.request("unload", _UNLOAD_S)
        except WorkerEndedError:
            return
        self._loaded.clear()
        self._runner.give_back(worker, self._bench.affinity)

    def _settings(self) -> dict[str, Any]:
        bench = self._bench
        return {
            "delegate": bench.delegate,
            "threads": bench.threads,
            "precision": bench.precision,
            "options": dict(bench.options),
        }

    def _load(self, artifact: Artifact) -> str | Failure:
        if artifact.sha256 in self._loaded:
            return self._loaded[artifact.sha256]
        if artifact.format not in self._runner.formats:
            return Failure(f"{self._runner.runtime} runs {', '.join(self._runner.formats)} files, not {artifact.format}")
        remote = self._transport.push(artifact.path)
        answer = self._ask("load", path=remote, **self._settings())
        if isinstance(answer, Failure):
            return answer
        left = None if answer["left"] is None else tuple(answer["left"])
        self._delegations[artifact.sha256] = Delegation(self._bench.delegate, answer["partitions"], answer["delegated"], left)
        self._loaded[artifact.sha256] = remote
        return remote

    def _ask(self, do: str, **arguments: object) -> dict[str, Any] | Failure:
        if self._worker is None:
            self._worker = self._runner.worker(self._bench.affinity)
        try:
            answer = self._worker.request(do, self._bench.timeout_s, **arguments)
        except WorkerEndedError as e:
            self._worker = None
            self._loaded.clear()
            self._runner.raise_where_lost()  # not the model's fault
            return TransientFailure(str(e))
        if "unavailable" in answer:
            raise DeviceError(f"{self._transport.address}: {answer['unavailable']}")
        return Failure(answer["error"]) if "error" in answer else answer
