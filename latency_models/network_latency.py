"""The latency model of networks given as operators: what the operators cost alone, and what whole networks make of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, clone

from paceline.graph import OpSpec
from paceline.latency_models.additive import distinct, operator_terms, plain_sum, summed
from paceline.latency_models.calibration import calibrate, interval, margins
from paceline.latency_models.costs.operator_cost import OperatorCost, Source
from paceline.latency_models.model import Floats, Network, Prediction, Row, single, whole


class NetworkLatency(BaseEstimator):  # type: ignore[misc]
    """A network's latency is the calibrated sum of what its operators cost alone (see `additive` and `calibration`).

    `folds`: the calibration sees each network as one that is new: in so many parts, with costs that are fitted without the
    networks of a part and without the rows of operators that only they have. 0 where every operator that will ever be asked for
    has a row, as in a search space. With `overheads` off the sum is only scaled. `confidence` is that of the intervals,
    `session_noise` how far measurements of one network in two sessions differ (relative, root mean square).
    """

    def __init__(
        self,
        cost: OperatorCost,
        *,
        folds: int = 5,
        overheads: bool = True,
        confidence: float = 0.9,
        session_noise: float = 0.0,
    ) -> None:
        self.cost, self.folds, self.overheads = cost, folds, overheads
        self.confidence, self.session_noise = confidence, session_noise

    @property
    def name(self) -> str:
        return self.cost.name

    def fit(self, rows: Sequence[Row]) -> Self:
        networks = [row.operators for row in whole(rows)]
        self.cost_: OperatorCost = clone(self.cost).fit(rows)
        seen: list[tuple[list[int], OperatorCost]] = []
        errors = defaultdict[Source, list[float]](list)
        for part, cost, left_out in self._parts(rows):
            seen.append((part, cost))
            found = cost.predict([row.operators[0] for row in left_out])
            for row, source, ms in zip(left_out, cost.sources([row.operators[0] for row in left_out]), found, strict=True):
                errors[source].append(row.ms / ms - 1)
        self.source_errors_: dict[str, float] = {s: float(np.sqrt(np.mean(np.square(e)))) for s, e in errors.items()}
        self.operator_errors_ = np.sort([e / self.source_errors_[s] for s, every in errors.items() for e in every])
        sums = np.zeros((len(networks), self._width))
        for part, cost in seen:
            held_out = [networks[i] for i in part]
            specs = distinct(held_out)
            sums[part] = summed(held_out, specs, self._terms(cost, specs))
        self.calibration_ = calibrate(
            np.column_stack([sums[:, 2:], np.ones(len(networks))]),
            _doubts(sums[:, 0], sums[:, 1]),
            np.array([row.ms for row in whole(rows)]),
            plain_sum(self.overheads),
            self.confidence,
            self.session_noise,
        )
        return self

    def predict(self, networks: Sequence[Network]) -> Prediction:
        specs = distinct(networks)
        return self.of_sums(summed(networks, specs, self.addends(specs)))

    def addends(self, operators: Sequence[OpSpec]) -> Floats:
        """What a prediction needs of each operator, to be summed over a network, shape (operators, 3): milliseconds that it adds,
        its cost alone, and the variance of this."""
        terms = self._terms(self.cost_, operators)
        return np.column_stack([terms[:, 2:] @ self.calibration_.scale[:-1], terms[:, :2]])

    def of_sums(self, sums: Floats) -> Prediction:
        """The Prediction of networks whose `addends` have these sums, shape (networks, 3)."""
        return self.calibration_.predict(sums[:, 0] + self.base_ms, _doubts(sums[:, 1], sums[:, 2]))

    def operator_ms(self, operators: Sequence[OpSpec]) -> Floats:
        """What each operator adds to a network that holds it, shape (operators,); with `base_ms` they add up to `predict`."""
        return self.addends(operators)[:, 0]

    @property
    def base_ms(self) -> float:
        return float(self.calibration_.scale[-1])

    def predict_operators(self, operators: Sequence[OpSpec]) -> Prediction:
        """Milliseconds of each operator alone. An operator with a row is as certain as `session_noise` says."""
        doubts = np.array([self.source_errors_.get(source, self.session_noise) for source in self.sources(operators)], float)
        return interval(self.cost_.predict(operators), self.operator_errors_, doubts, self.confidence)

    def sources(self, operators: Sequence[OpSpec]) -> list[Source]:
        """Where the figure of each operator comes from."""
        return self.cost_.sources(operators)

    @property
    def margins(self) -> tuple[float, float]:
        """Relative distance from a prediction to the ends of its interval, for networks whose every operator has a row."""
        return margins(self.calibration_.errors, self.confidence)

    @property
    def _width(self) -> int:
        return 1 + len(plain_sum(self.overheads))

    def _terms(self, cost: OperatorCost, operators: Sequence[OpSpec]) -> Floats:
        """Per operator its cost alone, the variance of this, and the terms of the calibration but the base."""
        ms, sources = cost.predict(operators), cost.sources(operators)
        unsure = np.array([self.source_errors_.get(source, 0.0) for source in sources], float)
        unknown = np.array([source == "unknown" for source in sources], bool)
        return np.column_stack([ms, (ms * unsure) ** 2, operator_terms(operators, ms, unknown, self.overheads)])

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


def _doubts(ms: Floats, variance: Floats) -> Floats:
    """Relative standard errors of sums of costs, as if the errors of operators were independent."""
    return np.asarray(np.sqrt(variance) / np.maximum(ms, 1e-12))
