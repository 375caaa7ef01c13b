"""An Android phone as a System: identity by its properties and clusters, condition by its own services."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from paceline.devices.state import DeviceState
from paceline.devices.systems import android_text as text
from paceline.devices.systems.android_settings import FIXED, QUIET, QuietSettings
from paceline.devices.transports.transport import Transport
from paceline.errors import DeviceError, TransientDeviceError

_S = 30.0
_CPU = "/sys/devices/system/cpu"
_STATUSES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
_COOL = "let it lie in the open, out of its case and off the charger, until it is cool"


def _clocks(file: str) -> str:
    """Lines of "kHz: CPUs", by policy, and by CPU for kernels without policies."""
    return (
        f"for d in {_CPU}/cpufreq/policy* {_CPU}/cpu[0-9]*/cpufreq; do "
        f'if read khz <$d/{file} && read cpus <$d/related_cpus; then echo "$khz: $cpus"; fi; done'
    )


_FACTS = text.batched(
    {
        "properties": "getprop",
        "gpu": "dumpsys SurfaceFlinger | grep -m 1 GLES:",
        "cpus": f"cat {_CPU}/possible",
        "clocks": _clocks("cpuinfo_max_freq"),
    }
)
_CONDITION = text.batched(
    {
        "thermal": "dumpsys thermalservice",
        "zones": 'for z in /sys/class/thermal/thermal_zone*; do read t <$z/type && read c <$z/temp && echo "$t $c"; done',
        "battery": "dumpsys battery",
        "clocks": _clocks("scaling_cur_freq"),
        "load": "cat /proc/loadavg",
        "saver": "settings get global low_power",
        "screen": "dumpsys power | grep -m 1 mWakefulness=",
    }
)


@dataclass(frozen=True)
class AndroidLimits:
    """Beyond these, figures aren't the phone's own any more. Temperatures in °C."""

    thermal_status: int = 0
    skin_celsius: float = 40.0
    battery_celsius: float = 38.0
    battery_percent: float = 30.0


class AndroidSystem:
    """The Android at the other end of `transport`; `state` keeps what was changed on it.

    Call `restore_leftovers` when attaching: a process that was killed in mid-measurement left the phone's settings changed.
    """

    def __init__(
        self,
        transport: Transport,
        state: DeviceState,
        limits: AndroidLimits | None = None,
        settings: Mapping[str, str] = QUIET,
    ) -> None:
        self._transport = transport
        self._limits = limits or AndroidLimits()
        self._settings = QuietSettings(transport, state, settings)
        self._quiet = False

    def facts(self) -> dict[str, str]:
        """Raises TransientDeviceError while the phone still boots."""
        said = text.properties(self._identity["properties"])
        gpu = self._identity["gpu"].partition("GLES:")[2].strip()
        soc = " ".join(filter(None, (said.get("ro.soc.manufacturer"), said.get("ro.soc.model"))))
        found = {
            "manufacturer": said.get("ro.product.manufacturer", ""),
            "model": said.get("ro.product.model", ""),
            "soc": soc or said.get("ro.board.platform", "") or said.get("ro.hardware", ""),
            "build": said.get("ro.build.fingerprint", ""),
            "android": said.get("ro.build.version.release", ""),
            "sdk": said.get("ro.build.version.sdk", ""),
            "abis": said.get("ro.product.cpu.abilist", ""),
            "gpu": gpu,
            "cores": str(len(self.cpus())),
            "clusters": " + ".join(f"{len(c)} x {self._khz[c[0]] / 1e3:.0f} MHz" for c in self.clusters().values()),
        }
        imitated = {"imitated": "1"} if said.get("ro.paceline.imitated") == "1" else {}
        return {name: value or "unknown" for name, value in found.items()} | imitated

    def condition(self) -> dict[str, str]:
        said = text.sections(self._ask(_CONDITION))
        temperatures = text.thermal_zones(said["zones"]) | text.thermal(said["thermal"])
        status = temperatures.pop("thermal_status", None)
        found = {} if status is None else {"thermal_status": f"{status:.0f}"}
        found |= {name: f"{value:.1f}" for name, value in sorted(temperatures.items())}
        found |= text.battery(said["battery"])
        now = text.frequencies(said["clocks"])
        found |= {f"{name}_mhz": f"{now[cpus[0]] / 1e3:.0f}" for name, cpus in self.clusters().items() if cpus[0] in now}
        found |= {"load": load[0]} if (load := said["load"].split()) else {}
        found |= {"battery_saver": "on" if said["saver"].strip() == "1" else "off"}
        wakefulness = said["screen"].partition("mWakefulness=")[2].strip()
        found |= {"screen": wakefulness.lower()} if wakefulness else {}
        if self._quiet:
            found[FIXED] = "unavailable" if FIXED in self._settings.refused else "on"
            others = [name for name in self._settings.refused if name != FIXED]
            found |= {"settings_refused": " ".join(others)} if others else {}
        return found

    def trouble(self, condition: Mapping[str, str]) -> tuple[str, ...]:
        limits, reasons = self._limits, []
        status = int(condition.get("thermal_status", "0"))
        if status > limits.thermal_status:
            name = _STATUSES[min(status, len(_STATUSES) - 1)]
            reasons.append(f"the phone throttles (thermal status {status}, {name}): {_COOL}")
        for part, limit in (("skin", limits.skin_celsius), ("battery", limits.battery_celsius)):
            celsius = float(condition.get(f"{part}_celsius", "-inf"))
            if celsius > limit:
                reasons.append(f"its {part} has {celsius:g} °C, more than {limit:g}: {_COOL}")
        percent = float(condition.get("battery_percent", "inf"))
        if percent < limits.battery_percent:
            reasons.append(f"its battery is at {percent:g} %, less than {limits.battery_percent:g} %: charge it")
        if condition.get("battery_saver") == "on":
            reasons.append("battery saver slows it down: switch it off")
        return tuple(reasons)

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Fixed-performance mode where the phone has it, the screen on and dark. `condition` tells what it refused.

        Where the phone is lost meanwhile, the journal keeps the original settings for the next attach.
        """
        self.restore_leftovers()
        try:
            self._settings.change()
            self._quiet = True
            yield
        except BaseException:
            with contextlib.suppress(TransientDeviceError):
                self.restore_leftovers()
            raise
        finally:
            self._quiet = False
        self.restore_leftovers()

    def restore_leftovers(self) -> None:
        """Puts back what the journal says was changed. Asks the phone nothing where nothing was."""
        self._settings.restore()

    def cpus(self) -> tuple[int, ...]:
        known = self._khz
        possible = text.cpu_list(self._identity["cpus"]) or tuple(sorted(known))
        if not possible:
            raise DeviceError(f"{self._transport.address} doesn't say which CPUs it has ({_CPU}/possible)")
        return tuple(sorted(possible, key=lambda cpu: (known.get(cpu, 0), cpu)))

    def clusters(self) -> dict[str, tuple[int, ...]]:
        """CPUs by the name of their cluster, the slowest first."""
        return text.clusters(self._khz)

    @cached_property
    def _identity(self) -> dict[str, str]:
        said = text.sections(self._ask(_FACTS))
        booted = text.properties(said["properties"]).get("sys.boot_completed")
        if booted != "1":
            raise TransientDeviceError(f"{self._transport.address} is still booting (sys.boot_completed isn't 1); wait a minute")
        return said

    @cached_property
    def _khz(self) -> dict[int, int]:
        return text.frequencies(self._identity["clocks"])

    def _ask(self, command: str) -> str:
        """Only reads, so it is asked again where the answer was lost."""
        try:
            return self._answer(command)
        except TransientDeviceError:
            return self._answer(command)

    def _answer(self, command: str) -> str:
        return self._transport.run(command, _S).out.decode(errors="replace")
