"""The report: complete, self-contained, escaped, honest about simulated devices, and written whole or not at all."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.arch import Arch
from paceline.errors import StoreError
from paceline.graph import OpSpec
from paceline.latency_models.metrics import Accuracy
from paceline.measurement import Bench, DeviceInfo
from paceline.pipeline.plots import significant, tick_labels, ticks
from paceline.pipeline.report import (
    ArtifactRow,
    Comparison,
    MergeRow,
    OperatorRow,
    Point,
    Report,
    describe,
    verdict,
    write_report,
)

KEYS = (
    "CONV_2D 1x32x32x3 @16x3x3x3 @16 -> 1x32x32x16 activation=RELU6 dilation=(1,1) padding=SAME stride=(1,1)",
    "CONV_2D 1x32x32x16 @96x1x1x16 @96 -> 1x32x32x96 activation=RELU6 dilation=(1,1) padding=VALID stride=(1,1)",
    "DEPTHWISE_CONV_2D 1x32x32x96 @1x5x5x96 @96 -> 1x16x16x96 activation=RELU6 pad=(2,2,2,2) padding=VALID stride=(2,2)",
    "ADD 1x16x16x24 1x16x16x24 -> 1x16x16x24 activation=NONE",
    "MEAN 1x4x4x128 -> 1x1x1x128 axes=(1,2) keep_dims=true",
    "FULLY_CONNECTED 1x128 @10x128 @10 -> 1x10 activation=NONE keep_dims=false",
)
VOID = {"meta", "br"}


def sample(seed: int = 0) -> Report:
    """A made-up run with plausible numbers."""
    rng = np.random.default_rng(seed)
    limit = 0.45
    ms = rng.uniform(0.24, 0.66, 70)
    accuracy = 0.79 + 0.15 * np.sqrt((ms - 0.2) / 0.5) - rng.gamma(1.5, 0.012, 70)
    accuracy[ms > limit] = np.nan
    evaluated = [
        Point(f"{rng.integers(2**63):016x}", float(m), float(m) * 0.955, float(m) * 1.05, float(a), int(9e6 * m))
        for m, a in zip(ms, accuracy, strict=True)
    ]
    front: list[Point] = []
    for p in sorted((p for p in evaluated if not math.isnan(p.accuracy)), key=lambda p: p.latency_ms):
        if not front or p.accuracy > front[-1].accuracy:
            front.append(p)
    front[-1] = replace(front[-1], chosen=True)
    true = rng.uniform(0.24, 0.66, 32)
    tests = tuple(
        Comparison(f"test {i}", float(t * e), float(t * e) * 0.955, float(t * e) * 1.05, float(t), abs(float(n)))
        for i, (t, e, n) in enumerate(zip(true, rng.normal(1, 0.022, 32), rng.normal(0, 0.006, 32), strict=True))
    )
    specs = [OpSpec.parse(KEYS[0]), *(OpSpec.parse(k) for k in KEYS[1:4] * 4), *(OpSpec.parse(k) for k in KEYS[4:])]
    shares = rng.dirichlet(np.ones(len(specs)))
    return Report(
        title="MobileNet space on digits",
        task="digits (10 classes, 32×32)",
        config='seed = 0\n\n[data]\nkind = "digits"\nsize = 32\n',
        limit_ms=limit,
        limit_origin="the 40 % quantile of 500 random networks of the space, as predicted",
        device=DeviceInfo("this machine", "local", {"cpu": "ExampleCPU 9000 (2 cores)", "system": "Linux 6.1 x86_64"}),
        bench=Bench(),
        runtime="LiteRT 2.3.0",
        seed=0,
        final=Comparison("final model", 0.42, 0.4, 0.44, 0.413, 0.006),
        accuracy=0.9722,
        macs=4_812_032,
        params=61_234,
        noise_floor=0.0071,
        chosen=Arch(tuple((f"blocks.{i}", (o,)) for i, o in enumerate(["rep3", "k5e6_se", "skip", "k3e3", "k7e6", "k3e6_se"]))),
        front=tuple(front),
        evaluated=tuple(evaluated),
        hypervolume=tuple(float(v) for v in 0.19 - 0.06 * np.exp(-np.arange(12) / 3)),
        tests=tests,
        predictors=(
            Accuracy("noise floor", 0.0071, 1.0, 1.0, math.nan, 32),
            Accuracy("table + overhead", 0.0203, 0.969, 1.0, 0.994, 32),
            Accuracy("linear", 0.0241, 0.906, 1.0, 0.991, 32),
            Accuracy("MLP", 0.0333, 0.781, 0.969, 0.982, 32),
            Accuracy("table", 0.0487, 0.594, 0.969, 0.992, 32),
            Accuracy("FLOPs only", 0.1312, 0.25, 0.469, 0.871, 32),
        ),
        operators=tuple(
            OperatorRow(s, f"blocks.{i // 3}.project.conv", 0.41 * float(w), 0.39 * float(w) * float(rng.normal(1, 0.04)))
            for i, (s, w) in enumerate(zip(specs, shares, strict=True))
        ),
        merges=(MergeRow("blocks.0", ("3x3 + BatchNorm", "1x1 + BatchNorm", "identity BatchNorm"), 2656, 2320),),
        artifacts=(
            ArtifactRow("model.tflite", 251_904, "5f" * 32, 1.2e-7),
            ArtifactRow("model.onnx", 249_771, "c3" * 32, 2.4e-7),
            ArtifactRow("summary.json", 1810, "09" * 32),
        ),
        versions={"paceline": "0.1.0", "ai-edge-litert": "2.3.0", "torch": "2.13.0+cpu", "Python": "3.11.7"},
        seconds={"table": 41.3, "supernet": 92.0, "calibration": 38.8, "search": 21.5, "retrain": 44.1, "deploy": 6.2},
        notes=("2 of 214 table rows stayed unstable (batches differ by more than 5 %).",),
        created="2026-11-22 10:14 UTC",
    )


class Page(HTMLParser):
    """The page as a checked tree: every tag closed, every id used once."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        ids = [a["id"] for _, a in self.tags if "id" in a]
        assert len(ids) == len(set(ids))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))  # svg: <line/>

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, text: str) -> None:
        self.texts.append(text)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def page(report: Report, folder: Path) -> tuple[str, Page]:
    write_report(report, folder / "report.html")
    source = (folder / "report.html").read_text(encoding="utf-8")
    return source, Page(source)


def test_report_shows_everything_in_one_file(tmp_path: Path) -> None:
    report = sample()
    source, html = page(report, tmp_path)
    assert not re.search(r'="[^"]*\b(nan|inf)\b', source), "a mark without a place"
    assert "measured 0.413 ms ≤ limit 0.450 ms, predicted 0.420 (0.400–0.440)" in html.text
    for part in (
        "97.2 %",
        "4.81 M",
        "noise floor",
        "FLOPs only",
        "blocks.0",
        "5f" * 32,
        "ExampleCPU 9000 (2 cores)",
        "k5e6_se",
        "1.2e-7",
    ):
        assert part in html.text, part
    assert "2 of 214 table rows" in html.text
    assert html.text.count("CONV_2D 3×3 32×32×3 → 32×32×16, RELU6") == 1
    circles = [str(a.get("class")) for tag, a in html.tags if tag == "circle" and "r" in a and float(str(a["cy"])) > 12]
    seen = [p for p in report.evaluated if not math.isnan(p.accuracy)]
    assert circles.count("seen") == len(seen)
    assert circles.count("mark") == len(report.front) + len(report.hypervolume) + len(report.tests) + 1
    assert circles.count("ring") == 2  # the chosen one and the final model
    assert f"{len(report.evaluated) - len(seen)} architectures above the limit have no accuracy" in html.text
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]


def test_report_needs_no_network_and_no_script(tmp_path: Path) -> None:
    source, html = page(sample(), tmp_path)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)|javascript:|\son\w+=", source)
    assert not {tag for tag, _ in html.tags} & {"script", "link", "iframe", "img", "object", "embed", "form"}


def test_report_is_accessible(tmp_path: Path) -> None:
    source, html = page(sample(), tmp_path)
    ids = {a["id"] for _, a in html.tags if "id" in a}
    charts = [a for tag, a in html.tags if tag == "svg" and a.get("class") == "chart"]
    assert len(charts) == 3
    for chart in charts:
        assert set(str(chart["aria-labelledby"]).split()) <= ids
    count = [tag for tag, _ in html.tags].count
    assert count("table") == count("caption") == 11
    assert all("scope" in a for tag, a in html.tags if tag == "th")
    assert re.search(r'<html lang="en">', source)


def test_simulated_device_is_named_in_heading_and_pictures(tmp_path: Path) -> None:
    real, _ = page(sample(), tmp_path)
    assert "simulated" not in real.lower()
    report = replace(sample(), device=DeviceInfo("phone", "imitation", {}, simulated=True))
    source, _ = page(report, tmp_path)
    heading = re.search(r"<h1>.*?</h1>", source, re.DOTALL)
    assert heading is not None
    assert "simulated device" in heading[0]
    for chart in re.findall(r'<svg class="chart".*?</svg>', source, re.DOTALL):
        if "predicted" in chart:  # a picture that shows milliseconds
            assert re.search(r'class="axis"[^>]*>[^<]*simulated device', chart)
    assert re.search(r"<title>[^<]*simulated device", source)
    assert "✓ The limit is kept on a simulated device" in source


def test_values_are_escaped(tmp_path: Path) -> None:
    evil = "</title><script>alert('1')</script>\"&amp;"
    base = sample()
    report = replace(
        base,
        title=evil,
        task=evil,
        config=evil,
        limit_origin=evil,
        device=DeviceInfo(evil, evil, {evil: evil}),
        runtime=evil,
        chosen=Arch(((evil, (evil,)),)),
        final=replace(base.final, name=evil),
        front=tuple(replace(p, key=evil) for p in base.front),
        evaluated=tuple(replace(p, key=evil) for p in base.evaluated),
        tests=tuple(replace(c, name=evil) for c in base.tests),
        predictors=tuple(replace(p, name=evil) for p in base.predictors),
        operators=tuple(replace(o, source=evil) for o in base.operators),
        merges=(MergeRow(evil, (evil,), 1, 1),),
        artifacts=(ArtifactRow(evil, 1, evil),),
        versions={evil: evil},
        seconds={evil: 1.0},
        notes=(evil,),
        created=evil,
        bench=Bench(runtime=evil, delegate=evil, precision=evil),
    )
    _, html = page(report, tmp_path)
    assert "script" not in {tag for tag, _ in html.tags}
    assert html.text.count(" ".join(evil.split())) > 80


def test_missed_limit_and_missing_figures_are_said(tmp_path: Path) -> None:
    base = sample()
    missed = replace(base, final=replace(base.final, measured_ms=0.4502))
    assert verdict(missed) == "measured 0.4502 ms > limit 0.4500 ms, predicted 0.420 (0.400–0.440)"
    assert verdict(replace(base, final=replace(base.final, measured_ms=0.45))).startswith("measured 0.450 ms ≤ limit 0.450 ms")
    _, html = page(missed, tmp_path)
    assert "✗ The limit is not kept" in html.text
    nothing = replace(
        base,
        final=replace(base.final, measured_ms=math.nan),
        front=(),
        evaluated=(),
        hypervolume=(),
        tests=(),
        operators=(OperatorRow(OpSpec.parse(KEYS[0]), ""),),
        merges=(),
        predictors=(),
    )
    assert verdict(nothing).startswith("not measured, limit 0.450 ms")
    source, html = page(nothing, tmp_path)
    assert "nan" not in source.lower()
    assert "no branches to merge" in html.text


def test_one_point_and_equal_values_draw(tmp_path: Path) -> None:
    base = sample()
    report = replace(base, front=base.front[:1], evaluated=(), hypervolume=(0.2,) * 3, tests=())
    source, _ = page(report, tmp_path)
    assert not re.search(r'="[^"]*\b(nan|inf)\b', source)


def test_full_disk_is_a_store_error_and_leaves_the_old_report(tmp_path: Path) -> None:
    # a real refusal by the system: the process may not write files above 4 KiB
    path = tmp_path / "report.html"
    path.write_text("the old report")
    code = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_report import sample, write_report
from paceline.errors import StoreError
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_report(sample(), Path({str(path)!r}))
except StoreError as e:
    print(e)
"""
    done = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert str(path) in done.stdout
    assert "File too large" in done.stdout
    assert path.read_text() == "the old report"
    assert list(tmp_path.iterdir()) == [path]


def test_impossible_place_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(StoreError, match=r"can't write .*report\.html"):
        write_report(sample(), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]


def test_artifact_row_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.tflite").write_bytes(b"abc")
    row = ArtifactRow.of(tmp_path / "models" / "a.tflite", tmp_path)
    assert row == ArtifactRow("models/a.tflite", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (KEYS[2], "DEPTHWISE_CONV_2D 5×5 32×32×96 → 16×16×96, stride 2, RELU6"),
        (KEYS[3], "ADD 16×16×24 + 16×16×24 → 16×16×24"),
        (KEYS[5], "FULLY_CONNECTED 128 → 10"),
        (
            "TRANSPOSE_CONV @8x2x2x16 1x4x4x16 @8 -> 1x8x8x8 activation=NONE padding=VALID stride=(2,2)",
            "TRANSPOSE_CONV 2×2 4×4×16 → 8×8×8, stride 2",
        ),
    ],
)
def test_describe(key: str, text: str) -> None:
    assert describe(OpSpec.parse(key)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.41, "0.410"),
        (0.99961, "1.00"),
        (12.345, "12.3"),
        (1234.5, "1,230"),
        (0.0123, "0.0123"),
        (1.24e-7, "1.2e-7"),
        (0.0, "0"),
        (math.nan, "–"),
    ],
)
def test_significant(value: float, text: str) -> None:
    assert significant(value) == text


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4), st.integers(3, 8))
def test_ticks_are_few_round_and_inside(low: float, width: float, about: int) -> None:
    high = low + width
    found = ticks(low, high, about)
    assert 1 <= len(found) <= about + 1
    assert all(low - 1e-6 * width <= t <= high + 1e-6 * width for t in found)
    labels = tick_labels(found)
    assert len(set(labels)) == len(labels)
    for t, label in zip(found, labels, strict=True):
        assert float(label.replace(",", "")) == pytest.approx(t, abs=1e-5 * width)
    if len(found) > 1:
        step = found[1] - found[0]
        mantissa = step / 10 ** math.floor(math.log10(step) + 1e-6)
        assert min(abs(mantissa - m) for m in (1, 2, 2.5, 5)) < 1e-3
