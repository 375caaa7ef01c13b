"""What operators cost: rows, interpolation, regression, and that they behave as physics and arithmetic say."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from paceline.exporters.fused_operators import fused, in_a_row
from paceline.graph import OpSpec, TensorSpec, attrs
from paceline.latency_models.costs.by_class import ByClassCost
from paceline.latency_models.costs.hybrid import HybridCost
from paceline.latency_models.costs.macs import MacsCost
from paceline.latency_models.costs.operator_cost import OperatorCost
from paceline.latency_models.costs.rates import Rates
from paceline.latency_models.costs.similar import SimilarCost
from paceline.latency_models.costs.table import TableCost
from paceline.latency_models.defaults import compared_models, default_model, table_model
from paceline.latency_models.features import (
    AMOUNTS,
    SHAPES,
    LabelledFeatures,
    RateFeatures,
    ShapeFeatures,
    amounts,
    class_of,
    group_of,
    kind_of,
    shapes,
)
from paceline.latency_models.model import Row
from paceline.latency_models.testing import truth

from samples import conv

ROWS = [conv(s, c, 2 * c, k) for s in (8, 14, 28) for c in (8, 16, 32, 64) for k in (1, 3)]
ROWS += [conv(s, c, c, k, depthwise=True) for s in (8, 14, 28) for c in (16, 48, 96) for k in (3, 5)]
MEASURED = [Row((spec,), truth((spec,))) for spec in ROWS]
COSTS: list[OperatorCost] = [TableCost(), SimilarCost(), HybridCost(ByClassCost(SimilarCost())), MacsCost()]

convs = st.builds(
    conv, st.integers(4, 40), st.integers(1, 80), st.integers(1, 80), st.sampled_from([1, 3, 5]), st.sampled_from([1, 2])
)


def elementwise(kind: str, full: tuple[int, ...], other: tuple[int, ...], activation: str = "NONE") -> OpSpec:
    return OpSpec(kind, (TensorSpec(full), TensorSpec(other)), (TensorSpec(full),), attrs(activation=activation))


def mean(shape: tuple[int, ...], axes: tuple[int, ...]) -> OpSpec:
    out = tuple(1 if i in axes else n for i, n in enumerate(shape))
    return OpSpec("MEAN", (TensorSpec(shape),), (TensorSpec(out),), attrs(axes=axes, keep_dims=True))


# ---- features


def test_the_columns_are_those_that_are_named() -> None:
    assert shapes(ROWS).shape == (len(ROWS), len(SHAPES))
    assert np.isfinite(shapes(ROWS)).all()
    spec = conv(14, 17, 33, 3, stride=2)
    named = dict(zip(SHAPES, shapes([spec])[0], strict=True))
    assert named["macs"] == pytest.approx(np.log1p(spec.macs))
    assert named["channels_in"] == pytest.approx(np.log1p(17))
    assert named["waste_16"] == pytest.approx(np.log(48 / 33))
    assert named["stride_h"] == pytest.approx(np.log1p(2))


@given(convs)
def test_equal_operators_have_equal_features_whatever_the_order_of_attributes(spec: OpSpec) -> None:
    pairs = list(spec.attrs)
    random.Random(0).shuffle(pairs)
    again = replace(OpSpec.parse(spec.key), attrs=attrs(**dict(pairs)))
    assert again == spec
    np.testing.assert_array_equal(shapes([again]), shapes([spec]))
    np.testing.assert_array_equal(amounts([again]), amounts([spec]))
    assert group_of(again) == group_of(spec)


@pytest.mark.parametrize("features", [RateFeatures(), ShapeFeatures(), LabelledFeatures()])
def test_features_do_not_depend_on_the_order_of_rows(features: RateFeatures | ShapeFeatures | LabelledFeatures) -> None:
    forth, back = clone(features).fit(ROWS), clone(features).fit(ROWS[::-1])
    np.testing.assert_array_equal(forth.transform(ROWS[:7]), back.transform(ROWS[:7]))


def test_groups_tell_variants_apart() -> None:
    full = (1, 14, 14, 32)
    variants = [
        elementwise("ADD", full, full),
        elementwise("ADD", full, full, "RELU"),
        elementwise("ADD", full, (32,)),
        elementwise("ADD", full, (1, 14, 14, 1)),
        elementwise("ADD", full, ()),
        mean(full, (1, 2)),
        mean(full, (3,)),
        mean((196, 4, 8), (0, 2)),
    ]
    assert len({group_of(spec) for spec in variants}) == len(variants)
    assert group_of(mean((1, 7, 7, 9), (1, 2))) == group_of(mean((1, 28, 28, 64), (1, 2)))


def test_runs_are_where_a_kernel_starts_anew() -> None:
    def runs(spec: OpSpec) -> float:
        return round(1e6 * dict(zip(AMOUNTS, amounts([spec])[0], strict=True))["mruns"])

    full = (1, 14, 14, 32)
    assert runs(elementwise("ADD", full, full)) == 1
    assert runs(elementwise("ADD", full, ())) == 1
    assert runs(elementwise("ADD", full, (32,))) == 196
    assert runs(elementwise("MUL", (196, 4, 8), (1, 4, 1))) == 196 * 4
    assert runs(mean(full, (1, 2))) == 196  # over pixels: a stretch of 32 channels at a time
    assert runs(mean(full, (3,))) == 196
    assert runs(mean((196, 4, 8), (0, 2))) == 196 * 4
    assert runs(conv(14, 17, 33, 3, stride=2)) == 49


def test_a_matrix_product_with_many_rows_is_a_convolution_of_1x1() -> None:
    def product(rows: int) -> OpSpec:
        operands = (TensorSpec((rows, 32)), TensorSpec((64, 32)), TensorSpec((64,)))
        return OpSpec("FULLY_CONNECTED", operands, (TensorSpec((rows, 64)),), attrs(activation="NONE"), (1, 2))

    assert kind_of(product(196)) == "CONV_2D"
    assert kind_of(product(1)) == kind_of(conv(1, 32, 64, 1)) == "FULLY_CONNECTED"


def test_a_fused_operator_counts_as_its_principal_with_the_work_of_all() -> None:
    first = conv(14, 16, 32, 3)
    second = OpSpec("HARD_SWISH", first.outputs, first.outputs)
    unit = fused(in_a_row(first, (second, 0)))
    assert (kind_of(unit), class_of(unit)) == ("CONV_2D", "dense")
    assert amounts([unit])[0, 1] == amounts([first])[0, 1] > 0
    assert group_of(unit) != group_of(first)
    assert np.isfinite(shapes([unit])).all()


# ---- costs


@pytest.mark.parametrize("cost", COSTS, ids=lambda cost: cost.name)
def test_costs_are_estimators_that_forget_nothing_and_do_not_depend_on_the_order_of_rows(cost: OperatorCost) -> None:
    assert clone(cost).get_params(deep=False).keys() == cost.get_params(deep=False).keys()  # type: ignore[attr-defined]
    unseen = [conv(11, 24, 40, 3), conv(20, 24, 24, 3, depthwise=True)]
    forth, back = clone(cost).fit(MEASURED), clone(cost).fit(MEASURED[::-1])
    np.testing.assert_allclose(forth.predict(unseen), back.predict(unseen), rtol=1e-3)
    assert forth.predict([]).shape == (0,)


@pytest.mark.parametrize("cost", [TableCost(), HybridCost(ByClassCost(SimilarCost()))], ids=["table", "hybrid"])
def test_an_operator_with_rows_costs_their_median(cost: OperatorCost) -> None:
    again = [Row((ROWS[0],), 3 * MEASURED[0].ms), Row((ROWS[0],), 1.01 * MEASURED[0].ms)]
    found = cost.fit([*MEASURED, *again])
    assert found.predict(ROWS[:2]) == pytest.approx([1.01 * MEASURED[0].ms, MEASURED[1].ms])
    assert found.sources(ROWS[:1]) == ["row"]


def test_the_table_says_where_a_figure_comes_from() -> None:
    table = TableCost().fit(MEASURED)
    asked = {
        "row": ROWS[0],
        "interpolated": conv(14, 24, 48, 3),
        "nearest": conv(112, 24, 48, 3),
        "kind": conv(14, 24, 48, 7),
        "unknown": elementwise("ADD", (1, 8, 8, 8), (1, 8, 8, 8)),
    }
    assert table.sources(list(asked.values())) == list(asked)
    found = table.predict(list(asked.values()))
    real = np.array([truth((spec,)) for spec in asked.values()])
    assert np.abs(np.log(found / real))[:3].max() < 0.3


def test_without_rows_is_nearly_a_fit_without_them() -> None:
    gone = set(ROWS[::4])
    rest = [row for row in MEASURED if row.operators[0] not in gone]
    cost = HybridCost(ByClassCost(SimilarCost()))
    refitted = clone(cost).fit(rest)
    cheap = cost.fit(MEASURED).without(gone)
    assert cheap is not None
    assert cheap.sources(list(gone)) == ["regressed"] * len(gone)
    np.testing.assert_allclose(cheap.predict(list(gone)), refitted.predict(list(gone)), rtol=0.25)
    assert cost.sources(list(gone)) == ["row"] * len(gone)


def test_similar_operators_tell_what_one_without_a_row_costs() -> None:
    unseen = [conv(11, 24, 48, 3), conv(20, 40, 80, 1), conv(20, 64, 64, 3, depthwise=True)]
    found = ByClassCost(SimilarCost()).fit(MEASURED).predict(unseen)
    assert np.abs(found / [truth((spec,)) for spec in unseen] - 1).max() < 0.15


def test_extrapolation_is_bounded_by_the_nearest_rows() -> None:
    """A hundred times larger than any row: at most as much dearer than its rates as the nearest rows are."""
    far = conv(300, 2000, 4000, 3)
    cost = SimilarCost().fit(MEASURED)
    factor = cost.predict([far])[0] / cost.rates_.predict([far])[0]
    assert cost.factors_.min() * 0.7 <= factor <= cost.factors_.max() * 1.4


@given(st.lists(st.tuples(st.sampled_from(range(len(ROWS))), st.floats(1e-4, 1e3)), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_rates_are_positive_and_finite_whatever_the_rows(rows: list[tuple[int, float]]) -> None:
    rates = Rates().fit([ROWS[i] for i, _ in rows], np.array([ms for _, ms in rows]))
    found = rates.predict([*ROWS, elementwise("ADD", (1, 8, 8, 8), (8,))])
    assert np.isfinite(found).all()
    assert (found > 0).all()


# ---- whole models


def test_more_channels_are_not_faster_by_more_than_the_interval() -> None:
    """Of one kind, window, stride and size, on a noisy device; operators with and without rows."""
    rng = np.random.default_rng(0)
    noisy = [Row(row.operators, row.ms * float(np.exp(0.03 * rng.standard_normal()))) for row in MEASURED]
    picks = [tuple(ROWS[i] for i in rng.integers(0, len(ROWS), 8)) for _ in range(30)]
    noisy += [Row(ops, truth(ops) * float(np.exp(0.02 * rng.standard_normal()))) for ops in picks]
    model = default_model(0).fit(noisy)
    for size in (8, 14, 28):
        for k in (1, 3):
            wider = [conv(size, c, 2 * c, k) for c in range(8, 65, 4)]
            found = model.predict_operators(wider)
            assert (found.high[1:] >= found.low[:-1]).all()
            assert found.ms[-1] > found.ms[0]


def test_operators_get_intervals_by_where_their_figure_comes_from() -> None:
    rng = np.random.default_rng(0)
    picks = [tuple(ROWS[i] for i in rng.integers(0, len(ROWS), 6)) for _ in range(12)]
    noisy = [Row(row.operators, row.ms * float(np.exp(0.05 * rng.standard_normal()))) for row in MEASURED]
    known = [*noisy, *(Row(ops, truth(ops)) for ops in picks)]
    found = default_model(0, session_noise=0.01).fit(known).predict_operators([ROWS[0], conv(11, 24, 48, 3)])
    width = (found.high - found.low) / found.ms
    assert 0 < width[0] < width[1]
    assert (found.low <= found.ms).all()
    assert (found.ms <= found.high).all()


def test_every_model_has_its_own_name() -> None:
    names = [model.name for model in (default_model(0), table_model(), *compared_models(0))]
    assert names == ["hybrid", "table", "mlp", "trees", "linear", "macs only"]
