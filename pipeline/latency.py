"""From a space and a device to latency models that are known to be so and so wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from paceline.arch import Arch
from paceline.errors import LatencyModelError
from paceline.latency_models.collect import Collector, rows_of
from paceline.latency_models.linear import LinearModel, MacsModel
from paceline.latency_models.metrics import Accuracy, accuracy_of, coverage
from paceline.latency_models.mlp import MlpRegressor
from paceline.latency_models.model import Floats, LatencyModel, Row
from paceline.latency_models.table import LookupTable
from paceline.measurement import Progress, usual_reference
from paceline.pipeline.networks import Builder, Network, sample_archs
from paceline.seeds import Seeds
from paceline.space_operators import SpaceOperators

Show = Callable[[str], AbstractContextManager[Progress]]
"""Makes the Progress of a named part of the work."""


@dataclass(frozen=True)
class Test:
    """The networks that no model was fitted on: measured, and measured again as another file with other weights."""

    networks: tuple[Network, ...]
    measured: Floats
    again: Floats

    @property
    def noise(self) -> Floats:
        """Relative difference of the two measurements of each network."""
        return np.abs(self.again - self.measured) / self.measured

    @property
    def noise_floor(self) -> float:
        """The mean of `noise`: what no predictor can be better than."""
        return float(self.noise.mean())


@dataclass(frozen=True)
class Predictors:
    """Fitted latency models and how they did; `table` is the one that the search uses."""

    table: LookupTable
    accuracies: tuple[Accuracy, ...]
    coverage: float
    usual_ms: float | None
    """What the reference takes at the device's usual pace, to which all figures are scaled."""
    test: Test
    rows: int
    failed_rows: tuple[str, ...]
    unstable_rows: int


def fit_predictors(
    builder: Builder, collector: Collector, *, fit_networks: int, test_networks: int, confidence: float, seeds: Seeds, show: Show
) -> Predictors:
    """Measures the operators of the space and random whole networks of it, fits every model and tests it on other networks.

    Everything comes from the collector's store where it is known. Raises LatencyModelError where too little could be measured.
    """
    space = builder.operators.space
    specs = builder.operators.distinct()
    with show("measure operators") as progress:
        measurements = collector.operators(specs, progress)
    usual_ms = usual_reference(measurements)
    rows = rows_of(measurements, [[spec] for spec in specs], usual_ms)
    archs = sample_archs(space, fit_networks + test_networks, seeds.rng("calibration"))
    fit_archs, test_archs = archs[:fit_networks], archs[fit_networks:]
    if len(test_archs) < 2:
        raise LatencyModelError(f"the space has {space.size} networks, too few for {fit_networks} to fit and some to test")
    fit, fit_ms = measured_networks(builder, collector, fit_archs, usual_ms, show)
    test_nets, test_ms = measured_networks(builder, collector, test_archs, usual_ms, show)
    _, again_ms = measured_networks(builder, collector, test_archs, usual_ms, show, copy=1)
    test = Test(tuple(test_nets), test_ms, again_ms)
    rows += [Row(network.operators, float(ms)) for network, ms in zip(fit, fit_ms, strict=True)]
    table = LookupTable(confidence).fit(rows)
    models: list[LatencyModel] = [table, MlpRegressor(seeds.seed("mlp") % 2**31), LinearModel(), MacsModel()]
    networks = [network.operators for network in test.networks]
    accuracies = [accuracy_of("noise floor", test.again, test.measured)]
    for model in models:
        predicted = (model if model is table else model.fit(rows)).predict(networks)
        accuracies.append(accuracy_of(model.name, predicted.ms, test.measured))
    found = table.predict(networks)
    return Predictors(
        table=table,
        accuracies=tuple(accuracies),
        coverage=coverage(found.low, found.high, test.measured),
        usual_ms=usual_ms,
        test=test,
        rows=sum(m.failure is None for m in measurements),
        failed_rows=tuple(f"{m.subject}: {m.failure.reason}" for m in measurements if m.failure),
        unstable_rows=sum(m.unstable(collector.bench.tolerance) for m in measurements),
    )


def fastest(operators: SpaceOperators, model: LatencyModel) -> Arch:
    """The architecture that the model predicts to be the fastest of the whole space (of exactly one option per choice)."""
    picks = []
    for choice in operators.space.choices:
        costs = {option: float(model.operator_ms(operators.options[choice.name, option]).sum()) for option in choice.options}
        picks.append((choice.name, (min(costs, key=lambda option: costs[option]),)))
    return Arch(tuple(picks))


def latency_quantile(operators: SpaceOperators, model: LatencyModel, quantile: float, rng: np.random.Generator) -> float:
    """The predicted milliseconds that a share `quantile` of 1000 random networks of the space keeps."""
    archs = [operators.space.sample(rng) for _ in range(1000)]
    return float(np.quantile(model.predict([operators.of(arch) for arch in archs]).ms, quantile))


def measured_networks(
    builder: Builder, collector: Collector, archs: Sequence[Arch], usual_ms: float | None, show: Show, copy: int = 0
) -> tuple[list[Network], Floats]:
    """The networks with their milliseconds at the usual pace, shape (archs,).

    Raises LatencyModelError where one could not be measured.
    """
    with show("export networks") as progress:
        networks = builder.build(archs, progress, copy)
    with show("measure networks") as progress:
        measurements = collector.measure([n.artifact for n in networks], progress)
    for m in measurements:
        if m.failure is not None:
            raise LatencyModelError(f"{m.subject} could not be measured: {m.failure.reason}")
    return networks, np.array([m.ms_at(usual_ms) for m in measurements])
