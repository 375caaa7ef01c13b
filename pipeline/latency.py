"""From a space and a device to latency models that are known to be so and so wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from paceline.arch import Arch
from paceline.errors import DeviceError, LatencyModelError
from paceline.latency_models.collection.collect import Collector, Pace, rows_of
from paceline.latency_models.defaults import compared_models, table_model
from paceline.latency_models.metrics import Accuracy, accuracy_of, coverage
from paceline.latency_models.model import Floats
from paceline.latency_models.network_latency import NetworkLatency
from paceline.measurement import Artifact, Measurement, Progress, usual_reference
from paceline.pipeline.networks import Builder, Network, leaning_archs, sample_archs
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

    table: NetworkLatency
    accuracies: tuple[Accuracy, ...]
    coverage: float
    pace: Pace
    """To which all figures of networks are scaled."""
    test: Test
    rows: int
    unstable_rows: int


def fit_predictors(
    builder: Builder, collector: Collector, *, fit_networks: int, test_networks: int, confidence: float, seeds: Seeds, show: Show
) -> Predictors:
    """Measures the operators of the space and whole networks of it, fits every model and tests it on other, random networks.

    Everything comes from the collector's store where it is known. Raises LatencyModelError where too little could be measured.
    """
    space = builder.operators.space
    specs = builder.operators.distinct()
    with show("measure operators") as progress:
        measurements = collector.operators(specs, progress)
    failed = [m for m in measurements if m.failure is not None]
    if failed:
        assert failed[0].failure is not None
        raise DeviceError(
            f"{len(failed)} of {len(specs)} operators can't be measured on {collector.device.info.name!r}, the first: "
            f"{failed[0].subject}: {failed[0].failure.reason}. Try again, or use another delegate or space."
        )
    rows = rows_of(measurements, [[spec] for spec in specs], usual_reference(measurements))
    fit_archs, test_archs = calibration_archs(builder.operators, fit_networks, test_networks, seeds)
    if len(test_archs) < 2:
        raise LatencyModelError(f"the space has {space.size} networks, too few for {fit_networks} to fit and some to test")
    reference = builder.build(sample_archs(space, 1, seeds.rng("reference")))[0].artifact
    fit, found = _measured(builder, collector, fit_archs, reference, show)
    pace = Pace(reference, usual_reference(found))
    rows += rows_of(found, [network.operators for network in fit], pace.usual_ms)
    test_nets, test_ms = measured_networks(builder, collector, test_archs, pace, show)
    _, again_ms = measured_networks(builder, collector, test_archs, pace, show, copy=1)
    test = Test(tuple(test_nets), test_ms, again_ms)
    table = table_model(confidence, float(np.sqrt(np.mean(test.noise**2))), strict=True).fit(rows)
    models = [table, *compared_models(seeds.seed("mlp") % 2**31, folds=0)]  # every operator of the space has a row
    networks = [network.operators for network in test.networks]
    accuracies = [accuracy_of("noise floor", test.again, test.measured)]
    for model in models:
        fitted = model if model is table else model.fit(rows)
        accuracies.append(accuracy_of(model.name, fitted.predict(networks).ms, test.measured))
    predicted = table.predict(networks)
    return Predictors(
        table=table,
        accuracies=tuple(accuracies),
        coverage=coverage(predicted.low, predicted.high, test.measured),
        pace=pace,
        test=test,
        rows=len(measurements),
        unstable_rows=sum(m.unstable(collector.bench.tolerance) for m in measurements),
    )


def calibration_archs(operators: SpaceOperators, fit: int, test: int, seeds: Seeds) -> tuple[list[Arch], list[Arch]]:
    """Architectures to fit on, from light to heavy, and random others to test with."""
    fitted = leaning_archs(operators, fit, seeds.rng("fit networks"))
    return fitted, sample_archs(operators.space, test, seeds.rng("test networks"), exclude=fitted)


def measured_networks(
    builder: Builder, collector: Collector, archs: Sequence[Arch], pace: Pace, show: Show, copy: int = 0
) -> tuple[list[Network], Floats]:
    """The networks with their milliseconds at the usual pace, shape (archs,).

    Raises LatencyModelError where one could not be measured.
    """
    networks, found = _measured(builder, collector, archs, pace.reference, show, copy)
    return networks, np.array([m.ms_at(pace.usual_ms) for m in found])


def _measured(
    builder: Builder, collector: Collector, archs: Sequence[Arch], reference: Artifact, show: Show, copy: int = 0
) -> tuple[list[Network], list[Measurement]]:
    with show("export networks") as progress:
        networks = builder.build(archs, progress, copy)
    with show("measure networks") as progress:
        found = collector.measure([n.artifact for n in networks], reference, progress)
    for m in found:
        if m.failure is not None:
            raise LatencyModelError(f"{m.subject} could not be measured: {m.failure.reason}")
    return networks, found
