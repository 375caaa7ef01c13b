"""What a run is told: TOML or keyword arguments, checked, with every default in one place."""

from __future__ import annotations

import difflib
import hashlib
import tomllib
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paceline.errors import ConfigError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(_Section):
    """`digits` ships with scikit-learn; `folder` holds one folder of images per class; `npz` holds arrays."""

    kind: Literal["digits", "folder", "npz"] = "digits"
    path: Path | None = None
    size: int = Field(default=32, ge=8, le=1024)


class DeviceChoice(_Section):
    """`id` is that of a device in `file` (a devices.toml, relative to the config), or "local"; `delegate`: else its first."""

    id: str = "local"
    file: Path | None = None
    delegate: str | None = None
    threads: int = Field(default=1, ge=1)


class OtherDevice(DeviceChoice):
    """A further device on which the network must keep a limit, of its own (see Config) where it is given here.

    Without a `file` it is looked for where `device` is. It may be the same device with another delegate or other threads."""

    limit_ms: float | None = Field(default=None, gt=0)
    limit_quantile: float | None = Field(default=None, ge=0, le=1)


class SpaceChoice(_Section):
    """One of those that `paceline spaces` lists."""

    name: str = "mobile_small"


class Supernet(_Section):
    """`policy`: which paths a step of training takes; not given: the recipe's. `shared`: what becomes of their gradients there
    where all paths share the weights."""

    policy: Literal["strict_fair", "uniform"] | None = None
    epochs: int = Field(default=8, ge=0)
    batch: int = Field(default=64, ge=1)
    lr: float = Field(default=0.3, gt=0)
    weight_decay: float = Field(default=4e-5, ge=0)
    shared: Literal["mean", "sum"] = "mean"


class Search(_Section):
    """It ends before its last generation where the hypervolume has not grown in the last `patience`."""

    population: int = Field(default=24, ge=2)
    generations: int = Field(default=10, ge=1)
    patience: int | None = Field(default=None, ge=1)


class Retrain(_Section):
    epochs: int = Field(default=40, ge=0)
    batch: int = Field(default=64, ge=1)
    lr: float = Field(default=0.2, gt=0)
    weight_decay: float = Field(default=4e-5, ge=0)


class Predictor(_Section):
    """Whole networks, from light to heavy, that the latency models are fitted on, and random others that they are tested on."""

    fit_networks: int = Field(default=40, ge=5)
    test_networks: int = Field(default=30, ge=5)
    confidence: float = Field(default=0.9, gt=0, lt=1)


class Config(_Section):
    """A whole run. `limit_ms` not given: the quantile `limit_quantile` of the space's predicted latencies.

    `limit_confidence` is the chance with which a network must keep the limit before it is measured. Not given: that of the upper
    end of the predictor's interval (0.95 where its `confidence` is 0.9), or as much as `fit_networks` can show (n / (n + 1)).
    The network is made for `device`; on the devices in `also` it must keep a limit, too.
    """

    seed: int = Field(default=0, ge=0)
    limit_ms: float | None = Field(default=None, gt=0)
    limit_quantile: float = Field(default=0.4, ge=0, le=1)
    limit_confidence: float | None = Field(default=None, gt=0, lt=1)
    shortlist: int = Field(default=6, ge=1)
    also: tuple[OtherDevice, ...] = ()
    data: Data = Data()
    device: DeviceChoice = DeviceChoice()
    space: SpaceChoice = SpaceChoice()
    supernet: Supernet = Supernet()
    search: Search = Search()
    retrain: Retrain = Retrain()
    predictor: Predictor = Predictor()

    def key(self) -> str:
        """Names the run: equal settings, equal key."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]


def load_config(path: Path | None, defaults: Callable[[str | None], Config] | None = None, **overrides: Any) -> Config:
    """The settings in a TOML file (none: the defaults), with those `overrides` that are not None; a section is a mapping.

    `defaults` gives the settings of what the file does not say, by the name of the space that the file names; without it they
    are those of Config. Raises ConfigError for a file that can't be read, an impossible value, and an option that does not
    exist (it suggests the nearest).
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text())
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError(f"can't read the config {path}: {getattr(e, 'strerror', None) or e}") from e
        except tomllib.TOMLDecodeError as e:
            raise ConfigError(f"{path} is not TOML: {e}") from e
    if defaults is not None:
        space = values.get("space")
        known = defaults(space.get("name") if isinstance(space, dict) else None)
        values = _merged(known.model_dump(exclude_unset=True), values)
    values = _merged(values, overrides)
    try:
        config = Config.model_validate(values)
    except ValidationError as e:
        raise ConfigError("\n".join(_explain(error, path) for error in e.errors())) from e
    told = [(d.id, d.file or config.device.file, d.delegate, d.threads) for d in (config.device, *config.also)]
    twice = next((d for d in told if told.count(d) > 1), None)
    if twice is not None:
        raise ConfigError(f"device {twice[0]!r} is given twice; leave one out, or give it another delegate or other threads")
    if config.data.kind != "digits" and config.data.path is None:
        raise ConfigError(f'[data] kind = "{config.data.kind}" needs `path`, the place of the data')
    return config if path is None else _placed(config, path.absolute().parent)


def _merged(values: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` wins, section by section; what is None there says nothing."""
    found = dict(values)
    for name, value in over.items():
        below = found.get(name)
        if isinstance(value, dict):
            found[name] = _merged(below if isinstance(below, dict) else {}, value)
        elif value is not None:
            found[name] = value
    return found


def _placed(config: Config, folder: Path) -> Config:
    """Relative paths are relative to the config; joining leaves absolute ones alone. So a run has one name from every folder."""
    changes: dict[str, Any] = {}
    if config.data.path is not None:
        changes["data"] = config.data.model_copy(update={"path": folder / config.data.path})
    if config.device.file is not None:
        changes["device"] = config.device.model_copy(update={"file": folder / config.device.file})
    changes["also"] = tuple(
        other if other.file is None else other.model_copy(update={"file": folder / other.file}) for other in config.also
    )
    return config.model_copy(update=changes)


def _explain(error: Any, path: Path | None) -> str:
    *sections, name = [str(part) for part in error["loc"]]
    place = f"{path or 'the options'}: " + (f"[{'.'.join(sections)}] " if sections else "")
    if error["type"] != "extra_forbidden":
        return f"{place}{name} = {error['input']!r}: {error['msg']}"
    known = list(_section(sections).model_fields)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known options: {', '.join(known)}"
    return f"{place}unknown option {name!r}; {hint}"


def _section(names: list[str]) -> type[BaseModel]:
    model: type[BaseModel] = Config
    for name in names:
        if not name.isdigit():  # the place in a list
            annotation = model.model_fields[name].annotation
            model = typing.cast(type[BaseModel], next(iter(typing.get_args(annotation)), annotation))
    return model
