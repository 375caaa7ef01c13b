"""The loaded models, and the measuring loop."""

from __future__ import annotations

import base64
import gc
import os
import time
from typing import Any

import numpy as np

from paceline.devices.measuring_worker.engine import Engine, Model, Settings

_FEWEST_INVOKES = 10


class Measuring:
    """What the worker can be asked to do: its public methods. Models are loaded once, by path, under their first settings."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loaded: dict[str, Model] = {}

    def hello(self) -> dict[str, Any]:
        engine = self._engine
        delegates = {name: list(precisions) for name, precisions in engine.delegates().items()}
        return {"version": engine.version, "formats": list(engine.formats), "delegates": delegates, "facts": engine.facts()}

    def load(self, path: str, **settings: Any) -> dict[str, Any]:
        """Loads and runs once. Answers which operators the delegate took, in how many partitions."""
        self._loaded[path] = self._engine.load(path, Settings(**settings))
        return self._loaded[path].delegation

    def unload(self) -> dict[str, Any]:
        self._loaded.clear()
        gc.collect()
        return {}

    def batch(
        self, path: str, warmup_ms: float, batch_ms: float, min_invokes: int, max_batch_ms: float, max_invokes: int
    ) -> dict[str, Any]:
        """Warms up, then times back-to-back invokes: `min_invokes` or more, for about `batch_ms`, at most `max_batch_ms`."""
        invoke = self._loaded[path].invoke
        now = time.perf_counter_ns
        fastest, start = 1 << 62, now()
        while now() - start < warmup_ms * 1e6 or fastest == 1 << 62:
            before = now()
            invoke()
            fastest = min(fastest, now() - before)
        wanted = max(min_invokes, round(batch_ms * 1e6 / fastest))
        allowed = max(_FEWEST_INVOKES, round(max_batch_ms * 1e6 / fastest))
        invokes = min(wanted, allowed, max_invokes)
        stamps = [0] * (invokes + 1)
        gc.disable()
        cpu = time.thread_time_ns()
        stamps[0] = now()
        for i in range(1, invokes + 1):
            invoke()
            stamps[i] = now()
        cpu = time.thread_time_ns() - cpu
        gc.enable()
        samples = np.diff(np.asarray(stamps, np.int64))
        return {"samples_ns": samples.tolist(), "cpu_share": cpu / float(stamps[-1] - stamps[0])}

    def outputs(self, path: str) -> dict[str, Any]:
        """What the model computes from its seeded random inputs."""
        model = self._loaded[path]
        model.invoke()
        arrays = [np.ascontiguousarray(a) for a in model.outputs()]
        return {"outputs": [[a.dtype.name, list(a.shape), base64.b64encode(a.tobytes()).decode()] for a in arrays]}

    def profile(self, path: str, runs: int, **settings: Any) -> dict[str, Any]:
        return {"operators": self._engine.profile(path, Settings(**settings), runs)}

    def ping(self) -> dict[str, Any]:
        return {"pid": os.getpid()}
