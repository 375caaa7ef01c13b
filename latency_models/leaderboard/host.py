"""Protocol `host`: the closed loop on this machine's CPU. A table is built under a budget, then networks that it never saw are
predicted and measured.

Unlike the others it measures: a quarter of an hour for the table and some minutes for the tests, in its folder, from where the
same command continues.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import nn

from paceline.devices.kinds.local import open_local
from paceline.errors import DeviceError
from paceline.exporters import tflite
from paceline.exporters.timm_networks import timm_network
from paceline.exporters.torch_graph import graph_of
from paceline.files import write_atomically
from paceline.graph import OpSpec
from paceline.latency_models.collection.block_networks import reference_network
from paceline.latency_models.collection.building import Budget, Table, TableBuilder
from paceline.latency_models.collection.candidates import model_corpus, write_graph
from paceline.latency_models.collection.collect import Collector
from paceline.latency_models.defaults import compared_models, default_model, table_model
from paceline.latency_models.leaderboard.result import Result, summarised
from paceline.latency_models.metrics import Accuracy, accuracy_of
from paceline.latency_models.model import Floats, single
from paceline.measurement import Artifact, Progress, usual_reference
from paceline.store import Store

BUDGET = Budget(minutes=15.0, operators=1000)
Load = Callable[[str, int], tuple[nn.Module, tuple[int, int, int]]]


def _timm(name: str, seed: int) -> tuple[nn.Module, tuple[int, int, int]]:
    return timm_network(name, seed=seed)


@dataclass(frozen=True)
class Tests:
    """Networks, and what they took: `measured` is the mean of two files with other weights, `noise` their relative difference."""

    networks: tuple[tuple[OpSpec, ...], ...]
    measured: Floats
    noise: Floats


class Host:
    """`folder` keeps the models and the store; `tests` and `others` are names of networks, () those of host_networks.toml.

    `load` gives the network of a name and a seed (of its weights), and its input's shape (C, H, W) of which only C is used.
    """

    name = "host"

    def __init__(
        self,
        folder: Path = Path("runs/leaderboard-host"),
        tests: Sequence[str] = (),
        others: Sequence[str] = (),
        *,
        load: Load = _timm,
        size: int = 224,
        budget: Budget = BUDGET,
    ) -> None:
        known = tomllib.loads(files(__package__).joinpath("host_networks.toml").read_text(encoding="utf-8"))
        self._folder, self._tests, self._others = folder, tests or known["tests"], others or known["others"]
        self._load, self._size, self._budget = load, size, budget

    def results(self, data: Path, seeds: int, devices: Sequence[str], progress: Progress) -> list[Result]:
        """`data` and `devices` aren't used: the device is this machine."""
        table, tests, device = self.measured(progress)
        accuracies = dict[str, list[Accuracy]]()
        for seed in range(seeds):
            for model in (default_model(seed), table_model(), *compared_models(seed)):
                predicted = model.fit(table.rows).predict(tests.networks)
                interval = predicted.low, predicted.high
                accuracies.setdefault(model.name, []).append(accuracy_of(model.name, predicted.ms, tests.measured, interval))
        default, k = default_model(0).name, len(single(table.rows))
        floor = float(tests.noise.mean())
        return [summarised(self.name, "timm", device, k, name, name == default, a, floor) for name, a in accuracies.items()]

    def measured(self, progress: Progress) -> tuple[Table, Tests, str]:
        """The table and the tests, measured now or from the folder; and the device's name."""
        self._folder.mkdir(parents=True, exist_ok=True)
        others = [self._written(name, 0) for name in self._others]
        with open_local() as device, Store(self._folder / "store.sqlite") as store:
            bench = device.default_bench("xnnpack")
            collector = Collector(device, bench, store, self._folder / "operators", "leaderboard host")
            builder = TableBuilder(collector, model_corpus(others, seed=0), table_model())
            table = builder.build(self._budget, progress)
            pairs = zip(table.rows, table.measurements, strict=True)
            usual_ms = usual_reference([m for row, m in pairs if len(row.operators) > 1])
            collector = Collector(device, bench, store, self._folder / "operators")
            return table, self._judged(collector, usual_ms, progress), device.info.name

    def _judged(self, collector: Collector, usual_ms: float | None, progress: Progress) -> Tests:
        """At the pace of the table's networks, because milliseconds of another day's pace are others."""
        reference = write_graph("reference network", reference_network, collector.folder)
        passes = []
        for copy in (0, 1):
            found = collector.measure([self._written(name, copy) for name in self._tests], reference, progress)
            failed = [m for m in found if m.failure is not None]
            if failed:
                raise DeviceError(f"{failed[0].subject} could not be measured: {failed[0].failure}")
            passes.append(np.array([m.ms_at(usual_ms) for m in found]))
        operators = (tflite.read(self._written(name, 0).path).graph.operators() for name in self._tests)
        mean = (passes[0] + passes[1]) / 2
        return Tests(tuple(map(tuple, operators)), mean, np.abs(passes[1] - passes[0]) / mean)

    def _written(self, name: str, copy: int) -> Artifact:
        path = self._folder / f"{name}-{copy}.tflite"
        if not path.exists():
            module, (channels, _, _) = self._load(name, copy)
            graph = graph_of(module, torch.zeros(1, channels, self._size, self._size))
            write_atomically(path, tflite.write(graph), sync=False)
        return Artifact(path, path.stem)


PROTOCOL = Host()
