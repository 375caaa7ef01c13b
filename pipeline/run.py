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
from paceline.devices.device import Device
from paceline.devices.hosted import open_named
from paceline.files import write_atomically
from paceline.latency_models.collection.collect import Collector
from paceline.latency_models.space_latency import SpaceLatency
from paceline.measurement import Artifact, Bench
from paceline.pipeline.config import Config, DeviceChoice, OtherDevice
from paceline.pipeline.deploy import Deployed, deploy, measured_model
from paceline.pipeline.latency import Show, fit_predictors
from paceline.pipeline.networks import Builder
from paceline.pipeline.objectives import LatencyLimit, latency_limit
from paceline.pipeline.recipes import Recipe
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
from paceline.pipeline.targets import Kept, Target, target_name
from paceline.pipeline.tasks import Task
from paceline.seeds import Seeds
from paceline.store import Results, Store


@dataclass(frozen=True)
class Searched:
    """What a run knows once its search has ended, and the parts that it goes on with."""

    recipe: Recipe
    config: Config
    task: Task
    net: nn.Module
    """The supernet."""
    trained: Trained
    builder: Builder
    target: Target
    """The device that the network is made for."""
    others: tuple[Target, ...]
    """Those on which it must keep a limit, too."""
    archive: Archive

    @property
    def targets(self) -> tuple[Target, ...]:
        return (self.target, *self.others)


@dataclass(frozen=True)
class Outcome:
    """Everything a finished run knows: what the summary and the report are made of."""

    searched: Searched
    chosen: Arch
    accuracy: float
    deployed: Deployed
    kept: Kept
    """The exported network on the device."""
    others: tuple[Kept, ...]
    seconds: Mapping[str, float]


class Run:
    """One run of a recipe with one Config in one folder. `say` prints a line; `show` makes the progress of a part."""

    def __init__(
        self, recipe: Recipe, config: Config, folder: Path, store: Store, show: Show, say: Callable[[str], None]
    ) -> None:
        self.recipe, self.config, self.folder = recipe, config, folder
        self.store, self.show, self.say = store, show, say
        self.seeds = Seeds(config.seed)
        self._opened: dict[tuple[str, Path | None], Device] = {}
        self.devices = [self._open(choice) for choice in (config.device, *config.also)]
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
        named: Any = {"data": {"path"}, "device": {"file"}, "also": {"__all__": {"file"}}}  # what they name is below
        settings = self.config.model_dump_json(exclude=named)
        devices = (device.info.fingerprint for device in self.devices)
        parts = (__version__, recipe, repr(self.chain), settings, self.task.digest(), *devices)
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
        with closing(self):
            return self.deploy(self.search())

    def close(self) -> None:
        """Closes the devices."""
        for device in self._opened.values():
            device.close()

    def search(self) -> Searched:
        """Everything up to the search. The devices stay open."""
        config, task = self.config, self.task
        choices = (config.device, *config.also)
        benches = [d.default_bench(c.delegate, c.threads) for d, c in zip(self.devices, choices, strict=True)]
        self.say(f"data: {task.name}, {len(task.train.labels)} images to train on, {len(task.classes)} classes")
        for advice in dict.fromkeys(advice for device in self.devices for advice in device.health().advice):
            self.say(f"warning: {advice}")
        net = self.chain.supernet(self.seeds.seed("weights"))
        with self._stage("operators"), self.show("trace operators") as progress:
            operators = operators_stage(net, task, self._results("operators"), progress)
        builder = Builder(net, operators, task.example(), self.folder / "scratch" / "networks", self.seeds)
        with self._stage("measure and fit"):
            targets = [self._target(*each, builder) for each in zip(self.devices, benches, choices, strict=True)]
        limits = ", ".join(f"{t.limit.ms!r} {t.limit.chance!r}" for t in targets)
        with self._stage("train supernet"), self.show("train supernet") as progress:
            place = self.checkpoints
            if self.recipe.shrinking is not None:  # what is turned off depends on the limit
                place /= "limit-" + "-".join(f"{t.limit.ms:.6g}-{t.limit.chance:.4g}" for t in targets)
            trained = supernet_stage(
                *(self.recipe, net, task, config.supernet, self.seeds, place, progress),
                over=lambda arch: max(t.over(arch) for t in targets),
            )
        if trained.space != operators.space:
            self.say(
                f"shrunk: {trained.space.width} of {operators.space.width} options are left, {trained.space.size:.2g} networks"
            )
        with self._stage("search"), self.show("search") as progress:
            cache = self._results(f"search {limits}")
            archive = search_stage(self.recipe, net, trained.space, task, targets, config.search, self.seeds, cache, progress)
        target, *others = targets
        return Searched(self.recipe, config, task, net, trained, builder, target, tuple(others), archive)

    def deploy(self, found: Searched) -> Outcome:
        """Everything after the search: the best network of `found` trained by itself, exported and measured."""
        task, target = found.task, found.target
        with self._stage("shortlist"):
            chosen = shortlist_stage(found.archive, found.targets, found.builder, self.config.shortlist, self.show)
        with self._stage("retrain"), self.show("retrain") as progress:
            trained, test_accuracy = retrain_stage(
                found.net, chosen, task, self.config.retrain, self.seeds, self.checkpoints, progress
            )
        with self._stage("deploy"):
            rng = self.seeds.rng("parity")
            deployed = deploy(trained, task.example(), self.folder, target.collector, target.predictors.pace, rng)
            kept = Kept(target, target.predict(deployed.operators), deployed.measurement)
            others = tuple(
                Kept(
                    other,
                    other.predict(deployed.operators),
                    measured_model(deployed.tflite, other.collector, other.predictors.pace),
                )
                for other in found.others
            )
        return Outcome(found, chosen, test_accuracy, deployed, kept, others, dict(self.seconds))

    @property
    def checkpoints(self) -> Path:
        """Where trainings keep what they continue from."""
        return self.folder / "checkpoints"

    def _open(self, choice: DeviceChoice) -> Device:
        """Opens a device once, also where it is a target under several Benches."""
        place = choice.id, choice.file or self.config.device.file
        if place not in self._opened:
            self._opened[place] = open_named(*place)
        return self._opened[place]

    def _target(self, device: Device, bench: Bench, choice: DeviceChoice, builder: Builder) -> Target:
        """A device measured, its models fitted, and the limit on it, where a network of the space can keep one."""
        collector = Collector(device, bench, self.store, self.folder / "scratch" / "operators")
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
        name = target_name(device.info, bench)
        where = f"{name}: " if len(self.devices) > 1 else ""
        best = next(a for a in predictors.accuracies if a.name == predictors.table.name)
        self.say(
            f"{where}latency model: {predictors.rows} operators, error {best.mape:.1%} on {best.n} networks it has not seen, "
            f"noise floor {predictors.test.noise_floor:.1%}"
        )
        latency = SpaceLatency(predictors.table, builder.operators)
        limit = self._limit(latency, choice, name)
        fastest = latency.predict([latency.fastest()]).ms[0]
        self.say(
            f"{where}limit: {limit.ms:.4g} ms ({limit.origin}), to be kept with a chance of {limit.chance:.1%}; "
            f"the fastest possible is {fastest:.3g} ms"
        )
        return Target(device.info, collector, predictors, latency, limit)

    def _limit(self, latency: SpaceLatency, choice: DeviceChoice, name: str) -> LatencyLimit:
        """What the config asks for on a device (see `latency_limit`), of it alone or of all."""
        config = self.config
        own = choice if isinstance(choice, OtherDevice) else OtherDevice()
        ms = own.limit_ms if own.limit_ms is not None or own.limit_quantile is not None else config.limit_ms
        return latency_limit(
            latency,
            name=name,
            ms=ms,
            quantile=config.limit_quantile if own.limit_quantile is None else own.limit_quantile,
            chance=config.limit_confidence,
            interval=config.predictor.confidence,
            rng=self.seeds.rng("limit"),
        )

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
