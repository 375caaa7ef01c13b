"""An imitated Android phone: what it says it is, and a state that changes while it is used.

It warms up with the CPU time that its programs take and cools in the air, throttles when it is hot, drains its battery, and keeps
its settings. It computes nothing: `paceline.devices.testing.adb_daemon.AdbDaemon` runs real programs and tells the phone how much
CPU time they took. Throttling shows in the clocks it reports; the programs run as fast as before. Every row measured on it names
it: its model is "Imitated Phone", and the property `ro.paceline.imitated` is 1.
"""

from __future__ import annotations

import math
import platform
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

THERMAL_STATUSES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")  # android.os.PowerManager
THROTTLED = (1.0, 0.95, 0.8, 0.6, 0.4, 0.2, 0.2)  # clock by thermal status, of the highest
FIXED_PERFORMANCE = 0.7  # clock in fixed-performance mode, of the highest
BUSY_LOAD = 0.05  # CPUs in use from which on the clocks are up
LOADAVG_S = (60.0, 300.0, 900.0)
_ABIS = {"x86_64": "x86_64", "aarch64": "arm64-v8a", "arm64": "arm64-v8a", "armv7l": "armeabi-v7a"}


@dataclass(frozen=True)
class Cluster:
    """Equal CPU cores that share a clock. `part` is Arm's number of the core, `capacity` the kernel's figure of at most 1024."""

    name: str
    cpus: tuple[int, ...]
    part: int
    capacity: int
    khz: tuple[int, ...]  # ascending


CLUSTERS = (
    Cluster("little", (0, 1, 2, 3), 0xD46, 160, (324_000, 948_000, 1_704_000)),
    Cluster("mid", (4, 5, 6, 7), 0xD4D, 660, (402_000, 1_298_000, 2_367_000)),
    Cluster("big", (8,), 0xD4E, 1024, (500_000, 1_557_000, 2_914_000)),
)


def imitated_props(serial: str) -> dict[str, str]:
    """Android's system properties of a phone that nobody sells. The ABI is that of this machine, whose programs it runs."""
    abi = _ABIS.get(platform.machine(), platform.machine())
    return {
        "ro.product.name": "imitated",
        "ro.product.model": "Imitated Phone",
        "ro.product.device": "imitated",
        "ro.product.brand": "paceline",
        "ro.product.manufacturer": "Paceline",
        "ro.product.cpu.abi": abi,
        "ro.product.cpu.abilist": abi,
        "ro.soc.manufacturer": "Paceline",
        "ro.soc.model": "I9",
        "ro.board.platform": "imitated",
        "ro.hardware": "imitated",
        "ro.build.version.release": "14",
        "ro.build.version.sdk": "34",
        "ro.build.type": "user",
        "ro.build.fingerprint": "paceline/imitated/imitated:14/I9/1:user/test-keys",
        "ro.serialno": serial,
        "ro.paceline.imitated": "1",
        "sys.boot_completed": "1",
    }


class Phone:
    """State of one phone. Attributes may be set at any time; temperatures are degrees Celsius, the battery's level percent.

    heat_c_per_cpu_s: how much warmer a second of CPU time makes it; the default keeps it cool for ever on two cores, 5.0 makes it
        throttle after a few seconds
    cooling_s: the time in which the difference to `ambient_c` falls to 1/e
    thresholds_c: from which temperature on thermal status 1, 2, … is reported
    clock: seconds; a test passes its own
    """

    def __init__(
        self,
        serial: str = "IMITATED0001",
        props: dict[str, str] | None = None,
        clusters: Sequence[Cluster] = CLUSTERS,
        *,
        gles: str = "Paceline, Imitated GPU, OpenGL ES 3.2 v1",
        ambient_c: float = 25.0,
        heat_c_per_cpu_s: float = 0.04,
        cooling_s: float = 90.0,
        thresholds_c: Sequence[float] = (39, 42, 45, 48, 51, 54),
        battery: float = 80.0,
        drain_per_cpu_s: float = 0.002,
        drain_per_s: float = 0.0005,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.serial = serial
        self.props = imitated_props(serial) | (props or {})
        self.clusters = tuple(clusters)
        self.gles = gles
        self.ambient_c = ambient_c
        self.celsius = ambient_c
        self.heat_c_per_cpu_s = heat_c_per_cpu_s
        self.cooling_s = cooling_s
        self.thresholds_c = tuple(thresholds_c)
        self.thermal_override: int | None = None  # cmd thermalservice override-status
        self.battery = battery
        self.drain_per_cpu_s = drain_per_cpu_s
        self.drain_per_s = drain_per_s
        self.powered: set[str] = set()  # of "AC", "USB", "Wireless"
        self.fixed_performance = False
        self.settings: dict[str, dict[str, str]] = {
            "global": {"airplane_mode_on": "0", "stay_on_while_plugged_in": "0", "wifi_on": "1"},
            "system": {"screen_brightness": "128", "screen_off_timeout": "60000"},
            "secure": {},
        }
        self.lock = threading.RLock()
        self._clock = clock
        self._seen = clock()
        self._load = 0.0  # CPUs in use over the last interval
        self._loadavg = [0.0] * len(LOADAVG_S)
        self._seconds_at: dict[tuple[str, int], float] = {}

    @property
    def cpus(self) -> int:
        return sum(len(c.cpus) for c in self.clusters)

    @property
    def thermal_status(self) -> int:
        """0 none, 1 light, 2 moderate, 3 severe, 4 critical, 5 emergency, 6 shutdown."""
        if self.thermal_override is not None:
            return self.thermal_override
        return min(sum(self.celsius >= limit for limit in self.thresholds_c), len(THERMAL_STATUSES) - 1)

    @property
    def battery_celsius(self) -> float:
        return self.ambient_c + (self.celsius - self.ambient_c) / 2

    def tick(self, cpu_s: float = 0.0) -> None:
        """Time has passed on the phone's clock; in it its programs took `cpu_s` of CPU time."""
        with self.lock:
            now = self._clock()
            passed, self._seen = now - self._seen, now
            self.advance(passed, cpu_s)

    def advance(self, seconds: float, cpu_s: float = 0.0) -> None:
        """Lets `seconds` pass by Newton's law of cooling; a test may skip time by it."""
        with self.lock:
            if seconds <= 0:
                self.celsius += self.heat_c_per_cpu_s * cpu_s
            else:
                for cluster in self.clusters:
                    at = (cluster.name, self.khz(cluster))
                    self._seconds_at[at] = self._seconds_at.get(at, 0.0) + seconds
                self._load = cpu_s / seconds
                settled = self.ambient_c + self.heat_c_per_cpu_s * self._load * self.cooling_s
                self.celsius = settled + (self.celsius - settled) * math.exp(-seconds / self.cooling_s)
                self._loadavg = [
                    self._load + (average - self._load) * math.exp(-seconds / span)
                    for average, span in zip(self._loadavg, LOADAVG_S, strict=True)
                ]
            if not self.powered:
                self.battery = max(0.0, self.battery - self.drain_per_s * max(seconds, 0.0) - self.drain_per_cpu_s * cpu_s)

    def khz(self, cluster: Cluster) -> int:
        """The cluster's clock now."""
        if self.fixed_performance:
            share = min(FIXED_PERFORMANCE, THROTTLED[self.thermal_status])
        elif self._load < BUSY_LOAD:
            return cluster.khz[0]
        else:
            share = THROTTLED[self.thermal_status]
        return max([k for k in cluster.khz if k <= share * cluster.khz[-1]], default=cluster.khz[0])

    def files(self) -> dict[str, str]:
        """The files below /sys and /proc that differ from this machine's, by path."""
        with self.lock:
            return (
                self._sys_cpu() | self._sys_thermal() | {"/proc/cpuinfo": self._cpuinfo(), "/proc/loadavg": self._proc_loadavg()}
            )

    def _sys_cpu(self) -> dict[str, str]:
        base = "/sys/devices/system/cpu"
        files = {f"{base}/{name}": f"0-{self.cpus - 1}\n" for name in ("possible", "present", "online")}
        for cluster in self.clusters:
            at = [(khz, self._seconds_at.get((cluster.name, khz), 0.0)) for khz in cluster.khz]
            frequencies = {
                "cpuinfo_min_freq": cluster.khz[0],
                "cpuinfo_max_freq": cluster.khz[-1],
                "scaling_min_freq": cluster.khz[0],
                "scaling_max_freq": cluster.khz[-1],
                "scaling_cur_freq": self.khz(cluster),
                "scaling_governor": "schedutil",
                "scaling_available_frequencies": " ".join(map(str, cluster.khz)),
                "related_cpus": " ".join(map(str, cluster.cpus)),
                "stats/time_in_state": "\n".join(f"{khz} {seconds * 100:.0f}" for khz, seconds in at),  # in units of 10 ms
            }
            for cpu in cluster.cpus:
                files[f"{base}/cpu{cpu}/cpu_capacity"] = f"{cluster.capacity}\n"
                files |= {f"{base}/cpu{cpu}/cpufreq/{name}": f"{value}\n" for name, value in frequencies.items()}
        return files

    def _sys_thermal(self) -> dict[str, str]:
        zones = (("BIG", self.celsius), ("skin", self.celsius), ("battery", self.battery_celsius))
        files = {}
        for i, (kind, celsius) in enumerate(zones):
            files[f"/sys/class/thermal/thermal_zone{i}/type"] = f"{kind}\n"
            files[f"/sys/class/thermal/thermal_zone{i}/temp"] = f"{round(celsius, 1) * 1000:.0f}\n"  # millidegrees
        files["/sys/class/power_supply/battery/capacity"] = f"{self.battery:.0f}\n"
        files["/sys/class/power_supply/battery/temp"] = f"{self.battery_celsius * 10:.0f}\n"
        return files

    def _cpuinfo(self) -> str:
        blocks = [
            f"processor\t: {cpu}\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: {cluster.part:#x}\n"
            for cluster in self.clusters
            for cpu in cluster.cpus
        ]
        return "\n".join(blocks) + f"\nHardware\t: {self.props['ro.soc.model']}\n"

    def _proc_loadavg(self) -> str:
        averages = " ".join(f"{average:.2f}" for average in self._loadavg)
        return f"{averages} 1/{300 + self.cpus} 4711\n"
