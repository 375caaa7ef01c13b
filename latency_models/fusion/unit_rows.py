"""A latency table of what is really executed: a row for every unit of some networks, without the launch of measuring it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from paceline.devices.composed import CPU_DELEGATES
from paceline.devices.device import Device
from paceline.exporters.operator_models import write_operator
from paceline.graph import Graph, OpSpec
from paceline.latency_models.collection.collect import Collector
from paceline.latency_models.fusion.executed import executed
from paceline.latency_models.fusion.figures import Estimate
from paceline.latency_models.fusion.fusions import Fusions
from paceline.latency_models.fusion.measured_overheads import reference_of
from paceline.latency_models.fusion.overheads import Overheads
from paceline.latency_models.fusion.partitions import HAND_OVER, taken_alone
from paceline.latency_models.model import Row
from paceline.measurement import Bench, Measurement, Progress, silent, usual_reference
from paceline.store import Store


@dataclass(frozen=True)
class UnitRows:
    """`networks` as they are executed, a row for each of their units, and why a unit has none, by its key.

    A network takes `inference_ms` and the sum of its units.
    """

    networks: tuple[tuple[OpSpec, ...], ...]
    rows: tuple[Row, ...]
    failures: dict[str, str]
    inference_ms: float


def unit_rows(
    device: Device,
    bench: Bench,
    store: Store,
    folder: Path,
    networks: Sequence[Graph | Sequence[OpSpec]],
    fusions: Fusions,
    overheads: Overheads,
    progress: Progress = silent,
) -> UnitRows:
    """Measures the units of `networks`, each in a model of its own. Resumes from the store.

    On a processor beside the CPU the operators are measured first, to see which it takes: the others are measured on the CPU, and
    every partition has a HAND_OVER of its own. `overheads` are those of `find_overheads` under the same Bench. Raises
    LatencyModelError where it can't be told who runs an operator.
    """
    operators = [list(n.operators() if isinstance(n, Graph) else n) for n in networks]
    every = list(dict.fromkeys(spec for its in operators for spec in its))
    left: set[OpSpec] = set()
    cut = [executed(n, fusions) for n in networks]
    if bench.delegate not in CPU_DELEGATES:
        alone = dict(zip(every, _measured(device, bench, store, folder, every, progress), strict=True))
        taken = dict(zip(every, taken_alone(alone, every), strict=True))
        left = {spec for spec in every if not taken[spec]}
        cut = [executed(n, fusions, [taken[spec] for spec in its]) for n, its in zip(networks, operators, strict=True)]
    units = list(dict.fromkeys(spec for its in cut for spec in its if spec.kind != HAND_OVER))
    rows, failures = overheads.rows(cut), dict[str, str]()
    cpu = replace(bench, delegate="builtin", precision="fp32")
    cpu_overheads = Overheads(overheads.inference_ms, None, Estimate(0.0, 0.0))
    by_delegate, by_cpu = [u for u in units if u not in left], [u for u in units if u in left]
    for there, its, launch in ((bench, by_delegate, overheads), (cpu, by_cpu, cpu_overheads)):
        measured = _measured(device, there, store, folder, its, progress)
        usual = launch.reference_ms or usual_reference(measured)
        failures |= {spec.key: m.failure.reason for spec, m in zip(its, measured, strict=True) if m.failure is not None}
        rows += [launch.own(Row((spec,), m.ms_at(usual))) for spec, m in zip(its, measured, strict=True) if m.failure is None]
    return UnitRows(tuple(map(tuple, cut)), tuple(rows), failures, overheads.inference_ms.value)


def _measured(
    device: Device, bench: Bench, store: Store, folder: Path, specs: Sequence[OpSpec], progress: Progress
) -> list[Measurement]:
    dtype = specs[0].outputs[0].dtype if specs and bench.delegate not in CPU_DELEGATES else "float32"
    models = [write_operator(spec, folder) for spec in specs]
    return Collector(device, bench, store, folder).measure(models, reference_of(dtype, folder), progress)
