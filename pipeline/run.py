"""The whole loop: measure, fit, train the supernet, search, retrain, merge, export, measure again, report.

Every stage keeps its result in the store the moment it exists, so a run that was killed continues where it was, and repeats
nothing.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from paceline import __version__
from paceline.arch import Arch
from paceline.devices.hosted import open_named
from paceline.errors import LimitError
from paceline.files import write_atomically
from paceline.graph import macs_of
from paceline.latency_models.collection.collect import Collector
from paceline.latency_models.model import Prediction
from paceline.latency_models.space_latency import SpaceLatency
from paceline.measurement import Artifact, Bench, DeviceInfo
from paceline.pipeline import spaces, tasks
from paceline.pipeline.config import Config, Data
from paceline.pipeline.deploy import Deployed, deploy
from paceline.pipeline.latency import Predictors, Show, fit_predictors, measured_networks
from paceline.pipeline.networks import Builder
from paceline.pipeline.objectives import LatencyLimit, Objective, latency_limit
from paceline.pipeline.operators import space_operators
from paceline.pipeline.ops import initialise
from paceline.pipeline.search import Archive, Nsga2, search
from paceline.pipeline.supernet import StrictFair, Uniform, derive, hard, path, recalibrate, train_supernet
from paceline.pipeline.tasks import Task
from paceline.pipeline.training import accuracy, train
from paceline.seeds import Seeds
from paceline.store import Results, Store

_CALIBRATION_BATCHES = 4
_CALIBRATION_BATCH = 128
_LABEL_SMOOTHING = 0.1


@dataclass(frozen=True)
class Outcome:
    """Everything a finished run knows: what the summary and the report are made of."""

    config: Config
    device: DeviceInfo
    bench: Bench
    task: Task
    predictors: Predictors
    limit: LatencyLimit
    archive: Archive
    found: Prediction
    """Of the members of the archive, in order."""
    macs: Mapping[str, int]
    """Multiply-accumulates of every architecture in the archive, by its key."""
    chosen: Arch
    accuracy: float
    predicted: Prediction
    deployed: Deployed
    seconds: Mapping[str, float]

    @property
    def measured_ms(self) -> float:
        """The exported network on the device, at its usual pace."""
        return self.deployed.measurement.ms_at(self.predictors.pace.usual_ms)


class Run:
    """One run of one Config in one folder. `say` prints a line; `show` makes the progress of a part."""

    def __init__(self, config: Config, folder: Path, store: Store, show: Show, say: Callable[[str], None]) -> None:
        self.config, self.folder, self.store, self.show, self.say = config, folder, store, show, say
        self.seeds = Seeds(config.seed)
        self.device = open_named(config.device.id, config.device.file)
        self.seconds: dict[str, float] = {}

    @cached_property
    def task(self) -> Task:
        """The data. Raises DataError where it can't be read."""
        return load_task(self.config.data, self.seeds.seed("data"))

    @cached_property
    def key(self) -> str:
        """What the results of this run are kept under: settings, version, data and device."""
        parts = (__version__, self.config.model_dump_json(), self.task.digest(), self.device.info.fingerprint)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    def finished(self) -> dict[str, Any] | None:
        """The summary, where this very run has finished already and its files are still there."""
        summary: dict[str, Any] | None = self._results("summary").get("summary")
        model = self.folder / "model.tflite"
        if summary is None or not (self.folder / "report.html").exists() or not model.exists():
            return None
        return summary if Artifact(model, model.name).sha256 == summary["model_sha256"] else None

    def finish(self, summary: dict[str, Any]) -> None:
        """Keeps the summary, and drops what was only needed on the way."""
        write_atomically(self.folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        self._results("summary")["summary"] = summary
        shutil.rmtree(self.folder / "scratch", ignore_errors=True)

    def execute(self) -> Outcome:
        """Runs every stage that has not finished yet. Raises the PacelineError of what can't go on."""
        config = self.config
        with closing(self.device) as device:
            bench = device.default_bench(config.device.delegate, config.device.threads)
            task = self.task
            self.say(f"data: {task.name}, {len(task.train.labels)} images to train on, {len(task.classes)} classes")
            for advice in device.health().advice:
                self.say(f"warning: {advice}")
            net = self._supernet(task)
            collector = Collector(device, bench, self.store, self.folder / "scratch" / "operators")
            with self._stage("operators"), self.show("trace operators") as progress:
                operators = space_operators(net, task.example(), progress=progress)
            builder = Builder(net, operators, task.example(), self.folder / "scratch" / "networks", self.seeds)
            with self._stage("measure and fit"):
                predictors = self._fit(builder, collector)
            latency = SpaceLatency(predictors.table, operators)
            limit = self._limit(latency)
            with self._stage("train supernet"):
                self._train_supernet(net, task)
            with self._stage("search"):
                archive = self._search(net, task, latency, limit)
            with self._stage("shortlist"):
                chosen = self._shortlist(archive, builder, collector, predictors, limit.ms)
            with self._stage("retrain"):
                trained, test_accuracy = self._retrain(net, chosen, task)
            with self._stage("deploy"):
                deployed = deploy(trained, task.example(), self.folder, collector, predictors.pace, self.seeds.rng("parity"))
            predicted = predictors.table.predict([deployed.operators])
            return Outcome(
                config,
                device.info,
                bench,
                task,
                predictors,
                limit,
                archive,
                latency.predict([m.arch for m in archive.members]),
                {m.arch.key: macs_of(operators.of(m.arch)) for m in archive.members},
                chosen,
                test_accuracy,
                predicted,
                deployed,
                dict(self.seconds),
            )

    def _supernet(self, task: Task) -> nn.Module:
        build = {"mobile_small": spaces.mobile_small, "mobile_imagenet": spaces.mobile_imagenet}[self.config.space.name]
        net: nn.Module = build(task.channels, len(task.classes), task.image_size, seed=self.seeds.seed("weights"))
        return net

    def _fit(self, builder: Builder, collector: Collector) -> Predictors:
        options = self.config.predictor
        predictors = fit_predictors(
            builder,
            collector,
            fit_networks=options.fit_networks,
            test_networks=options.test_networks,
            confidence=options.confidence,
            seeds=self.seeds,
            show=self.show,
        )
        best = next(a for a in predictors.accuracies if a.name == predictors.table.name)
        self.say(
            f"latency model: {predictors.rows} operators, error {best.mape:.1%} on {best.n} networks it has not seen, "
            f"noise floor {predictors.test.noise_floor:.1%}"
        )
        return predictors

    def _limit(self, latency: SpaceLatency) -> LatencyLimit:
        """What the config asks for, where a network of the space can keep it (see `latency_limit`)."""
        config = self.config
        limit = latency_limit(
            latency,
            ms=config.limit_ms,
            quantile=config.limit_quantile,
            chance=config.limit_confidence,
            interval=config.predictor.confidence,
            rng=self.seeds.rng("limit"),
        )
        fastest = latency.predict([latency.fastest()]).ms[0]
        self.say(
            f"limit: {limit.ms:.4g} ms ({limit.origin}), to be kept with a chance of {limit.chance:.1%}; "
            f"the fastest possible is {fastest:.3g} ms"
        )
        return limit

    def _train_supernet(self, net: nn.Module, task: Task) -> None:
        options = self.config.supernet
        policy = StrictFair() if options.policy == "strict_fair" else Uniform()
        with self.show("train supernet") as progress:
            train_supernet(
                net,
                policy,
                task,
                epochs=options.epochs,
                batch=options.batch,
                lr=options.lr,
                shared=options.shared,
                seed=self.seeds.seed("supernet"),
                checkpoint=self.folder / "checkpoints" / "supernet.pt",
                progress=progress,
            )

    def _search(self, net: nn.Module, task: Task, latency: SpaceLatency, limit: LatencyLimit) -> Archive:
        """NSGA-II: accuracy up, latency down, the limit kept with the chance that is asked for."""
        space = latency.operators.space
        seed = self.seeds.seed("recalibration")
        batches = list(itertools.islice(task.batches("train", _CALIBRATION_BATCH, seed=seed), _CALIBRATION_BATCHES))

        def supernet_accuracy(arch: Arch) -> float:
            with path(net, hard(space, arch)):
                recalibrate(net, batches)
                return accuracy(net, task, "val")

        objectives = (Objective("accuracy", supernet_accuracy, "max"), limit.objective(latency))
        options = self.config.search
        searcher = Nsga2(space, objectives, population=options.population, seed=self.seeds.seed("search") % 2**31)
        cache = self._results(f"search {limit.ms!r} {limit.chance!r}")
        with self.show("search") as progress:
            return search(searcher, objectives, generations=options.generations, cache=cache, progress=progress)

    def _shortlist(
        self, archive: Archive, builder: Builder, collector: Collector, predictors: Predictors, limit_ms: float
    ) -> Arch:
        """The most accurate architecture that keeps the limit when measured, not only when predicted.

        The search's best are measured whole, a few at a time. The limit is kept where it is by more than the noise floor.
        """
        ranked = sorted(archive.feasible(), key=lambda member: (-member.values["accuracy"], member.values["kept_ms"]))
        allowed = limit_ms / (1 + predictors.test.noise_floor)
        at_least = math.inf
        for at in range(0, len(ranked), self.config.shortlist):
            archs = [member.arch for member in ranked[at : at + self.config.shortlist]]
            _, measured = measured_networks(builder, collector, archs, predictors.pace, self.show)
            for arch, ms in zip(archs, measured, strict=True):
                if ms <= allowed:
                    return arch
            at_least = min(at_least, float(measured.min()))
        raise LimitError(
            f"the search found no network that keeps {limit_ms:g} ms when measured ({len(ranked)} were predicted to, the fastest "
            f"measured {at_least:.3g} ms). Search longer ([search] generations), or raise limit_ms."
        )

    def _retrain(self, net: nn.Module, chosen: Arch, task: Task) -> tuple[nn.Module, float]:
        """The chosen network trained by itself, from new weights, and its accuracy on the test images."""
        options = self.config.retrain
        alone = derive(net, chosen)
        initialise(alone, self.seeds.seed("retrain weights"))
        with self.show("retrain") as progress:
            train(
                alone,
                task,
                epochs=options.epochs,
                batch=options.batch,
                lr=options.lr,
                seed=self.seeds.seed("retrain"),
                label_smoothing=_LABEL_SMOOTHING,
                checkpoint=self.folder / "checkpoints" / f"retrain-{chosen.key}.pt",
                progress=progress,
            )
        return alone.eval(), accuracy(alone, task, "test")

    def _results(self, step: str) -> Results:
        return self.store.results(self.key, step)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        """Times a stage. One that had finished before a restart keeps the time it took then."""
        taken = self._results("seconds")
        start = time.monotonic()
        yield
        if name not in taken:
            taken[name] = round(time.monotonic() - start, 3)
        self.seconds[name] = taken[name]


def load_task(data: Data, seed: int) -> Task:
    """The data set that the config names. Raises DataError where it can't be read."""
    if data.kind == "digits":
        return tasks.digits(seed, data.size)
    assert data.path is not None
    return (tasks.image_folder if data.kind == "folder" else tasks.npz)(data.path, data.size, seed)
