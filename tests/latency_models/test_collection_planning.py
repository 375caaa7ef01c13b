"""What is believed of operators, what a measurement would teach, which come next; and what there is to choose from."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from paceline.exporters import tflite
from paceline.graph import Graph, Op, OpSpec, Quantization, TensorSpec, attrs
from paceline.latency_models.collection.belief import Belief
from paceline.latency_models.collection.block_networks import block_network, reference_network
from paceline.latency_models.collection.candidates import Candidate, Corpus, block_corpus, executed_corpus, model_corpus, widened
from paceline.latency_models.collection.outlook import Outlook
from paceline.latency_models.collection.planner import Costs, GreedyPlanner, Left
from paceline.latency_models.model import Network
from paceline.latency_models.testing import truth
from paceline.measurement import Artifact, Bench

from samples import conv

CORPUS = block_corpus(3, networks=16)
MIX = CORPUS.mix


def belief_of(seed: int, rows: int) -> Belief:
    belief = Belief([c.operators[0] for c in CORPUS.operators])
    picks = np.random.default_rng(seed).permutation(len(belief.operators))[:rows]
    measured = {belief.operators[i]: truth([belief.operators[i]]) for i in picks}
    belief.learn(measured, [(c.operators, truth(c.operators)) for c in CORPUS.networks[: rows // 20]])
    return belief


def test_belief_comes_near_the_truth_with_more_rows() -> None:
    true = np.array([truth(network) for network in MIX])
    errors = [float(np.mean(np.abs(belief_of(0, rows).predict(MIX) / true - 1))) for rows in (0, 40, 160)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02


def test_what_was_measured_is_known() -> None:
    belief = belief_of(0, 100)
    rows = np.random.default_rng(0).permutation(len(belief.operators))
    known, unknown = rows[:100], rows[100:]
    np.testing.assert_allclose(belief.ms[known], [truth([belief.operators[i]]) for i in known], rtol=0.03)
    assert float(np.median(belief.variance[known])) < float(np.median(belief.variance[unknown])) / 2


def test_gains_are_the_fall_of_uncertainty() -> None:
    networks = [c.operators for c in CORPUS.networks]
    outlook = Outlook(belief_of(0, 20), MIX, [1.0] * len(MIX), networks)
    for at, teach, gains in (
        (7, outlook.teach_operator, outlook.gains_of_operators),
        (2, outlook.teach_network, outlook.gains_of_networks),
        (7, outlook.teach_operator, outlook.gains_of_operators),
    ):
        gain, before = gains()[at], outlook.uncertainty
        teach(at)
        assert before - outlook.uncertainty == pytest.approx(gain, rel=1e-6)
        assert gains()[at] < gain


def test_what_is_taught_is_what_measuring_teaches() -> None:
    """Certainty depends on what is measured, not on the figures: the outlook is the belief after the same rows."""
    belief, rest = Belief(CORPUS.operators[0].operators + tuple(c.operators[0] for c in CORPUS.operators[1:])), [3, 8, 21]
    outlook = Outlook(belief, MIX, [1.0] * len(MIX), [])
    for at in rest:
        outlook.teach_operator(at)
    learned = Belief(belief.operators)
    learned.learn({belief.operators[at]: float(belief.ms[at]) for at in rest}, [])
    np.testing.assert_allclose(outlook._variance, learned.variance, rtol=1e-6)


def test_the_plan_prefers_what_counts_and_covers_every_kind() -> None:
    often, seldom = conv(28, 64, 64, 3), conv(14, 128, 128, 3)  # alike in what they cost
    other = OpSpec("HARD_SWISH", often.outputs, often.outputs)
    operators = tuple(_candidate(spec) for spec in (seldom, other, often))
    planner = GreedyPlanner(Corpus(((often,) * 6 + (seldom,),), (1.0,), operators, ()))
    belief, costs = Belief([seldom, other, often]), Costs(Bench())
    plan = planner.plan(belief, operators, (), Left(rows=3), costs)
    assert [c.operators[0] for c in plan] in ([often, other, seldom], [other, often, seldom])
    assert len(planner.plan(belief, operators, (), Left(rows=1), costs)) == 1
    assert planner.plan(belief, operators, (), Left(rows=0), costs) == []
    assert len(planner.plan(belief, operators, (), Left(seconds=60.0, operators=2), costs)) == 2
    assert planner.plan(belief, operators, (), Left(seconds=1e-3), costs) == []


def test_costs_follow_what_was_seen() -> None:
    costs = Costs(Bench())
    quick, slow = costs.seconds(np.array([0.01, 20.0]))
    assert 0.05 < quick < 0.2
    assert 1.0 < slow < 4.0
    costs.saw(np.array([0.01, 20.0]), 3 * (quick + slow))
    np.testing.assert_allclose(costs.seconds(np.array([0.01])), 3 * quick)


def test_block_networks_are_what_they_say(tmp_path: Path) -> None:
    kinds = set()
    for number in range(12):
        graph = block_network(np.random.default_rng(number))
        light = block_network(np.random.default_rng(number), weights=False)
        assert graph.operators() == light.operators()
        assert graph.macs() <= 500e6
        assert graph.params() <= 2.5e6
        assert tflite.read(tflite.write(graph)).graph.operators() == graph.operators()
        kinds |= {spec.kind for spec in graph.operators()}
    assert kinds >= {"CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "MUL", "MEAN", "FULLY_CONNECTED", "CONCATENATION"}
    assert reference_network().macs() < 5e6
    drawn = {spec.kind for network in block_corpus(0).mix for spec in network}
    assert drawn >= {"RESIZE_BILINEAR", "AVERAGE_POOL_2D", "MAX_POOL_2D", "HARD_SWISH", "GELU", "LOGISTIC"}


def test_the_block_corpus_is_the_same_for_a_seed() -> None:
    again = block_corpus(3, networks=16)
    assert (again.mix, again.operators, again.networks) == (CORPUS.mix, CORPUS.operators, CORPUS.networks)
    assert block_corpus(4, networks=16).mix != CORPUS.mix
    assert not set(CORPUS.mix) & {c.operators for c in CORPUS.networks}  # judged on networks that are not measured


def test_given_models_are_cut_into_networks(tmp_path: Path) -> None:
    path = tmp_path / "given.tflite"
    tflite.save(block_network(np.random.default_rng(5)), path)
    model = Artifact(path, "given.tflite")
    corpus = model_corpus([model], seed=0)
    whole = tflite.read(path).graph.operators()
    assert corpus.networks[0].operators == tuple(whole)
    assert corpus.networks[0].write(tmp_path) is model
    assert set(whole) <= {c.operators[0] for c in corpus.operators}
    assert corpus.weights[0] == 1.0
    assert 8 <= len(corpus.networks) <= 40
    for part in corpus.networks[1:6]:
        written = part.write(tmp_path / "parts")
        assert tuple(tflite.read(written.path).graph.operators()) == part.operators
        assert 1 < len(part.operators) < len(whole)


def test_quantised_models_keep_their_scales(tmp_path: Path) -> None:
    """Operators that their keys don't determine are cut out of the model."""
    image, result = TensorSpec((1, 8, 8, 4), "int8"), TensorSpec((1, 8, 8, 4), "int8")
    graph = Graph(
        (Op("LOGISTIC", ("x",), ("y",), attrs()),),
        {"x": image, "y": result},
        ("x",),
        ("y",),
        {},
        {"x": Quantization((0.03,), (7,)), "y": Quantization((1 / 256,), (-128,))},
    )
    tflite.save(graph, tmp_path / "q.tflite")
    corpus = model_corpus([Artifact(tmp_path / "q.tflite", "q.tflite")], seed=0)
    written = tflite.read(corpus.operators[0].write(tmp_path).path).graph
    assert [written.quantization[name].zero_point for name in written.inputs] == [(7,)]


def test_wider_networks_fit_together() -> None:
    specs = [conv(28, 24, 48, 1), conv(28, 48, 48, 3, depthwise=True), conv(28, 48, 24, 1), conv(112, 3, 24, 3, 2)]  # 36 is 32
    wide = widened(specs, 1.5)
    assert [s.inputs[0].shape[-1] for s in wide] == [32, 72, 72, 3]
    assert [s.outputs[0].shape[-1] for s in wide] == [72, 72, 32, 32]
    assert all(math.prod(s.inputs[1].shape) > 0 for s in wide)
    assert widened([OpSpec("RESHAPE", conv(4, 8, 8, 1).inputs[:1], conv(4, 8, 8, 1).outputs)], 2.0) == ()


def test_networks_as_they_are_executed() -> None:
    """A runtime that makes one operator of every activation and what comes before it, for example."""

    def executed(network: Network) -> list[OpSpec]:
        return [spec for spec in network if spec.kind not in ("LOGISTIC", "HARD_SWISH", "GELU")]

    corpus = executed_corpus(CORPUS, executed)
    assert [len(n) for n in corpus.mix] == [len(executed(n)) for n in CORPUS.mix]
    assert not {"LOGISTIC", "HARD_SWISH", "GELU"} & {c.operators[0].kind for c in corpus.operators}
    assert {c.operators[0] for c in corpus.operators} == {
        s for n in (*corpus.mix, *(c.operators for c in corpus.networks)) for s in n
    }
    assert [c.name for c in corpus.networks] == [c.name for c in CORPUS.networks]


def _candidate(spec: OpSpec) -> Candidate:
    return Candidate(spec.key, (spec,), lambda folder: Artifact(folder, spec.key))
