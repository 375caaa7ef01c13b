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
from paceline.latency_models.collect import Collector
from paceline.latency_models.model import Prediction
from paceline.latency_models.space_latency import SpaceLatency
from paceline.measurement import Artifact, Bench, DeviceInfo
from paceline.pipeline import spaces, tasks
from paceline.pipeline.config import Config, Data
from paceline.pipeline.deploy import Deployed, deploy
from paceline.pipeline.latency import Predictors, Show, fit_predictors, measured_networks
from paceline.pipeline.networks import Builder
from paceline.pipeline.objectives import Objective
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
    limit_ms: float
    limit_origin: str
    archive: Archive
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
            limit_ms, origin = self._limit(latency)
            with self._stage("train supernet"):
                self._train_supernet(net, task)
            with self._stage("search"):
                archive = self._search(net, task, latency, predictors, limit_ms)
            with self._stage("shortlist"):
                chosen = self._shortlist(archive, builder, collector, predictors, limit_ms)
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
                limit_ms,
                origin,
                archive,
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

    def _limit(self, latency: SpaceLatency) -> tuple[float, str]:
        """The limit in milliseconds, and where it comes from. Raises LimitError where no network of the space keeps it."""
        config = self.config
        limit, origin = config.limit_ms, "given"
        if limit is None:
            limit = latency.quantile(config.limit_quantile, self.seeds.rng("limit"))
            origin = f"the {config.limit_quantile:.0%} quantile of the space's latencies"
        best = latency.predict([latency.fastest()])
        if best.high[0] > limit:
            raise LimitError(
                f"no network of {config.space.name!r} keeps {limit:g} ms on this device: the fastest possible is predicted "
                f"at {best.ms[0]:.3g} ms (up to {best.high[0]:.3g} ms). Raise limit_ms, choose another space or smaller images."
            )
        self.say(f"limit: {limit:.4g} ms ({origin}); the fastest possible is {best.ms[0]:.3g} ms")
        return limit, origin

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

    def _search(self, net: nn.Module, task: Task, latency: SpaceLatency, predictors: Predictors, limit_ms: float) -> Archive:
        """NSGA-II: accuracy up, latency down, the upper end of the predicted interval within the limit."""
        space = latency.operators.space
        seed = self.seeds.seed("recalibration")
        batches = list(itertools.islice(task.batches("train", _CALIBRATION_BATCH, seed=seed), _CALIBRATION_BATCHES))

        def supernet_accuracy(arch: Arch) -> float:
            with path(net, hard(space, arch)):
                recalibrate(net, batches)
                return accuracy(net, task, "val")

        highest = limit_ms / (1 + predictors.table.margins[1])
        objectives = (
            Objective("accuracy", supernet_accuracy, "max"),
            Objective("latency_ms", lambda a: float(latency.predict([a]).ms[0]), at_most=highest, cheap=True),
        )
        options = self.config.search
        searcher = Nsga2(space, objectives, population=options.population, seed=self.seeds.seed("search") % 2**31)
        cache = self._results(f"search {highest!r}")
        with self.show("search") as progress:
            return search(searcher, objectives, generations=options.generations, cache=cache, progress=progress)

    def _shortlist(
        self, archive: Archive, builder: Builder, collector: Collector, predictors: Predictors, limit_ms: float
    ) -> Arch:
        """The most accurate architecture that keeps the limit when measured, not only when predicted.

        The search's best are measured whole, a few at a time. The limit is kept where it is by more than the noise floor.
        """
        ranked = sorted(archive.feasible(), key=lambda member: (-member.values["accuracy"], member.values["latency_ms"]))
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
