"""Which devices to measure on, as text.

    pixel-1                      the device, or those with the label, of that name
    model=Pixel 8, delegate=gpu  any one of those that fulfil all conditions
    any 3 of soc=*sm8650*        three different ones of these
    all of rack=2                each of these
    any / all                    one, or each, of whatever there is

A condition names the id, kind, delegate or simulated, a label of the form name=value, or any fact of the device (model, soc, …).
Case doesn't matter; * and ? stand for any characters, any one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol, TypeVar

from paceline.errors import ConfigError, DeviceError
from paceline.measurement import DeviceInfo


class Selectable(Protocol):
    """What a selector looks at. `info` is None where the device could not be asked yet."""

    @property
    def id(self) -> str: ...

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def info(self) -> DeviceInfo | None: ...


S = TypeVar("S", bound=Selectable)
_QUANTITY = re.compile(r"(?P<word>any|all)\b(?:\s+(?P<count>\d+)\b)?(?:\s+of\b)?\s*", re.IGNORECASE)
_FORM = 'write for example "pixel-1", "model=Pixel 8, delegate=gpu", "any 3 of soc=*sm8650*" or "all"'


@dataclass(frozen=True)
class Condition:
    """`key` has `value`; without a key: the id or a label is `value`."""

    key: str
    value: str

    def holds(self, device: Selectable) -> bool:
        return any(fnmatchcase(known.lower(), self.value.lower()) for known in self._known(device))

    def _known(self, device: Selectable) -> tuple[str, ...]:
        if not self.key:
            return (device.id, *device.labels)
        if self.key == "id":
            return (device.id,)
        labels = tuple(label.partition("=")[2] for label in device.labels if label.lower().startswith(f"{self.key}="))
        if device.info is None:
            return labels
        info = device.info
        own = {"kind": (info.kind,), "delegate": info.delegates, "simulated": ("yes" if info.simulated else "no",)}
        facts = tuple(text for name, text in info.facts.items() if name.lower() == self.key)
        return labels + own.get(self.key, facts)

    def __str__(self) -> str:
        return f"{self.key}={self.value}" if self.key else self.value


@dataclass(frozen=True)
class Selector:
    """On `count` different devices of those that fulfil all `conditions` (None: on each)."""

    count: int | None
    conditions: tuple[Condition, ...] = ()

    def matches(self, device: Selectable) -> bool:
        return all(condition.holds(device) for condition in self.conditions)

    def of(self, devices: Sequence[S]) -> list[S]:
        """Those of `devices` that may be used. Raises DeviceError where there are none or too few, and says what there is."""
        found = [device for device in devices if self.matches(device)]
        if len(found) >= (self.count or 1):
            return found
        if found:
            raise DeviceError(f"{str(self)!r} needs {self.count} devices, there {_are(len(found))}: {_ids(found)}")
        raise DeviceError(f"no device is {str(self)!r}; {self._why(devices)}")

    def _why(self, devices: Sequence[Selectable]) -> str:
        facts = {name.lower() for device in devices if device.info for name in device.info.facts}
        labels = {label.partition("=")[0].lower() for device in devices for label in device.labels if "=" in label}
        keys = {"id", "kind", "delegate", "simulated"} | facts | labels
        for condition in self.conditions:
            if condition.key and condition.key not in keys:
                near = difflib.get_close_matches(condition.key, sorted(keys), n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(keys))}"
                return f"none has a fact named {condition.key!r}; {hint}"
            if not any(condition.holds(device) for device in devices):
                return f"none has {str(condition)!r}. There {_are(len(devices))}: {_ids(devices) or 'none'}"
        return f"none has all of it. There {_are(len(devices))}: {_ids(devices) or 'none'}"

    def __str__(self) -> str:
        quantity = "all" if self.count is None else f"any {self.count}"
        text = ", ".join(map(str, self.conditions))
        if self.count == 1:
            return text or "any"
        return f"{quantity} of {text}" if text else quantity


def parse_selector(text: str) -> Selector:
    """Raises ConfigError for what is no selector, and shows how to write one."""
    quantity = _QUANTITY.match(text.strip())
    rest = text.strip()
    count: int | None = 1
    if quantity is not None and _ends_there(quantity, rest):
        rest = rest[quantity.end() :]
        if quantity["word"].lower() == "all":
            if quantity["count"]:
                raise _error(text, f"'all' takes no number; did you mean 'any {quantity['count']}'?")
            count = None
        else:
            count = int(quantity["count"] or 1)
        if count == 0:
            raise _error(text, "'any 0' selects nothing")
        if not rest and quantity[0].rstrip().lower().endswith(" of"):
            raise _error(text, "nothing follows 'of'")
    elif not rest:
        raise _error(text, "it is empty")
    return Selector(count, tuple(_condition(part, text) for part in rest.split(",")) if rest else ())


def _ends_there(quantity: re.Match[str], rest: str) -> bool:
    """'all', 'any 3', 'any of …': but 'all-round' and 'any=1' are names."""
    return quantity.end() == len(rest) or quantity[0].rstrip().lower().endswith(" of")


def _condition(part: str, text: str) -> Condition:
    key, equals, value = (piece.strip() for piece in part.partition("="))
    if not equals:
        key, value = "", key
    if not value:
        raise _error(text, f"{part.strip()!r} has no value" if equals else "a condition is empty")
    if equals and not re.fullmatch(r"[\w.-]+", key):
        raise _error(text, f"{key!r} is no name of a fact or label")
    if not equals and re.search(r"\s", value):
        raise _error(text, f"{value!r} is neither an id nor name=value")
    return Condition(key.lower(), value)


def _error(text: str, reason: str) -> ConfigError:
    return ConfigError(f"device selector {text!r}: {reason}; {_FORM}")


def _are(count: int) -> str:
    return "is 1" if count == 1 else f"are {count}"


def _ids(devices: Sequence[Selectable]) -> str:
    shown = [device.id for device in devices[:8]]
    return ", ".join([*shown, "…"] if len(devices) > 8 else shown)
