"""Imported tables of blocks and of AI Hub: their figures, the operators of their rows, and rows that are no latencies."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.errors import ConfigError, DataError
from paceline.graph import macs_of
from paceline.latency_models.bundle.bundle import Bundle
from paceline.latency_models.imports.block_table import operators_of
from paceline.latency_models.imports.formats import FORMATS, import_bundle
from paceline.latency_models.imports.imports import Source
from paceline.measurement import Bench, DeviceInfo

DATA = os.environ.get("PACELINE_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="the public tables are not here: set PACELINE_DATA to their folder")
PIXEL_1 = DeviceInfo("Pixel 1", "imported", {"model": "Pixel 1"})
SOURCE = Source(PIXEL_1, Bench(runtime="tflite", delegate="builtin"), "MIT", "a test")

# (input size, input channels, output channels, expansion, kernel, stride, skip) of ProxylessNAS's network for phones
PROXYLESS = [
    *[(112, 32, 16, 1, 3, 1, 0), (112, 16, 32, 3, 5, 2, 0), (56, 32, 32, 3, 3, 1, 1), (56, 32, 40, 3, 7, 2, 0)],
    *[(28, 40, 40, 3, 3, 1, 1), (28, 40, 40, 3, 5, 1, 1), (28, 40, 40, 3, 5, 1, 1), (28, 40, 80, 6, 7, 2, 0)],
    *[(14, 80, 80, 3, 5, 1, 1)] * 3,
    *[(14, 80, 96, 6, 5, 1, 0), (14, 96, 96, 3, 5, 1, 1), (14, 96, 96, 3, 5, 1, 1), (14, 96, 96, 3, 5, 1, 1)],
    *[(14, 96, 192, 6, 7, 2, 0), (7, 192, 192, 6, 7, 1, 1), (7, 192, 192, 3, 7, 1, 1), (7, 192, 192, 3, 7, 1, 1)],
    (7, 192, 320, 6, 7, 1, 0),
]


def block(size: int, cin: int, cout: int, expand: int, kernel: int, stride: int, skip: int) -> str:
    out = size // stride
    shapes = f"input:{size}x{size}x{cin}-output:{out}x{out}x{cout}"
    return f"expanded_conv-{shapes}-expand:{expand}-kernel:{kernel}-stride:{stride}-idskip:{skip}"


KEYS = [
    "Conv-input:224x224x3-output:112x112x32",
    *(block(*values) for values in PROXYLESS),
    "Conv_1-input:7x7x320-output:7x7x1280",
    "Logits-input:7x7x1280-output:1000",
]

PIXEL = """
Conv-input:224x224x3-output:112x112x32:
  count: 982
  mean: 4.083755600814664
  var: 0.2502372872758427
Conv_1-input:7x7x320-output:7x7x1280:
  count: 982
  mean: 3.088623217922607
  var: 0.19174675835259503
Logits-input:7x7x1280-output:1000:
  count: 982
  mean: 0.3096415478615071
  var: 0.05583766681628091
expanded_conv-input:112x112x16-output:56x56x24-expand:3-kernel:5-stride:2-idskip:0:
  count: 159
  mean: 7.519106918238994
  var: 0.08896370394367315
"""

NOTE = """
Conv-input:160x160x3-output:80x80x24: {count: 50, mean: 1.5}
expanded_conv-input:80x80x24-output:80x80x24-expand:24-kernel:3-stride:1-idskip:1-se:0-hs:0: {count: 50, mean: 0.75}
expanded_conv-input:40x40x32-output:20x20x48-expand:96-kernel:5-stride:2-idskip:0-se:1-hs:1: {count: 50, mean: 0.5}
Conv_1-input:5x5x192-output:5x5x1152: {count: 50, mean: 0.25}
AvgPool2D-input:5x5x1152-output:1x1x1152: {count: 50, mean: 0.125}
Conv_2-input:1x1x1152-output:1x1x1536: {count: 50, mean: 0.125}
Logits-input:1x1x1536-output:1000: {count: 50, mean: 0.25}
"""


def imported(content: str, folder: Path, source: Source = SOURCE, name: str = "table.yaml", form: str | None = None) -> Bundle:
    (folder / name).write_text(content)
    return import_bundle(folder / name, source, form)


def by_subject(bundle: Bundle) -> dict[str, float]:
    return {row.subject: row.ms for row in bundle.measured}


def test_a_pixel_1_style_table(tmp_path: Path) -> None:
    bundle = imported(PIXEL, tmp_path)
    figures = by_subject(bundle)
    assert sum(figures.values()) == pytest.approx(4.083756 + 3.088623 + 0.309642 + 7.519107, abs=1e-5)
    rows = {row.subject.partition("-")[0]: row for row in bundle.measured}
    assert all(row.flags == ("imported",) for row in rows.values())
    assert (rows["Conv"].count, rows["Conv"].std_ms) == (982, pytest.approx(0.50024, abs=1e-5))
    assert (rows["Conv"].kind, rows["Logits"].kind, rows["expanded_conv"].kind) == ("operator", "block", "block")
    assert [o.kind for o in rows["expanded_conv"].operators] == ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D"]
    assert macs_of(rows["expanded_conv"].operators) == 112 * 112 * 16 * 48 + 56 * 56 * 48 * 25 + 56 * 56 * 48 * 24
    assert (bundle.licence, bundle.origin, bundle.device.name) == ("MIT", "a test", "Pixel 1")


def test_a_note_10_style_table_has_mobilenet_v3_blocks(tmp_path: Path) -> None:
    bundle = imported(NOTE, tmp_path)
    assert sum(by_subject(bundle).values()) == pytest.approx(3.5)
    squeezed = bundle.measured[2].operators
    expected = "CONV_2D HARD_SWISH DEPTHWISE_CONV_2D HARD_SWISH MEAN CONV_2D CONV_2D MUL MUL CONV_2D"
    assert " ".join(o.kind for o in squeezed) == expected
    assert squeezed[5].outputs[0].shape == (1, 1, 1, 24)
    first = bundle.measured[1].operators
    assert [o.kind for o in first] == ["DEPTHWISE_CONV_2D", "CONV_2D", "ADD"]
    assert first[0].attr("activation") == "RELU"
    kinds = [[o.kind for o in row.operators] for row in bundle.measured]
    assert kinds[0] == kinds[3] == kinds[5] == ["CONV_2D", "HARD_SWISH"]
    assert (kinds[4], kinds[6]) == (["MEAN"], ["FULLY_CONNECTED"])


def test_operators_of_one_block_fit_together() -> None:
    for key in KEYS:
        specs = operators_of(key, v3=False)
        for first, second in pairwise(specs):
            assert first.outputs[0].elements == second.inputs[0].elements, key
    assert macs_of(spec for key in KEYS for spec in operators_of(key, v3=False)) == pytest.approx(320e6, rel=0.02)


def test_blocks_are_no_networks_to_a_model(tmp_path: Path) -> None:
    bundle = imported(PIXEL, tmp_path)
    assert [len(row.operators) for row in bundle.rows()] == [1, 1]
    assert len(bundle.rows(kinds=("operator", "block"))) == 4


def test_units(tmp_path: Path) -> None:
    micro = Source(SOURCE.device, SOURCE.bench, unit="us")
    bundle = imported("Conv-input:8x8x3-output:8x8x4: {mean: 2500, var: 10000}", tmp_path, micro)
    assert (bundle.measured[0].ms, bundle.measured[0].std_ms) == (pytest.approx(2.5), pytest.approx(0.1))
    with pytest.raises(ConfigError, match=r"no unit 'minutes'; there are ms, us, s"):
        Source(SOURCE.device, SOURCE.bench, unit="minutes")


def table_of(figures: Callable[[int], float], slow: int = -1) -> str:
    """All blocks of one kind at plausible figures: 20 million multiply-accumulates a millisecond."""
    keys = [block(28, 8 * c, 8 * c, e, k, 1, 1) for c in range(2, 8) for e in (3, 6) for k in (3, 5, 7)]
    macs = [macs_of(operators_of(key, v3=False)) for key in keys]
    means = [figures(n) * (100 if i == slow else 1) for i, n in enumerate(macs)]
    return "\n".join(f"{key}: {{mean: {mean}}}" for key, mean in zip(keys, means, strict=True))


def test_an_outlier_is_flagged_and_no_model_learns_from_it(tmp_path: Path) -> None:
    convolutions = {f"Conv_1-input:28x28x{c}-output:28x28x{2 * c}": 28 * 28 * c * 2 * c / 20e6 for c in range(16, 256, 8)}
    singles = "\n".join(f"{key}: {{mean: {ms * (100 if i == 5 else 1)}}}" for i, (key, ms) in enumerate(convolutions.items()))
    bundle = imported(f"{singles}\n{table_of(lambda macs: macs / 20e6, slow=7)}", tmp_path)
    odd = [i for i, row in enumerate(bundle.measured) if "outlier" in row.flags]
    assert odd[0] == 5
    assert len(bundle.rows()) == len(convolutions) - 1


def test_a_wrong_unit_is_refused_with_the_remedy(tmp_path: Path) -> None:
    text = table_of(lambda macs: macs / 20e3)
    with pytest.raises(DataError, match=r"can't import .*hardly milliseconds.*microseconds.*--unit"):
        imported(text, tmp_path)
    micro = Source(SOURCE.device, SOURCE.bench, unit="us")
    assert all(row.flags == ("imported",) for row in imported(text, tmp_path, micro).measured)


@pytest.mark.parametrize("value", [".nan", ".inf", "-3.0", "0", "null", "[1]", "fast", "true"])
def test_a_poisoned_row_is_named_and_left_out(value: str, tmp_path: Path) -> None:
    bundle = imported(f"Conv-input:8x8x3-output:8x8x4:\n  mean: {value}\n{PIXEL}", tmp_path)
    assert len(bundle.measured) == 4
    (failed,) = bundle.failed
    assert failed.subject == "Conv-input:8x8x3-output:8x8x4"
    assert "no latency" in failed.reason or "0 ms" in failed.reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("- 1", "no mapping"),
        ("a: [", "no YAML"),
        ("[" * 2_000, "no YAML"),
        ("'Conv-input:8x8-output:x': 1", "no key of a table"),
        ("Conv-input:8x8x3-output:8x8x4: {mean: .nan}", "not one latency in it; the first: Conv-input:8x8x3-output:8x8x4"),
        ("{}", "not one latency"),
    ],
)
def test_what_is_no_table_is_one_clear_error(content: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"can't import .*table\.yaml: .*{reason}"):
        imported(content, tmp_path, form="block-table")


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200), st.sampled_from([f.name for f in FORMATS]))
def test_any_text_is_a_bundle_or_one_clear_error(tmp_path_factory: pytest.TempPathFactory, content: str, form: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(content.encode("utf-8", "replace"))
    with pytest.raises(DataError, match="can't import"):
        import_bundle(path, SOURCE, form)


def test_unknown_files_and_formats(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"looks like nothing that can be imported.*--format"):
        imported("hello", tmp_path)
    with pytest.raises(ConfigError, match="no format 'excel'; there are onnxruntime"):
        imported("hello", tmp_path, form="excel")
    with pytest.raises(DataError, match=r"can't read .*none"):
        import_bundle(tmp_path / "none", SOURCE)
    (tmp_path / "cut.gz").write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(DataError, match=r"can't read .*cut"):
        import_bundle(tmp_path / "cut.gz", SOURCE)


@needs_data
def test_the_pixel_1_table_of_proxylessnas_sums_to_what_its_readme_says() -> None:
    folder = Path(str(DATA)) / "latency_proxyless_pixel1"
    figures = by_subject(import_bundle(folder / "mobile_trim.yaml", SOURCE))
    assert len(figures) == 72
    assert all(row.flags == ("imported",) for row in import_bundle(folder / "mobile_trim.yaml", SOURCE).measured)
    assert len(figures.keys() & set(KEYS)) == len(set(KEYS)) - 3  # the table has 24 channels where the network has 32
    assert sum(figures.get(key, 0.0) for key in KEYS) == pytest.approx(63.7, abs=0.05)
    again = import_bundle(folder / "pixel_trim.csv", SOURCE)
    assert by_subject(again) == by_subject(import_bundle(folder / "pixel_trim.yaml", SOURCE))
    assert all(row.operators for row in again.measured)


# AI Hub

PROFILE = {
    "execution_summary": {"estimated_inference_time": 500, "all_inference_times": [510, 500, 505]},
    "execution_detail": [
        {"name": "conv1", "type": "CONV_2D", "compute_unit": "NPU", "execution_time": 300, "execution_cycles": 1000},
        {"name": "relu1", "type": "RELU", "compute_unit": "NPU", "execution_time": 0, "execution_cycles": 0},
        {"name": "soft", "type": "SOFTMAX", "compute_unit": "CPU", "execution_time": 200, "execution_cycles": 0},
        {"name": "soft", "type": "SOFTMAX", "compute_unit": "CPU", "execution_time": 20},
    ],
}


def test_an_ai_hub_profile(tmp_path: Path) -> None:
    bundle = imported(json.dumps(PROFILE), tmp_path, name="job.json")
    network, *layers = bundle.measured
    assert (network.subject, network.kind, network.ms) == ("job.json", "network", pytest.approx(0.5))
    assert network.measurement is not None
    assert network.measurement.samples_ms == ((0.51, 0.5, 0.505),)
    assert [(row.subject, row.ms) for row in layers] == [
        ("CONV_2D conv1 (NPU)", pytest.approx(0.3)),
        ("SOFTMAX soft (CPU)", pytest.approx(0.2)),
        ("SOFTMAX soft (CPU) 3", pytest.approx(0.02)),
    ]
    assert [row.subject for row in bundle.failed] == ["RELU relu1 (NPU)"]
    alone = imported(json.dumps(PROFILE["execution_detail"]), tmp_path, form="aihub")
    assert len(alone.measured) == 3


@pytest.mark.parametrize("detail", [3, [3], "x"])
def test_a_damaged_ai_hub_profile(detail: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="execution_detail"):
        imported(json.dumps({"execution_detail": detail}), tmp_path)


TABLE = """model,component,precision,device,runtime,inference_ms
yolo,YOLO,float,Galaxy S24,tflite,3.5
yolo,head,float,Galaxy S24,tflite,nan
yolo,YOLO,w8a8,Galaxy S24,tflite,1.5
yolo,YOLO,float,Galaxy S25,tflite,2.5
yolo,YOLO,float,Galaxy S24,onnx,4.5
"""


def test_an_ai_hub_table_is_of_one_device_runtime_and_precision(tmp_path: Path) -> None:
    source = Source(DeviceInfo("Galaxy S24", "imported", {}), Bench(runtime="tflite", delegate="npu"))
    bundle = imported(TABLE, tmp_path, source)
    assert by_subject(bundle) == {"yolo YOLO": 3.5}
    assert [row.subject for row in bundle.failed] == ["yolo head"]
    with pytest.raises(DataError, match="no rows of device 'Pixel 1'; name one with --device: Galaxy S24, Galaxy S25"):
        imported(TABLE, tmp_path)


@needs_data
def test_the_public_ai_hub_table() -> None:
    path = Path(str(DATA)) / "latency_qualcomm_aihub" / "aihub_perf.csv.gz"
    device = DeviceInfo("Samsung Galaxy S24", "imported", {})
    bundle = import_bundle(path, Source(device, Bench(runtime="tflite", delegate="npu")))
    assert len(bundle.measured) > 100
    assert all(row.ms > 0 for row in bundle.measured)
