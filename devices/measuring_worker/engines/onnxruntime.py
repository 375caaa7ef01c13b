"""ONNX Runtime with any of its execution providers."""

from __future__ import annotations

import json
import os
import tempfile
from functools import partial
from importlib import import_module
from itertools import groupby
from typing import Any

import numpy as np

from paceline.devices.measuring_worker.engine import (
    Array,
    Model,
    OperatorTimes,
    Settings,
    UnavailableError,
    random_input,
    refuse_options,
)

_SUFFIX = "ExecutionProvider"
_TYPES = {"float": "float32", "double": "float64", "float16": "float16", "bool": "bool"}


class Engine:
    """See `engine.Engine`. A delegate is an execution provider without its suffix, in lower case: "cpu", "cuda", "qnn"."""

    formats = ("onnx",)

    def __init__(self) -> None:
        self._library: Any = import_module("onnxruntime")
        self.version: str = self._library.__version__
        self._providers = {name[: -len(_SUFFIX)].lower(): name for name in self._library.get_available_providers()}

    def facts(self) -> dict[str, str]:
        return {}

    def delegates(self) -> dict[str, tuple[str, ...]]:
        return dict.fromkeys(sorted(self._providers, key=lambda name: name != "cpu"), ("fp32",))

    def load(self, path: str, settings: Settings) -> Model:
        return _OnnxModel(self._library, self._session(path, settings), self._delegation(path, settings))

    def _delegation(self, path: str, settings: Settings) -> dict[str, Any]:
        """ONNX Runtime tells who runs a node only in a profile. A subgraph that a provider compiled is one node there."""
        if settings.delegate == "cpu":
            return {"partitions": 1, "delegated": None, "left": []}
        wanted = self._providers[settings.delegate]
        nodes = [(e["args"]["op_name"], e["args"]["provider"] == wanted) for e in self._events(path, settings, 1)]
        partitions = [taken for taken, _ in groupby(nodes, key=lambda node: node[1]) if taken]
        left = [name for name, taken in nodes if not taken]
        return {"partitions": len(partitions), "delegated": len(nodes) - len(left), "left": left}

    def profile(self, path: str, settings: Settings, runs: int) -> OperatorTimes:
        """Durations are in whole microseconds: use some hundred runs. The first runs of each node warm up and don't count."""
        warmup = max(10, runs // 10)
        times: dict[str, list[float]] = {}
        nodes: dict[str, tuple[str, bool]] = {}
        for event in self._events(path, settings, warmup + runs):
            name, provider = event["args"]["op_name"], event["args"]["provider"]
            nodes[event["name"]] = name, provider != "CPUExecutionProvider"
            times.setdefault(event["name"], []).append(event["dur"] / 1e3)
        return [(name, float(np.mean(times[node][warmup:])), delegated) for node, (name, delegated) in nodes.items()]

    def _events(self, path: str, settings: Settings, runs: int) -> list[dict[str, Any]]:
        """One event per run and node, in execution order."""
        with tempfile.TemporaryDirectory() as folder:
            session = self._session(path, settings, os.path.join(folder, "profile"))
            model = _OnnxModel(self._library, session, {})
            for _ in range(runs - 1):  # loading ran it once
                model.invoke()
            with open(session.end_profiling(), encoding="utf-8") as file:
                events: list[dict[str, Any]] = json.load(file)
        return [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]

    def _session(self, path: str, settings: Settings, profile: str = "") -> Any:
        options = self._library.SessionOptions()
        options.intra_op_num_threads = settings.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if profile:
            options.enable_profiling, options.profile_file_prefix = True, profile
        name = self._providers[settings.delegate]
        if settings.delegate == "cpu":
            refuse_options("ONNX Runtime", settings)
        providers = [(name, dict(settings.options))] + [("CPUExecutionProvider", {})] * (settings.delegate != "cpu")
        session = self._library.InferenceSession(path, options, providers=providers)
        if name not in session.get_providers():  # it says so in its log alone
            raise UnavailableError(f"ONNX Runtime can't use its {name} here; its log says why")
        return session


class _OnnxModel:
    """Inputs and outputs are bound: outputs of any provider are on the CPU when `invoke` returns."""

    def __init__(self, library: Any, session: Any, delegation: dict[str, Any]) -> None:
        self.delegation = delegation
        self._binding = session.io_binding()
        rng = np.random.default_rng(0)
        for given in session.get_inputs():
            kind = given.type.removeprefix("tensor(").removesuffix(")")
            shape = [side if isinstance(side, int) else 1 for side in given.shape]
            value = random_input(shape, np.dtype(_TYPES.get(kind, kind)), rng)
            self._binding.bind_ortvalue_input(given.name, library.OrtValue.ortvalue_from_numpy(value))
        for name in session.get_outputs():
            self._binding.bind_output(name.name)
        self.invoke = partial(session.run_with_iobinding, self._binding)
        self.invoke()

    def outputs(self) -> list[Array]:
        found: list[Array] = self._binding.copy_outputs_to_cpu()
        return found
