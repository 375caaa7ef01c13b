"""LiteRT's own operator profiler, through the C API of the library in the ai-edge-litert wheel.

The Python API has no profiler; the C API (litert/c/*.h, ABI-stable by its own word) is in the wheel's libLiteRt.so on
every platform.
"""

from __future__ import annotations

import ctypes as c
import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np

_CPU = 1  # LiteRtHwAcceleratorSet: kLiteRtHwAcceleratorCpu
_NODE_EVENT, _DELEGATE_EVENT = 2, 8  # LiteRtProfiledEventData.event_type: a TFLite node, an operator inside a delegate
_TYPES = {1: np.float32, 2: np.int32, 3: np.uint8, 4: np.int64, 9: np.int8, 10: np.float16}
_WRITE = 1


class _Layout(c.Structure):
    _fields_ = (("rank_and_flags", c.c_uint32), ("dims", c.c_int32 * 8), ("strides", c.c_uint32 * 8))


class _TensorType(c.Structure):
    _fields_ = (("element_type", c.c_int32), ("layout", _Layout))


class _Memory(c.Structure):
    _fields_ = (("max_rss", c.c_size_t), ("allocated", c.c_size_t), ("in_use", c.c_size_t))


class _Event(c.Structure):
    _fields_ = (
        ("tag", c.c_char_p),
        ("event_type", c.c_int),
        ("begin_us", c.c_uint64),
        ("elapsed_us", c.c_uint64),
        ("memory_before", _Memory),
        ("memory_after", _Memory),
        ("metadata_1", c.c_uint64),
        ("metadata_2", c.c_uint64),
        ("source", c.c_int),
    )


def profile(path: Path, delegate: str, threads: int, runs: int) -> list[tuple[str, float, bool]]:
    """Per executed operator, in execution order: name, mean milliseconds over `runs` runs, whether a delegate ran it.

    The clock has microseconds: use some hundred runs. Raises RuntimeError with LiteRT's status where a call fails.
    """
    model = _Model(path, delegate, threads)
    for _ in range(max(10, runs // 10)):
        model.run()
    totals: dict[int, float] = {}
    names: list[tuple[str, bool]] = []
    for _ in range(runs):
        model.call("LiteRtResetProfiler", model.profiler)
        model.call("LiteRtStartProfiler", model.profiler)
        model.run()
        model.call("LiteRtStopProfiler", model.profiler)
        events = [e for e in model.events() if e.event_type == _DELEGATE_EVENT or _is_operator(e)]
        if not names:
            names = [((e.tag or b"?").decode(errors="replace"), e.event_type == _DELEGATE_EVENT) for e in events]
        for i, event in enumerate(events[: len(names)]):
            totals[i] = totals.get(i, 0.0) + event.elapsed_us
    return [(name, totals.get(i, 0.0) / runs / 1e3, delegated) for i, (name, delegated) in enumerate(names)]


def _is_operator(event: _Event) -> bool:
    return bool(event.event_type == _NODE_EVENT and b"Delegate" not in (event.tag or b""))


class _Model:
    """A compiled model with random inputs and a profiler."""

    def __init__(self, path: Path, delegate: str, threads: int) -> None:
        spec = importlib.util.find_spec("ai_edge_litert")
        if spec is None or spec.origin is None:
            raise RuntimeError("ai-edge-litert isn't installed: pip install ai-edge-litert")
        self._library = c.CDLL(str(Path(spec.origin).parent / "libLiteRt.so"))
        self._kept: list[Any] = []
        self._environment, self._model, self._compiled = c.c_void_p(), c.c_void_p(), c.c_void_p()
        self.profiler = c.c_void_p()
        options = c.c_void_p()
        self.call("LiteRtCreateEnvironment", 0, None, c.byref(self._environment))
        self.call("LiteRtCreateModelFromFile", self._environment, os.fspath(path).encode(), c.byref(self._model))
        self.call("LiteRtCreateOptions", c.byref(options))
        self.call("LiteRtSetOptionsHardwareAccelerators", options, c.c_int(_CPU))
        kernels = 'kernel_mode = "builtin"\n' if delegate == "builtin" else ""
        self.call("LiteRtAddOpaqueOptions", options, self._opaque("runtime_options_string", "enable_profiling = true\n"))
        self.call("LiteRtAddOpaqueOptions", options, self._opaque("xnnpack", f"num_threads = {threads}\n{kernels}"))
        self.call("LiteRtCreateCompiledModel", self._environment, self._model, options, c.byref(self._compiled))
        self.call("LiteRtCompiledModelGetProfiler", self._compiled, c.byref(self.profiler))
        signature = c.c_void_p()
        self.call("LiteRtGetModelSignature", self._model, c.c_size_t(0), c.byref(signature))
        self._inputs = self._buffers(signature, "Input")
        self._outputs = self._buffers(signature, "Output")

    def call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            raise RuntimeError(f"{function} failed with LiteRT status {status}")

    def run(self) -> None:
        inputs, outputs = self._inputs, self._outputs
        self.call(
            "LiteRtRunCompiledModel",
            self._compiled,
            c.c_size_t(0),
            c.c_size_t(len(inputs)),
            inputs,
            c.c_size_t(len(outputs)),
            outputs,
        )

    def events(self) -> list[_Event]:
        count = c.c_int()
        self.call("LiteRtGetNumProfilerEvents", self.profiler, c.byref(count))
        events = (_Event * max(count.value, 1))()
        if count.value:
            self.call("LiteRtGetProfilerEvents", self.profiler, count, events)
        return list(events)[: count.value]

    def _opaque(self, identifier: str, toml: str) -> c.c_void_p:
        payload, name = c.create_string_buffer(toml.encode()), c.create_string_buffer(identifier.encode())
        destroy = c.CFUNCTYPE(None, c.c_void_p)(lambda pointer: None)
        self._kept += [payload, name, destroy]  # LiteRT keeps pointers to them
        option = c.c_void_p()
        self.call("LiteRtCreateOpaqueOptions", name, c.cast(payload, c.c_void_p), destroy, c.byref(option))
        return option

    def _buffers(self, signature: c.c_void_p, kind: str) -> Any:
        count = c.c_size_t()
        self.call(f"LiteRtGetNumSignature{kind}s", signature, c.byref(count))
        buffers = (c.c_void_p * count.value)()
        rng = np.random.default_rng(0)
        for i in range(count.value):
            tensor, kind_of, needs, buffer = c.c_void_p(), _TensorType(), c.c_void_p(), c.c_void_p()
            self.call(f"LiteRtGetSignature{kind}TensorByIndex", signature, c.c_size_t(i), c.byref(tensor))
            self.call("LiteRtGetRankedTensorType", tensor, c.byref(kind_of))
            self.call(
                f"LiteRtGetCompiledModel{kind}BufferRequirements", self._compiled, c.c_size_t(0), c.c_size_t(i), c.byref(needs)
            )
            self.call(
                "LiteRtCreateManagedTensorBufferFromRequirements", self._environment, c.byref(kind_of), needs, c.byref(buffer)
            )
            if kind == "Input":
                self._fill(buffer, kind_of, rng)
            buffers[i] = buffer.value
        return buffers

    def _fill(self, buffer: c.c_void_p, kind: _TensorType, rng: np.random.Generator) -> None:
        rank = kind.layout.rank_and_flags & 127
        values = rng.standard_normal(tuple(kind.layout.dims[:rank])).astype(_TYPES[kind.element_type])
        address = c.c_void_p()
        self.call("LiteRtLockTensorBuffer", buffer, c.byref(address), c.c_int(_WRITE))
        c.memmove(address, values.ctypes.data, values.nbytes)
        self.call("LiteRtUnlockTensorBuffer", buffer)
