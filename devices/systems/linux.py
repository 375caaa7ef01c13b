"""A Linux host: a server, a laptop, a board. All of it is read from /proc and /sys, in one command each time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from itertools import groupby

from paceline.devices.transports.transport import Transport
from paceline.errors import DeviceError

_TIMEOUT_S = 20.0
_BUSY_LOAD = 0.5
"""Of the CPUs."""
_PI_TROUBLE = {
    0: "the supply voltage is too low: use a stronger power supply and a shorter cable",
    1: "the CPU's frequency is capped: look after power supply and cooling",
    2: "the CPU is throttled: let it cool down, or improve the cooling",
    3: "the CPU is at its soft temperature limit: let it cool down, or improve the cooling",
}
"""What the low bits of `vcgencmd get_throttled` mean (Raspberry Pi documentation, "vcgencmd")."""

# A section a file: its path after a mark, then its content. `read` needs no new process, as cat would for each of dozens.
_LINES = """\
lines() { for file in "$@"; do
    if [ -r "$file" ] && IFS= read -r line <"$file"; then printf '=== %s\\n%s\\n' "$file" "$line"; fi
done; } 2>/dev/null
"""
_FACTS = (
    _LINES
    + """
for option in s m p; do echo "=== uname -$option"; uname -$option; done
echo '=== cores'; getconf _NPROCESSORS_ONLN || nproc
echo '=== /proc/cpuinfo'; cat /proc/cpuinfo
echo '=== status'; grep Cpus_allowed_list /proc/self/status
lines /sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq
if [ -r /proc/device-tree/model ]; then echo '=== board'; tr -d '\\0' </proc/device-tree/model; fi
:
"""
)
_CONDITION = (
    _LINES
    + """
lines /proc/loadavg /proc/stat /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor
lines /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq /sys/class/thermal/thermal_zone*/temp
echo '=== MHz'; grep -m 1 '^cpu MHz' /proc/cpuinfo
if command -v vcgencmd >/dev/null; then echo '=== throttled'; vcgencmd get_throttled; fi
:
"""
)


class LinuxSystem:
    """The System (see there) behind `transport`. It is in trouble from `hot_celsius` on. It changes no settings."""

    def __init__(self, transport: Transport, hot_celsius: float = 80.0) -> None:
        self._transport, self._hot_celsius = transport, hot_celsius

    def facts(self) -> dict[str, str]:
        """Processor, cores and system; on ARM also parts of the CPUs (implementer:part), clusters by top frequency, board."""
        found = self._identity
        cpus = [_pairs(block) for block in found.get("/proc/cpuinfo", "").split("\n\n")]
        first = cpus[0]
        facts = {
            "processor": first.get("model name") or found.get("uname -p") or "unknown",
            "model": "/".join(first.get(name, "?") for name in ("cpu family", "model", "stepping")),
            "architecture": found.get("uname -m", ""),
            "cores": found.get("cores", ""),
            "system": found.get("uname -s", ""),
        }
        parts = Counter(f"{cpu.get('CPU implementer', '?')}:{cpu['CPU part']}" for cpu in cpus if "CPU part" in cpu)
        if parts:
            facts["parts"] = ", ".join(f"{count} x {part}" for part, count in sorted(parts.items()))
            tops = groupby(sorted(self._top_khz.values()))
            facts["clusters"] = ", ".join(f"{len(list(cores))} x {khz / 1000:.0f} MHz" for khz, cores in tops) or "unknown"
        if found.get("board"):
            facts["board"] = found["board"]
        return facts

    def condition(self) -> dict[str, str]:
        """Load of the last minute, highest clock (MHz) and temperature (°C), ticks that other virtual machines stole."""
        found = self._ask(_CONDITION)
        condition = {}
        load = found.get("/proc/loadavg", "").split()
        if load:
            condition["load"] = load[0]
        ticks = found.get("/proc/stat", "").split()
        if len(ticks) > 8:
            condition["steal_ticks"] = ticks[8]
        clocks = [int(khz) / 1000 for khz in _endings(found, "/scaling_cur_freq") if khz.isdigit()]
        clock = _pairs(found.get("MHz", "")).get("cpu MHz") or (f"{max(clocks):.0f}" if clocks else "")
        if clock:
            condition["mhz"] = clock
        governors = sorted(set(_endings(found, "/scaling_governor")))
        if governors:
            condition["governor"] = ", ".join(governors)
        heats = [int(text) / 1000 for text in _endings(found, "/temp") if re.fullmatch(r"-?\d+", text)]
        if heats:
            condition["celsius"] = f"{max(heats):.0f}"
        throttled = found.get("throttled", "").partition("=")[2]
        if throttled:
            condition["throttled"] = throttled
        return condition

    def trouble(self, condition: Mapping[str, str]) -> tuple[str, ...]:
        reasons = []
        if float(condition.get("load", 0)) > _BUSY_LOAD * len(self.cpus()):
            reasons.append("other programs keep this machine busy: stop them, or expect wide intervals")
        if float(condition.get("celsius", 0)) >= self._hot_celsius:
            reasons.append(f"it is hot ({condition['celsius']} °C): let it cool down, or improve the cooling")
        bits = int(condition.get("throttled", "0"), 16)
        reasons += [advice for bit, advice in _PI_TROUBLE.items() if bits >> bit & 1]
        return tuple(reasons)

    def quiet(self) -> AbstractContextManager[None]:
        return nullcontext()

    def cpus(self) -> tuple[int, ...]:
        allowed = _pairs(self._identity.get("status", "")).get("Cpus_allowed_list", "")
        ranges = (part.partition("-") for part in allowed.split(",") if part)
        found = [cpu for low, _, high in ranges for cpu in range(int(low), int(high or low) + 1)]
        return tuple(sorted(found, key=lambda cpu: (self._top_khz.get(cpu, 0), cpu)))

    @cached_property
    def _identity(self) -> dict[str, str]:
        """What doesn't change."""
        return self._ask(_FACTS)

    @cached_property
    def _top_khz(self) -> dict[int, int]:
        """By CPU."""
        named = re.compile(r"/sys/devices/system/cpu/cpu(\d+)/cpufreq/cpuinfo_max_freq")
        found = ((named.fullmatch(name), khz) for name, khz in self._identity.items())
        return {int(match[1]): int(khz) for match, khz in found if match and khz.isdigit()}

    def _ask(self, command: str) -> dict[str, str]:
        """What the files hold, by their paths."""
        done = self._transport.run(command, _TIMEOUT_S)
        if done.code != 0:
            raise DeviceError(f"{self._transport.address} doesn't say what it is: {done.printed or f'exit code {done.code}'}")
        sections = (section.partition("\n") for section in re.split(r"^=== ", done.text, flags=re.MULTILINE)[1:])
        return {name: content.strip() for name, _, content in sections}


def _pairs(text: str) -> dict[str, str]:
    """Lines of "name : value"."""
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _endings(found: Mapping[str, str], ending: str) -> list[str]:
    return [content for name, content in found.items() if name.endswith(ending)]
