"""What Android's own programs print, read. Pure functions: text in, figures out; what isn't there is left out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

_MARK = "@@paceline "
_PROPERTY = re.compile(r"\[([^\]]+)\]: \[(.*)\]")
_TEMPERATURE = re.compile(r"Temperature\{mValue=([^,]+), mType=(-?\d+), mName=(.*), mStatus=(-?\d+)\}")
_KINDS = {0: "cpu", 1: "gpu", 2: "battery", 3: "skin", 9: "npu"}  # android.hardware.thermal.TemperatureType
_ZONES = (
    ("skin", re.compile(r"skin|quiet|xo[-_]therm|\bshell", re.IGNORECASE)),
    ("battery", re.compile(r"batt|\bbms\b", re.IGNORECASE)),
    ("gpu", re.compile(r"gpu|\bg3d", re.IGNORECASE)),
    ("cpu", re.compile(r"cpu|\bsoc|\btsens|\bbig|\bmid\b|little|\bap\b", re.IGNORECASE)),
)
_CLUSTERS = {1: ("all",), 2: ("little", "big"), 3: ("little", "mid", "big")}


def batched(parts: Mapping[str, str]) -> str:
    """One command line out of several; `sections` takes their outputs apart again."""
    return "\n".join(f"echo; echo '{_MARK}{name}'; {{ {command}; }} 2>/dev/null" for name, command in parts.items())


def sections(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in ("\n" + text).split(f"\n{_MARK}")[1:]:
        name, _, said = part.partition("\n")
        found[name.strip()] = said.strip("\n")
    return found


def properties(text: str) -> dict[str, str]:
    """The output of `getprop`."""
    return {match[1]: match[2] for match in map(_PROPERTY.fullmatch, text.splitlines()) if match}


def thermal(text: str) -> dict[str, float]:
    """`dumpsys thermalservice`: the status (0: none, 6: shutdown) and the highest temperature of each kind, in °C.

    The sensors' own temperatures count, the cached ones where there are none.
    """
    found: dict[str, float] = {}
    status = re.search(r"^\s*Thermal Status: (\d+)\s*$", text, re.MULTILINE)
    if status:
        found["thermal_status"] = int(status[1])
    _, _, current = text.partition("Current temperatures from HAL:")
    return found | (_hottest(current) or _hottest(text))


def thermal_zones(text: str) -> dict[str, float]:
    """Lines of a zone's type and its temperature in °C or thousandths of it: the highest temperature of each kind."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        kind, _, value = line.rpartition(" ")
        celsius = _number(value)
        celsius = celsius / 1000 if celsius is not None and abs(celsius) >= 1000 else celsius
        name = next((name for name, pattern in _ZONES if pattern.search(kind)), None)
        if name and _plausible(celsius):
            found[f"{name}_celsius"] = max(celsius or 0.0, found.get(f"{name}_celsius", -math.inf))
    return found


def battery(text: str) -> dict[str, str]:
    """`dumpsys battery`: percent, °C, what powers the phone ("no" where nothing does)."""
    fields = dict(re.findall(r"^\s*([A-Za-z ]+): (\S+)\s*$", text, re.MULTILINE))
    found: dict[str, str] = {}
    level, scale, tenths = (_number(fields.get(name, "")) for name in ("level", "scale", "temperature"))
    if level is not None and 0 <= level <= (scale or 100):
        found["battery_percent"] = f"{100 * level / (scale or 100):.0f}"
    if tenths is not None and _plausible(tenths / 10):
        found["battery_celsius"] = f"{tenths / 10:.1f}"
    sources = {name.removesuffix(" powered").lower(): value for name, value in fields.items() if name.endswith(" powered")}
    if sources:
        found["powered"] = " ".join(sorted(name for name, value in sources.items() if value == "true")) or "no"
    return found


def frequencies(text: str) -> dict[int, int]:
    """Lines of "kHz: CPUs": kHz by CPU."""
    found: dict[int, int] = {}
    for line in text.splitlines():
        said = re.fullmatch(r"\s*(\d{1,10}):([\d ]*)", line)
        for cpu in said[2].split() if said else ():
            found[int(cpu)] = int(said[1]) if said else 0
    return found


def cpu_list(text: str) -> tuple[int, ...]:
    """The kernel's "0-3,6": (0, 1, 2, 3, 6)."""
    found: set[int] = set()
    for first, last in re.findall(r"(\d{1,4})(?:-(\d{1,4}))?", text):
        found.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(found))


def clusters(khz: Mapping[int, int]) -> dict[str, tuple[int, ...]]:
    """CPUs of the same highest clock, the slowest first: little, mid, big; mid1, mid2, … where there are more than three."""
    speeds = sorted(set(khz.values()))
    names = _CLUSTERS.get(len(speeds)) or ("little", *(f"mid{i}" for i in range(1, len(speeds) - 1)), "big")
    return {name: tuple(sorted(cpu for cpu in khz if khz[cpu] == speed)) for name, speed in zip(names, speeds, strict=False)}


def _hottest(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for value, kind, _, _ in _TEMPERATURE.findall(text):
        name, celsius = _KINDS.get(int(kind)), _number(value)
        if name and _plausible(celsius):
            found[f"{name}_celsius"] = max(celsius or 0.0, found.get(f"{name}_celsius", -math.inf))
    return found


def _plausible(celsius: float | None) -> bool:
    """Sensors that aren't there say 0, or something absurd."""
    return celsius is not None and -40 < celsius < 150 and celsius != 0


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
