"""Launch, partitions and hand-overs: told apart from operators, and put together again to whole networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import pytest
from fusion_phones import Phone
from hypothesis import given, settings

from paceline.devices.simulated.costs import plan
from paceline.devices.simulated.model_file import read_model
from paceline.devices.simulated.profile import load_profile
from paceline.errors import LatencyModelError
from paceline.exporters import tflite
from paceline.exporters.fused_operators import Step, in_a_row
from paceline.exporters.operator_models import steps_graph, write_operator
from paceline.graph import Graph, OpSpec, TensorSpec, attrs
from paceline.latency_models.collection.collect import Collector
from paceline.latency_models.fusion.executed import executed
from paceline.latency_models.fusion.figures import Estimate, Figure
from paceline.latency_models.fusion.find import find_fusions, precise
from paceline.latency_models.fusion.flow import flow_of
from paceline.latency_models.fusion.fusions import NOTHING_FUSED
from paceline.latency_models.fusion.measured_overheads import chain, find_overheads, separate
from paceline.latency_models.fusion.overheads import Overheads, Probe, overheads_of, separated
from paceline.latency_models.fusion.pairs import pairs_in
from paceline.latency_models.fusion.partitions import HAND_OVER, moved_mb, pieces, taken_alone, taken_in
from paceline.latency_models.fusion.unit_rows import unit_rows
from paceline.measurement import Bench, Delegation, Measurement

from samples import conv

MID, WIDE = "simulated-mid", "simulated-wide"
T = TensorSpec((1, 28, 28, 32))
GELU = OpSpec("GELU", (T,), (T,), attrs(approximate=False))  # neither phone's GPU takes it
SWISH, RELU = OpSpec("HARD_SWISH", (T,), (T,)), OpSpec("RELU", (T,), (T,))
ADD = OpSpec("ADD", (T, T), (T,), attrs(activation="NONE"))
KEEP, EXPAND, PROJECT, DEEP = conv(28, 32, 32, 1), conv(28, 32, 96, 1), conv(28, 96, 32, 1), conv(28, 32, 32, 3, depthwise=True)
REVERSE = OpSpec("REVERSE_V2", (T,), (T,), attrs(axes=(1,)))  # no XNNPACK takes it
MEAN = OpSpec("MEAN", (T,), (TensorSpec((1, 1, 1, 32)),), attrs(axes=(1, 2), keep_dims=True))


@pytest.mark.parametrize("profile", [MID, WIDE])
@pytest.mark.parametrize(
    ("delegate", "dtype"), [("gpu", "float32"), ("nnapi", "int8"), ("xnnpack", "float32"), ("builtin", "float32")]
)
def test_overheads_are_those_of_the_profile(profile: str, delegate: str, dtype: str, tmp_path: Path) -> None:
    phone = Phone(profile, delegate, tmp_path, seed=7)
    found = find_overheads(phone, precise(phone.bench), phone.store, phone.folder, dtype)  # type: ignore[arg-type]
    its = phone.delegate
    partition = 2 * its.hand_over_us / 1e3
    launch = found.launch(()).value
    assert launch == pytest.approx(phone.profile.invoke_us / 1e3 + partition, rel=0.1)
    if its.own_processor:
        assert found.partition_ms is not None
        assert found.partition_ms.value == pytest.approx(partition, rel=0.1)
        assert found.megabyte_ms.value == pytest.approx(1 / its.hand_over_gb_s, rel=0.1)
        assert found.partition_ms.error < 0.1 * partition
    else:
        assert abs(found.megabyte_ms.value) < 1e-3
        assert found.partition_ms is None if delegate == "builtin" else abs(found.partition_ms.value) < 1e-3  # type: ignore[union-attr]
    before = len(phone.measured)
    assert find_overheads(phone, precise(phone.bench), phone.store, phone.folder, dtype) == found  # type: ignore[arg-type]
    assert len(phone.measured) == before == len(set(phone.measured))


@pytest.mark.parametrize("profile", [MID, WIDE])
@pytest.mark.parametrize("delegate", ["gpu", "xnnpack"])
def test_an_operator_is_separated_from_the_launch(profile: str, delegate: str, tmp_path: Path) -> None:
    phone = Phone(profile, delegate, tmp_path, seed=8)
    specs = [KEEP, DEEP, conv(56, 24, 24, 3)]
    found = separate(phone, precise(phone.bench), phone.store, phone.folder, specs)  # type: ignore[arg-type]
    for spec, its in zip(specs, found, strict=True):
        one, two = (_plan(steps_graph(chain(spec, n)), phone) for n in (1, 2))
        assert its.operator_ms.value == pytest.approx(two - one, rel=0.1)
        assert its.launch_ms.value == pytest.approx(2 * one - two, rel=0.1)
        assert its.operator_ms.error < 0.1 * (two - one)
        assert its.launch_ms.low < its.launch_ms.value < its.launch_ms.high


def test_exact_figures_are_separated_exactly() -> None:
    true = {"inference": 0.01, "partition": 0.3, "megabyte": 0.2, "conv": 0.05, "other": 0.07}
    probes = []
    for n, partitions, megabytes in ((1, 1, 0.5), (2, 1, 0.5), (4, 1, 3.0), (4, 2, 1.0), (4, 4, 9.0), (8, 1, 0.1)):
        others = 4 if partitions > 1 else n % 2
        ms = true["inference"] + true["partition"] * partitions + true["megabyte"] * megabytes
        ms += true["conv"] * n + true["other"] * others
        probes.append(Probe({KEEP: n, GELU: others}, partitions, megabytes, Figure(ms, 0.001 * ms, 8)))
    found = overheads_of(probes)
    assert (found.inference_ms.value, found.megabyte_ms.value) == pytest.approx((0.01, 0.2))
    assert found.partition_ms is not None
    assert found.partition_ms.value == pytest.approx(0.3)
    both = separated([1, 2, 4], [Figure(0.3 + 0.05 * n, 0.001, 8) for n in (1, 2, 4)])
    assert (both.operator_ms.value, both.launch_ms.value) == pytest.approx((0.05, 0.3))
    with pytest.raises(LatencyModelError, match="don't determine"):
        separated([2, 2], [Figure(0.3, 0.001, 8)] * 2)
    with pytest.raises(LatencyModelError, match="don't determine"):
        overheads_of(probes[:2])


def _plan(graph: Graph, phone: Phone) -> float:
    return plan(read_model(tflite.write(graph)), phone.profile, phone.bench).ms


@st.composite
def network(draw: st.DrawFn) -> Graph:
    """Operators in a row and beside it, taken by a GPU and left; some results are read twice, or kept."""
    steps = [Step(draw(st.sampled_from((KEEP, GELU))))]
    for i in range(1, draw(st.integers(1, 9))):
        spec = draw(st.sampled_from((KEEP, GELU, SWISH, RELU, DEEP, ADD)))
        operands = range(2 if spec is ADD else 1)
        reads = {n: max(0, i - draw(st.integers(1, 3))) for n in operands}
        steps.append(Step(spec, tuple(reads.items())))
    return steps_graph(steps, outputs=draw(st.sets(st.integers(0, len(steps) - 1), max_size=2)))  # type: ignore[arg-type]


@settings(max_examples=80, deadline=None)
@given(network(), st.sampled_from((MID, WIDE)))
def test_partitions_and_what_travels_are_those_of_the_phone(graph: Graph, profile: str) -> None:
    its, bench = load_profile(profile), Bench(runtime="simulated", delegate="gpu")
    gpu = its.delegates["gpu"]
    found, flow = plan(read_model(tflite.write(graph)), its, bench), flow_of(graph)
    taken = [spec.kind in gpu.kinds for spec in flow.operators]
    cut = pieces(flow, taken)
    assert sum(p.delegated for p in cut) == found.delegation.partitions
    assert [i for p in cut for i in p.operators] == list(range(len(flow.operators)))
    crossing = found.ms - sum(part.ms for part in found.parts) - its.invoke_us / 1e3
    expected = found.delegation.partitions * 2 * gpu.hand_over_us / 1e3 + moved_mb(flow, taken) / gpu.hand_over_gb_s
    assert crossing == pytest.approx(expected, abs=1e-9)
    assert taken_in(found.delegation, flow.operators) == taken
    units = executed(graph, NOTHING_FUSED, taken)
    assert [u for u in units if u.kind != HAND_OVER] == graph.operators()
    overheads = Overheads(
        Estimate(its.invoke_us / 1e3, 0.0), Estimate(2 * gpu.hand_over_us / 1e3, 0.0), Estimate(1 / gpu.hand_over_gb_s, 0.0)
    )
    rows = {row.operators[0]: row.ms for row in overheads.rows([units])}
    assert sum(rows[u] for u in units if u.kind == HAND_OVER) == pytest.approx(expected, abs=1e-9)


def test_a_delegation_that_does_not_tell_is_refused() -> None:
    specs = [KEEP, GELU, KEEP]
    assert taken_in(Delegation("gpu", 2, 2, ("GELU",)), specs) == [True, False, True]
    assert taken_in(Delegation("gpu", 1, 3, ()), specs) == [True] * 3
    assert taken_in(Delegation("gpu", 2, 2, ("GELU", "DEQUANTIZE", "DEQUANTIZE")), specs) == [True, False, True]
    with pytest.raises(LatencyModelError, match="doesn't tell which operators gpu left"):
        taken_in(Delegation("gpu", 1), specs)
    with pytest.raises(LatencyModelError, match="left 1 of 2 CONV_2D operators, but not which"):
        taken_in(Delegation("gpu", 2, 1, ("GELU", "CONV_2D")), specs)
    padded = replace(KEEP, attrs=attrs(**dict(KEEP.attrs), pad=(1, 1, 1, 1)))
    assert taken_in(Delegation("gpu", 1, 2, ("PAD",)), [padded, KEEP]) == [False, True]
    full, none = (
        Measurement("s", "a", "d", "b", delegation=Delegation("gpu", n, n, left)) for n, left in ((1, ()), (0, ("GELU",)))
    )
    assert taken_alone({KEEP: full, GELU: none}, specs) == [True, False, True]
    with pytest.raises(LatencyModelError, match=r"GELU .* was not measured"):
        taken_alone({KEEP: full}, specs)
    with pytest.raises(LatencyModelError, match="the runtime doesn't tell"):
        taken_alone({KEEP: replace(full, delegation=None)}, [KEEP])


NETWORKS = {
    "residual": (*in_a_row(KEEP, (SWISH, 0), (EXPAND, 0), (PROJECT, 0)), Step(ADD, ((0, 1), (1, 3))), Step(DEEP, ((0, 4),))),
    "split": (*in_a_row(KEEP, (RELU, 0), (GELU, 0), (KEEP, 0), (SWISH, 0)), Step(ADD, ((0, 1), (1, 4))), Step(MEAN, ((0, 5),))),
    "alternating": in_a_row(KEEP, (GELU, 0), (DEEP, 0), (GELU, 0), (KEEP, 0), (SWISH, 0)),
}


@pytest.mark.parametrize("profile", [MID, WIDE])
def test_networks_on_a_gpu_follow_from_single_operator_models(profile: str, tmp_path: Path) -> None:
    phone = Phone(profile, "gpu", tmp_path, seed=9)
    bench = precise(phone.bench)
    graphs = [steps_graph(steps) for steps in NETWORKS.values()]
    found = find_fusions(phone, phone.bench, phone.store, phone.folder, pairs_in(graphs))  # type: ignore[arg-type]
    overheads = find_overheads(phone, bench, phone.store, phone.folder)  # type: ignore[arg-type]
    given = (phone, bench, phone.store, phone.folder)
    table = unit_rows(*given, graphs, found, overheads)  # type: ignore[arg-type]
    before = len(phone.measured)
    assert unit_rows(*given, graphs, found, overheads) == table  # type: ignore[arg-type]
    assert len(phone.measured) == before
    assert table.failures == {}
    rows = {row.operators[0]: row.ms for row in table.rows}
    alone = Collector(*given).operators(graphs[0].operators())  # type: ignore[arg-type]
    for name, graph, units in zip(NETWORKS, graphs, table.networks, strict=True):
        assert table.inference_ms + sum(rows[unit] for unit in units) == pytest.approx(_plan(graph, phone), rel=0.02), name
    assert sum(m.ms for m in alone) > 2 * _plan(graphs[0], phone)
    kinds = [unit.kind for network in table.networks for unit in network]
    assert "CONV_2D+ADD+DEPTHWISE_CONV_2D" not in kinds
    assert {"CONV_2D+HARD_SWISH", "CONV_2D+ADD", "CONV_2D+RELU", "GELU", HAND_OVER} <= set(kinds)
    assert kinds.count(HAND_OVER) == 6


def test_on_the_cpu_nothing_is_handed_over(tmp_path: Path) -> None:
    phone = Phone(MID, "xnnpack", tmp_path, seed=10)
    given = (phone, phone.bench, phone.store, phone.folder)
    graph = steps_graph((*NETWORKS["split"], Step(REVERSE, ((0, 5),))))
    found = find_fusions(*given, pairs_in([graph]))  # type: ignore[arg-type]
    table = unit_rows(*given, [graph, graph.operators()], found, find_overheads(*given))  # type: ignore[arg-type]
    assert [u.kind for u in table.networks[0]] == ["CONV_2D+RELU", "GELU", "CONV_2D", "HARD_SWISH", "ADD", "MEAN", "REVERSE_V2"]
    assert table.networks[0] == table.networks[1]
    rows = {row.operators[0]: row.ms for row in table.rows}
    assert table.inference_ms + sum(rows[u] for u in table.networks[0]) == pytest.approx(_plan(graph, phone), rel=0.02)


def test_a_unit_that_fails_is_named(tmp_path: Path) -> None:
    phone = Phone(MID, "xnnpack", tmp_path, seed=10)
    given = (phone, phone.bench, phone.store, phone.folder)
    overheads = find_overheads(*given)  # type: ignore[arg-type]
    phone.phone.crashing.add(write_operator(SWISH, phone.folder).sha256)
    table = unit_rows(*given, [[KEEP, SWISH]], NOTHING_FUSED, overheads)  # type: ignore[arg-type]
    assert [row.operators for row in table.rows] == [(KEEP,)]
    assert list(table.failures) == [SWISH.key]
    assert "SIGSEGV" in table.failures[SWISH.key]
