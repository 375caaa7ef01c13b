"""A device that a network is made for: how fast the networks of a space are there, and the limit that they must keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paceline.arch import Arch
from paceline.graph import OpSpec
from paceline.latency_models.collection.collect import Collector
from paceline.latency_models.model import Prediction
from paceline.latency_models.space_latency import SpaceLatency
from paceline.measurement import Bench, DeviceInfo, Measurement
from paceline.pipeline.latency import Predictors
from paceline.pipeline.objectives import LatencyLimit, Objective


@dataclass(frozen=True)
class Target:
    """A device under one Bench, the latency models of a space on it, and the limit."""

    info: DeviceInfo
    collector: Collector
    predictors: Predictors
    latency: SpaceLatency
    limit: LatencyLimit

    @property
    def bench(self) -> Bench:
        return self.collector.bench

    @property
    def name(self) -> str:
        return target_name(self.info, self.bench)

    def predict(self, operators: Sequence[OpSpec]) -> Prediction:
        """Milliseconds of one network."""
        return self.predictors.table.predict([tuple(operators)])

    def over(self, arch: Arch) -> float:
        """By what share of the limit an architecture is above it, at the chance that the limit asks for; 0 where it keeps it."""
        return max(0.0, self.limit.objective(self.latency).of(arch) / self.limit.ms - 1.0)

    def constraint(self) -> Objective:
        """The limit and nothing else: an objective that is equal for all who keep it, so that it prefers none of them."""
        return Objective(f"over_limit {self.name}", self.over, at_most=0.0, weight=0.0, cheap=True)


def target_name(device: DeviceInfo, bench: Bench) -> str:
    """Tells the targets of one run apart."""
    threads = "" if bench.threads == 1 else f", {bench.threads} threads"
    return f"{device.name} ({bench.delegate}{threads})"


@dataclass(frozen=True)
class Kept:
    """A network on a target: predicted before it was measured, and measured at the target's usual pace."""

    target: Target
    predicted: Prediction
    measurement: Measurement

    @property
    def ms(self) -> float:
        return self.measurement.ms_at(self.target.predictors.pace.usual_ms)

    @property
    def is_kept(self) -> bool:
        return self.ms <= self.target.limit.ms
