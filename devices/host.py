"""What a Linux host says about itself: what it is, and in which condition."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def facts() -> dict[str, str]:
    """What identifies the machine as a device: processor, cores, operating system, runtime version."""
    cpu = _cpuinfo()
    try:
        runtime = version("ai-edge-litert")
    except PackageNotFoundError:
        runtime = "missing"
    return {
        "processor": cpu.get("model name", platform.processor() or "unknown"),
        "model": "/".join(cpu.get(k, "?") for k in ("cpu family", "model", "stepping")),
        "architecture": platform.machine(),
        "cores": str(os.cpu_count()),
        "system": platform.system(),
        "litert": runtime,
    }


def condition() -> dict[str, str]:
    """How the machine feels now: load, clock, temperature, time stolen by other virtual machines (ticks since boot)."""
    found = {"load": f"{os.getloadavg()[0]:.2f}"}
    stat = _read(Path("/proc/stat")).split("\n", 1)[0].split()
    if len(stat) > 8:
        found["steal_ticks"] = stat[8]
    clock = _cpuinfo().get("cpu MHz")
    if clock:
        found["mhz"] = clock
    zones = [_read(zone) for zone in Path("/sys/class/thermal").glob("thermal_zone*/temp")]
    heats = [int(text) / 1000 for text in zones if text.strip().lstrip("-").isdigit()]
    if heats:
        found["celsius"] = f"{max(heats):.0f}"
    return found


def cpus() -> tuple[int, ...]:
    """The CPUs this process may use."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo."""
    first = _read(Path("/proc/cpuinfo")).split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
