"""The latency model of networks given as operators: what the operators cost alone, and what whole networks make of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, clone

from paceline.graph import OpSpec
from paceline.latency_models.additive import GUESSED, distinct, operator_terms, plain_sum, summed
from paceline.latency_models.calibration import errors_of, fitted_scale, interval
from paceline.latency_models.costs.operator_cost import OperatorCost, Source
from paceline.latency_models.model import Floats, Network, Prediction, Row, single, whole
from paceline.latency_models.network_residual import NetworkResidual, part_of
from paceline.latency_models.network_residual import parts as described_parts

_USUAL = 1.48
"""The standard deviation of normal errors over their median size."""


class NetworkLatency(BaseEstimator):  # type: ignore[misc]
    """A network's latency is the calibrated sum of what its operators cost alone (see `additive` and `calibration`).

    `folds`: the calibration sees each network as one that is new: in so many parts, with costs that are fitted without the
    networks of a part and without the rows of operators that only they have. 0 where every operator that will ever be asked for
    has a row, as in a search space. With `overheads` off the sum is only scaled. With `residual` networks of like composition are
    off by like factors (NetworkResidual), where held-out networks say so. `confidence` is that of the intervals, `session_noise`
    how far measurements of one network in two sessions differ (relative, root mean square).
    """

    def __init__(
        self,
        cost: OperatorCost,
        *,
        folds: int = 5,
        overheads: bool = True,
        residual: bool = False,
        confidence: float = 0.9,
        session_noise: float = 0.0,
    ) -> None:
        self.cost, self.folds, self.overheads, self.residual = cost, folds, overheads, residual
        self.confidence, self.session_noise = confidence, session_noise

    @property
    def name(self) -> str:
        return self.cost.name

    def fit(self, rows: Sequence[Row]) -> Self:
        networks = [row.operators for row in whole(rows)]
        self.cost_: OperatorCost = clone(self.cost).fit(rows)
        self.parts_ = sorted({part_of(spec) for network in networks for spec in network})
        parts = list(self._parts(rows))
        errors = defaultdict[Source, list[float]](list)
        for cost, left_out in [*((cost, left_out) for _, cost, left_out in parts), *self._shuffled(rows)]:
            operators = [row.operators[0] for row in left_out]
            for row, source, ms in zip(left_out, cost.sources(operators), cost.predict(operators), strict=True):
                if ms > 0:  # MACs alone say nothing of operators without any
                    errors[source].append(row.ms / ms - 1)
        self.source_errors_: dict[str, float] = {s: _USUAL * float(np.median(np.abs(e))) for s, e in errors.items()}
        self.operator_errors_ = np.sort([e / max(self.source_errors_[s], 1e-9) for s, every in errors.items() for e in every])
        known, new = self._sums(self.cost_, networks), self._sums(self.cost_, networks)
        for part, cost, _ in parts:
            new[part] = self._sums(cost, [networks[i] for i in part])
        measured = np.array([row.ms for row in whole(rows)])
        self.scale_, ms = fitted_scale(
            self._with_base(known),
            self._with_base(new),
            measured,
            plain_sum(self.overheads),
            GUESSED if self.overheads else (),
        )
        self.least_ = float(np.min(measured / np.maximum(known[:, 0], 1e-12)) / 2) if networks else 0.0
        self.residual_ = NetworkResidual().fit(new[:, self._width :], ms, measured) if self.residual else None
        factors = self.residual_.held_out_ if self.residual_ else 1.0
        doubts = _doubts(new[:, 0], new[:, 1])
        self.errors_ = errors_of(measured, ms * factors, doubts, self.confidence, self.session_noise)
        return self

    def predict(self, networks: Sequence[Network]) -> Prediction:
        specs = distinct(networks)
        return self.of_sums(summed(networks, specs, self.addends(specs)))

    def addends(self, operators: Sequence[OpSpec]) -> Floats:
        """What a prediction needs of each operator, to be summed over a network, shape (operators, …): milliseconds that it adds,
        its cost alone, the variance of this, and what `NetworkResidual` needs."""
        terms = self._terms(self.cost_, operators)
        added = terms[:, 2 : self._width] @ self.scale_[:-1]
        return np.column_stack([added, terms[:, :2], terms[:, self._width :]])

    def of_sums(self, sums: Floats) -> Prediction:
        """The Prediction of networks whose `addends` have these sums, shape (networks, …).

        No network is faster, compared with the sum of what its operators cost alone, than half of the fastest that was measured:
        where the calibration says so, it was fitted on networks that are much larger.
        """
        ms = np.maximum(sums[:, 0] + self.base_ms, self.least_ * sums[:, 1])
        factors = self.residual_.factors(sums[:, 3:], ms) if self.residual_ else 1.0
        return self.errors_.around(ms * factors, _doubts(sums[:, 1], sums[:, 2]))

    def operator_ms(self, operators: Sequence[OpSpec]) -> Floats:
        """What each operator adds to a network that holds it, shape (operators,); with `base_ms` they add up to what `predict`
        says without a `residual`."""
        return self.addends(operators)[:, 0]

    def contributions(self, network: Network) -> tuple[Floats, float]:
        """Milliseconds of each operator of the network, shape (operators,), and of its base, which add up to its prediction.

        None is negative. An operator that the calibration makes cheaper than nothing, because its neighbours take it in, has 0.
        """
        added, base = np.maximum(self.operator_ms(network), 0.0), max(self.base_ms, 0.0)
        base = base if base or added.any() else 1.0
        factor = float(self.predict([network]).ms[0]) / (base + float(added.sum()))
        return added * factor, base * factor

    @property
    def base_ms(self) -> float:
        return float(self.scale_[-1])

    def predict_operators(self, operators: Sequence[OpSpec]) -> Prediction:
        """Milliseconds of each operator alone. An operator with a row is as certain as `session_noise` says."""
        doubts = np.array([self.source_errors_.get(source, self.session_noise) for source in self.sources(operators)], float)
        return interval(self.cost_.predict(operators), self.operator_errors_, doubts, self.confidence)

    def sources(self, operators: Sequence[OpSpec]) -> list[Source]:
        """Where the figure of each operator comes from."""
        return self.cost_.sources(operators)

    @property
    def _width(self) -> int:
        return 1 + len(plain_sum(self.overheads))

    def _terms(self, cost: OperatorCost, operators: Sequence[OpSpec]) -> Floats:
        """Per operator its cost alone, the variance of this, the terms of the calibration but the base (up to `_width`), and what
        the residual needs."""
        ms, sources = cost.predict(operators), cost.sources(operators)
        unsure = np.array([self.source_errors_.get(source, 0.0) for source in sources], float)
        unknown = np.array([source == "unknown" for source in sources], bool)
        terms = operator_terms(operators, ms, unknown, self.overheads)
        described = described_parts(operators, ms, self.parts_) if self.residual else np.zeros((len(operators), 0))
        return np.column_stack([ms, (ms * unsure) ** 2, terms, described])

    def _sums(self, cost: OperatorCost, networks: Sequence[Network]) -> Floats:
        specs = distinct(networks)
        return summed(networks, specs, self._terms(cost, specs))

    def _with_base(self, sums: Floats) -> Floats:
        return np.column_stack([sums[:, 2 : self._width], np.ones(len(sums))])

    def _parts(self, rows: Sequence[Row]) -> Iterator[tuple[list[int], OperatorCost, list[Row]]]:
        """Indices of networks, the cost fitted as if these were new, and the rows of operators that it was fitted without."""
        networks, operators = whole(rows), single(rows)
        folds = min(self.folds, len(networks))
        if folds < 2:
            yield list(range(len(networks))), self.cost_, []
            return
        uses = Counter(spec for row in networks for spec in set(row.operators))
        for fold in range(folds):
            part = list(range(fold, len(networks), folds))
            inside = Counter(spec for i in part for spec in set(networks[i].operators))
            only_here = {spec for spec in inside if inside[spec] == uses[spec]}
            left_out = [row for row in operators if row.operators[0] in only_here]
            if len(left_out) == len(operators):  # nothing would be known
                left_out, only_here = [], set()
            gone = {id(row) for row in (*left_out, *(networks[i] for i in part))}
            cost = self.cost_.without(only_here) or clone(self.cost).fit([row for row in rows if id(row) not in gone])
            yield part, cost, left_out

    def _shuffled(self, rows: Sequence[Row]) -> Iterator[tuple[OperatorCost, list[Row]]]:
        """The cost without every so manieth operator, and the rows of these, where that needs no fit."""
        operators = single(rows)
        for fold in range(self.folds):
            left_out = operators[fold :: self.folds]
            cost = self.cost_.without({row.operators[0] for row in left_out})
            if cost is not None:
                yield cost, left_out


def _doubts(ms: Floats, variance: Floats) -> Floats:
    """Relative standard errors of sums of costs, as if the errors of operators were independent."""
    return np.asarray(np.sqrt(variance) / np.maximum(ms, 1e-12))
