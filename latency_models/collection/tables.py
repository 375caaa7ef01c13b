"""From what a user names to a table in a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from paceline.devices.bench import BenchOptions
from paceline.devices.composed import CPU_DELEGATES
from paceline.devices.farm.farm import DeviceExecutor
from paceline.errors import ConfigError
from paceline.latency_models.bundle.bundle import Bundle
from paceline.latency_models.bundle.rows import OUTLIER, FailedRow
from paceline.latency_models.bundle.stored import paced
from paceline.latency_models.collection.building import Budget, Table, TableBuilder
from paceline.latency_models.collection.candidates import Corpus, block_corpus, executed_corpus, model_corpus, write_graph
from paceline.latency_models.collection.collect import Collector
from paceline.latency_models.collection.expiry import Expiry, renew, stale
from paceline.latency_models.collection.farm_device import FarmDevice
from paceline.latency_models.defaults import default_model
from paceline.latency_models.fusion.execution import find_execution
from paceline.latency_models.row_checks import Checked, checked
from paceline.measurement import Artifact, Bench, DeviceInfo, Progress, silent
from paceline.store import Store


@dataclass(frozen=True)
class Purpose:
    """What a table is for. `key` names it in the store: the same models and seed continue the same table."""

    key: str
    corpus: Corpus


@dataclass(frozen=True)
class Built:
    """A table of one device under one Bench, what there is to say against its rows, and the file that holds it.

    `expiry` is what became of the earlier table where one was given.
    """

    info: DeviceInfo
    bench: Bench
    table: Table
    checked: Checked
    bundle: Bundle
    expiry: Expiry | None = None


def purpose_of(sources: Sequence[str], folder: Path, seed: int) -> Purpose:
    """For `.tflite` files and whatever else `graph_from` takes (written into `folder`); for blocks of mobile networks where
    nothing is named. Raises ConfigError and ExportError."""
    models = [_artifact(source, folder) for source in dict.fromkeys(sources)]
    key = hashlib.sha256(json.dumps([seed, *sorted(m.sha256 for m in models)]).encode()).hexdigest()[:16]
    return Purpose(key, model_corpus(models, seed) if models else block_corpus(seed))


def build_table(
    executor: DeviceExecutor,
    options: BenchOptions,
    store: Store,
    folder: Path,
    purpose: Purpose,
    budget: Budget,
    seed: int,
    earlier: Bundle | None = None,
    fusion: bool | None = None,
    progress: Progress = silent,
) -> Built:
    """On the device behind `executor`. What is generated goes into `folder`.

    `fusion`: find out first, beside the budget, which operators the device runs as one and what a model costs besides them; then
    the rows are those of the units. None: where the delegate isn't the CPU, for there single operators show more than themselves.
    Rows of an `earlier` table of this device are taken over where they still hold. Raises as Device.measure and `stale` do.
    """
    device = FarmDevice(executor)
    bench = replace(device.default_bench(options.delegate, options.threads), **(options.changes or {}))
    collector = Collector(device, bench, store, folder, purpose.key)
    expiry = None if earlier is None else stale(earlier, collector, progress=progress)
    if expiry is not None:
        renew(expiry, collector, progress)
    corpus, execution = purpose.corpus, None
    if fusion or (fusion is None and bench.delegate not in CPU_DELEGATES):
        execution = find_execution(device, bench, store, folder, corpus.mix, progress)
        corpus = executed_corpus(corpus, execution.units)
    table = TableBuilder(collector, corpus, default_model(seed)).build(budget, progress)
    found = checked(table.rows)
    bundle = _bundle(store, device.info, bench, table, found)
    if execution is not None:
        bundle = replace(bundle, fusion=execution.to_json())
    return Built(device.info, bench, table, found, bundle, expiry)


def _bundle(store: Store, info: DeviceInfo, bench: Bench, table: Table, found: Checked) -> Bundle:
    """Of the rows of this table alone; the store may have others."""
    mine = {m.artifact: row.operators for m, row in zip(table.measurements, table.rows, strict=True)}
    doubted = {table.measurements[flag.row].artifact for flag in found.flagged}
    every = Bundle.from_store(store, info, bench, mine)
    rows = [replace(r, flags=(*r.flags, *(OUTLIER,) * (r.artifact in doubted))) for r in every.measured if r.artifact in mine]
    measured, usual_ms = paced(rows)
    return replace(every, measured=measured, usual_ms=usual_ms, failed=tuple(FailedRow(*f) for f in sorted(table.failures)))


def _artifact(source: str, folder: Path) -> Artifact:
    path = Path(source)
    if path.suffix.lower() == ".onnx":
        raise ConfigError(f"{source}: tables are made of .tflite operators; give the .tflite of that network, or timm:NAME")
    if path.suffix.lower() != ".tflite":
        from paceline.exporters.graphs import graph_from  # torch, which nothing else here needs

        return write_graph(source, partial(graph_from, source), folder)
    if not path.is_file():
        raise ConfigError(f"no file {source}; give a .tflite model, or timm:NAME")
    return Artifact(path.resolve(), path.name)
