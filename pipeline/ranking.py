"""Whether a supernet ranks networks as training each of them alone does: Kendall's tau, beside what costs nothing.

Every architecture that is asked for counts; nothing is left out at the lower end, which would flatter whoever orders it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from paceline.arch import Arch, Space
from paceline.errors import ConfigError
from paceline.measurement import Progress, silent
from paceline.pipeline.objectives import Objective
from paceline.pipeline.search.evaluation import Cache, Evaluation

Quality = Callable[[Arch], float]
"""More is better: an accuracy, or a loss times -1."""

LEVEL = 0.95
FEWEST = 4
_RESAMPLES = 1000
_POOL = 50

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A Kendall tau-b with its interval of confidence 0.95. All NaN where one of the two orders has nothing but ties."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Ranked:
    """One architecture: its MACs, its quality in the supernet, and trained alone, one figure for each seed."""

    arch: Arch
    macs: float
    supernet: float
    alone: tuple[float, ...]

    @property
    def truth(self) -> float:
        """The mean over the seeds."""
        return math.fsum(self.alone) / len(self.alone)


@dataclass(frozen=True)
class Ranking:
    """What `rank` found. Taus are with the mean quality over seeds; intervals are bootstrapped over architectures.

    `supernet`: of the supernet. `macs`: of the MACs. `advantage`: the first minus the second. `ceiling`: between the means of
    two halves of the seeds, about what chance in training leaves for anyone to predict (None with one seed).
    """

    networks: tuple[Ranked, ...]
    supernet: Estimate
    macs: Estimate
    advantage: Estimate
    ceiling: Estimate | None

    @property
    def chance(self) -> float:
        """The standard deviation of the tau of a random order, whose mean is 0 (Kendall 1938)."""
        n = len(self.networks)
        return math.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1)))

    @property
    def spread(self) -> float:
        """The standard deviation of the qualities trained alone, between architectures."""
        return float(np.std([n.truth for n in self.networks], ddof=1))

    @property
    def seed_noise(self) -> float:
        """The same of one architecture, between seeds. NaN with one seed."""
        alone = np.array([n.alone for n in self.networks])
        return float(np.sqrt(alone.var(axis=1, ddof=1).mean())) if alone.shape[1] > 1 else float("nan")


def rank(
    archs: Sequence[Arch],
    supernet_quality: Quality,
    train_alone: Callable[[Arch, int], float],
    *,
    macs: Callable[[Arch], float],
    seeds: Sequence[int],
    rng: np.random.Generator,
    known: Cache,
    executor: Executor | None = None,
    progress: Progress = silent,
) -> Ranking:
    """Trains every architecture alone with every seed, and compares the order with that of the supernet.

    `train_alone` takes an architecture and a seed. Its figures go into `known` (architecture key -> figure by seed) as soon as
    they are there and are never computed twice: with the Results of a store a ranking that was killed goes on where it was.
    `executor` runs them on other workers. `rng` draws the bootstrap.

    Raises ConfigError for fewer than 4 different architectures, and without a seed or with one twice; SpaceError for a figure
    that is not finite.
    """
    if len(set(archs)) != len(archs) or len(archs) < FEWEST:
        raise ConfigError(f"a ranking needs {FEWEST} or more different architectures, got {len(set(archs))} in {len(archs)}")
    if not seeds or len(set(seeds)) != len(seeds):
        raise ConfigError(f"a ranking needs one or more different seeds, got {list(seeds)}")
    judged = [float(supernet_quality(arch)) for arch in archs]
    training = [Objective(f"seed {seed}", partial(_with_seed, train_alone, seed), "max") for seed in seeds]
    done = iter(range(1, len(archs) + 1))
    found = Evaluation(training, known, executor).values(archs, lambda: progress(next(done), len(archs)))
    networks = [
        Ranked(arch, float(macs(arch)), by_net, tuple(values[o.name] for o in training))
        for arch, by_net, values in zip(archs, judged, found, strict=True)
    ]
    return ranking_of(networks, rng)


def _with_seed(train_alone: Callable[[Arch, int], float], seed: int, arch: Arch) -> float:
    return train_alone(arch, seed)


def ranking_of(networks: Sequence[Ranked], rng: np.random.Generator) -> Ranking:
    """The taus of figures that are known already."""
    supernet, macs, truth = (np.array([getattr(n, name) for n in networks]) for name in ("supernet", "macs", "truth"))
    alone = np.array([n.alone for n in networks])
    count = len(networks)
    # How often each bootstrap sample holds each architecture; before them all of them once.
    times = np.vstack([np.ones(count), rng.multinomial(count, np.full(count, 1 / count), size=_RESAMPLES)])
    by_net, by_macs = taus(supernet, truth, times), taus(macs, truth, times)
    halves = [taus(alone[:, ::2].mean(axis=1), alone[:, 1::2].mean(axis=1), times)] if alone.shape[1] > 1 else []
    found = [_estimate(float(values[0]), values[1:]) for values in (by_net, by_macs, by_net - by_macs, *halves)]
    return Ranking(tuple(networks), found[0], found[1], found[2], found[3] if halves else None)


def taus(a: Floats, b: Floats, times: Floats) -> Floats:
    """Kendall's tau-b of many samples at once, shape (samples,); `times`, (samples, n), is how often each holds each pair (a, b).

    Copies of one pair are ties on both sides and so count for nothing. NaN where a side is all ties.
    """
    of_a, of_b = (np.sign(x[:, None] - x[None, :]) for x in (a, b))

    def summed(pairs: Floats) -> Floats:
        total: Floats = ((times @ pairs) * times).sum(axis=1)
        return total

    untied = summed(np.abs(of_a)) * summed(np.abs(of_b))
    found: Floats = np.full(len(times), np.nan)
    np.divide(summed(of_a * of_b), np.sqrt(untied), out=found, where=untied > 0)
    return found


def _estimate(value: float, drawn: Floats) -> Estimate:
    usable = drawn[np.isfinite(drawn)]
    if not math.isfinite(value) or not len(usable):
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(usable, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


def spread_over(space: Space, count: int, macs: Callable[[Arch], float], rng: np.random.Generator) -> list[Arch]:
    """Different architectures, random but spread evenly over the range of MACs that a random pool has.

    A larger range is easier to rank than uniform samples, which crowd around the mean. Fewer where the space is used up.
    """
    pool = list(dict.fromkeys(space.sample(rng) for _ in range(_POOL * count)))
    figures = np.array([macs(arch) for arch in pool])
    left = np.ones(len(pool), bool)
    chosen = []
    for wanted in np.linspace(figures.min(), figures.max(), min(count, len(pool))):
        at = int(np.argmin(np.where(left, np.abs(figures - wanted), np.inf)))
        left[at] = False
        chosen.append(pool[at])
    return chosen
