"""LiteRT's C API, through the library in the ai-edge-litert wheel: what the Python API lacks.

That is the operator profiler, and whether an accelerator other than the CPU runs a whole model. The C API (litert/c/*.h) is
ABI-stable by its own word, and in the wheel's libLiteRt.so on every platform.
"""

from __future__ import annotations

import ctypes as c
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paceline.devices.measuring_worker.engine import Array, random_input

CPU, GPU = 1, 2  # LiteRtHwAcceleratorSet
_RUNTIME_FOLDER, _TEXT = 22, 8  # LiteRtEnvOptionTag: where accelerators are looked for; LiteRtAnyType: a string
_TYPES = {
    1: np.float32, 2: np.int32, 3: np.uint8, 4: np.int64, 6: np.bool_, 7: np.int16, 9: np.int8, 10: np.float16, 11: np.float64,
}  # fmt: skip
_READ, _WRITE = 0, 1


class _Value(c.Structure):
    _fields_ = (("type", c.c_int), ("text", c.c_char_p))


class _EnvironmentOption(c.Structure):
    _fields_ = (("tag", c.c_int), ("value", _Value))


class _Layout(c.Structure):
    _fields_ = (("rank_and_flags", c.c_uint32), ("dims", c.c_int32 * 8), ("strides", c.c_uint32 * 8))


class _TensorType(c.Structure):
    _fields_ = (("element_type", c.c_int32), ("layout", _Layout))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.layout.dims[: self.layout.rank_and_flags & 127])


class _Memory(c.Structure):
    _fields_ = (("max_rss", c.c_size_t), ("allocated", c.c_size_t), ("in_use", c.c_size_t))


class Event(c.Structure):
    """LiteRtProfiledEventData."""

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


class Library:
    """The library with one LiteRT environment, which finds the wheel's accelerators."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("ai_edge_litert")
        if spec is None or spec.origin is None:
            raise ImportError("No module named 'ai_edge_litert'")
        self.folder = Path(spec.origin).parent
        self._functions = c.CDLL(str(self.folder / "libLiteRt.so"))
        self.environment = c.c_void_p()
        found = _EnvironmentOption(_RUNTIME_FOLDER, _Value(_TEXT, os.fsencode(self.folder)))
        self.call("LiteRtCreateEnvironment", c.c_int(1), c.byref(found), c.byref(self.environment))

    def call(self, function: str, *arguments: Any) -> None:
        """Raises RuntimeError with LiteRT's status where it isn't 0."""
        status = getattr(self._functions, function)(*arguments)
        if status:
            raise RuntimeError(f"{function} failed with LiteRT status {status}")

    def release(self, kind: str, handle: Any) -> None:
        if handle:
            getattr(self._functions, f"LiteRtDestroy{kind}")(handle)


class CompiledModel:
    """A model with random inputs. `options` are TOML texts by their identifier: runtime_options_string, xnnpack, gpu_options."""

    def __init__(self, library: Library, path: str, accelerators: int, options: Mapping[str, str]) -> None:
        self.library = library
        self._kept: list[Any] = []
        self._model, self.handle, self._options = c.c_void_p(), c.c_void_p(), c.c_void_p()
        self._inputs: Any = ()
        self._outputs: Any = ()
        self._types: list[_TensorType] = []
        call, environment = library.call, library.environment
        call("LiteRtCreateModelFromFile", environment, os.fsencode(path), c.byref(self._model))
        call("LiteRtCreateOptions", c.byref(self._options))
        call("LiteRtSetOptionsHardwareAccelerators", self._options, c.c_int(accelerators))
        for identifier, toml in options.items():
            call("LiteRtAddOpaqueOptions", self._options, self._opaque(identifier, toml))
        call("LiteRtCreateCompiledModel", environment, self._model, self._options, c.byref(self.handle))
        signature = c.c_void_p()
        call("LiteRtGetModelSignature", self._model, c.c_size_t(0), c.byref(signature))
        self._inputs = self._buffers(signature, "Input")
        self._outputs = self._buffers(signature, "Output")
        self._run = getattr(library._functions, "LiteRtRunCompiledModel")  # noqa: B009 (one name lookup for all invokes)

    def run(self) -> None:
        inputs, outputs = self._inputs, self._outputs
        status = self._run(self.handle, c.c_size_t(0), c.c_size_t(len(inputs)), inputs, c.c_size_t(len(outputs)), outputs)
        if status:
            raise RuntimeError(f"LiteRtRunCompiledModel failed with LiteRT status {status}")

    def outputs(self) -> list[Array]:
        """Waits for an accelerator that is still at work."""
        return [self._read(c.c_void_p(b), kind) for b, kind in zip(self._outputs, self._types)]  # noqa: B905 (Python 3.9)

    def fully_accelerated(self) -> bool:
        """Whether the CPU runs no operator."""
        answer = c.c_bool()
        self.library.call("LiteRtCompiledModelIsNonCpuFullyAccelerated", self.handle, c.byref(answer))
        return answer.value

    def close(self) -> None:
        release = self.library.release
        for buffer in (*self._inputs, *self._outputs):
            release("TensorBuffer", c.c_void_p(buffer))
        self._inputs = self._outputs = ()
        for kind, handle in (("CompiledModel", self.handle), ("Options", self._options), ("Model", self._model)):
            release(kind, handle)
            handle.value = None

    def __del__(self) -> None:
        self.close()

    def _opaque(self, identifier: str, toml: str) -> c.c_void_p:
        payload, name = c.create_string_buffer(toml.encode()), c.create_string_buffer(identifier.encode())
        destroy = c.CFUNCTYPE(None, c.c_void_p)(lambda pointer: None)
        self._kept += [payload, name, destroy]  # LiteRT keeps pointers to them
        option = c.c_void_p()
        self.library.call("LiteRtCreateOpaqueOptions", name, c.cast(payload, c.c_void_p), destroy, c.byref(option))
        return option

    def _buffers(self, signature: c.c_void_p, side: str) -> Any:
        call = self.library.call
        count = c.c_size_t()
        call(f"LiteRtGetNumSignature{side}s", signature, c.byref(count))
        buffers = (c.c_void_p * count.value)()
        rng = np.random.default_rng(0)
        for i in range(count.value):
            at = c.c_size_t(i)
            tensor, kind, needs, buffer = c.c_void_p(), _TensorType(), c.c_void_p(), c.c_void_p()
            call(f"LiteRtGetSignature{side}TensorByIndex", signature, at, c.byref(tensor))
            call("LiteRtGetRankedTensorType", tensor, c.byref(kind))
            if kind.element_type not in _TYPES:
                raise RuntimeError(f"{side.lower()} {i} has LiteRT's element type {kind.element_type}, which numpy has not")
            call(f"LiteRtGetCompiledModel{side}BufferRequirements", self.handle, c.c_size_t(0), at, c.byref(needs))
            create = "LiteRtCreateManagedTensorBufferFromRequirements"
            call(create, self.library.environment, c.byref(kind), needs, c.byref(buffer))
            buffers[i] = buffer.value
            if side == "Input":
                self._write(buffer, random_input(kind.shape, np.dtype(_TYPES[kind.element_type]), rng))
            else:
                self._types.append(kind)
        return buffers

    def _write(self, buffer: c.c_void_p, values: Array) -> None:
        address = c.c_void_p()
        self.library.call("LiteRtLockTensorBuffer", buffer, c.byref(address), c.c_int(_WRITE))
        c.memmove(address, values.ctypes.data, values.nbytes)
        self.library.call("LiteRtUnlockTensorBuffer", buffer)

    def _read(self, buffer: c.c_void_p, kind: _TensorType) -> Array:
        values: Array = np.empty(kind.shape, _TYPES[kind.element_type])
        address = c.c_void_p()
        self.library.call("LiteRtLockTensorBuffer", buffer, c.byref(address), c.c_int(_READ))
        c.memmove(values.ctypes.data, address, values.nbytes)
        self.library.call("LiteRtUnlockTensorBuffer", buffer)
        return values
