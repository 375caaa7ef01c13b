"""Predictions for files: which operators a network needs, what each contributes, what the whole takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from paceline.errors import LatencyModelError
from paceline.exporters.graphs import graph_from
from paceline.latency_models.bundle.bundle import Bundle
from paceline.latency_models.fitting import fit
from paceline.latency_models.fusion.execution import Execution
from paceline.latency_models.model import Network
from paceline.latency_models.network_latency import NetworkLatency

TABLES = Path("runs/tables")


@dataclass(frozen=True)
class Contribution:
    """One operator of a network: what it adds, and where that figure comes from (see `costs.operator_cost.Source`)."""

    operator: str
    ms: float
    source: str


@dataclass(frozen=True)
class Predicted:
    """Milliseconds of a network with their interval. `row_share` of the operators' milliseconds come from rows of their own."""

    network: str
    device: str
    simulated: bool
    ms: float
    low_ms: float
    high_ms: float
    chance: float | None
    base_ms: float
    row_share: float
    contributions: tuple[Contribution, ...]
    warnings: tuple[str, ...]
    """Operators that the device did not run when they were measured: the figure takes them as if it did."""


def default_table(device: str, delegate: str) -> Path:
    """Where `paceline table build` puts the table of a device unless it is told otherwise."""
    return TABLES / f"{device}-{delegate}.paceline"


def load_networks(names: Sequence[str]) -> dict[str, Network]:
    """The operators of `.tflite` files, `timm:NAME`s and the like, by what they were called. Raises ExportError."""
    return {name: graph_from(name).operators() for name in names}


def predict_networks(
    networks: Mapping[str, Network], table: Path, limit_ms: float | None = None, strict: bool = False
) -> list[Predicted]:
    """By the model in a table, or one that is fitted on it now.

    Raises LatencyModelError, with `strict` also for operators without a row.
    """
    bundle = Bundle.load(table)
    model: NetworkLatency = bundle.model or fit(bundle, seed=0).model
    if bundle.fusion is not None:
        execution = Execution.from_json(bundle.fusion)
        networks = {name: execution.units(operators) for name, operators in networks.items()}
    if strict:
        _check_rows(model, networks, table)
    failed = {row.subject: row.reason for row in bundle.failed}
    found = []
    for name, operators in networks.items():
        said = model.predict([operators])
        each, base_ms = model.contributions(operators)
        sources = model.sources(operators)
        contributions = tuple(
            Contribution(spec.key, float(ms), source) for spec, ms, source in zip(operators, each, sources, strict=True)
        )
        exact = sum(c.ms for c in contributions if c.source == "row")
        found.append(
            Predicted(
                network=name,
                device=bundle.device.name,
                simulated=bundle.device.simulated,
                ms=float(said.ms[0]),
                low_ms=float(said.low[0]),
                high_ms=float(said.high[0]),
                chance=None if limit_ms is None else float(said.chance(limit_ms)[0]),
                base_ms=base_ms,
                row_share=exact / max(float(each.sum()), 1e-12),
                contributions=contributions,
                warnings=tuple(f"{key}: {failed[key]}" for key in dict.fromkeys(s.key for s in operators) if key in failed),
            )
        )
    return found


def _check_rows(model: NetworkLatency, networks: Mapping[str, Network], table: Path) -> None:
    for name, operators in networks.items():
        missing = [s.key for s, source in zip(operators, model.sources(operators), strict=True) if source != "row"]
        if missing:
            raise LatencyModelError(
                f"{table} has no row for {missing[0]} of {name} ({len(missing)} operators without one). "
                f"Measure them with: paceline table build {name}"
            )
