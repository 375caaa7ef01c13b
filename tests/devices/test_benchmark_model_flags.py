"""Command lines of benchmark_model for a Bench, and what a tool's --help says it can do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paceline.devices.benchmark_model.flags import arguments, delegates, known_flags, tool_of
from paceline.errors import DeviceError
from paceline.measurement import Bench

SAMPLES = Path(__file__).parent / "benchmark_model_samples"
CLASSIC = known_flags((SAMPLES / "help_tflite.txt").read_text(encoding="utf-8"))
LITERT = known_flags((SAMPLES / "help_litert.txt").read_text(encoding="utf-8"))


def flags_of(bench: Bench, known: frozenset[str] = CLASSIC, **given: Any) -> dict[str, str]:
    """The flags without those that every command line has."""
    found = arguments(bench, "net.tflite", tool=tool_of(known), known_flags=known, **{"profile": False, **given})
    assert found[:7] == BATCH
    flags = dict(argument.removeprefix("--").split("=", 1) for argument in found[7:])
    assert len(flags) == len(found) - 7
    return flags


BATCH = [
    "--graph=net.tflite",
    "--num_threads=1",
    "--num_runs=50",
    "--min_secs=0.008",
    "--max_secs=0.4",
    "--warmup_runs=1",
    "--warmup_min_secs=0.002",
]


def test_help_lists_the_flags() -> None:
    assert tool_of(CLASSIC) == "tflite"
    assert tool_of(LITERT) == "litert"
    assert {"graph", "use_hexagon", "hexagon_lib_path", "num_runs"} <= CLASSIC
    assert {"graph", "use_npu", "qualcomm_log_level"} <= LITERT
    assert delegates(CLASSIC) == ("xnnpack", "builtin", "gpu", "nnapi", "hexagon", "external")
    assert delegates(LITERT) == ("xnnpack", "gpu", "npu")
    assert delegates(CLASSIC - {"use_hexagon", "use_gpu"}) == ("xnnpack", "builtin", "nnapi", "external")


@pytest.mark.parametrize("text", ["", "sh: benchmark_model: not found", "usage: ls [--all=yes]\n\t--all=yes\n"])
def test_what_lists_no_flags_is_no_benchmark_model(text: str) -> None:
    with pytest.raises(DeviceError, match="lists no flags of benchmark_model"):
        known_flags(text)


def test_a_batch_is_as_the_bench_says() -> None:
    bench = Bench(threads=4, min_invokes=20, batch_ms=1500, max_batch_ms=60000, warmup_ms=250)
    found = arguments(bench, "a b.tflite", profile=False, tool="tflite", known_flags=CLASSIC)
    assert found[:7] == [
        "--graph=a b.tflite",
        "--num_threads=4",
        "--num_runs=20",
        "--min_secs=1.5",
        "--max_secs=60",
        "--warmup_runs=1",
        "--warmup_min_secs=0.25",
    ]


@pytest.mark.parametrize(
    ("bench", "flags"),
    [
        (Bench(), {"use_xnnpack": "true"}),
        (Bench(precision="fp16"), {"use_xnnpack": "true", "xnnpack_force_fp16": "true"}),
        (Bench(delegate="builtin"), {"use_xnnpack": "false"}),
        (Bench(delegate="gpu"), {"use_gpu": "true", "gpu_precision_loss_allowed": "false"}),
        (
            Bench(delegate="gpu", precision="fp16", options=(("gpu_backend", "cl"), ("require_full_delegation", "false"))),
            {
                "use_gpu": "true",
                "gpu_precision_loss_allowed": "true",
                "require_full_delegation": "false",
                "gpu_backend": "cl",
            },
        ),
        (
            Bench(delegate="nnapi", precision="fp16", options=(("nnapi_accelerator_name", "qti-dsp"),)),
            {"use_nnapi": "true", "nnapi_allow_fp16": "true", "nnapi_accelerator_name": "qti-dsp"},
        ),
        (
            Bench(delegate="hexagon", options=(("hexagon_lib_path", "/data/x"),)),
            {"use_hexagon": "true", "hexagon_lib_path": "/data/x"},
        ),
        (
            Bench(
                delegate="external",
                options=(("external_delegate_path", "/data/d.so"), ("external_delegate_options", "a:1;b:2")),
            ),
            {"external_delegate_path": "/data/d.so", "external_delegate_options": "a:1;b:2"},
        ),
    ],
)
def test_delegates_of_the_classic_tool(bench: Bench, flags: dict[str, str]) -> None:
    assert flags_of(bench) == flags


@pytest.mark.parametrize(
    ("bench", "flags"),
    [
        (Bench(), {"use_cpu": "true"}),
        (
            Bench(delegate="gpu"),
            {"use_gpu": "true", "use_cpu": "false", "allow_fp16": "false", "require_full_delegation": "true"},
        ),
        (
            Bench(delegate="npu", options=(("dispatch_library_path", "/data/npu"),)),
            {"use_npu": "true", "use_cpu": "false", "require_full_delegation": "true", "dispatch_library_path": "/data/npu"},
        ),
    ],
)
def test_delegates_of_litert(bench: Bench, flags: dict[str, str]) -> None:
    assert flags_of(bench, LITERT) == flags


def test_litert_says_a_precision_where_it_can() -> None:
    assert flags_of(Bench(delegate="gpu", precision="fp16"), LITERT | {"gpu-precision"})["gpu-precision"] == "fp16"


def test_profiles_and_results_where_the_tool_can() -> None:
    profiling = {
        "enable_op_profiling": "true",
        "op_profiling_output_mode": "csv",
        "allow_dynamic_profiling_buffer_increase": "true",
    }
    assert flags_of(Bench(), profile=True) == {"use_xnnpack": "true", **profiling}
    old = CLASSIC - {"op_profiling_output_mode", "allow_dynamic_profiling_buffer_increase", "result_file_path"}
    assert flags_of(Bench(), old, profile=True, result_file="r.pb") == {"use_xnnpack": "true", "enable_op_profiling": "true"}
    assert flags_of(Bench(), LITERT, profile=True) == {"use_cpu": "true", "use_profiler": "true"}
    assert flags_of(Bench(), result_file="r.pb") == {"use_xnnpack": "true", "result_file_path": "r.pb"}


@pytest.mark.parametrize(
    ("bench", "known", "reason"),
    [
        (Bench(delegate="hexagon"), CLASSIC - {"use_hexagon"}, "without the delegate 'hexagon'; it has xnnpack"),
        (Bench(delegate="npu"), CLASSIC, "without the delegate 'npu'"),
        (Bench(delegate="builtin"), LITERT, r"\(litert\) was built without the delegate 'builtin'"),
        (Bench(delegate="nnapi"), LITERT, "without the delegate 'nnapi'"),
        (Bench(precision="int4"), CLASSIC, "no precision 'int4'"),
        (Bench(precision="fp16"), LITERT, "can't set the precision of 'xnnpack'"),
        (Bench(precision="fp16", delegate="builtin"), CLASSIC, "can't set the precision of 'builtin'"),
        (Bench(precision="fp16", delegate="hexagon"), CLASSIC, "can't set the precision of 'hexagon'"),
        (Bench(precision="fp16"), CLASSIC - {"xnnpack_force_fp16"}, "no flag --xnnpack_force_fp16"),
        (Bench(delegate="gpu"), CLASSIC - {"gpu_precision_loss_allowed"}, "no flag --gpu_precision_loss_allowed"),
        (Bench(delegate="gpu"), LITERT - {"gpu_low_priority"}, "before the GPU is done"),
        (Bench(delegate="external"), CLASSIC, "needs the option external_delegate_path"),
        (Bench(options=(("num_runs", "3"),)), CLASSIC, "'num_runs' is no option"),
        (Bench(options=(("allow_fp8", "1"),)), CLASSIC, "'allow_fp8' is no flag"),
        (Bench(delegate="gpu", options=(("gpu_wait_type", "do_not_wait"),)), CLASSIC, "time the submission alone"),
    ],
)
def test_what_a_tool_can_not_do_is_an_error(bench: Bench, known: frozenset[str], reason: str) -> None:
    with pytest.raises(DeviceError, match=reason):
        flags_of(bench, known)


def test_a_profile_needs_its_flag() -> None:
    with pytest.raises(DeviceError, match="no flag --enable_op_profiling"):
        flags_of(Bench(), CLASSIC - {"enable_op_profiling"}, profile=True)
