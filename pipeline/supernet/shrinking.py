"""Turning options off while the supernet trains (BS-NAS, Shen et al. 2020).

The abstract says that underperforming operations are gradually turned off; how they are judged, how many go and when is a
reconstruction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from sklearn.linear_model import BayesianRidge

from paceline.arch import Arch, Choice, Space
from paceline.errors import ConfigError, SpaceError
from paceline.pipeline.supernet.mixed import Path
from paceline.pipeline.supernet.policies import Policy, embedded
from paceline.seeds import Seeds

Alive = Mapping[str, tuple[str, ...]]
"""For each choice the options that are still on."""

Option = tuple[str, str]
"""Choice, option."""


def restricted(space: Space, alive: Alive) -> Space:
    """The part of a space with only the options that are alive: its architectures are architectures of `space`.

    Choices keep their order, and so do options. Raises SpaceError where a choice is left with too few options.
    """
    choices = []
    for c in space.choices:
        unknown = set(alive[c.name]) - set(c.options)
        left = tuple(o for o in c.options if o in alive[c.name])
        if unknown or len(left) < max(1, c.at_least):
            raise SpaceError(f"choice {c.name!r} can't be restricted to {alive[c.name]}; it needs {c.at_least} of {c.options}")
        choices.append(Choice(c.name, left, c.at_least, min(c.at_most, len(left))))
    return Space(tuple(choices))


@dataclass(frozen=True)
class Advantage:
    """How much better an option is than the mean of its choice, in units of the score, with its standard error."""

    mean: float
    error: float


def advantages(space: Space, archs: Sequence[Arch], scores: Sequence[float]) -> dict[Option, Advantage]:
    """The advantage of every option, from the scores of some architectures: one regression on their 0/1 codes.

    Additive: score = constant + sum of what each option adds. Ridge regression; how strong the penalty is, and so how sure an
    estimate, follows from the scores themselves (MacKay 1992; scikit-learn's BayesianRidge).
    """
    model = BayesianRidge().fit(np.stack([space.encode(a) for a in archs]).astype(np.float64), np.asarray(scores, np.float64))
    found: dict[Option, Advantage] = {}
    for choice, part in space.slices():
        n = len(choice.options)
        centred = np.eye(n) - 1.0 / n
        means = centred @ model.coef_[part]
        errors = np.sqrt(np.clip(np.diag(centred @ model.sigma_[part, part] @ centred), 0.0, None))
        for option, mean, error in zip(choice.options, means, errors, strict=True):
            found[choice.name, option] = Advantage(float(mean), float(error))
    return found


@dataclass(frozen=True)
class Shrinking:
    """When options are turned off, and how many.

    After `warmup` epochs and then every `every` epochs the `share` of all options of the space that is worst goes, until
    `target` of them is left. `floor` options stay in every choice. An option goes only where it is worse than the mean of its
    choice, and with a `confidence` only where its upper bound lies below the lower bound of the best of its choice. `samples`
    random architectures are scored for a decision. `cost_weight` is the score that one unit of an option's cost is worth.

    Raises ConfigError for values that make no sense.
    """

    warmup: int
    every: int
    share: float = 0.1
    target: float = 0.5
    floor: int = 2
    samples: int = 64
    confidence: float | None = None
    cost_weight: float = 0.0

    def __post_init__(self) -> None:
        sound = self.warmup >= 0 and self.every >= 1 and self.floor >= 1 and self.samples >= 2
        sound = sound and 0 < self.share < 1 and 0 < self.target <= 1 and (self.confidence is None or 0 < self.confidence < 1)
        if not sound:
            raise ConfigError(
                f"{self}: needs warmup >= 0, every and floor >= 1, samples >= 2, target in (0, 1], share and confidence in (0, 1)"
            )

    def is_due(self, epochs: int) -> bool:
        """Whether options go after this many epochs."""
        return epochs >= max(1, self.warmup) and (epochs - self.warmup) % self.every == 0


@dataclass(frozen=True)
class Round:
    """What was turned off after how many epochs, and the advantages of all options that were alive then."""

    epochs: int
    removed: tuple[Option, ...]
    advantages: Mapping[Option, Advantage]


class Shrinker:
    """A policy that trains only the options that are alive, by another policy, and turns the worst off between epochs.

    `score` says how good an architecture is with the present weights, the higher the better (`OneShot(...).accuracy`), `cost`
    what an option costs, for example its milliseconds. `space` is what is left: searchers work on it, and its architectures are
    architectures of the whole space. Its state is part of the checkpoint of `train_supernet`.
    """

    def __init__(
        self,
        schedule: Shrinking,
        policy: Policy,
        whole: Space,
        score: Callable[[Arch], float],
        *,
        seed: int,
        cost: Callable[[str, str], float] | None = None,
    ) -> None:
        if schedule.cost_weight and cost is None:
            raise ConfigError(f"cost_weight={schedule.cost_weight} needs to know what an option costs; give `cost`")
        self.schedule, self.policy, self.whole = schedule, policy, whole
        self.score, self.cost, self.seed = score, cost, seed
        self.space = whole
        self.rounds: list[Round] = []

    def __repr__(self) -> str:
        return f"Shrinker({self.schedule!r}, {self.policy!r}, seed={self.seed})"

    @property
    def alive(self) -> dict[str, tuple[str, ...]]:
        """For each choice the options that are still on."""
        return {c.name: c.options for c in self.space.choices}

    def paths(self, space: Space, rng: np.random.Generator) -> list[Path]:
        return [embedded(p, self.space, space) for p in self.policy.paths(self.space, rng)]

    def after_epoch(self, epochs: int) -> None:
        """Turns options off where that is due after this many epochs."""
        room = self.space.width - math.ceil(self.schedule.target * self.whole.width)
        if not self.schedule.is_due(epochs) or room <= 0:
            return
        rng = Seeds(self.seed).rng(f"shrink/{epochs}")
        archs = list(dict.fromkeys(self.space.sample(rng) for _ in range(self.schedule.samples)))
        found = advantages(self.space, archs, [self.score(arch) for arch in archs])
        removed = worst(
            self.space, found, min(room, max(1, round(self.schedule.share * self.whole.width))), self.schedule, self.cost
        )
        self.rounds.append(Round(epochs, removed, found))
        self._restrict()

    def _restrict(self) -> None:
        off = {option for r in self.rounds for option in r.removed}
        self.space = restricted(
            self.whole, {c.name: tuple(o for o in c.options if (c.name, o) not in off) for c in self.whole.choices}
        )

    def state_dict(self) -> dict[str, Any]:
        """What was turned off so far, as plain lists."""
        return {
            "rounds": [
                {
                    "epochs": r.epochs,
                    "removed": [list(option) for option in r.removed],
                    "advantages": [[*option, a.mean, a.error] for option, a in r.advantages.items()],
                }
                for r in self.rounds
            ]
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rounds = [
            Round(
                r["epochs"],
                tuple((choice, option) for choice, option in r["removed"]),
                {(choice, option): Advantage(mean, error) for choice, option, mean, error in r["advantages"]},
            )
            for r in state["rounds"]
        ]
        self._restrict()


def worst(
    space: Space,
    found: Mapping[Option, Advantage],
    count: int,
    schedule: Shrinking,
    cost: Callable[[str, str], float] | None = None,
) -> tuple[Option, ...]:
    """At most `count` options to turn off, the worst of the whole space first. What counts and what stays is the schedule's."""
    bound = 0.0 if schedule.confidence is None else NormalDist().inv_cdf((1 + schedule.confidence) / 2)
    values: dict[Option, float] = {}
    for c in space.choices:
        mine = {o: found[c.name, o] for o in c.options}
        if cost is not None and schedule.cost_weight:
            costs = {o: cost(c.name, o) for o in c.options}
            mean = math.fsum(costs.values()) / len(costs)
            mine = {o: replace(a, mean=a.mean - schedule.cost_weight * (costs[o] - mean)) for o, a in mine.items()}
        best = max(mine.values(), key=lambda a: a.mean)
        for o, a in mine.items():
            is_sure = schedule.confidence is None or a.mean + bound * a.error < best.mean - bound * best.error
            if a.mean < 0.0 and is_sure:
                values[c.name, o] = a.mean
    left = {c.name: len(c.options) - max(schedule.floor, c.at_least) for c in space.choices}
    removed: list[Option] = []
    for choice, option in sorted(values, key=values.__getitem__):
        if len(removed) < count and left[choice] > 0:
            left[choice] -= 1
            removed.append((choice, option))
    return tuple(removed)
