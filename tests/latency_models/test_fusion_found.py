"""Fusions found by measurement: on simulated phones they are the profile's, whatever the noise; here the mechanism runs."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fusion_phones import Phone

from paceline.devices.composed import ComposedDevice
from paceline.errors import DataError, DeviceError, LatencyModelError
from paceline.graph import OpSpec, TensorSpec, attrs
from paceline.latency_models.fusion.figures import Estimate, Figure, combined, figure_of, solved
from paceline.latency_models.fusion.find import find_fusions, telling
from paceline.latency_models.fusion.fusions import NOTHING_FUSED, Evidence, Finding, Fusions
from paceline.latency_models.fusion.measured_overheads import find_overheads, separate
from paceline.latency_models.fusion.overheads import Overheads
from paceline.latency_models.fusion.pairs import Pair, common_pairs
from paceline.measurement import Measurement
from paceline.store import Store

from samples import conv

SIZES = ((56, 16), (14, 96))
SLOW = os.environ.get("PACELINE_SLOW") == "1"


MID, WIDE = "simulated-mid", "simulated-wide"
ALL = [(profile, delegate) for profile in (MID, WIDE) for delegate in ("xnnpack", "gpu", "nnapi", "builtin")]
QUICK = [(MID, "xnnpack"), (WIDE, "gpu")]


@pytest.mark.parametrize(("profile", "delegate"), ALL if SLOW else QUICK)
def test_the_rules_are_those_of_the_profile(profile: str, delegate: str, tmp_path: Path) -> None:
    phone = Phone(profile, delegate, tmp_path, seed=len(profile + delegate))
    dtype = "int8" if delegate == "nnapi" else "float32"
    pairs = common_pairs(dtype, SIZES)
    found = find_fusions(phone, phone.bench, phone.store, phone.folder, pairs)  # type: ignore[arg-type]
    truth = {pair.name for pair in pairs if phone.fuses(pair)}
    assert found.rules == truth
    assert (0 if delegate == "builtin" else 5) <= len(truth) < len(found.findings) == len({pair.name for pair in pairs})
    assert {f.verdict for f in found.findings} <= {"fused", "apart", "failed"}
    failed = [pair for pair in pairs if pair.name in {f.name for f in found.findings if f.verdict == "failed"}]
    assert not any(phone.takes(pair.producer) and phone.takes(pair.consumer) for pair in failed)
    assert Fusions.from_json(found.to_json()) == found
    assert found.device == phone.inner.info.fingerprint


def test_interrupted_it_goes_on_and_measures_nothing_twice(tmp_path: Path) -> None:
    phone = Phone("simulated-wide", "gpu", tmp_path)
    pairs = [p for p in common_pairs(sizes=SIZES) if p.producer.kind == "DEPTHWISE_CONV_2D"]

    def stop(done: int, total: int, note: str = "") -> None:
        if done > 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_fusions(phone, phone.bench, phone.store, phone.folder, pairs, stop)  # type: ignore[arg-type]
    before = len(phone.measured)
    found = find_fusions(phone, phone.bench, phone.store, phone.folder, pairs)  # type: ignore[arg-type]
    assert 40 < before < len(phone.measured) == len(set(phone.measured))
    assert "DEPTHWISE_CONV_2D > HARD_SWISH" in found.rules
    after = len(phone.measured)
    assert find_fusions(phone, phone.bench, phone.store, phone.folder, pairs) == found  # type: ignore[arg-type]
    assert len(phone.measured) == after


def test_pairs_that_can_not_be_measured_are_findings_with_a_reason(tmp_path: Path) -> None:
    phone = Phone("simulated-mid", "xnnpack", tmp_path)
    t = TensorSpec((1, 14, 14, 16))
    branch = OpSpec("WHILE", (t,), (t,), attrs(body_subgraph_index=1, cond_subgraph_index=2))
    pairs = [Pair(OpSpec("RELU", (t,), (t,)), branch)]
    (finding,) = find_fusions(phone, phone.bench, phone.store, phone.folder, pairs).findings  # type: ignore[arg-type]
    assert finding.verdict == "failed"
    assert "runs other graphs" in finding.evidence[0].failure


def test_overheads_that_can_not_be_measured_say_why(tmp_path: Path) -> None:
    phone = Phone("simulated-mid", "nnapi", tmp_path)  # takes no float32
    with pytest.raises(DeviceError, match="silent fallback"):
        find_overheads(phone, phone.bench, phone.store, phone.folder)  # type: ignore[arg-type]


def evidence(
    saved: float, error: float, smaller: float = 1.0, size: int = 28, failure: str = "", split: bool = False
) -> Evidence:
    relu = OpSpec("RELU", conv(size, 8, 8, 1).outputs, conv(size, 8, 8, 1).outputs)
    return Evidence(
        conv(size, 8, 8, 1).key,
        relu.key,
        0,
        1,
        9.0,
        Estimate(saved, error),
        Estimate(smaller, 0.1 * abs(smaller)),
        split,
        failure,
    )


def test_a_rule_needs_two_sizes_and_no_contradiction() -> None:
    fused, apart, unclear = evidence(1.0, 0.1), evidence(0.0, 0.1), evidence(0.5, 0.3)
    other = evidence(0.9, 0.1, size=14)
    for given, verdict in (
        ([fused], "undecided"),
        ([fused, fused], "undecided"),
        ([fused, other], "fused"),
        ([fused, other, apart], "contradictory"),
        ([evidence(0.1, 0.5), evidence(0.0, 0.5, size=14), evidence(-0.1, 0.5, size=7)], "apart"),  # together they tell
        ([evidence(0.8, 0.6), evidence(1.1, 0.4, size=14), evidence(1.0, 0.4, size=7)], "fused"),
        ([], "undecided"),
        ([fused, unclear], "undecided"),
        ([fused, unclear, other], "fused"),
        ([apart, evidence(0.1, 0.1, size=14)], "apart"),
        ([evidence(0.0, 0.0, 0.0, 14, split=True)], "apart"),
        ([evidence(0.0, 0.0, 0.0, failure="crash")] * 2, "failed"),
        ([fused, evidence(0.0, 0.0, 0.0, failure="crash")], "undecided"),
        ([evidence(0.1, 0.3, -1.0), evidence(0.1, 0.3, -1.0, 14)], "undecided"),
        ([evidence(0.52, 0.01), evidence(0.52, 0.01, size=14)], "undecided"),  # half of 1.1 would be more
    ):
        assert Finding("pair", tuple(given)).verdict == verdict


def test_what_was_found_can_be_kept_and_read(tmp_path: Path) -> None:
    findings = (
        Finding("CONV_2D > RELU", (evidence(1.0, 0.1), evidence(0.9, 0.1, size=14))),
        Finding("CONV_2D > GELU", (evidence(0.0, 0.0, 0.0, failure="no kernel"),)),
        Finding("CONV_2D > TANH", (evidence(0.0, 0.0, 0.0, split=True),)),
    )
    found = Fusions("0123", "litert 2", "xnnpack", "{}", findings)
    found.save(tmp_path / "fusions.json")
    assert Fusions.load(tmp_path / "fusions.json") == found
    first, second, third, fourth = found.show().splitlines()
    assert "litert 2, xnnpack, device 0123" in first
    assert [line.split()[0] for line in (second, third, fourth)] == ["fused", "apart", "failed"]
    assert "1000.0±100.0/1000.0" in second
    assert "not on one processor" in third
    assert "no kernel" in fourth
    assert found.unknown(["CONV_2D > RELU", "CONV_2D > GELU", "ADD > RELU"]) == ["CONV_2D > GELU", "ADD > RELU"]
    assert NOTHING_FUSED.rules == frozenset()


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"format": "paceline fusions 2"}', '{"format": "paceline fusions 1", "findings": [3]}']
)
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match="measure"):
        Fusions.load(tmp_path / "x.json")
    with pytest.raises(DataError, match="No such file"):
        Fusions.load(tmp_path / "none.json")


def test_pairs_are_asked_at_sizes_that_tell() -> None:
    pairs = common_pairs(sizes=[(size, 8) for size in (7, 14, 28, 56, 112, 224, 448)])
    chosen = telling([*pairs, *pairs], 3)
    sizes = [p.producer.outputs[0].shape[1] for p in chosen if p.name == "CONV_2D > HARD_SWISH"]
    assert sizes == [112, 56, 224]
    assert list(dict.fromkeys(p.name for p in telling(pairs))) == list(dict.fromkeys(p.name for p in pairs))


def test_the_intervals_cover_what_they_promise() -> None:
    rng = np.random.default_rng(5)
    inside, seen = 0, 0
    columns = np.column_stack([np.array([1.0, 2, 4, 8, 1, 2, 4, 8]), np.ones(8)])
    for _ in range(120):
        figures = []
        for true in columns @ [0.02, 0.3]:
            batches = tuple((float(ms),) * 3 for ms in rng.normal(true, 0.005 * true, 9))
            figures.append(figure_of(Measurement("s", "a", "d", "b", batches), None))
        difference = combined((1.0, -1.0), figures[1::-1])
        slope, base = solved(columns, figures, ("slope", "base"))
        inside += sum(e.low <= true <= e.high for e, true in ((difference, 0.02), (slope, 0.02), (base, 0.3)))
        seen += 3
        assert slope.error < 0.02
    assert 0.96 < inside / seen <= 1.0


def test_what_is_not_determined_is_named() -> None:
    figures = [Figure(1.0, 0.01, 8), Figure(2.0, 0.01, 8), Figure(3.0, 0.01, 8)]
    with pytest.raises(LatencyModelError, match=r"3 measurements don't determine (twice|once)"):
        solved(np.array([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]]), figures, ("once", "twice"))
    with pytest.raises(LatencyModelError, match="2 batches"):
        figure_of(Measurement("conv", "a", "d", "b", ((1.0,), (1.0,))), None)


def test_the_mechanism_runs_on_this_machine(local: ComposedDevice, tmp_path: Path) -> None:
    bench = replace(local.default_bench("xnnpack"), min_invokes=3, batch_ms=0.05, warmup_ms=0.05)
    (pair, *_) = common_pairs(sizes=((8, 16),))
    nothing = Estimate(0.0, 0.0)
    with Store(tmp_path / "s.sqlite") as store:
        given = (local, bench, store, tmp_path / "models")
        found = find_fusions(*given, [pair], overheads=Overheads(nothing, None, nothing))
        (its,) = separate(*given, [pair.producer])
    (finding,) = found.findings
    assert {OpSpec.parse(e.producer).outputs[0].shape for e in finding.evidence} == {(1, 8, 8, 16), (1, 16, 16, 16)}
    assert not any(e.failure or e.split for e in finding.evidence)
    assert all(e.together_ms > 0 and e.saved_ms.error > 0 for e in finding.evidence)
    assert its.operator_ms.error > 0


@pytest.mark.skipif(not SLOW, reason="takes a minute and a quiet machine: PACELINE_SLOW=1 runs it")
def test_xnnpack_fuses_activations_into_convolutions(local: ComposedDevice, tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        found = find_fusions(local, local.default_bench("xnnpack"), store, tmp_path / "models")
    print(found.show())
    assert {"CONV_2D > RELU", "CONV_2D > RELU6", "PAD > DEPTHWISE_CONV_2D"} <= found.rules
    assert not {"CONV_2D > HARD_SWISH", "DEPTHWISE_CONV_2D > CONV_2D"} & found.rules
