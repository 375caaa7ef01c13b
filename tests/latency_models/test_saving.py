"""Saved models: the same values and the same predictions from the file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import Ridge

from paceline.errors import LatencyModelError
from paceline.graph import OpSpec, TensorSpec, attrs
from paceline.latency_models import saving
from paceline.latency_models.archive import array_bytes, array_of, packed, unpacked
from paceline.latency_models.defaults import default_model, macs_model, table_model
from paceline.latency_models.model import Row
from paceline.latency_models.regressors.conformal import ConformalRegressor
from paceline.latency_models.regressors.hybrid import HybridRegressor
from paceline.latency_models.regressors.linear import LinearRegressor, ProportionalRegressor
from paceline.latency_models.regressors.mlp import MlpRegressor
from paceline.latency_models.regressors.trees import TreesRegressor
from paceline.latency_models.saving import load, members_of, model_of, save

from samples import conv


class Fitted(BaseEstimator):  # type: ignore[misc]
    """What any estimator of the package looks like."""

    def __init__(self, part: Any = None, strength: float = 1.0) -> None:
        self.part, self.strength = part, strength

    _cache: float | None = None

    @cached_property
    def double(self) -> float:
        return float(self.strength * 2)


@dataclass(frozen=True)
class Facts:
    names: tuple[str, ...]
    size: int = field(init=False, default=3)


@dataclass
class Loose:
    value: int


@pytest.fixture(autouse=True)
def these_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "TRUSTED", (*saving.TRUSTED, __name__))


def again(value: Any) -> Any:
    model = Fitted()
    model.value_ = value
    return model_of(unpacked(packed(members_of(model)))).value_


def same(a: Any, b: Any) -> bool:
    """Equal in value and type, NaN and the order of dicts included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, np.generic):
        return a.dtype == b.dtype and same(a.item(), b.item())
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Row):
        return same(a.operators, b.operators) and same(a.ms, b.ms)
    if isinstance(a, dict):
        return same(list(a), list(b)) and same(list(a.values()), list(b.values()))
    return bool(a == b)


OPERATORS = st.builds(conv, st.integers(1, 300), st.integers(1, 64), st.integers(1, 64), st.sampled_from([1, 3, 5]))
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
DTYPES = st.sampled_from(["f8", "f4", "f2", ">f8", "i4", "u1", "?", "U3"])
NUMBERS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
SCALARS = st.floats(width=32).map(np.float32) | st.floats().map(np.float64) | st.integers(-9, 9).map(np.int16) | st.just(np.True_)
KEYS = PLAIN | OPERATORS | st.tuples(PLAIN, OPERATORS)
VALUES = st.recursive(
    PLAIN | NUMBERS | SCALARS | OPERATORS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.builds(Row, st.lists(OPERATORS, max_size=3).map(tuple), inner)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_every_plain_value_comes_back_the_same(value: Any) -> None:
    assert same(value, again(value))


def test_settings_parts_and_what_was_learned_come_back(tmp_path: Path) -> None:
    model = Fitted(Fitted(strength=0.1 + 0.2), strength=math.inf)
    model.part.rows_ = {conv(8, 3, 4, 3): 0.25, conv(8, 3, 4, 1): math.nan}
    model.facts_ = Facts(("a", "b"))
    assert model.double == math.inf  # caches are made again
    model._cache = 3.0
    path = tmp_path / "new" / "model.zip"
    save(model, path)
    found = load(path)
    assert type(found) is Fitted
    assert (found.strength, found.part.strength) == (math.inf, 0.1 + 0.2)
    assert list(found.part.rows_) == list(model.part.rows_)
    assert found.facts_ == model.facts_
    assert not {"double", "_cache"} & vars(found).keys()
    save(found, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == path.read_bytes()


def test_arrays_keep_their_order_in_memory() -> None:
    array = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    assert again(array).flags.f_contiguous
    assert again(array).flags.writeable
    assert again(array[:, ::2]).tolist() == [[0, 2], [3, 5]]


def test_an_operator_whose_key_is_ambiguous_comes_back_too() -> None:
    odd = OpSpec("CUSTOM kind", (TensorSpec((1, 2)),), (), attrs(text="1.5"))
    assert again([odd, odd]) == [odd, odd]


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (object(), "builtins.object"),
        (np.array([None]), "numpy.ndarray"),
        (np.array(["2026-01-01"], "datetime64[D]"), "numpy.ndarray"),
        ({1, 2}, "builtins.set"),
        (math.sin, "builtin_function"),
        (Loose(1), "Loose"),
        (Ridge(), "Ridge"),
        (Path("x"), "Path"),
    ],
)
def test_what_is_not_plain_is_refused_and_named(value: object, named: str) -> None:
    model = Fitted()
    model.deep_ = {"a": [0, value]}
    with pytest.raises(LatencyModelError, match=r"can't save Fitted\.deep_\['a'\]\[1\].*" + named):
        members_of(model)


def test_a_secret_attribute_is_refused_instead_of_forgotten() -> None:
    model = Fitted()
    model._additive = 1
    with pytest.raises(LatencyModelError, match="_additive"):
        members_of(model)


REGRESSORS = [
    LinearRegressor(),
    ProportionalRegressor(),
    TreesRegressor(),
    MlpRegressor(),
    HybridRegressor(),
    ConformalRegressor(LinearRegressor()),
]


@pytest.mark.parametrize("regressor", REGRESSORS, ids=lambda r: type(r).__name__)
def test_regressors_predict_the_same_from_the_file(regressor: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features = rng.random((60, 1 if isinstance(regressor, ProportionalRegressor) else 4))
    model = clone(regressor).fit(features, 1 + features.sum(axis=1) ** 2)
    save(model, tmp_path / "model.zip")
    assert load(tmp_path / "model.zip").predict(features).tobytes() == model.predict(features).tobytes()


def test_models_of_networks_predict_the_same_from_the_file(tmp_path: Path) -> None:
    specs = [conv(size, c, c, k) for size in (8, 16, 28) for c in (8, 16, 32) for k in (1, 3)]
    rng = np.random.default_rng(0)
    rows = [Row((spec,), 0.01 + spec.macs / 1e7 * math.exp(0.05 * rng.standard_normal())) for spec in specs]
    networks = [tuple(specs[i] for i in rng.integers(0, len(specs), 8)) for _ in range(12)]
    figures = {row.operators[0]: row.ms for row in rows}
    rows += [Row(network, 0.1 + sum(figures[spec] for spec in network)) for network in networks]
    for model in (default_model(0), table_model(), macs_model()):
        model.fit(rows)
        save(model, tmp_path / "model.zip")
        first, second = model.predict(networks), load(tmp_path / "model.zip").predict(networks)
        for name in ("ms", "low", "high", "errors", "difficulty"):
            assert getattr(first, name).tobytes() == getattr(second, name).tobytes()


def test_the_same_members_are_the_same_bytes() -> None:
    assert packed({"a.json": b"1", "b.npy": b"2"}) == packed({"b.npy": b"2", "a.json": b"1"})
    assert unpacked(packed({"a.json": b"1", "b/c.npy": b"2"})) == {"a.json": b"1", "b/c.npy": b"2"}


def test_an_array_of_nothing() -> None:
    assert array_of(array_bytes(np.zeros((0, 3)))).shape == (0, 3)
