"""What the ablations share: the task, stand-alone training, one-shot quality, and results that are kept as they appear."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reporting import Floats, Options
from small_spaces import chain_of
from torch import nn

from paceline import __version__
from paceline.arch import Arch, Space
from paceline.errors import DataError
from paceline.files import write_atomically
from paceline.pipeline import tasks
from paceline.pipeline.supernet.evaluate import OneShot
from paceline.pipeline.tasks import Split, Task
from paceline.pipeline.training import accuracy, train
from paceline.progress import progress
from paceline.seeds import Seeds

Result = dict[str, Any]
BATCH = 64
NOISE = 0.25
"""Standard deviation of what is added to the pixels of the digits, in [0, 1]: without it every network is nearly always right."""
CIFAR_SIZE, CIFAR_TRAIN, CIFAR_HELD_OUT = 16, 6000, 2000


@cache
def load(data: str, digits_size: int = 8) -> Task:
    """Noisy digits (`data` empty), or 6,000 + 2,000 images of CIFAR-10 in 16x16, from the folder `data`.

    Nothing is chosen on held-out images here, so validation and test are one and the same. Raises DataError.
    """
    rng = Seeds(0).rng("data")
    if not data:
        return _noisy(tasks.digits(0, digits_size), rng)
    file = Path(data) / "cifar10_jpeg.npz"
    if not file.exists():
        raise DataError(f"there is no {file}; --data takes the folder that holds it")
    whole = tasks.npz(file, CIFAR_SIZE, 0)
    held_out = _some(whole.test, CIFAR_HELD_OUT, rng)
    return replace(whole, name="CIFAR-10, 16x16", train=_some(whole.train, CIFAR_TRAIN, rng), val=held_out, test=held_out)


def _noisy(task: Task, rng: np.random.Generator) -> Task:
    def noisy(split: Split) -> Split:
        noise = rng.normal(0.0, NOISE, tuple(split.images.shape)).astype(np.float32)
        return Split(split.images.float() / 255.0 + torch.from_numpy(noise), split.labels)

    training, *parts = (noisy(part) for part in (task.train, task.val, task.test))
    held_out = Split(torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts]))
    mean, std = float(training.images.mean()), float(training.images.std())
    return replace(
        task,
        name=f"noisy digits, {task.image_size}x{task.image_size}",
        train=training,
        val=held_out,
        test=held_out,
        mean=(mean,),
        std=(std,),
    )


def _some(split: Split, count: int, rng: np.random.Generator) -> Split:
    return split[torch.from_numpy(np.sort(rng.permutation(len(split.labels))[:count]))]


def epochs_of(task: Task, updates: int) -> int:
    """As many epochs as come nearest to a number of updates, so that budgets do not depend on the size of the data."""
    return max(1, round(updates / task.steps(BATCH)))


def sampled(space: Space, count: int, name: str) -> list[Arch]:
    """Different random architectures, a function of `name` and `count`."""
    rng = Seeds(0).rng(name)
    found: dict[Arch, None] = {}
    while len(found) < min(count, space.size):
        found[space.sample(rng)] = None
    return list(found)


def one_shot(net: nn.Module, task: Task, archs: Sequence[Arch], *, calibration: int = 4) -> list[Result]:
    """How good each architecture is with the supernet's weights (see `OneShot`; 0 batches: BatchNorm as training left it)."""
    judge = OneShot(net, task, seed=0, calibration=calibration)
    return [asdict(judge.quality(arch)) for arch in archs]


@dataclass(frozen=True)
class Job:
    """A call with settings that JSON can hold; its result is kept under both."""

    call: Callable[..., Result]
    settings: Mapping[str, Any]

    @property
    def key(self) -> str:
        what = f"{Path(self.call.__code__.co_filename).stem}.{self.call.__qualname__}"
        content = json.dumps([__version__, what, self.settings], sort_keys=True)
        return f"{what}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def results(jobs: Sequence[Job], options: Options) -> list[Result]:
    """The result of each job: from the folder where it is known, else computed, one thread a process, and kept there at once.

    Every result also says its `seconds` of a processor.
    """
    folder = options.results
    missing = {job.key: job for job in jobs if not (folder / f"{job.key}.json").exists()}
    with progress("compute") as shown:
        for done, key in enumerate(_computed(missing, folder, options.processes), 1):
            shown(done, len(missing), key)
    return [json.loads((folder / f"{job.key}.json").read_text()) for job in jobs]


def _computed(jobs: Mapping[str, Job], folder: Path, processes: int) -> Iterator[str]:
    """Each key as soon as its result is kept."""
    if processes == 1 or len(jobs) < 2:
        yield from (_keep(job, folder) for job in jobs.values())
        return
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(processes, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(_keep, job, folder) for job in jobs.values()]
        try:
            yield from (future.result() for future in as_completed(futures))
        finally:
            pool.shutdown(cancel_futures=True)


def _keep(job: Job, folder: Path) -> str:
    start = time.process_time()  # what else the machine does must not count
    result = {**job.call(**job.settings), "seconds": time.process_time() - start}
    write_atomically(folder / f"{job.key}.json", json.dumps(result))
    return job.key


def alone(data: str, space: str, arch: str, epochs: int, lr: float, seed: int) -> Result:
    """One architecture trained by itself, from weights of its own."""
    task = load(data)
    net = chain_of(space, task).network(Arch.from_json(arch), Seeds(seed).seed("alone"))
    history = train(net, task, epochs=epochs, batch=BATCH, lr=lr, seed=seed)
    return {"accuracy": accuracy(net, task, "val"), "history": history}


@dataclass(frozen=True)
class Alone:
    """How networks are trained by themselves: each with seeds 0, 1, …"""

    updates: int
    seeds: int
    lr: float = 0.1

    def jobs(self, data: str, space: str, archs: Sequence[Arch]) -> list[Job]:
        """Architecture by architecture."""
        common = {"data": data, "space": space, "epochs": epochs_of(load(data), self.updates), "lr": self.lr}
        return [Job(alone, {**common, "arch": arch.to_json(), "seed": seed}) for arch in archs for seed in range(self.seeds)]

    def about(self, found: Floats) -> str:
        """For the table: the budget, and what came out, shape (archs,)."""
        return f"{self.seeds} x {self.updates} updates, accuracy {found.min():.3f} to {found.max():.3f}"


def per_arch(found: Sequence[Result], archs: int) -> Floats:
    """The accuracies of `Alone.jobs`, shape (archs, seeds)."""
    return np.array([result["accuracy"] for result in found]).reshape(archs, -1)
