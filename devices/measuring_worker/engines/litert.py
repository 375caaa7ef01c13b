"""LiteRT (ai-edge-litert): XNNPACK, its built-in kernels, and the GPU through its WebGPU accelerator."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from importlib.metadata import version
from typing import Any

from paceline.devices.measuring_worker.engine import (
    Array,
    Model,
    OperatorTimes,
    Printed,
    Settings,
    UnavailableError,
    refuse_options,
)
from paceline.devices.measuring_worker.engines.interpreter import DELEGATES, InterpreterModel
from paceline.devices.measuring_worker.engines.litert_c import CPU, GPU, CompiledModel, Library
from paceline.devices.measuring_worker.engines.litert_profiler import profile
from paceline.devices.measuring_worker.engines.vulkan import gpus

_ACCELERATORS = ("libLiteRtGpuAccelerator.so", "libLiteRtWebGpuAccelerator.so")
_PRECISIONS = {"fp16": 1, "fp32": 2}  # gpu_options: precision
_ADAPTERS = "No adapters found"
_TAKEN = re.compile(
    r"(?:(\d+)|No) operations will run on the GPU, and (?:the remaining|all) (\d+) operations will run on the CPU"
)
_REFUSED = "operations are not supported by GPU delegate:"
_REASON = re.compile(r"[A-Z][A-Z0-9_]*(?: \S+)?: .+")


class Engine:
    """See `engine.Engine`."""

    formats = ("tflite",)

    def __init__(self) -> None:
        self._library = import_module("ai_edge_litert.interpreter")
        self.version = version("ai-edge-litert")

    @cached_property
    def _c(self) -> Library:
        return Library()

    @cached_property
    def _gpus(self) -> list[str]:
        has_accelerator = any((self._c.folder / name).exists() for name in _ACCELERATORS)
        return gpus() if has_accelerator else []

    def facts(self) -> dict[str, str]:
        return {"gpu": "; ".join(self._gpus)} if self._gpus else {}

    def delegates(self) -> dict[str, tuple[str, ...]]:
        return {**DELEGATES, "gpu": ("fp32", "fp16")} if self._gpus else DELEGATES

    def load(self, path: str, settings: Settings) -> Model:
        refuse_options("LiteRT", settings)
        if settings.delegate == "gpu":
            operators = len(self._library.Interpreter(model_path=path)._get_ops_details())
            return _GpuModel(self._c, path, settings, operators)
        return InterpreterModel(self._library, path, settings)

    def profile(self, path: str, settings: Settings, runs: int) -> OperatorTimes:
        if settings.delegate == "gpu":
            raise UnavailableError("LiteRT's WebGPU accelerator has no operator profiler; measure single operators instead")
        return profile(self._c, path, settings, runs)


class _GpuModel:
    """Work is only submitted by a run: an invoke ends when the outputs have been read."""

    def __init__(self, library: Library, path: str, settings: Settings, operators: int) -> None:
        options = {
            "gpu_options": f"precision = {_PRECISIONS[settings.precision]}\nbenchmark_mode = true\n",
            "xnnpack": f"num_threads = {settings.threads}\n",
        }
        printed = Printed()
        try:
            with printed:
                self._model = CompiledModel(library, path, GPU | CPU, options)
                self.invoke()
        except RuntimeError as e:
            raise _explained(e, printed.lines) from e
        self.delegation = gpu_delegation(printed.lines, self._model.fully_accelerated(), operators)

    def invoke(self) -> list[Array]:
        self._model.run()
        return self._model.outputs()

    def outputs(self) -> list[Array]:
        return self._model.outputs()


def _explained(error: RuntimeError, printed: Sequence[str]) -> Exception:
    """The reason stands in the log alone."""
    if any(_ADAPTERS in line for line in printed):
        return UnavailableError(
            "LiteRT found no GPU: its WebGPU accelerator needs a Vulkan driver (apt install mesa-vulkan-drivers, or the maker's) "
            "and libvulkan1; `vulkaninfo --summary` shows what there is"
        )
    errors = [line.partition("ERROR: ")[2] for line in printed if "ERROR: " in line]
    return RuntimeError(": ".join([str(error), *errors[:1]]))


def gpu_delegation(printed: Sequence[str], fully: bool, operators: int) -> dict[str, Any]:
    """`printed` while it compiled; `fully` by the C API's word; `operators` in the model. Each kind that was left has its reason.

    The GPU takes one partition, the largest: operators may be left that it could run.
    """
    if fully:
        return {"partitions": 1, "delegated": operators, "left": []}
    counts = [found for line in printed if (found := _TAKEN.search(line))]
    if not counts:
        return {"partitions": 1, "delegated": None, "left": None}
    taken = sum(int(found[1] or 0) for found in counts)
    reasons: dict[str, None] = {}
    inside = False
    for line in printed:
        if line.endswith(_REFUSED):
            inside = True
        elif inside := inside and _REASON.fullmatch(line) is not None:
            reasons[line] = None
    left = list(reasons) or [f"{sum(int(found[2]) for found in counts)} operators"]
    return {"partitions": int(taken > 0), "delegated": taken, "left": left}
