"""The stages of a run that learn and search, each a function of what it needs: any recipe goes through them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from paceline.arch import Arch, Space
from paceline.errors import LimitError
from paceline.graph import OpSpec
from paceline.measurement import Progress, silent
from paceline.pipeline import tasks
from paceline.pipeline.config import Data, Retrain, Search, Supernet
from paceline.pipeline.latency import Show, measured_networks
from paceline.pipeline.networks import Builder, deployable
from paceline.pipeline.operators import space_operators
from paceline.pipeline.ops import initialise
from paceline.pipeline.recipes import Recipe
from paceline.pipeline.recipes.goals import objectives_of
from paceline.pipeline.recipes.searchers import Problem, option_costs
from paceline.pipeline.search import Archive, Patience, search
from paceline.pipeline.supernet import BranchGates, Policy, StrictFair, Uniform, space_of, train_supernet
from paceline.pipeline.supernet.evaluate import OneShot
from paceline.pipeline.supernet.shrinking import Shrinker
from paceline.pipeline.targets import Target
from paceline.pipeline.tasks import Task
from paceline.pipeline.training import accuracy, train
from paceline.seeds import Seeds
from paceline.space_operators import SpaceOperators

_CALIBRATION_BATCHES = 4
_LABEL_SMOOTHING = 0.1
_POLICIES: Mapping[str, Policy] = {"strict_fair": StrictFair(), "uniform": Uniform()}


def load_task(data: Data, seed: int) -> Task:
    """The data set that the config names. Raises DataError where it can't be read."""
    if data.kind == "digits":
        return tasks.digits(seed, data.size)
    assert data.path is not None
    return (tasks.image_folder if data.kind == "folder" else tasks.npz)(data.path, data.size, seed)


def operators_stage(net: nn.Module, task: Task, known: MutableMapping[str, Any], progress: Progress = silent) -> SpaceOperators:
    """The operators of every option of the space, exported only where `known` does not hold them yet."""
    if "operators" not in known:
        traced = space_operators(net, task.example(), progress=progress)
        known["operators"] = {
            "fixed": [spec.key for spec in traced.fixed],
            "options": [[pick, [spec.key for spec in specs]] for pick, specs in traced.options.items()],
            "given": dict(traced.given),
        }
    kept = known["operators"]
    specs = {key: OpSpec.parse(key) for keys in (kept["fixed"], *(keys for _, keys in kept["options"])) for key in keys}
    return SpaceOperators(
        space_of(net),
        tuple(specs[key] for key in kept["fixed"]),
        {tuple(pick): tuple(specs[key] for key in keys) for pick, keys in kept["options"]},
        {choice: tuple(others) for choice, others in kept["given"].items()},
    )


@dataclass(frozen=True)
class Trained:
    """What training a supernet left: the mean loss of each epoch, and the space of the options that are still on."""

    losses: list[float]
    space: Space


def supernet_stage(
    recipe: Recipe,
    net: nn.Module,
    task: Task,
    options: Supernet,
    seeds: Seeds,
    folder: Path,
    progress: Progress = silent,
    over: Callable[[Arch], float] = lambda arch: 0.0,
) -> Trained:
    """Trains the supernet in place by the recipe's policy, or by the one that `options` name.

    Branches are chosen and options turned off on the way where the recipe does so. By what share a network is `over` the limit,
    so much accuracy it loses when options are judged: else the slow ones stay, and no network is left that keeps the limit.
    """
    policy = _POLICIES[options.policy] if options.policy else recipe.policy
    space = space_of(net)
    narrowing: Shrinker | BranchGates | None = None
    if recipe.shrinking is not None:
        one_shot = OneShot(net, task, seed=seeds.seed("shrinking"))
        narrowing = Shrinker(
            recipe.shrinking(options.epochs),
            policy,
            space,
            lambda arch: one_shot.accuracy(arch) - over(arch),
            seed=seeds.seed("shrinking"),
        )
    elif recipe.branches is not None:
        narrowing = BranchGates(recipe.branches(options.epochs), policy, net)
    losses = train_supernet(
        net,
        narrowing or policy,
        task,
        epochs=options.epochs,
        batch=options.batch,
        lr=options.lr,
        weight_decay=options.weight_decay,
        shared=options.shared,
        seed=seeds.seed("supernet"),
        checkpoint=folder / "supernet.pt",
        progress=progress,
    )
    return Trained(losses, space if narrowing is None else narrowing.space)


def judge_of(recipe: Recipe, net: nn.Module, task: Task, seeds: Seeds) -> OneShot:
    """What the supernet says of an architecture, as the recipe's search takes it."""
    calibration = _CALIBRATION_BATCHES if recipe.recalibrate else 0
    return OneShot(net, task, seed=seeds.seed("recalibration"), calibration=calibration)


def search_stage(
    recipe: Recipe,
    net: nn.Module,
    space: Space,
    task: Task,
    targets: Sequence[Target],
    options: Search,
    seeds: Seeds,
    cache: MutableMapping[str, Mapping[str, float]],
    progress: Progress = silent,
) -> Archive:
    """The recipe's searcher on the recipe's goals in `space`, every network within all limits. Accuracy is the supernet's."""
    one_shot = judge_of(recipe, net, task, seeds)
    objectives = objectives_of(recipe.goals, targets, one_shot.accuracy)
    problem = Problem(space, recipe.goals, objectives, option_costs(targets[0].latency))
    searcher = recipe.searcher(problem, population=options.population, seed=seeds.seed("search") % 2**31)
    patience = None if options.patience is None else Patience(options.patience)
    return search(searcher, objectives, generations=options.generations, patience=patience, cache=cache, progress=progress)


def shortlist_stage(archive: Archive, targets: Sequence[Target], builder: Builder, at_once: int, show: Show) -> Arch:
    """The most accurate architecture that keeps all limits when measured, not only when predicted.

    The search's best are measured whole, `at_once` at a time. A limit is kept where it is by more than the noise floor.
    Raises LimitError where none keeps all.
    """
    kept = targets[0].limit.objective(targets[0].latency).of
    ranked = sorted(archive.feasible(), key=lambda member: (-member.values["accuracy"], kept(member.arch)))
    fastest: dict[str, float] = {}
    for at in range(0, len(ranked), at_once):
        archs = [member.arch for member in ranked[at : at + at_once]]
        kept_all = np.ones(len(archs), bool)
        for target in targets:
            _, ms = measured_networks(builder, target.collector, archs, target.predictors.pace, show)
            kept_all &= ms <= target.limit.ms / (1 + target.predictors.test.noise_floor)
            fastest[target.name] = min(float(ms.min()), fastest.get(target.name, math.inf))
        if kept_all.any():
            return archs[int(np.argmax(kept_all))]
    limits = ", ".join(f"{target.limit.ms:g} ms on {target.name}" for target in targets)
    measured = ", ".join(f"{ms:.3g} ms on {name}" for name, ms in fastest.items())
    raise LimitError(
        f"the search found no network that keeps {limits} when measured ({len(ranked)} were predicted to, the fastest measured: "
        f"{measured or 'none'}). Search longer ([search] generations), or raise limit_ms."
    )


def retrain_stage(
    net: nn.Module, chosen: Arch, task: Task, options: Retrain, seeds: Seeds, folder: Path, progress: Progress = silent
) -> tuple[nn.Module, float]:
    """The chosen network trained by itself, from new weights, and its accuracy on the test images."""
    alone = deployable(net, chosen)
    initialise(alone, seeds.seed("retrain weights"))
    train(
        alone,
        task,
        epochs=options.epochs,
        batch=options.batch,
        lr=options.lr,
        weight_decay=options.weight_decay,
        seed=seeds.seed("retrain"),
        label_smoothing=_LABEL_SMOOTHING,
        checkpoint=folder / f"retrain-{chosen.key}.pt",
        progress=progress,
    )
    return alone.eval(), accuracy(alone, task, "test")
