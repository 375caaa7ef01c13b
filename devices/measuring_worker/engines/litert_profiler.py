"""LiteRT's own operator profiler, which its Python API lacks."""

from __future__ import annotations

import ctypes as c

from paceline.devices.measuring_worker.engine import OperatorTimes, Settings
from paceline.devices.measuring_worker.engines.litert_c import CPU, CompiledModel, Event, Library

_NODE_EVENT, _DELEGATE_EVENT = 2, 8  # LiteRtProfiledEventData.event_type: a TFLite node, an operator inside a delegate


def profile(library: Library, path: str, settings: Settings, runs: int) -> OperatorTimes:
    """Means over `runs` runs. The clock has microseconds: use some hundred."""
    kernels = 'kernel_mode = "builtin"\n' if settings.delegate == "builtin" else ""
    options = {
        "runtime_options_string": "enable_profiling = true\n",
        "xnnpack": f"num_threads = {settings.threads}\n{kernels}",
    }
    model = CompiledModel(library, path, CPU, options)
    profiler = c.c_void_p()
    library.call("LiteRtCompiledModelGetProfiler", model.handle, c.byref(profiler))
    for _ in range(max(10, runs // 10)):
        model.run()
    totals: dict[int, float] = {}
    names: list[tuple[str, bool]] = []
    for _ in range(runs):
        library.call("LiteRtResetProfiler", profiler)
        library.call("LiteRtStartProfiler", profiler)
        model.run()
        library.call("LiteRtStopProfiler", profiler)
        events = [e for e in _events(library, profiler) if e.event_type == _DELEGATE_EVENT or _is_operator(e)]
        if not names:
            names = [((e.tag or b"?").decode(errors="replace"), e.event_type == _DELEGATE_EVENT) for e in events]
        for i, event in enumerate(events[: len(names)]):
            totals[i] = totals.get(i, 0.0) + event.elapsed_us
    model.close()
    return [(name, totals.get(i, 0.0) / runs / 1e3, delegated) for i, (name, delegated) in enumerate(names)]


def _is_operator(event: Event) -> bool:
    return bool(event.event_type == _NODE_EVENT and b"Delegate" not in (event.tag or b""))


def _events(library: Library, profiler: c.c_void_p) -> list[Event]:
    count = c.c_int()
    library.call("LiteRtGetNumProfilerEvents", profiler, c.byref(count))
    events = (Event * max(count.value, 1))()
    if count.value:
        library.call("LiteRtGetProfilerEvents", profiler, count, events)
    return list(events)[: count.value]
