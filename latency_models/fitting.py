"""From the rows of a bundle to a fitted model, and how wrong it and the plainer ones are on networks they were not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paceline.errors import LatencyModelError
from paceline.latency_models.bundle.bundle import Bundle
from paceline.latency_models.bundle.rows import MeasuredRow
from paceline.latency_models.defaults import default_model, macs_model, table_model
from paceline.latency_models.fusion.execution import Execution
from paceline.latency_models.metrics import Accuracy, accuracy_of, coverage
from paceline.latency_models.model import Row, single, whole
from paceline.latency_models.network_latency import NetworkLatency
from paceline.latency_models.row_checks import Flag, checked
from paceline.measurement import Progress, silent

FOLDS = 5
_ENOUGH = 2 * FOLDS
"""Networks below which nothing is left out to test on."""


@dataclass(frozen=True)
class Fit:
    """A fitted model and what is known about it.

    `accuracies` are those of networks left out in turn (the default first, then plainer models), () with too few networks;
    `covered` is the share of them inside their intervals. `noise` is how far the batches of one network disagree (relative,
    median over networks), None where no samples are kept. `flagged` names the rows that were left out.
    """

    model: NetworkLatency
    operators: int
    networks: int
    accuracies: tuple[Accuracy, ...]
    covered: float | None
    noise: float | None
    flagged: tuple[Flag, ...]


def fit(bundle: Bundle, seed: int, confidence: float = 0.9, progress: Progress = silent) -> Fit:
    """The default model on all rows that can be believed. Raises LatencyModelError where there are none."""
    given = bundle.rows()
    if not given:
        raise LatencyModelError("there is no row to fit a model on; `paceline table build` measures some")
    found = checked(given)
    rows = found.rows if bundle.fusion is None else Execution.from_json(bundle.fusion).learned_from(found.rows)
    networks = whole(rows)
    models = [default_model(seed, confidence), table_model(confidence), macs_model(confidence)]
    accuracies, covered = tuple[Accuracy, ...](), None
    if len(networks) >= _ENOUGH and single(rows):
        accuracies, covered = _left_out(models, rows, seed, progress)
    return Fit(
        model=default_model(seed, confidence).fit(rows),
        operators=len(single(rows)),
        networks=len(networks),
        accuracies=accuracies,
        covered=covered,
        noise=_noise(bundle.measured),
        flagged=found.flagged,
    )


def _left_out(
    models: Sequence[NetworkLatency], rows: Sequence[Row], seed: int, progress: Progress
) -> tuple[tuple[Accuracy, ...], float]:
    """Each network predicted by models that were fitted without it; and the coverage of the first model's intervals."""
    networks, operators = whole(rows), single(rows)
    measured = np.array([row.ms for row in networks])
    part = np.random.default_rng(seed).permutation(len(networks)) % FOLDS
    predicted = {model.name: np.zeros(len(networks)) for model in models}
    low, high = np.zeros(len(networks)), np.zeros(len(networks))
    for fold in range(FOLDS):
        progress(fold, FOLDS)
        kept = operators + [row for row, p in zip(networks, part, strict=True) if p != fold]
        tests = [row.operators for row, p in zip(networks, part, strict=True) if p == fold]
        for i, model in enumerate(models):
            said = model.fit(kept).predict(tests)
            predicted[model.name][part == fold] = said.ms
            if i == 0:
                low[part == fold], high[part == fold] = said.low, said.high
    progress(FOLDS, FOLDS)
    return tuple(accuracy_of(name, ms, measured) for name, ms in predicted.items()), coverage(low, high, measured)


def _noise(rows: Sequence[MeasuredRow]) -> float | None:
    spreads = [row.spread for row in rows if row.kind == "network" and row.spread is not None]
    return float(np.median(spreads)) if spreads else None
