"""What a search wants, and the limits it must keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from paceline.arch import Arch
from paceline.errors import ConfigError, LimitError
from paceline.graph import macs_of, params_of
from paceline.latency_models.model import Floats, Prediction
from paceline.latency_models.space_latency import SpaceLatency
from paceline.latency_models.spaces.chance import highest_chance, kept_ms
from paceline.space_operators import SpaceOperators


@dataclass(frozen=True)
class Objective:
    """One figure of an architecture, its direction and its hard limits.

    `cheap` ones are evaluated first, and where they break a limit the others are not evaluated at all. `weight` is for
    searchers that prefer some objectives to others.
    """

    name: str
    of: Callable[[Arch], float]
    goal: Literal["min", "max"] = "min"
    at_most: float | None = None
    at_least: float | None = None
    weight: float = 1.0
    cheap: bool = False

    def __post_init__(self) -> None:
        if self.goal not in ("min", "max"):
            raise ConfigError(f"objective {self.name!r} has goal {self.goal!r}; it is 'min' or 'max'")

    @property
    def sign(self) -> float:
        """Times this, smaller is better."""
        return 1.0 if self.goal == "min" else -1.0

    def violations(self, value: float) -> list[float]:
        """How far each limit is broken, relative to the limit: at most 0 where it is kept."""
        over = [] if self.at_most is None else [(value - self.at_most) / (abs(self.at_most) or 1.0)]
        under = [] if self.at_least is None else [(self.at_least - value) / (abs(self.at_least) or 1.0)]
        return over + under

    @property
    def limits(self) -> int:
        """How many violations there are."""
        return (self.at_most is not None) + (self.at_least is not None)


class PredictsLatency(Protocol):
    """Milliseconds of architectures on one device: `SpaceLatency`, `CodeLatency` or anything that predicts so."""

    def predict(self, archs: Sequence[Arch]) -> Prediction: ...


@dataclass(frozen=True)
class LatencyLimit:
    """P(latency <= `ms`) >= `chance`, as a latency model judges it before anything is measured. `origin`: where `ms` is from."""

    ms: float
    chance: float
    origin: str

    def objective(self, latency: PredictsLatency, *, name: str = "kept_ms", weight: float = 1.0) -> Objective:
        """Milliseconds that an architecture keeps with this chance: at most `ms` exactly where it keeps `ms` with this chance.

        Not the chance itself, because that is 0 for all that are much too slow, and so would not lead a search to faster ones.
        """

        def kept(arch: Arch) -> float:
            return float(kept_ms(latency.predict([arch]), self.chance)[0])

        return Objective(name, kept, at_most=self.ms, weight=weight, cheap=True)


def latency_limit(
    latency: SpaceLatency,
    *,
    name: str = "this device",
    ms: float | None,
    quantile: float,
    chance: float | None,
    interval: float,
    rng: np.random.Generator,
) -> LatencyLimit:
    """The limit on a space on the device `name`: `ms`, or without it the `quantile` of random networks' predicted latencies.

    Without `chance` it is kept like the upper end of an interval of confidence `interval`: with (1 + interval) / 2, or as much as
    the model's held-out errors can show if that is less. Raises LimitError where no network of the space keeps it, and
    LatencyModelError for a `chance` that these errors can't show.
    """
    origin = "given" if ms is not None else f"the {quantile:.0%} quantile of the space's latencies"
    limit = latency.quantile(quantile, rng) if ms is None else ms
    fastest = latency.predict([latency.fastest()])
    asked = min((1 + interval) / 2, highest_chance(fastest)) if chance is None else chance
    kept = kept_ms(fastest, asked)[0]
    if kept > limit:
        raise LimitError(
            f"no network of the space keeps {limit:g} ms on {name}: the fastest possible is predicted at "
            f"{fastest.ms[0]:.3g} ms ({kept:.3g} ms with a chance of {asked:.1%}). "
            "Raise limit_ms, lower limit_confidence, choose another space or smaller images."
        )
    return LatencyLimit(limit, asked, origin)


def each_device(limits: Mapping[str, LatencyLimit], latencies: Mapping[str, PredictsLatency]) -> tuple[Objective, ...]:
    """One objective a device, each with its own limit: "kept_ms DEVICE". Raises ConfigError for other devices."""
    _same_devices(limits, latencies)
    return tuple(limit.objective(latencies[device], name=f"kept_ms {device}") for device, limit in limits.items())


def fleet(
    latencies: Mapping[str, PredictsLatency],
    weights: Mapping[str, float],
    *,
    share: float,
    limit: LatencyLimit,
    name: str = "fleet_ms",
    weight: float = 1.0,
) -> Objective:
    """Milliseconds that devices of a `share` of the weights keep, each with the chance of `limit`, which is the limit of this.

    `weights`: how many of each device there are, in any unit. With share 1 it is the slowest device. Raises ConfigError where the
    devices are not the same, or weights or share are impossible.
    """
    _same_devices(weights, latencies)
    parts = np.array([weights[device] for device in latencies], np.float64)
    if not np.isfinite(parts).all() or (parts <= 0).any():
        raise ConfigError(f"every device of a fleet needs a weight above 0, got {dict(weights)}; leave the others out")
    if not 0 < share <= 1:
        raise ConfigError(f"the share of a fleet lies above 0 and up to 1, got {share}")

    def kept(arch: Arch) -> float:
        each = [float(kept_ms(latency.predict([arch]), limit.chance)[0]) for latency in latencies.values()]
        return kept_by_share(np.array(each), parts, share)

    return Objective(name, kept, at_most=limit.ms, weight=weight, cheap=True)


def kept_by_share(ms: Floats, weights: Floats, share: float) -> float:
    """The least of `ms` that devices of a `share` of the weights keep; both of shape (devices,)."""
    order = np.argsort(ms, kind="stable")
    reached = np.cumsum(weights[order]) >= share * weights.sum() * (1 - 1e-12)  # sums are rounded
    return float(ms[order][np.argmax(reached)])


def quality(
    of: Callable[[Arch], float], *, at_least: float | None = None, name: str = "accuracy", weight: float = 1.0
) -> Objective:
    """A costly figure to maximise, with or without a minimum."""
    return Objective(name, of, "max", at_least=at_least, weight=weight)


def macs(operators: SpaceOperators, *, at_most: float | None = None, weight: float = 1.0) -> Objective:
    """Multiply-accumulates of one inference, to minimise."""
    return Objective("macs", lambda arch: float(macs_of(operators.of(arch))), at_most=at_most, weight=weight, cheap=True)


def params(
    operators: SpaceOperators,
    *,
    goal: Literal["min", "max"] = "min",
    at_most: float | None = None,
    at_least: float | None = None,
    weight: float = 1.0,
) -> Objective:
    """Weights of the deployed network. MoGA (arXiv 1908.01314) maximises them: they help, and need not cost time."""
    return Objective(
        "params",
        lambda arch: float(params_of(operators.of(arch))),
        goal,
        at_most=at_most,
        at_least=at_least,
        weight=weight,
        cheap=True,
    )


def keeps_cheap_limits(objectives: Sequence[Objective]) -> Callable[[Arch], bool]:
    """Whether an architecture keeps every limit that is cheap to know. Searchers take it as `only`: rejection of the others."""
    cheap = [o for o in objectives if o.cheap and o.limits]
    return lambda arch: all(v <= 0.0 for o in cheap for v in o.violations(o.of(arch)))


def _same_devices(one: Mapping[str, object], latencies: Mapping[str, PredictsLatency]) -> None:
    if one.keys() != latencies.keys() or not latencies:
        raise ConfigError(f"devices {', '.join(one) or 'none'} and latencies of {', '.join(latencies) or 'none'}: name the same")


def in_order(objectives: Iterable[Objective]) -> list[Objective]:
    """The order in which they are evaluated: cheap before costly, among equals as given."""
    return sorted(objectives, key=lambda o: not o.cheap)


def feasible(values: Mapping[str, float], objectives: Sequence[Objective]) -> bool:
    """Whether every objective has a value and every limit is kept."""
    return all(o.name in values and all(v <= 0.0 for v in o.violations(values[o.name])) for o in objectives)
