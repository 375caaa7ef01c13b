"""Regressors on the code of an architecture: on measured spaces that are additive, and on one that is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import Tensor

from paceline.arch import Arch, Choice, Space
from paceline.errors import LatencyModelError, SpaceError
from paceline.latency_models.model import Floats
from paceline.latency_models.regressors.conformal import ConformalRegressor
from paceline.latency_models.regressors.hybrid import HybridRegressor
from paceline.latency_models.regressors.linear import LinearRegressor
from paceline.latency_models.regressors.mlp import MlpRegressor
from paceline.latency_models.regressors.trees import TreesRegressor
from paceline.latency_models.saving import load, save
from paceline.latency_models.spaces.code_latency import CodeLatency
from paceline.latency_models.spaces.codes import encode_all
from paceline.latency_models.spaces.relaxed import Form, Sampled, over_limit, soft, topk_st

SPACE = Space((*(Choice(f"c{i}", tuple("abcd")) for i in range(4)), Choice("several", tuple("xyz"), 1, 2)))
RNG = np.random.default_rng(0)
COSTS = RNG.uniform(0.2, 2, SPACE.width)
PAIR = RNG.uniform(0, 4, (4, 4))


def truth(archs: Sequence[Arch], pair: float) -> Floats:
    """The options' costs, and what the first two choices cost together."""
    codes = encode_all(SPACE, archs)
    return np.asarray(1 + codes @ COSTS + pair * np.einsum("ni,ij,nj->n", codes[:, :4], PAIR, codes[:, 4:8]))


def sample(count: int, seed: int) -> list[Arch]:
    rng = np.random.default_rng(seed)
    return [SPACE.sample(rng) for _ in range(count)]


def path_of(seed: int) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    weights = {c.name: rng.dirichlet(np.ones(len(c.options))) for c in SPACE.choices}
    return {name: torch.tensor(w, requires_grad=True) for name, w in weights.items()}


def mlp() -> MlpRegressor:
    return MlpRegressor(relative=True, hidden=(32,), members=2, epochs=150, batch_size=64)


@pytest.fixture(scope="module")
def learned() -> CodeLatency:
    archs = sample(300, 1)
    return CodeLatency(SPACE, mlp()).fit(archs, truth(archs, 1.0))


def test_a_network_learns_what_a_ridge_cannot(learned: CodeLatency) -> None:
    unseen = sample(400, 2)
    found, real = learned.predict(unseen), truth(unseen, 1.0)
    assert learned.kept_
    assert learned.error_ < 0.8 * learned.ridge_error_
    assert np.mean(np.abs(found.ms / real - 1)) == pytest.approx(learned.error_, rel=0.4)
    assert 0.8 <= np.mean((found.low <= real) & (real <= found.high)) <= 0.98


def test_it_refuses_where_a_ridge_is_better() -> None:
    archs = sample(200, 3)
    fitted = CodeLatency(SPACE, mlp()).fit(archs, truth(archs, 0.0))
    assert not fitted.kept_
    for use in (lambda: fitted.predict(archs), lambda: fitted.expected_ms(path_of(0))):
        with pytest.raises(LatencyModelError, match=r"MlpRegressor errs by .*a ridge on the same code by 0\.0.*LinearRegressor"):
            use()
    assert CodeLatency(SPACE, LinearRegressor(relative=True)).fit(archs, truth(archs, 0.0)).kept_


@pytest.mark.parametrize("form", [soft, topk_st, Sampled(3, torch.Generator().manual_seed(0))])
def test_the_default_regressor_is_kept_on_an_additive_space_and_has_its_gradient(form: Form) -> None:
    archs = sample(200, 3)
    fitted = CodeLatency(SPACE, HybridRegressor(relative=True)).fit(archs, truth(archs, 0.0))
    assert fitted.kept_
    path = path_of(1)
    fitted.expected_ms(path, form).backward()  # type: ignore[no-untyped-call]
    for choice, part in SPACE.slices():
        found = path[choice.name].grad
        assert found is not None
        if choice.at_most == 1:  # options of which exactly one is taken are known up to a constant
            np.testing.assert_allclose(found - found.mean(), COSTS[part] - COSTS[part].mean(), atol=0.01)


def test_soft_gradients_are_those_of_finite_differences(learned: CodeLatency) -> None:
    path, step = path_of(0), 1e-2
    learned.expected_ms(path, soft).backward()  # type: ignore[no-untyped-call]

    def moved(name: str, i: int, by: float) -> float:
        other = {n: w.detach().clone() for n, w in path.items()}
        other[name][i] += by
        return float(learned.expected_ms(other, soft))

    for name, weights in path.items():
        assert weights.grad is not None
        numeric = [(moved(name, i, step) - moved(name, i, -step)) / (2 * step) for i in range(len(weights))]
        np.testing.assert_allclose(weights.grad, numeric, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("seed", range(4))
def test_topk_is_the_prediction_of_the_derived_architecture(learned: CodeLatency, seed: int) -> None:
    path = path_of(seed)
    derived = SPACE.decode(soft(SPACE, path)[0].detach().numpy())
    value = learned.expected_ms(path, topk_st)
    assert float(value.detach()) == float(learned.predict([derived]).ms[0])
    value.backward()  # type: ignore[no-untyped-call]
    assert all(w.grad is not None and bool((w.grad != 0).any()) for w in path.values())


def test_sampled_is_the_mean_over_the_architectures_that_the_path_stands_for(learned: CodeLatency) -> None:
    path = path_of(5)
    found = float(learned.expected_ms(path, Sampled(4000, torch.Generator().manual_seed(0))).detach())
    rng = np.random.default_rng(0)
    many = []
    for _ in range(4000):
        picks = [(n, (SPACE.choices[i].options[rng.choice(len(w), p=w.detach())],)) for i, (n, w) in enumerate(path.items())]
        many.append(Arch(tuple(picks)))
    predicted = learned.predict(many).ms
    assert found == pytest.approx(predicted.mean(), abs=5 * predicted.std() * np.sqrt(2 / 4000))


@pytest.mark.parametrize("chance", [0.5, 0.9])
def test_the_hinge_is_0_exactly_where_the_limit_is_kept_with_the_chance(learned: CodeLatency, chance: float) -> None:
    path = path_of(7)
    derived = learned.predict([SPACE.decode(soft(SPACE, path)[0].detach().numpy())])
    for limit in derived.ms[0] * np.linspace(0.8, 1.2, 41):
        over = over_limit(learned, path, float(limit), chance)
        assert (over.item() > 0) == (derived.chance(limit)[0] < chance)
    over_limit(learned, path, float(derived.ms[0]) / 2, chance).backward()  # type: ignore[no-untyped-call]
    assert all(w.grad is not None and bool((w.grad != 0).any()) for w in path.values())


def test_a_regressor_that_makes_intervals_makes_those_of_the_architectures() -> None:
    archs, unseen = sample(150, 4), sample(40, 5)
    ms = truth(archs, 0.2) * np.exp(0.02 * np.random.default_rng(0).standard_normal(150))
    regressor = ConformalRegressor(LinearRegressor(relative=True))
    latency = CodeLatency(SPACE, regressor).fit(archs, ms)
    expected = clone(regressor).fit(encode_all(SPACE, archs), ms).predict_interval(encode_all(SPACE, unseen))
    for name in ("ms", "low", "high", "errors", "difficulty"):
        np.testing.assert_array_equal(getattr(latency.predict(unseen), name), getattr(expected, name))


def test_a_saved_model_predicts_the_same(learned: CodeLatency, tmp_path: Path) -> None:
    save(learned, tmp_path / "model.zip")
    loaded: CodeLatency = load(tmp_path / "model.zip")
    archs = sample(30, 8)
    for name in ("ms", "low", "high", "errors", "difficulty"):
        np.testing.assert_array_equal(getattr(loaded.predict(archs), name), getattr(learned.predict(archs), name))
    assert loaded.expected_ms(path_of(0)).item() == learned.expected_ms(path_of(0)).item()


def test_option_numbers_and_weights_name_the_same_architectures() -> None:
    space = Space(SPACE.choices[:4])
    codes = np.random.default_rng(0).integers(0, 4, (80, 4))
    archs = [Arch(tuple((c.name, (c.options[k],)) for c, k in zip(space.choices, row, strict=True))) for row in codes]
    ms = 1 + encode_all(space, archs) @ COSTS[:16]
    latency = CodeLatency(space, LinearRegressor(relative=True)).fit(archs, ms)
    np.testing.assert_allclose(latency.predict(archs).ms, ms, rtol=1e-3)
    np.testing.assert_array_equal(latency.predict_codes(codes).ms, latency.predict(archs).ms)
    np.testing.assert_array_equal(latency.predict_encoded(encode_all(space, archs).astype(bool)).ms, latency.predict(archs).ms)
    assert latency.predict([]).ms.shape == (0,)


def test_mistakes_are_named(learned: CodeLatency) -> None:
    archs = sample(20, 0)
    ms = truth(archs, 0.0)
    with pytest.raises(LatencyModelError, match="architecture 3 has nan ms"):
        CodeLatency(SPACE, mlp()).fit(archs, np.where(np.arange(20) == 3, np.nan, ms))
    with pytest.raises(LatencyModelError, match="20 architectures with milliseconds of shape"):
        CodeLatency(SPACE, mlp()).fit(archs, ms[:5])
    with pytest.raises(LatencyModelError, match=r"4 architectures .*at least 5"):
        CodeLatency(SPACE, mlp()).fit(archs[:4], ms[:4])
    with pytest.raises(SpaceError):
        learned.predict([Space(SPACE.choices[:2]).sample(np.random.default_rng(0))])
    other: Mapping[str, Tensor] = {"c0": torch.ones(4) / 4}
    with pytest.raises(LatencyModelError, match="needs 4 weights for choice 'c1'"):
        learned.expected_ms(other)
    trees = CodeLatency(SPACE, TreesRegressor(relative=True, n_estimators=60)).fit(archs := sample(150, 1), truth(archs, 1.0))
    trees.kept_ = True
    with pytest.raises(LatencyModelError, match="TreesRegressor has no gradient"):
        trees.expected_ms(path_of(0))
