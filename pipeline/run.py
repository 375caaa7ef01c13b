"""The whole loop for any recipe: measure, fit, train the supernet, search, retrain, merge, export, measure again, report.

Every stage keeps its result in the store the moment it exists, so a run that was killed continues where it was, and repeats
nothing.
"""

from __future__ import annotations

import hashlib
import json
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
from paceline.files import write_atomically
from paceline.latency_models.collection.collect import Collector
from paceline.latency_models.model import Prediction
from paceline.latency_models.space_latency import SpaceLatency
from paceline.measurement import Artifact, Bench, DeviceInfo
from paceline.pipeline.config import Config
from paceline.pipeline.deploy import Deployed, deploy
from paceline.pipeline.latency import Predictors, Show, fit_predictors
from paceline.pipeline.networks import Builder
from paceline.pipeline.objectives import LatencyLimit, latency_limit
from paceline.pipeline.recipes import Recipe
from paceline.pipeline.recipes.goals import over_limit
from paceline.pipeline.search import Archive
from paceline.pipeline.spaces import Chain, find_space
from paceline.pipeline.stages import (
    Trained,
    load_task,
    operators_stage,
    retrain_stage,
    search_stage,
    shortlist_stage,
    supernet_stage,
)
from paceline.pipeline.tasks import Task
from paceline.seeds import Seeds
from paceline.store import Results, Store


@dataclass(frozen=True)
class Searched:
    """What a run knows once its search has ended, and the parts that it goes on with."""

    recipe: Recipe
    config: Config
    bench: Bench
    task: Task
    net: nn.Module
    """The supernet."""
    trained: Trained
    builder: Builder
    collector: Collector
    predictors: Predictors
    latency: SpaceLatency
    limit: LatencyLimit
    archive: Archive


@dataclass(frozen=True)
class Outcome:
    """Everything a finished run knows: what the summary and the report are made of."""

    searched: Searched
    device: DeviceInfo
    chosen: Arch
    accuracy: float
    predicted: Prediction
    deployed: Deployed
    seconds: Mapping[str, float]

    @property
    def measured_ms(self) -> float:
        """The exported network on the device, at its usual pace."""
        return self.deployed.measurement.ms_at(self.searched.predictors.pace.usual_ms)


class Run:
    """One run of a recipe with one Config in one folder. `say` prints a line; `show` makes the progress of a part."""

    def __init__(
        self, recipe: Recipe, config: Config, folder: Path, store: Store, show: Show, say: Callable[[str], None]
    ) -> None:
        self.recipe, self.config, self.folder = recipe, config, folder
        self.store, self.show, self.say = store, show, say
        self.seeds = Seeds(config.seed)
        self.device = open_named(config.device.id, config.device.file)
        self.seconds: dict[str, float] = {}

    @cached_property
    def task(self) -> Task:
        """The data. Raises DataError where it can't be read."""
        return load_task(self.config.data, self.seeds.seed("data"))

    @cached_property
    def chain(self) -> Chain:
        """The space that is searched, for images like those of the data. Raises SpaceError where it is not known or can't be."""
        task = self.task
        return find_space(self.config.space.name).chain.for_images(task.channels, len(task.classes), task.image_size)

    @cached_property
    def key(self) -> str:
        """What the results of this run are kept under: recipe, space, settings, version, data and device."""
        recipe = self.recipe.described(self.config.supernet.epochs)
        settings = self.config.model_dump_json(exclude={"data": {"path"}, "device": {"file"}})  # what they name is below
        parts = (__version__, recipe, repr(self.chain), settings, self.task.digest(), self.device.info.fingerprint)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    def begun(self) -> bool:
        """Whether there is anything that this very run can continue from."""
        return bool(self._results("seconds"))

    def finished(self) -> dict[str, Any] | None:
        """The summary, where this very run has finished already and its files are still there."""
        summary: dict[str, Any] | None = self._results("summary").get("summary")
        model = self.folder / "model.tflite"
        if summary is None or not (self.folder / "report.html").exists() or not model.exists():
            return None
        return summary if Artifact(model, model.name).sha256 == summary["model_sha256"] else None

    def finish(self, summary: dict[str, Any]) -> None:
        """Keeps the summary, and drops what was only needed on the way."""
        write_atomically(self.folder / "front.json", json.dumps(summary["front"], indent=2) + "\n")
        write_atomically(self.folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        self._results("summary")["summary"] = summary
        shutil.rmtree(self.folder / "scratch", ignore_errors=True)

    def execute(self) -> Outcome:
        """Runs every stage that has not finished yet. Raises the PacelineError of what can't go on."""
        with closing(self.device):
            return self.deploy(self.search())

    def search(self) -> Searched:
        """Everything up to the search. The device stays open."""
        config, device, task = self.config, self.device, self.task
        bench = device.default_bench(config.device.delegate, config.device.threads)
        self.say(f"data: {task.name}, {len(task.train.labels)} images to train on, {len(task.classes)} classes")
        for advice in device.health().advice:
            self.say(f"warning: {advice}")
        net = self.chain.supernet(self.seeds.seed("weights"))
        collector = Collector(device, bench, self.store, self.folder / "scratch" / "operators")
        with self._stage("operators"), self.show("trace operators") as progress:
            operators = operators_stage(net, task, self._results("operators"), progress)
        builder = Builder(net, operators, task.example(), self.folder / "scratch" / "networks", self.seeds)
        with self._stage("measure and fit"):
            predictors = self._fit(builder, collector)
        latency = SpaceLatency(predictors.table, operators)
        limit = self._limit(latency)
        with self._stage("train supernet"), self.show("train supernet") as progress:
            place = self.checkpoints
            if self.recipe.shrinking is not None:  # what is turned off depends on the limit
                place /= f"limit-{limit.ms:.6g}-{limit.chance:.4g}"
            over = over_limit(latency, limit)
            trained = supernet_stage(self.recipe, net, task, config.supernet, self.seeds, place, progress, over)
        if trained.space != latency.space:
            self.say(
                f"shrunk: {trained.space.width} of {latency.space.width} options are left, {trained.space.size:.2g} networks"
            )
        with self._stage("search"), self.show("search") as progress:
            cache = self._results(f"search {limit.ms!r} {limit.chance!r}")
            archive = search_stage(
                *(self.recipe, net, trained.space, task, latency, limit, config.search, self.seeds, cache, progress)
            )
        return Searched(self.recipe, config, bench, task, net, trained, builder, collector, predictors, latency, limit, archive)

    def deploy(self, found: Searched) -> Outcome:
        """Everything after the search: the best network of `found` trained by itself, exported and measured."""
        task, predictors = found.task, found.predictors
        with self._stage("shortlist"):
            chosen = shortlist_stage(
                *(found.archive, found.latency, found.limit, found.builder, found.collector, predictors),
                at_once=self.config.shortlist,
                show=self.show,
            )
        with self._stage("retrain"), self.show("retrain") as progress:
            trained, test_accuracy = retrain_stage(
                found.net, chosen, task, self.config.retrain, self.seeds, self.checkpoints, progress
            )
        with self._stage("deploy"):
            rng = self.seeds.rng("parity")
            deployed = deploy(trained, task.example(), self.folder, found.collector, predictors.pace, rng)
        predicted = predictors.table.predict([deployed.operators])
        return Outcome(found, self.device.info, chosen, test_accuracy, predicted, deployed, dict(self.seconds))

    @property
    def checkpoints(self) -> Path:
        """Where trainings keep what they continue from."""
        return self.folder / "checkpoints"

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
