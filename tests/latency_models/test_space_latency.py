"""A latency model on one space: many architectures at once, exactly what the model says of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.arch import Choice, Space
from paceline.errors import LatencyModelError, SpaceError
from paceline.graph import OpSpec
from paceline.latency_models.defaults import default_model
from paceline.latency_models.model import Floats, Prediction, Row
from paceline.latency_models.space_latency import SpaceLatency
from paceline.latency_models.spaces.codes import encode_all, one_hot
from paceline.latency_models.testing import truth
from paceline.space_operators import SpaceOperators

from samples import conv

SPECS = [conv(s, c, 2 * c, k) for s in (8, 16, 24) for c in (8, 16, 32) for k in (1, 3)]


class Doubtful:
    """Costs and variances of operators at random; the errors of a network grow with the root of its variance."""

    name = "doubtful"
    base_ms = 0.3

    def __init__(self, seed: int, errors: int = 19) -> None:
        rng = np.random.default_rng(seed)
        self.rows = {spec: rng.uniform(0.01, 1, 2) for spec in SPECS}
        self.errors = np.sort(0.05 * rng.standard_normal(errors))

    def fit(self, rows: object) -> Doubtful:
        return self

    def addends(self, operators: Sequence[OpSpec]) -> Floats:
        return np.array([self.rows[spec] for spec in operators]).reshape(len(operators), 2)

    def of_sums(self, sums: Floats) -> Prediction:
        ms = self.base_ms + sums[:, 0]
        difficulty = np.sqrt(1 + sums[:, 1] / ms)
        low, high = (self.errors[0], self.errors[-1]) if len(self.errors) else (0.0, 0.0)
        return Prediction(ms, ms * (1 + low * difficulty), ms * (1 + high * difficulty), self.errors, difficulty)

    def predict(self, networks: Sequence[Sequence[OpSpec]]) -> Prediction:
        return self.of_sums(np.array([self.addends(network).sum(axis=0) for network in networks]).reshape(-1, 2))

    def operator_ms(self, operators: Sequence[OpSpec]) -> Floats:
        return self.addends(operators)[:, 0]


def latency_on(space: Space, seed: int) -> SpaceLatency:
    rng = np.random.default_rng(seed)
    options = {
        (c.name, o): tuple(SPECS[i] for i in rng.integers(0, len(SPECS), rng.integers(0, 4)))  # some options do nothing
        for c in space.choices
        for o in c.options
    }
    return SpaceLatency(Doubtful(seed), SpaceOperators(space, (SPECS[4], SPECS[4]), options))


@st.composite
def spaces(draw: st.DrawFn, single: bool = False) -> Space:
    choices = []
    for i in range(draw(st.integers(1, 5))):
        n = draw(st.integers(1, 5))
        at_most = 1 if single else draw(st.integers(1, n))
        at_least = 1 if single else draw(st.integers(0, at_most))
        choices.append(Choice(f"c{i}", tuple("abcde"[:n]), at_least, at_most))
    return Space(tuple(choices))


def same(found: Prediction, expected: Prediction) -> None:
    for name in ("ms", "low", "high", "difficulty", "errors"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-12, err_msg=name)


@given(spaces(), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_all_at_once_is_one_by_one(space: Space, seed: int) -> None:
    latency = latency_on(space, seed)
    rng = np.random.default_rng(seed)
    archs = [space.sample(rng) for _ in range(7)]
    expected = latency.model.predict([latency.operators.of(arch) for arch in archs])
    same(latency.predict(archs), expected)
    for dtype in (bool, np.uint8, np.float32):
        same(latency.predict_encoded(encode_all(space, archs).astype(dtype)), expected)


@given(spaces(single=True), st.integers(0, 2**32 - 1), st.sampled_from([np.uint8, np.int32, np.int64]))
@settings(max_examples=40, deadline=None)
def test_option_numbers_name_the_same_architectures(space: Space, seed: int, dtype: type[np.integer]) -> None:
    latency = latency_on(space, seed)
    rng = np.random.default_rng(seed)
    archs = [space.sample(rng) for _ in range(7)]
    codes = np.array([[c.options.index(arch[c.name][0]) for c in space.choices] for arch in archs], dtype)
    same(latency.predict_codes(codes), latency.predict(archs))
    np.testing.assert_array_equal(one_hot(space, codes), encode_all(space, archs))


@given(spaces(single=True), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_choices_add_up(space: Space, seed: int) -> None:
    """Exchanging one option changes the milliseconds by the same, whatever the other choices are."""
    latency = latency_on(space, seed)
    rng = np.random.default_rng(seed)
    sizes = [len(c.options) for c in space.choices]
    one, other = rng.integers(0, sizes), rng.integers(0, sizes)
    at = int(rng.integers(len(sizes)))
    exchanged = []
    for code in (one, other):
        both = np.stack([code, code])
        both[:, at] = rng.integers(sizes[at]), 0
        exchanged.append(both)
    exchanged[1][0, at] = exchanged[0][0, at]
    changes = [np.diff(latency.predict_codes(both).ms)[0] for both in exchanged]
    assert changes[0] == pytest.approx(changes[1], abs=1e-12)


def test_the_default_model_says_the_same_of_networks_and_of_architectures() -> None:
    """Operators without a row among them."""
    rng = np.random.default_rng(0)
    networks = [tuple(SPECS[i] for i in rng.integers(0, len(SPECS), 12)) for _ in range(30)]
    measured = [(spec,) for spec in SPECS[::2]] + networks
    model = default_model(0).fit([Row(n, truth(n) * float(np.exp(0.02 * rng.standard_normal()))) for n in measured])
    space = Space((Choice("a", tuple("xyz")), Choice("b", tuple("xyz"), 1, 3), Choice("c", ("x", "skip"))))
    latency = SpaceLatency(model, latency_on(space, 1).operators)
    archs = [space.sample(rng) for _ in range(40)]
    expected = model.predict([latency.operators.of(arch) for arch in archs])
    same(latency.predict(archs), expected)


def test_more_architectures_than_a_block() -> None:
    space = Space(tuple(Choice(f"c{i}", tuple("abcd")) for i in range(6)))
    latency = latency_on(space, 1)
    codes = np.random.default_rng(0).integers(0, 4, (40_000, 6))
    found, encoded = latency.predict_codes(codes), latency.predict_encoded(one_hot(space, codes))
    some = [0, 2047, 2048, 4096, 39_999]
    np.testing.assert_allclose(found.ms, encoded.ms, rtol=1e-12)
    np.testing.assert_allclose(found.ms[some], latency.predict_codes(codes[some]).ms, rtol=1e-12)
    none = latency.predict([])
    assert none.ms.shape == none.low.shape == (0,)


@pytest.mark.parametrize(
    ("codes", "reason"),
    [
        ([[0, 3]], "code 3 of architecture 0 is no option of 'b': 0 to 2"),
        ([[0, 0], [-1, 0]], "code -1 of architecture 1 is no option of 'a'"),
        ([[0]], r"shape \(archs, 2\).*got int64 of shape \(1, 1\)"),
        ([[0.0, 1.0]], "got float64"),
    ],
)
def test_codes_of_another_space_are_refused(codes: list[list[int]], reason: str) -> None:
    latency = latency_on(Space((Choice("a", tuple("xy")), Choice("b", tuple("xyz")))), 0)
    with pytest.raises(LatencyModelError, match=reason):
        latency.predict_codes(np.array(codes))


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        ([[1, 0, 1, 1, 1]], "architecture 0 takes 3 options of 'b', which takes 1 to 2"),
        ([[1, 0, 1, 0, 0], [0, 0, 1, 0, 0]], "architecture 1 takes 0 options of 'a'"),
        ([[0.5, 0.5, 1, 0, 0]], "0 and 1 only"),
        ([[1, 0, 1]], r"shape \(archs, 5\).*got \(1, 3\)"),
    ],
)
def test_weights_that_are_no_architecture_are_refused(encoded: list[list[float]], reason: str) -> None:
    space = Space((Choice("a", tuple("xy")), Choice("b", tuple("xyz"), 1, 2)))
    with pytest.raises(LatencyModelError, match=reason):
        latency_on(space, 0).predict_encoded(np.array(encoded))
    with pytest.raises(LatencyModelError, match="'b' can take several options"):
        latency_on(space, 0).predict_codes(np.array([[0, 0]]))
    with pytest.raises(SpaceError):
        latency_on(space, 0).predict([Space((Choice("a", ("x",)),)).sample(np.random.default_rng(0))])


def test_the_fastest_architecture_is_the_fastest() -> None:
    space = Space((Choice("a", tuple("xyz")), Choice("b", ("x", "skip")), Choice("c", tuple("pqr"), 1, 2)))
    latency = latency_on(space, 4)
    rng = np.random.default_rng(4)
    every = [space.sample(rng) for _ in range(600)]
    assert len(set(every)) == space.size
    assert latency.predict([latency.fastest()]).ms[0] == pytest.approx(latency.predict(every).ms.min(), rel=1e-12)
    share = float(np.mean(latency.predict(every).ms <= latency.quantile(0.3, rng)))
    assert share == pytest.approx(0.3, abs=0.08)


def test_a_hard_path_is_its_architecture_and_a_soft_one_has_the_options_costs_as_gradient() -> None:
    space = Space((Choice("a", tuple("xyz")), Choice("b", ("x", "y"))))
    latency = latency_on(space, 2)
    arch = space.sample(np.random.default_rng(0))
    weights = torch.from_numpy(space.encode(arch))
    hard = {c.name: weights[part] for c, part in space.slices()}
    assert latency.expected_ms(hard).item() == pytest.approx(latency.predict([arch]).ms[0], rel=1e-12)
    path = {"a": torch.tensor([0.2, 0.3, 0.5], requires_grad=True), "b": torch.tensor([0.5, 0.5], requires_grad=True)}
    latency.expected_ms(path).backward()  # type: ignore[no-untyped-call]
    for choice in space.choices:
        costs = [latency.model.operator_ms(latency.operators.options[choice.name, o]).sum() for o in choice.options]
        found = path[choice.name].grad
        assert found is not None
        np.testing.assert_allclose(found, costs, rtol=1e-6)
