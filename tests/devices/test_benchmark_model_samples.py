"""Authentic outputs of benchmark_model, read into the figures that they show.

They aren't part of the project: PACELINE_SAMPLES names their folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from paceline.devices.benchmark_model.output import BenchmarkOutput, parse
from paceline.errors import DeviceError
from paceline.measurement import Delegation, Summary

pytestmark = pytest.mark.skipif("PACELINE_SAMPLES" not in os.environ, reason="PACELINE_SAMPLES names no folder of outputs")

NOTHING: dict[str, Any] = {
    "tool": "tflite",
    **dict.fromkeys(("inference", "warmup", "init_ms", "first_ms", "warmup_avg_ms", "inference_avg_ms", "model_mb")),
    **dict.fromkeys(("init_mb", "overall_mb", "peak_mb", "rss_mb", "failure")),
    "delegations": (),
    "unsupported": (),
    "operators_complete": False,
}
EXPECTED: dict[str, dict[str, Any]] = {
    "01_linux_riscv64_mobilenet_v1_op_profiling.txt": {
        "inference": Summary(50, 2727.568, 2950.34, 3189.954, 109.798),
        "warmup": Summary(1, 3512.391, 3512.391, 3512.391, 0.0),
        "init_ms": 17.187,
        "first_ms": 3512.391,
        "warmup_avg_ms": 3512.39,
        "inference_avg_ms": 2950.34,
        "model_mb": 16.9008,
        "init_mb": 4.21094,
        "overall_mb": 46.0859,
        "operators_complete": True,
    },
    "03_android_mi11_yolov5s_nnapi_gpu_fp16.txt": {
        "inference": Summary(50, 89.745, 92.5712, 96.719, 1.638),
        "init_ms": 365.972,
        "first_ms": 120.877,
        "warmup_avg_ms": 108.605,
        "inference_avg_ms": 92.5712,
        "init_mb": 6.90625,
        "overall_mb": 61.0547,
    },
    "04_android_mi11_yolov5s_nnapi_op_profiling.txt": {
        "delegations": (Delegation("nnapi", 3, None, ("STRIDED_SLICE",) * 6 + ("RESIZE_NEAREST_NEIGHBOR",) * 2),),
        "operators_complete": True,
    },
    "06_android_mi11_nnapi_dsp_failure.txt": {
        "failure": "Failed to apply NNAPI delegate. "
        "(NN API returned error ANEURALNETWORKS_BAD_DATA at line 1068 while adding operation.)"
    },
    "08_readme_old_format_op_profiling.txt": {
        "init_ms": 38.467,
        "warmup_avg_ms": 83.235,
        "inference_avg_ms": 79.7609,
        "operators_complete": True,
    },
    "09_csv_op_profiling_fragment.csv.txt": {},
    "10_android_app_logcat_p5_median_p95.txt": {
        "inference": Summary(25, 140.071, 145.528, 195.121, 13.583, 140.545, 141.253, 187.533),
        "warmup": Summary(3, 199.462, 211.669, 235.158, 16.613, 199.462, 200.386, 235.158),
        "init_ms": 92.318,
        "first_ms": 187.533,
        "warmup_avg_ms": 211.669,
        "inference_avg_ms": 145.528,
        "model_mb": 3.06409,
        "init_mb": 54.2852,
        "overall_mb": 73.4102,
        "delegations": (Delegation("xnnpack", 10, 539),),  # and 9 pieces in between
    },
    "11_litert_benchmark_model_results_block.txt": {
        "tool": "litert",
        "inference": Summary(10, 7416.40, 7430.20, 7448.86, 9.92),
        "init_ms": 23744.73,
        "first_ms": 7441.04,
        "warmup_avg_ms": 7441.04,
        "inference_avg_ms": 7430.20,
        "init_mb": 6391.74,
        "overall_mb": 6391.74,
    },
    "14_android_2019_first_generation_format.txt": {
        "inference": Summary(15, 66.699, 66.7676, 66.838, 0.039),
        "warmup": Summary(7, 66.709, 76.6059, 127.425, 20.944),
        "init_ms": 9.933,
        "warmup_avg_ms": 76.6059,
        "inference_avg_ms": 66.7676,
    },
    "15_android_gpu_opencl_full_delegation.txt": {
        "inference": Summary(50, 113.737, 119.375, 124.776, 1.948),
        "warmup": Summary(4, 117.370, 122.373, 130.565, 4.930),
        "init_ms": 870.557,
        "first_ms": 130.565,
        "warmup_avg_ms": 122.373,
        "inference_avg_ms": 119.375,
        "model_mb": 7.07479,
        "delegations": (Delegation("gpu", 1, None, ()),),
    },
}
# file: rows; then some of them: kind, name, index, start, first, average in ms, times called
OPERATORS: dict[str, tuple[int, dict[int, tuple[Any, ...]]]] = {
    "01_linux_riscv64_mobilenet_v1_op_profiling.txt": (
        31,
        {
            0: ("CONV_2D", "MobilenetV1/MobilenetV1/Conv2d_0/Relu6", 0, 0.066, 87.754, 60.957, 1),
            10: ("CONV_2D", "MobilenetV1/MobilenetV1/Conv2d_5_pointwise/Relu6", 10, 898.426, 263.724, 277.374, 1),
            30: ("SOFTMAX", "MobilenetV1/Predictions/Reshape_1", 30, 2950.011, 0.230, 0.233, 1),
        },
    ),
    "04_android_mi11_yolov5s_nnapi_op_profiling.txt": (
        11,
        {
            0: ("STRIDED_SLICE", "model/tf.strided_slice/StridedSlice", 0, 0.021, 2.167, 2.118, 1),
            6: (
                "TfLiteNnapiDelegate",
                "model/tf.nn.silu_16/mul, model/tf.nn.silu_26/mul, model/tf.nn.silu_35/mul",
                231,
                8.377,
                78.701,
                79.010,
                1,
            ),
            10: ("TfLiteNnapiDelegate", "Identity, Identity_1, Identity_2", 233, 102.688, 60.220, 56.058, 1),
        },
    ),
    "08_readme_old_format_op_profiling.txt": (
        31,
        {
            0: ("CONV_2D", "MobilenetV1/MobilenetV1/Conv2d_0/Relu6", None, 0.0, 4.269, 4.269, 0),
            6: ("CONV_2D", "MobilenetV1/MobilenetV1/Conv2d_3_pointwise/Relu6", None, 19.352, 6.652, 6.652, 0),
            30: ("SOFTMAX", "MobilenetV1/Predictions/Softmax", None, 79.443, 0.029, 0.029, 0),
        },
    ),
    "09_csv_op_profiling_fragment.csv.txt": (
        12,
        {
            0: ("CONV_2D", "sequential_11/conv2d_33/Conv2D", 0, 0.0, 0.11, 0.0930388, 1),
            10: ("FULLY_CONNECTED", "sequential_11/dense_23/MatMul", 10, 0.207017, 0.0, 0.000406285, 1),
            11: ("SOFTMAX", "Identity", 11, 0.207468, 0.001, 0.000342312, 1),
        },
    ),
}
INITIALIZATION = {
    "01_linux_riscv64_mobilenet_v1_op_profiling.txt": [("AllocateTensors", 1.356)],
    "04_android_mi11_yolov5s_nnapi_op_profiling.txt": [("ModifyGraphWithDelegate", 413.346), ("AllocateTensors", 158.023)],
}


def read(name: str) -> BenchmarkOutput:
    return parse((Path(os.environ["PACELINE_SAMPLES"]) / name).read_text(encoding="utf-8"))


def close(value: Any) -> Any:
    if isinstance(value, Summary):
        return pytest.approx([v for v in vars(value).values() if v is not None])
    return pytest.approx(value) if isinstance(value, float) else value


@pytest.mark.parametrize("name", EXPECTED)
def test_shows_these_figures(name: str) -> None:
    output, expected = read(name), NOTHING | EXPECTED[name]
    for field, value in expected.items():
        found = getattr(output, field)
        if isinstance(found, Summary):
            found = [v for v in vars(found).values() if v is not None]
        assert found == close(value), field


@pytest.mark.parametrize("name", EXPECTED)
def test_shows_these_operators(name: str) -> None:
    output, (count, rows) = read(name), OPERATORS.get(name, (0, {}))
    assert len(output.operators) == count
    for i, row in rows.items():
        o = output.operators[i]
        assert (o.kind, o.name, o.index, o.start_ms, o.first_ms, o.avg_ms, o.times_called) == row
        assert o.delegated == ("Delegate" in o.kind)
    assert [(o.kind, o.avg_ms) for o in output.initialization] == INITIALIZATION.get(name, [])
    assert output.internal == ()


def test_the_sum_of_the_operators_is_that_of_the_table() -> None:
    operators = read("01_linux_riscv64_mobilenet_v1_op_profiling.txt").operators
    assert sum(o.run_ms for o in operators if o.kind == "CONV_2D") == pytest.approx(2651.853, abs=0.02)
    assert sum(o.run_ms for o in operators) == pytest.approx(2949.9, abs=0.1)


def test_what_no_benchmark_wrote_is_refused() -> None:
    with pytest.raises(DeviceError, match="not the output of benchmark_model"):
        read("20_dumpsys_thermalservice_a52.txt")


def test_every_sample_is_expected() -> None:
    there = {p.name for p in Path(os.environ["PACELINE_SAMPLES"]).glob("*.txt")}
    assert there == {*EXPECTED, "20_dumpsys_thermalservice_a52.txt"}
