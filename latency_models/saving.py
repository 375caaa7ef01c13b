"""Fitted models as files, without pickle: a file can hold figures and names of Paceline's own classes, and never code.

A model is a zip file: `model.json`, and a .npy member for each array. What is kept of an estimator are its settings
(`get_params`) and what it learned (attributes that end with `_`), so that a new estimator needs no code here. Values may be None,
bool, int, float, str, tuple, list, dict (with any of these as keys), numpy arrays and scalars, operators, Paceline's frozen
dataclasses, and other estimators of `paceline.latency_models`. Caches, which have a value in the class too, are made again.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from paceline import __version__
from paceline.errors import ExportError, LatencyModelError
from paceline.files import write_atomically
from paceline.graph import OpSpec
from paceline.latency_models.archive import array_bytes, array_of, packed, unpacked

FORMAT, VERSION = "paceline model", 1
TRUSTED = (
    "paceline.latency_models",
    "paceline.arch",
    "paceline.graph",
    "paceline.measurement",
    "paceline.space_operators",
)
"""Where the classes of what is kept may come from."""

_SCALARS = frozenset(
    ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")
)
_MAIN = "model.json"
_LEARNED = re.compile(r"[A-Za-z]\w*_", re.ASCII)
_CLASS = re.compile(r"[a-z]\w*(?:\.\w+)*\.[A-Za-z_]\w*", re.ASCII)


def save(model: object, path: Path) -> None:
    """Writes a fitted estimator of `paceline.latency_models`; the file is there whole or not at all.

    Raises LatencyModelError for a model that holds what can't be kept, naming it, and StoreError where the file can't be written.
    """
    write_atomically(path, packed(members_of(model)))


def load(path: Path) -> Any:
    """The model that `save` wrote: its predictions are the same to the last bit.

    Raises LatencyModelError where the file isn't there, is damaged, isn't a model, or is one that this version doesn't know.
    """
    try:
        content = path.read_bytes()
    except OSError as e:
        raise LatencyModelError(f"can't read the model {path}: {e.strerror}. `paceline fit` makes one.") from e
    try:
        return model_of(unpacked(content))
    except (ValueError, LatencyModelError) as e:
        raise LatencyModelError(f"{path}: {e}") from e


def members_of(model: object) -> dict[str, bytes]:
    """The members of a model's zip file, by name: what `save` writes, also to be kept within another zip file."""
    writer = _Writer()
    about = {"format": FORMAT, "version": VERSION, "paceline": __version__, "model": writer.node(model, type(model).__name__)}
    text = json.dumps(about, allow_nan=False, separators=(",", ":"))
    return {_MAIN: text.encode()} | {name: array_bytes(array) for name, array in writer.arrays.items()}


def model_of(members: Mapping[str, bytes]) -> Any:
    """The model of `members_of`. Raises LatencyModelError."""
    saved_by = "?"
    try:
        about = json.loads(members[_MAIN], parse_constant=_refuse_constant)
        saved_by = str(about["paceline"])
        if (about["format"], about["version"]) != (FORMAT, VERSION):
            raise ValueError(f"its format is {about['format']!r} {about['version']!r}, this program knows {FORMAT!r} {VERSION}")
        return _Reader(members).value(about["model"])
    except Exception as e:  # whatever a damaged or hostile file makes of itself
        reason = f"it has no {e}" if isinstance(e, KeyError) else str(e) or type(e).__name__
        remedy = f"Fit it again, or use the Paceline that saved it (version {saved_by[:20]})."
        raise LatencyModelError(f"not a model that can be read ({reason[:300]}). {remedy}") from e


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} stands where a number belongs")


class _Writer:
    """Values as JSON: what JSON has not is an object of one tag, such as {"tuple": […]}."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray[Any, Any]] = {}

    def node(self, value: Any, where: str) -> Any:
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if kind is list:
            return self._items(value, where)
        if kind is tuple:
            return {"tuple": self._items(value, where)}
        if kind is dict:
            pairs = [[self.node(k, f"{where} key"), self.node(v, f"{where}[{k!r:.60}]")] for k, v in value.items()]
            return {"dict": pairs}
        if kind is np.ndarray and value.dtype.kind in "biufU":
            name = f"arrays/{len(self.arrays)}.npy"
            self.arrays[name] = value
            return {"array": name}
        if isinstance(value, np.generic) and value.dtype.name in _SCALARS:
            return {"scalar": [value.dtype.name, self.node(value.item(), where)]}
        if kind is np.str_:
            return str(value)
        if kind is OpSpec and _is_its_key(value):
            return {"operator": value.key}
        if isinstance(value, BaseEstimator):
            return self._estimator(value, where)
        if is_dataclass(kind):
            values = {f.name: self.node(getattr(value, f.name), f"{where}.{f.name}") for f in fields(value) if f.init}
            return {"dataclass": _name(kind, where), "fields": values}
        raise LatencyModelError(f"can't save {where}: a {kind.__module__}.{kind.__qualname__} is no plain value")

    def _items(self, values: list[Any] | tuple[Any, ...], where: str) -> list[Any]:
        return [self.node(value, f"{where}[{i}]") for i, value in enumerate(values)]

    def _estimator(self, model: BaseEstimator, where: str) -> dict[str, Any]:
        settings, held = model.get_params(deep=False), vars(model)
        learned = [name for name in held if _LEARNED.fullmatch(name)]
        kept = {*settings, *learned}
        for name in sorted(held.keys() - kept):
            if not hasattr(type(model), name):  # a cache: a cached property, or empty in the class, and made again
                raise LatencyModelError(f"can't save {where}: its {name!r} is no setting, and what was learned ends with '_'")
        return {
            "estimator": _name(type(model), where),
            "settings": {name: self.node(value, f"{where}.{name}") for name, value in settings.items()},
            "learned": {name: self.node(held[name], f"{where}.{name}") for name in learned},
        }


class _Reader:
    def __init__(self, members: Mapping[str, bytes]) -> None:
        self._members = members
        self._operators: dict[str, OpSpec] = {}

    def value(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self.value(item) for item in node]
        if not isinstance(node, dict):
            return node
        match node:
            case {"float": ("nan" | "inf" | "-inf") as text}:
                return float(text)
            case {"tuple": list(items)}:
                return tuple([self.value(item) for item in items])
            case {"dict": list(pairs)}:
                return {self.value(key): self.value(item) for key, item in pairs}
            case {"array": str(name)}:
                return array_of(self._members[name])
            case {"scalar": [str(name), item]} if name in _SCALARS:
                return np.dtype(name).type(self.value(item))
            case {"operator": str(key)}:
                if key not in self._operators:
                    self._operators[key] = OpSpec.parse(key)
                return self._operators[key]
            case {"estimator": str(name), "settings": dict(settings), "learned": dict(learned)}:
                return self._estimator(_class(name), settings, learned)
            case {"dataclass": str(name), "fields": dict(values)}:
                return self._dataclass(_class(name), values)
        raise ValueError(f"{sorted(node)[:3]} is no value")

    def _estimator(self, cls: type, settings: dict[str, Any], learned: dict[str, Any]) -> Any:
        if not issubclass(cls, BaseEstimator):
            raise ValueError(f"{cls.__qualname__} is no estimator")
        model = cls(**{name: self.value(value) for name, value in settings.items()})
        for name, value in learned.items():
            if not _LEARNED.fullmatch(name):
                raise ValueError(f"{name!r} is no name of what was learned")
            setattr(model, name, self.value(value))
        return model

    def _dataclass(self, cls: type, values: dict[str, Any]) -> Any:
        if not _is_frozen(cls):
            raise ValueError(f"{cls.__qualname__} is no frozen dataclass")
        return cls(**{name: self.value(value) for name, value in values.items()})


def _is_its_key(spec: OpSpec) -> bool:
    """Whether the key says it all: a text attribute that looks like a number comes back as one."""
    try:
        return OpSpec.parse(spec.key) == spec
    except ExportError:
        return False


def _is_frozen(cls: type) -> bool:
    return is_dataclass(cls) and bool(cls.__dataclass_params__.frozen)  # type: ignore[attr-defined]


def _name(cls: type, where: str) -> str:
    """How a file names a class; one that `load` would refuse is refused here."""
    name = f"{cls.__module__}.{cls.__qualname__}"
    try:
        found = _class(name)
    except ValueError as e:
        raise LatencyModelError(f"can't save {where}: {e}") from e
    if found is not cls or not (issubclass(cls, BaseEstimator) or _is_frozen(cls)):
        raise LatencyModelError(f"can't save {where}: {name} is neither an estimator nor a frozen dataclass")
    return name


def _class(name: str) -> type:
    module, _, short = name.rpartition(".")
    if not _CLASS.fullmatch(name) or not any(module == place or module.startswith(f"{place}.") for place in TRUSTED):
        raise ValueError(f"{name[:100]!r} is no class of Paceline's latency models")
    try:
        found = getattr(import_module(module), short, None)
    except ImportError as e:
        raise ValueError(f"there is no {name}: {e}") from e
    if not isinstance(found, type) or (found.__module__, found.__qualname__) != (module, short):
        raise ValueError(f"there is no class {name}")
    return found
