"""What every latency model must do, as tests: subclass `LatencyModelTestSuite` and give it a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from paceline.graph import OpSpec
from paceline.latency_models.metrics import accuracy_of
from paceline.latency_models.model import LatencyModel, Row


def truth(operators: Sequence[OpSpec]) -> float:
    """An imagined device: operators cost MACs (dearer depthwise), bytes and a launch, networks a little more than the sum."""
    rates = {"DEPTHWISE_CONV_2D": 1 / 300}
    costs = [
        1e-3 + spec.macs / 1e6 * rates.get(spec.kind, 1 / 30) + sum(t.bytes for t in (*spec.inputs, *spec.outputs)) / 1e6 / 20
        for spec in operators
    ]
    return sum(costs) if len(costs) == 1 else 1.07 * sum(costs) + 0.004


class LatencyModelTestSuite:
    """Override the fixtures. `rows`: operators and networks with their `truth`; `unseen`: other networks of these operators."""

    tolerance: float = 0.05
    """The mean error allowed on `unseen`, relative."""

    additive: bool = True
    """Whether a network is exactly its base and its operators."""

    @pytest.fixture
    def model(self) -> LatencyModel:
        raise NotImplementedError

    @pytest.fixture
    def rows(self) -> Sequence[Row]:
        raise NotImplementedError

    @pytest.fixture
    def unseen(self) -> Sequence[Sequence[OpSpec]]:
        raise NotImplementedError

    def test_predicts_networks_it_has_not_seen(
        self, model: LatencyModel, rows: Sequence[Row], unseen: Sequence[Sequence[OpSpec]]
    ) -> None:
        predicted = model.fit(rows).predict(unseen)
        assert predicted.ms.shape == (len(unseen),)
        assert accuracy_of(model.name, predicted.ms, np.array([truth(n) for n in unseen])).mape <= self.tolerance
        assert (predicted.low <= predicted.ms).all()
        assert (predicted.ms <= predicted.high).all()

    def test_a_network_is_its_base_and_its_operators(
        self, model: LatencyModel, rows: Sequence[Row], unseen: Sequence[Sequence[OpSpec]]
    ) -> None:
        if not self.additive:
            pytest.skip("this model scales whole networks")
        model.fit(rows)
        for network in unseen[:5]:
            whole = model.predict([network]).ms[0]
            assert whole == pytest.approx(model.base_ms + model.operator_ms(network).sum(), rel=1e-9)

    def test_the_same_rows_give_the_same_figures(
        self, model: LatencyModel, rows: Sequence[Row], unseen: Sequence[Sequence[OpSpec]]
    ) -> None:
        first = model.fit(rows).predict(unseen).ms
        np.testing.assert_array_equal(first, model.fit(rows).predict(unseen).ms)
