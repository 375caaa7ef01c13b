"""What a run has found (Report), and the one HTML file that shows it: no network, no script, readable on paper."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from paceline.arch import Arch
from paceline.files import write_atomically
from paceline.graph import OpSpec
from paceline.latency_models.metrics import Accuracy
from paceline.measurement import Bench, DeviceInfo
from paceline.pipeline import plots
from paceline.pipeline.plots import Comparison, Point, significant

__all__ = [
    "ArtifactRow",
    "Comparison",
    "MergeRow",
    "OperatorRow",
    "Point",
    "Report",
    "describe",
    "verdict",
    "write_report",
]


@dataclass(frozen=True)
class OperatorRow:
    """One operator of the exported network: milliseconds by the latency model and by the runtime's own profiler."""

    operator: OpSpec
    source: str
    predicted_ms: float | None = None
    profiled_ms: float | None = None


@dataclass(frozen=True)
class MergeRow:
    """One place of the network whose training-time branches became one operator."""

    place: str
    branches: tuple[str, ...]
    params_before: int
    params_after: int


@dataclass(frozen=True)
class ArtifactRow:
    """A file that the run leaves behind; `path` is relative to the report. `parity`: its largest absolute difference to torch."""

    path: str
    bytes: int
    sha256: str
    parity: float | None = None

    @classmethod
    def of(cls, file: Path, folder: Path, parity: float | None = None) -> ArtifactRow:
        """The row of a file below `folder`."""
        content = file.read_bytes()
        return cls(file.relative_to(folder).as_posix(), len(content), hashlib.sha256(content).hexdigest(), parity)


@dataclass(frozen=True)
class OtherRow:
    """The network on another device, which the Comparison names."""

    found: Comparison
    limit_ms: float
    simulated: bool

    @property
    def kept(self) -> bool:
        return self.found.measured_ms <= self.limit_ms


@dataclass(frozen=True)
class Report:
    """A finished run. `limit_origin` says where the limit comes from; `final` is the exported network, measured again.

    `evaluated` holds every architecture the search saw, `front` those of them that are not dominated. `accuracy` is that of the
    retrained network on the test split, in [0, 1]. `notes` are sentences that a reader must not miss, such as rows that stayed
    unstable.
    """

    title: str
    task: str
    config: str
    limit_ms: float
    limit_origin: str
    device: DeviceInfo
    bench: Bench
    runtime: str
    seed: int
    final: Comparison
    accuracy: float
    macs: int
    params: int
    noise_floor: float
    chosen: Arch
    front: tuple[Point, ...]
    evaluated: tuple[Point, ...]
    hypervolume: tuple[float, ...]
    tests: tuple[Comparison, ...]
    predictors: tuple[Accuracy, ...]
    operators: tuple[OperatorRow, ...]
    merges: tuple[MergeRow, ...]
    artifacts: tuple[ArtifactRow, ...]
    versions: Mapping[str, str]
    seconds: Mapping[str, float]
    others: tuple[OtherRow, ...] = ()
    notes: tuple[str, ...] = ()
    created: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Further rows of the environment table, such as load and temperature while measuring."""

    @property
    def kept(self) -> bool:
        """Whether the measured latency keeps the limit, on every device. False where there is no measurement."""
        return self.final.measured_ms <= self.limit_ms and all(other.kept for other in self.others)


def verdict(report: Report) -> str:
    """The run in one line: measured against limit, and what was predicted."""
    final, limit = report.final, report.limit_ms
    predicted = f"predicted {significant(final.predicted_ms)} ({significant(final.low_ms)}–{significant(final.high_ms)})"
    if final.measured_ms != final.measured_ms:
        return f"not measured, limit {significant(limit)} ms, {predicted}"
    digits = 3
    while significant(final.measured_ms, digits) == significant(limit, digits) and final.measured_ms != limit and digits < 9:
        digits += 1  # never "0.450 > 0.450"
    sign = "≤" if final.measured_ms <= limit else ">"
    others = f"; {sum(o.kept for o in report.others)} of {len(report.others)} other limits kept" if report.others else ""
    return (
        f"measured {significant(final.measured_ms, digits)} ms {sign} limit {significant(limit, digits)} ms, {predicted}{others}"
    )


def describe(operator: OpSpec) -> str:
    """An operator for people: kernel, shapes, stride and activation. Its key has the rest."""
    kernel = ""
    if operator.kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"):
        filters = operator.inputs[0 if operator.kind == "TRANSPOSE_CONV" else 1]
        kernel = f" {filters.shape[1]}×{filters.shape[2]}"
    data = [t.shape for i, t in enumerate(operator.inputs) if i not in operator.constants]
    extras = []
    stride, activation = operator.attr("stride"), operator.attr("activation", "NONE")
    if isinstance(stride, tuple) and set(stride) != {1}:
        extras.append("stride " + "×".join(map(str, sorted(set(stride)))))
    if activation != "NONE":
        extras.append(str(activation))
    shapes = f"{' + '.join(map(_shape, data))} → {', '.join(_shape(t.shape) for t in operator.outputs)}"
    return ", ".join([f"{operator.kind}{kernel} {shapes}", *extras])


def write_report(report: Report, path: Path) -> None:
    """Writes `report` as one HTML file, whole or not at all. Raises StoreError where the disk does not take it."""
    environment = Environment(
        loader=PackageLoader("paceline.pipeline", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        ms=significant, sig=significant, percent=_percent, signed=_signed, bytes=_bytes, count=_count, describe=describe
    )
    profiled = [r.profiled_ms for r in report.operators if r.profiled_ms is not None]
    predicted = [r.predicted_ms for r in report.operators if r.predicted_ms is not None]
    html = environment.get_template("report.html.j2").render(
        r=report,
        verdict=verdict(report),
        profiled_ms=sum(profiled) if profiled else None,
        predicted_ms=sum(predicted) if predicted else None,
        largest=max([*profiled] or [*predicted] or [1.0]),
        unevaluated=sum(p.accuracy != p.accuracy for p in report.evaluated),
        pareto=plots.pareto(report.front, report.evaluated, report.limit_ms, report.device.simulated),
        hypervolume=plots.hypervolume(report.hypervolume),
        agreement=plots.agreement(report.tests, report.final, report.device.simulated),
    )
    write_atomically(path, html)


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape[1:] if shape[:1] == (1,) and len(shape) > 1 else shape)) or "scalar"


def _percent(fraction: float, decimals: int = 1) -> str:
    return "–" if fraction != fraction else f"{100 * fraction:.{decimals}f} %"


def _signed(fraction: float) -> str:
    return "–" if fraction != fraction else f"{100 * fraction:+.1f} %".replace("-", "−")


def _count(number: int) -> str:
    for unit, size in ((" G", 10**9), (" M", 10**6), (" k", 10**3)):
        if number >= size:
            return significant(number / size) + unit
    return str(number)


def _bytes(number: int) -> str:
    for unit, size in (("MiB", 2**20), ("KiB", 2**10)):
        if number >= size:
            return f"{significant(number / size)} {unit}"
    return f"{number} B"
