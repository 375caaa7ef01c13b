"""The ranking of a recipe's supernet: train it, train networks of its space alone, compare the orders."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from paceline import __version__
from paceline.arch import Arch
from paceline.graph import macs_of
from paceline.pipeline.config import Config
from paceline.pipeline.latency import Show
from paceline.pipeline.networks import sample_archs
from paceline.pipeline.operators import space_operators
from paceline.pipeline.ranking import Ranking, rank, spread_over
from paceline.pipeline.recipes import Recipe
from paceline.pipeline.spaces import find_space
from paceline.pipeline.stages import judge_of, load_task, retrain_stage, supernet_stage
from paceline.pipeline.tasks import Task
from paceline.pipeline.training import accuracy
from paceline.seeds import Seeds
from paceline.store import Store


def rank_recipe(
    recipe: Recipe, config: Config, folder: Path, store: Store, *, count: int, repeats: int, spread: bool, show: Show
) -> Ranking:
    """Ranks `count` random architectures of what the recipe would search, each trained alone `repeats` times.

    The supernet's quality is its accuracy on the validation images, as the search takes it; that of a network trained alone is
    its accuracy on all images held out, validation and test, for none of them had a part in its training. `spread`: see
    `spread_over`. Nothing is measured on a device.

    All is kept: the supernet as a checkpoint in `folder`, what was trained alone in `store`, where another recipe finds it that
    has the same space, data and [retrain]. Raises the PacelineError of what can't go on.
    """
    seeds = Seeds(config.seed)
    task = load_task(config.data, seeds.seed("data"))
    chain = find_space(config.space.name).chain.for_images(task.channels, len(task.classes), task.image_size)
    net = chain.supernet(seeds.seed("weights"))
    with show("trace operators") as progress:
        operators = space_operators(net, task.example(), progress=progress)

    def macs(arch: Arch) -> float:
        return float(macs_of(operators.of(arch)))

    with show("train supernet") as progress:
        trained = supernet_stage(recipe, net, task, config.supernet, seeds, folder / "checkpoints", progress)
    rng = seeds.rng("ranked")
    archs = spread_over(trained.space, count, macs, rng) if spread else sample_archs(trained.space, count, rng)
    judge = judge_of(recipe, net, task, seeds)

    def alone(arch: Arch, seed: int) -> float:
        place = folder / "checkpoints" / f"alone-{seed}"
        network, on_test = retrain_stage(net, arch, task, config.retrain, Seeds(seeds.seed(f"alone {seed}")), place)
        held_out = np.average([accuracy(network, task, "val"), on_test], weights=[len(task.val.labels), len(task.test.labels)])
        for checkpoint in place.glob(f"*{arch.key}*"):
            checkpoint.unlink()
        return float(held_out)

    with show("train alone") as progress:
        return rank(
            *(archs, judge.accuracy, alone),
            macs=macs,
            seeds=range(repeats),
            rng=seeds.rng("bootstrap"),
            known=store.results(_truth(config, task), "alone"),
            progress=progress,
        )


def _truth(config: Config, task: Task) -> str:
    """What trainings alone are kept under: nothing of the supernet."""
    parts = (__version__, str(config.seed), config.space.name, task.digest(), config.retrain.model_dump_json())
    return hashlib.sha256("\n".join(("ranking", *parts)).encode()).hexdigest()[:32]
