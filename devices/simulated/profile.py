"""What a simulated phone is made of: a profile, read from a TOML file. All its figures are invented."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from paceline.errors import ConfigError

FAMILIES = ("pointwise", "conv", "grouped", "depthwise", "fully_connected", "matmul", "other")
"""Operators of one family use a processor equally well."""

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Cluster:
    """Equal CPU cores.

    A core does at best `gmacs` 10⁹ float32 multiply-accumulates a second and takes `watts` for it; the cluster reads and writes
    `gb_s` 10⁹ bytes a second.
    """

    __pydantic_config__ = _STRICT
    name: str
    cpus: tuple[int, ...]
    mhz: int
    gmacs: float
    gb_s: float
    watts: float


@dataclass(frozen=True)
class Delegate:
    """Who runs operators, and how well: on the CPU clusters, or (with `gmacs`, `gb_s`, `watts`) on a processor of its own.

    `efficiency` is the part of the peak that each family reaches, `speed` how many times as fast as fp32 other types are.
    Channels are padded to multiples of `align`. An operator costs `overhead_us` besides, `sync_us` for every further thread.
    `kinds`, `types` and `max_rank` limit what it takes (empty or 0: no limit). What is in `fuses` costs nothing beside what it
    can be fused with. On a processor of its own a partition costs `hand_over_us` each way, and the tensors at its edges travel
    with `hand_over_gb_s`.
    """

    __pydantic_config__ = _STRICT
    efficiency: Mapping[str, float]
    speed: Mapping[str, float]
    align: int
    overhead_us: float
    precisions: tuple[str, ...] = ("fp32",)
    sync_us: float = 0.0
    kinds: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    max_rank: int = 0
    fuses: tuple[str, ...] = ()
    hand_over_us: float = 0.0
    hand_over_gb_s: float = 0.0
    gmacs: float = 0.0
    gb_s: float = 0.0
    watts: float = 0.0

    def __post_init__(self) -> None:
        wrong = set(FAMILIES) ^ set(self.efficiency)
        if wrong:
            raise ValueError(f"efficiency needs exactly {', '.join(FAMILIES)}; wrong or missing: {', '.join(sorted(wrong))}")
        if min(*self.efficiency.values(), *self.speed.values(), self.align) <= 0:
            raise ValueError("efficiency, speed and align are above 0")

    @property
    def own_processor(self) -> bool:
        return self.gmacs > 0


@dataclass(frozen=True)
class Step:
    """A step of throttling: entered at `above_c`, left below `below_c`; clocks go down to the part `clock`."""

    __pydantic_config__ = _STRICT
    above_c: float
    below_c: float
    clock: float


@dataclass(frozen=True)
class Heat:
    """A body that warms by `c_per_watt` and follows with the time constant `seconds`, above `ambient_c`."""

    __pydantic_config__ = _STRICT
    ambient_c: float
    c_per_watt: float
    seconds: float
    idle_watts: float
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Noise:
    """What disturbs a figure.

    Every invoke takes longer by a log-normal part with median `jitter`; one in `1 / spikes` by up to `spike` times more. The pace
    drifts by `drift` (standard deviation) within some `drift_s` seconds.
    """

    __pydantic_config__ = _STRICT
    jitter: float
    spikes: float
    spike: float
    drift: float
    drift_s: float


@dataclass(frozen=True)
class Governor:
    """Clocks when performance isn't fixed: from the part `idle` up to `boost`, within `ramp_ms` of work."""

    __pydantic_config__ = _STRICT
    idle: float
    boost: float
    ramp_ms: float


@dataclass(frozen=True)
class Profile:
    """A kind of phone. Phones of one profile may share measurements: `digest` is part of their fingerprint."""

    __pydantic_config__ = _STRICT
    name: str
    note: str
    clusters: tuple[Cluster, ...]
    delegates: Mapping[str, Delegate]
    heat: Heat
    noise: Noise
    governor: Governor
    parallel: float
    invoke_us: float
    battery_wh: float
    charging_watts: float
    disk_mb: float
    link_mb_s: float
    command_ms: float
    facts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "builtin" not in self.delegates:
            raise ValueError("delegates need 'builtin', which runs what the others leave")
        if not self.clusters:
            raise ValueError("clusters need one at least")

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    def cluster_of(self, cpu: int) -> Cluster:
        return next(cluster for cluster in self.clusters if cpu in cluster.cpus)

    @cached_property
    def cpus(self) -> tuple[int, ...]:
        """All CPUs, those of the slowest cluster first."""
        return tuple(cpu for cluster in sorted(self.clusters, key=lambda c: c.gmacs) for cpu in cluster.cpus)


def shipped_profiles() -> tuple[str, ...]:
    return tuple(sorted(p.name.removesuffix(".toml") for p in _folder().iterdir() if p.name.endswith(".toml")))


def load_profile(source: str | Path) -> Profile:
    """A shipped profile by its name, or any from a `.toml` file. Raises ConfigError naming what is wrong."""
    shipped = shipped_profiles()
    if str(source) in shipped:
        text = (_folder() / f"{source}.toml").read_text(encoding="utf-8")
    elif str(source).endswith(".toml"):
        try:
            text = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError(f"can't read the profile {source}: {getattr(e, 'strerror', None) or e}") from e
    else:
        raise ConfigError(f"no simulated phone {str(source)!r}; shipped: {', '.join(shipped)}; or name a .toml file")
    try:
        return TypeAdapter(Profile).validate_python(tomllib.loads(text))
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"the profile {source} is no TOML: {e}") from e
    except ValidationError as e:
        raise ConfigError("\n".join(f"the profile {source}: {_place(error)}: {error['msg']}" for error in e.errors())) from e


def _place(error: Any) -> str:
    return ".".join(map(str, error["loc"])) or "the whole"


def _folder() -> Any:
    return resources.files("paceline.devices.simulated.profiles")
