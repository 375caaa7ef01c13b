"""The merge planner for a device: what its runtime takes, and where its latencies come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from paceline.devices.bench import BenchOptions
from paceline.devices.composed import CPU_DELEGATES
from paceline.devices.device import Device
from paceline.errors import ConfigError
from paceline.exporters.operator_models import write_operator
from paceline.latency_models.bundle.bundle import Bundle
from paceline.latency_models.collection.block_networks import reference_network
from paceline.latency_models.collection.candidates import write_graph
from paceline.latency_models.collection.collect import REFERENCE, Collector
from paceline.latency_models.defaults import default_model, table_model
from paceline.latency_models.fusion.execution import Execution
from paceline.latency_models.row_checks import checked
from paceline.measurement import Artifact
from paceline.pipeline.merge_costs import Costs, Deployment, NetworkCosts, OnnxDeployment, OperatorCosts, TfliteDeployment
from paceline.pipeline.merge_planner import MergePlanner
from paceline.store import Store

ONNX = "onnxruntime"


def planner_for(
    device: Device,
    options: BenchOptions,
    store: Store,
    folder: Path,
    seed: int,
    table: Bundle | None = None,
    candidates: int = 3,
) -> MergePlanner:
    """Forms are told by their operators: rows of `table`, else measured. By themselves where single operators say little: in
    onnxruntime, and without a table on anything but the CPU.

    What is generated goes into `folder`. Raises ConfigError for a `table` of another device or Bench.
    """
    bench = replace(device.default_bench(options.delegate, options.threads), **(options.changes or {}))
    collector = Collector(device, bench, store, folder)
    if table is not None and (table.device.fingerprint, table.bench.key) != (device.info.fingerprint, bench.key):
        raise ConfigError(
            f"the table is of {table.device.name} ({table.bench.delegate}), not of {device.info.name} ({bench.delegate}) as it "
            "is measured now; build one with: paceline table build"
        )
    deployment: Deployment = OnnxDeployment(folder) if bench.runtime == ONNX else TfliteDeployment(folder)
    reference = reference_of(bench.runtime, folder)
    costs: Costs
    if bench.runtime == ONNX or (table is None and bench.delegate not in CPU_DELEGATES):
        costs = NetworkCosts(deployment, collector, reference)
    else:
        costs = operator_costs(collector, seed, table)
    return MergePlanner(costs, deployment, collector, reference, candidates)


def operator_costs(collector: Collector, seed: int, table: Bundle | None = None) -> OperatorCosts:
    """By the default latency model on the rows of a table, by a lookup of what is measured without one."""
    if table is None:
        return OperatorCosts(table_model(), collector=collector)
    rows = checked(table.rows()).rows
    usual_ms = table.usual_ms.get(write_operator(REFERENCE, collector.folder).sha256)
    if table.fusion is None:
        return OperatorCosts(default_model(seed), rows, collector, usual_ms)
    execution = Execution.from_json(table.fusion)
    return OperatorCosts(default_model(seed), execution.learned_from(rows), None, usual_ms, executed=execution.units)


def reference_of(runtime: str, folder: Path) -> Artifact:
    """What networks are measured beside, to see the device drift."""
    if runtime != ONNX:
        return write_graph("reference", reference_network, folder)
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU6(), nn.Conv2d(16, 32, 1), nn.ReLU6(), nn.Conv2d(32, 32, 3, 2, 1)
    ).eval()
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.fill_(0.01)
    return OnnxDeployment(folder).write(layers, (torch.zeros(1, 3, 96, 96),), "reference")
