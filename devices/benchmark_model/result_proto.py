"""The BenchmarkResult message that benchmark_model writes to `--result_file_path`, decoded without protoc.

Schema: tflite/tools/benchmark/proto/benchmark_result.proto of google-ai-edge/LiteRT (proto2, three nested messages).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from paceline.devices.benchmark_model.lines import consistent
from paceline.errors import TransientDeviceError
from paceline.measurement import Summary

_LATENCY, _MEMORY, _MISC = 2, 3, 4
_AVG, _MIN, _MAX, _STD, _MEDIAN, _P5, _P95, _INIT, _FIRST, _WARMUP = range(1, 11)
_INIT_KB, _OVERALL_KB, _PEAK_MB = range(1, 4)
_MODEL_MB, _RUNS, _WARMUP_RUNS = range(1, 4)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_Value = float | int | bytes


@dataclass(frozen=True)
class BenchmarkResult:
    """Times in milliseconds, memory in MB; None where the tool left them out. `inference` are the timed runs."""

    inference: Summary
    warmup_runs: int | None = None
    init_ms: float | None = None
    first_ms: float | None = None
    warmup_avg_ms: float | None = None
    model_mb: float | None = None
    init_mb: float | None = None
    overall_mb: float | None = None
    peak_mb: float | None = None


def decode(data: bytes) -> BenchmarkResult:
    """What `data` says. Raises TransientDeviceError where it isn't a whole and consistent BenchmarkResult."""
    try:
        message = dict(_fields(data))
        latency, memory, misc = (_numbers(message.get(number, b"")) for number in (_LATENCY, _MEMORY, _MISC))
        inference = Summary(
            count=int(misc[_RUNS]),
            min=latency[_MIN],
            avg=latency[_AVG],
            max=latency[_MAX],
            std=latency[_STD],
            p5=latency.get(_P5),
            median=latency.get(_MEDIAN),
            p95=latency.get(_P95),
        )
        if inference.count < 1 or not consistent(inference):
            raise ValueError(f"its statistics contradict each other: {inference}")
        return BenchmarkResult(
            inference,
            warmup_runs=int(misc[_WARMUP_RUNS]) if _WARMUP_RUNS in misc else None,
            init_ms=latency.get(_INIT),
            first_ms=latency.get(_FIRST),
            warmup_avg_ms=latency.get(_WARMUP),
            model_mb=misc.get(_MODEL_MB),
            init_mb=memory[_INIT_KB] / 1024 if _INIT_KB in memory else None,
            overall_mb=memory[_OVERALL_KB] / 1024 if _OVERALL_KB in memory else None,
            peak_mb=memory.get(_PEAK_MB),
        )
    except KeyError as e:
        raise TransientDeviceError(f"the result file of benchmark_model lacks field {e}; was it written to its end?") from e
    except (ValueError, OverflowError) as e:
        raise TransientDeviceError(f"the result file of benchmark_model can't be read ({len(data)} bytes): {e}") from e


def _fields(data: bytes) -> Iterator[tuple[int, _Value]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value - (1 << 64) if value >> 63 else value  # negative integers take ten bytes
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"field {number} is of the unknown wire type {wire}")
        chunk = data[at : at + size]
        if len(chunk) < size:
            raise ValueError(f"field {number} is cut off")
        at += size
        yield number, chunk if wire == _BYTES else float(struct.unpack("<f" if size == 4 else "<d", chunk)[0])


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for i in range(10):
        if at + i >= len(data):
            raise ValueError("it ends inside a number")
        value |= (data[at + i] & 127) << 7 * i
        if data[at + i] < 128:
            return value & (1 << 64) - 1, at + i + 1
    raise ValueError("a number has more than ten bytes")


def _numbers(message: _Value) -> dict[int, float]:
    if not isinstance(message, bytes):
        raise ValueError("a nested message is expected where a number stands")
    numbers = {number: value for number, value in _fields(message) if not isinstance(value, bytes)}
    if any(value != value or abs(value) == float("inf") for value in numbers.values()):
        raise ValueError("a figure is not a finite number")
    return numbers
