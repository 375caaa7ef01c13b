"""The BenchmarkResult message: written by the library protobuf's rules, whole or damaged."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.devices.benchmark_model.result_proto import BenchmarkResult, decode
from paceline.devices.testing.benchmark_model_stand_in import field, message
from paceline.errors import TransientDeviceError
from paceline.measurement import Summary

LATENCY = message(2.5, 2.0, 4.5, 0.25, 2.375, 2.125, 4.0, 12.5, 5.5, 3.5)
WHOLE = field(2, LATENCY) + field(3, message(2048, 3072, 7.5)) + field(4, message(4.25, 50, 9, 1.5))


def test_reads_every_field() -> None:
    assert decode(WHOLE) == BenchmarkResult(
        Summary(50, 2.0, 2.5, 4.5, 0.25, 2.125, 2.375, 4.0),
        warmup_runs=9,
        init_ms=12.5,
        first_ms=5.5,
        warmup_avg_ms=3.5,
        model_mb=4.25,
        init_mb=2.0,
        overall_mb=3.0,
        peak_mb=7.5,
    )


def test_bytes_are_those_of_protobuf() -> None:
    # by hand from the encoding's specification: tag 0x12 is field 2 with a length, 0x0d field 1 as a 32-bit float
    assert field(2, message(1.0)) == bytes([0x12, 5, 0x0D, *struct.pack("<f", 1.0)])
    assert field(3, 300) == bytes([0x18, 0xAC, 0x02])


def test_a_freed_memory_is_negative() -> None:
    text = field(2, LATENCY) + field(3, message(-1024, 512)) + field(4, message(4.25, 50))
    found = decode(text)
    assert (found.init_mb, found.overall_mb, found.peak_mb, found.warmup_runs) == (-1.0, 0.5, None, None)


def test_unknown_fields_and_doubles_are_read_over() -> None:
    extra = b"\x39" + struct.pack("<d", 1.0) + field(9, b"new") + field(10, 5)
    assert decode(extra + WHOLE) == decode(WHOLE)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "lacks field 2"),
        (field(2, LATENCY), "lacks field 2"),
        (WHOLE[:-1], "cut off"),
        (WHOLE + b"\x80", "ends inside a number"),
        (b"\xff" * 12, "more than ten bytes"),
        (b"\x0b", "unknown wire type"),
        (field(2, 1.0), "a number stands"),
        (field(2, message(2.5, 3.0, 4.5, 0.25)) + field(4, message(4.25, 50)), "contradict"),
        (field(2, LATENCY) + field(4, message(4.25, 0)), "contradict"),
        (field(2, message(float("nan"), 2.0, 4.5, 0.25)) + field(4, message(4.25, 50)), "finite"),
    ],
)
def test_damaged_results_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(TransientDeviceError, match=reason):
        decode(data)


@given(st.integers(0, len(WHOLE) - 1))
def test_a_truncated_result_is_refused(size: int) -> None:
    with pytest.raises(TransientDeviceError):
        decode(WHOLE[:size])


@given(st.binary(max_size=200))
def test_any_bytes_end_as_a_result_or_a_clear_error(data: bytes) -> None:
    with contextlib.suppress(TransientDeviceError):
        decode(data)


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_a_changed_byte_gives_no_impossible_statistics(at: int, byte: int) -> None:
    with contextlib.suppress(TransientDeviceError):
        found = decode(WHOLE[:at] + bytes([byte]) + WHOLE[at + 1 :]).inference
        assert found.count >= 1
        assert found.min <= found.avg * (1 + 1e-4) + 1e-4
