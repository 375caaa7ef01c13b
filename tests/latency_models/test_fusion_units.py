"""Operators that run as one: their keys, their models, and how a network is cut into them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from paceline.devices.simulated.costs import plan
from paceline.devices.simulated.model_file import read_model
from paceline.devices.simulated.profile import load_profile
from paceline.errors import ExportError
from paceline.exporters import tflite
from paceline.exporters.fused_operators import Step, fused, in_a_row, steps_of
from paceline.exporters.operator_models import operator_graph, steps_graph, write_operator, write_steps
from paceline.exporters.run_tflite import run
from paceline.graph import OpSpec, TensorSpec, attrs
from paceline.latency_models.fusion.executed import executed
from paceline.latency_models.fusion.figures import Estimate
from paceline.latency_models.fusion.flow import CONSTANT, flow_of
from paceline.latency_models.fusion.fusions import NOTHING_FUSED, Evidence, Finding, Fusions
from paceline.latency_models.fusion.pairs import Pair, common_pairs, pairs_in
from paceline.latency_models.fusion.resizing import doubled
from paceline.measurement import Bench

from samples import conv

WIDE = load_profile("simulated-wide")
T = TensorSpec((1, 28, 28, 32))
SWISH, LOGISTIC = OpSpec("HARD_SWISH", (T,), (T,)), OpSpec("LOGISTIC", (T,), (T,))
ADD, MUL = (OpSpec(kind, (T, T), (T,), attrs(activation="NONE")) for kind in ("ADD", "MUL"))
EXPAND, PROJECT = conv(28, 32, 96, 1), conv(28, 96, 32, 1)
KEEP = conv(28, 32, 32, 1)
WIDE_ADD = OpSpec("ADD", EXPAND.outputs * 2, EXPAND.outputs, attrs(activation="NONE"))
PADDING = attrs(stride=(1, 1), dilation=(1, 1), padding="VALID", activation="NONE", pad=(1, 1, 1, 1))
PADDED = replace(conv(28, 32, 32, 3), attrs=PADDING)
HALF = replace(KEEP, inputs=(T, TensorSpec((32, 1, 1, 32), "float16"), TensorSpec((32,))))


TENTH = Estimate(0.1, 0.01)


def rules(*pairs: tuple[OpSpec, OpSpec, int]) -> Fusions:
    """Fusions with these rules, as if they had been found at two sizes."""
    found = []
    for producer, consumer, operand in pairs:
        halved = replace(producer, outputs=(TensorSpec((1, 14, 14, 32)),))
        evidence = tuple(Evidence(p.key, consumer.key, operand, 1, 1.0, TENTH, TENTH) for p in (producer, halved))
        found.append(Finding(Pair(producer, consumer, operand).name, evidence))
    return Fusions("device", "runtime", "delegate", "bench", tuple(found))


@st.composite
def row(draw: st.DrawFn) -> tuple[Step, ...]:
    """Two to five operators, each of which reads the one before."""
    choices = ((KEEP, 0), (SWISH, 0), (ADD, 0), (ADD, 1), (MUL, 1), (PADDED, 0), (HALF, 0))
    first, *then = draw(st.lists(st.sampled_from(choices), min_size=2, max_size=5))
    return in_a_row(first[0], *then)


@settings(max_examples=60, deadline=None)
@given(row())
def test_what_is_fused_can_be_taken_apart(steps: tuple[Step, ...]) -> None:
    unit = fused(steps)
    assert steps_of(unit) == steps
    assert OpSpec.parse(unit.key) == unit
    assert steps_of(OpSpec.parse(unit.key)) == steps
    assert unit.params == sum(step.spec.params for step in steps)
    data = sum(len(step.spec.inputs) - len(step.spec.constants) for step in steps) - (len(steps) - 1)
    graph = operator_graph(unit)
    assert len(graph.inputs) == len(unit.inputs) - len(unit.constants) == data
    assert [spec.kind for spec in graph.operators()] == unit.kind.split("+")
    assert graph.operators() == [step.spec for step in steps]


def test_any_other_operator_is_its_only_step() -> None:
    assert steps_of(KEEP) == (Step(KEEP),)
    assert fused(in_a_row(KEEP)) == KEEP


def test_what_is_no_row_is_refused() -> None:
    two = OpSpec("SPLIT", (T,), (T, T), attrs(axis=3))
    for steps, reason in (
        ([Step(KEEP), Step(ADD, ((0, 0), (1, 0)))], "once"),
        ([Step(KEEP), Step(SWISH), Step(SWISH, ((0, 0),))], "read the one result"),
        ([Step(two), Step(SWISH, ((0, 0),))], "one result"),
        ([Step(KEEP), Step(PROJECT, ((0, 0),))], "operand 0 is not the result"),
        ([Step(KEEP), Step(KEEP, ((1, 0),))], "operand 1 is not the result"),
    ):
        with pytest.raises(ExportError, match=reason):
            fused(steps)
    with pytest.raises(ExportError, match="not a fused operator"):
        steps_of(OpSpec("CONV_2D+RELU", KEEP.inputs, KEEP.outputs, KEEP.attrs, KEEP.constants))


def test_a_unit_runs_and_costs_what_it_costs_in_a_network(tmp_path: Path) -> None:
    unit = fused(in_a_row(KEEP, (SWISH, 0), (ADD, 1)))
    artifact = write_operator(unit, tmp_path)
    assert artifact.subject == unit.key
    assert write_operator(unit, tmp_path) == artifact
    assert len(list(tmp_path.iterdir())) == 1
    found = read_model(artifact.path.read_bytes())
    part, add = plan(found, WIDE, Bench(runtime="simulated")).parts
    assert (part.name, add.name) == ("CONV_2D+HARD_SWISH", "ADD")
    alone = plan(read_model(write_operator(KEEP, tmp_path).path.read_bytes()), WIDE, Bench(runtime="simulated"))
    assert part.ms == alone.parts[0].ms


def test_a_result_that_is_kept_is_the_one_that_the_next_operator_reads(tmp_path: Path) -> None:
    x = np.random.default_rng(3).standard_normal(T.shape, np.float32)
    steps = (*in_a_row(KEEP, (SWISH, 0)), Step(KEEP, ((0, 0),)))
    models = [write_steps(steps, tmp_path, "some", kept).path.read_bytes() for kept in ((), (0,))]
    (swish, second), (between, same, as_well) = (run(model, [x], "xnnpack") for model in models)
    np.testing.assert_allclose(swish, between * np.clip(between + 3, 0, 6) / 6, atol=1e-5)
    np.testing.assert_allclose(swish, same, atol=1e-6)
    np.testing.assert_allclose(second, as_well, atol=1e-6)
    assert np.abs(second - between).max() > 0.1  # two operators of the same kind have weights of their own


def test_without_rules_a_network_is_its_operators() -> None:
    network = steps_graph(in_a_row(KEEP, (SWISH, 0), (PADDED, 0), (HALF, 0)))
    assert executed(network, NOTHING_FUSED) == network.operators()
    assert executed(network.operators(), NOTHING_FUSED) == network.operators()


def test_what_is_read_twice_is_not_fused() -> None:
    found = rules((KEEP, SWISH, 0), (SWISH, ADD, 0), (KEEP, LOGISTIC, 0), (LOGISTIC, MUL, 1), (KEEP, MUL, 0))
    assert _kinds(executed(steps_graph(in_a_row(KEEP, (SWISH, 0))), found)) == ["CONV_2D+HARD_SWISH"]
    assert _kinds(executed(steps_graph(in_a_row(KEEP, (SWISH, 0)), outputs=[0]), found)) == ["CONV_2D", "HARD_SWISH"]
    silu = steps_graph((*in_a_row(KEEP, (LOGISTIC, 0)), Step(MUL, ((0, 0), (1, 1)))))
    assert _kinds(executed(silu, found)) == ["CONV_2D", "LOGISTIC+MUL"]
    assert _kinds(executed(silu.operators(), found)) == ["CONV_2D", "LOGISTIC+MUL"]


def test_of_two_producers_the_later_one_takes_the_operator() -> None:
    both = steps_graph((Step(KEEP), Step(KEEP), Step(ADD, ((0, 0), (1, 1)))))
    (first, unit) = executed(both, rules((KEEP, ADD, 0)))
    assert _kinds([first, unit]) == ["CONV_2D", "CONV_2D+ADD"]
    assert steps_of(unit)[1].reads == ((1, 0),)
    assert unit.inputs[-1] == T
    (first, unit) = executed(both, rules((KEEP, ADD, 0), (KEEP, SWISH, 0)), taken=[True, False, True])[:2]
    assert first.kind == "HAND_OVER"


def test_a_unit_stands_where_its_last_operator_stood_and_nothing_is_lost() -> None:
    found = rules((KEEP, ADD, 0), (ADD, SWISH, 0), (PADDED, SWISH, 0))
    network = steps_graph((Step(KEEP), Step(PADDED), Step(SWISH, ((0, 1),)), Step(ADD, ((0, 0), (1, 2))), Step(SWISH, ((0, 3),))))
    units = executed(network, found)
    assert _kinds(units) == ["CONV_2D+HARD_SWISH", "CONV_2D+ADD+HARD_SWISH"]
    assert executed(units, found) == units
    assert sum(len(steps_of(unit)) for unit in units) == len(network.operators())
    assert sum(unit.params for unit in units) == network.params()


BLOCKS = {
    "residual": (*in_a_row(KEEP, (EXPAND, 0), (PROJECT, 0)), Step(ADD, ((0, 0), (1, 2))), Step(KEEP, ((0, 3),))),
    "branches": (Step(SWISH), Step(EXPAND, ((0, 0),)), Step(EXPAND, ((0, 0),)), Step(WIDE_ADD, ((0, 1), (1, 2)))),
    "SiLU": (*in_a_row(KEEP, (LOGISTIC, 0)), Step(MUL, ((0, 0), (1, 1))), Step(EXPAND, ((0, 2),))),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_list_of_operators_is_understood_as_its_graph(name: str) -> None:
    graph = steps_graph(BLOCKS[name])
    exact, guessed = flow_of(graph), flow_of(graph.operators())
    assert [guessed.readers[its[0]] for its in guessed.writes] == [exact.readers[its[0]] for its in exact.writes]
    makers = [
        [sorted(flow.producers.get(n, -1) for n in its if n != CONSTANT) for its in flow.reads] for flow in (exact, guessed)
    ]
    assert makers[0] == makers[1]


def test_pairs_of_networks_are_those_that_could_be_fused() -> None:
    network = steps_graph(BLOCKS["residual"])
    expected = ["CONV_2D RELU6 > CONV_2D RELU6", "CONV_2D RELU6 > ADD", "ADD > CONV_2D RELU6"]
    for described in (network, network.operators()):
        assert [pair.name for pair in pairs_in([described, described])] == expected


def test_names_tell_what_may_decide_and_no_sizes() -> None:
    per_channel = OpSpec("ADD", (T, TensorSpec((32,))), (T,), attrs(activation="RELU"), (1,))
    small = TensorSpec((1, 1, 1, 32))
    gate = OpSpec("MUL", (T, small), (T,), attrs(activation="NONE"))
    assert Pair(PADDED, per_channel).name == "CONV_2D > ADD RELU constant"
    assert Pair(PADDED, gate).name == "CONV_2D > MUL with broadcast"
    assert Pair(LOGISTIC, gate, 1).name == "LOGISTIC > MUL broadcast"
    assert {p.name.count("int8") for p in common_pairs("int8")} == {2}
    names = [{p.name for p in common_pairs(sizes=[size])} for size in ((56, 16), (14, 96))]
    assert names[0] == names[1]


def test_pairs_of_one_size_have_a_second_one() -> None:
    strided = replace(conv(56, 32, 32, 3, 2), attrs=attrs(**{**dict(PADDING), "stride": (2, 2)}))
    gate = OpSpec("MUL", (T, TensorSpec((1, 1, 1, 32))), (T,), attrs(activation="NONE"))
    mean = OpSpec("MEAN", (T,), (TensorSpec((1, 1, 1, 32)),), attrs(axes=(1, 2), keep_dims=True))
    for pair in (Pair(KEEP, SWISH), Pair(strided, ADD, 1), Pair(PADDED, gate), Pair(SWISH, mean), Pair(ADD, PADDED)):
        larger = doubled(pair)
        assert larger is not None
        assert (larger.name, larger.producer.outputs[0].shape) == (pair.name, (1, 56, 56, 32))
        graph = steps_graph(in_a_row(larger.producer, (larger.consumer, larger.operand)))
        inputs = [np.ones(graph.tensors[t].shape, np.float32) for t in graph.inputs]
        (result,) = run(tflite.write(graph), inputs, "builtin")  # it computes the shapes itself
        assert result.shape == larger.consumer.outputs[0].shape
    assert doubled(Pair(LOGISTIC, OpSpec("RESHAPE", (T,), (TensorSpec((1, 28 * 28, 32)),)))) is None
    assert doubled(Pair(OpSpec("LOGISTIC", mean.outputs, mean.outputs), gate, 1)) is None


def _kinds(units: list[OpSpec]) -> list[str]:
    return [unit.kind for unit in units]
