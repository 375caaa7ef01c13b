"""Which rows of an earlier table still hold: a few operators of every group are measured again, and only what moved expires."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from paceline.errors import ExportError, LatencyModelError
from paceline.exporters.operator_models import write_operator
from paceline.latency_models.bundle.bundle import Bundle
from paceline.latency_models.bundle.rows import MeasuredRow
from paceline.latency_models.collection.collect import REFERENCE, Collector
from paceline.latency_models.features import group_of
from paceline.measurement import REFERENCE_KEY, Artifact, DeviceInfo, Measurement, Progress, silent, usual_reference

CARRIED = "carried_from"
"""In the context of a measurement that was taken over: the fingerprint under which it was measured."""

_HARDWARE = ("manufacturer", "model", "soc", "processor", "board", "architecture", "clusters", "cores")
"""Facts of a device that no update changes, as far as it has them."""

_REFERENCE_GROUP = group_of(REFERENCE)
_IQR = 1.349  # interquartile range of a normal distribution, in standard deviations


@dataclass(frozen=True)
class Probe:
    """How to look for change: `per_group` operators of each group of kind, window and stride, as many again where they seem to
    have moved. A group has moved where that is beyond noise (`deviations` standard errors) and by `smallest` or more (relative).
    Where most groups are off by more than `drift` all have: clocks that wander are no change.
    """

    per_group: int = 2
    smallest: float = 0.05
    deviations: float = 3.5
    drift: float = 0.06


@dataclass(frozen=True)
class Moved:
    """A group of operators that takes `ratio` times as long as its rows say, give or take `error` (standard error, relative)."""

    group: str
    ratio: float
    error: float
    probed: tuple[str, ...]


@dataclass(frozen=True)
class Expiry:
    """What became of an earlier table. `changes` are the facts of the device that are new: fact -> (then, now).

    `moved` groups make rows `stale`; `held` are the other rows. `pace`: how many times as long as then the device takes for most
    of them. `why` is one sentence.
    """

    changes: Mapping[str, tuple[str, str]]
    pace: float
    moved: tuple[Moved, ...]
    stale: tuple[MeasuredRow, ...]
    held: tuple[MeasuredRow, ...]
    why: str


def changes_of(then: DeviceInfo, now: DeviceInfo) -> dict[str, tuple[str, str]]:
    """The facts that differ. Raises LatencyModelError where it is another device, not the same one with other software."""
    names = dict.fromkeys((*then.facts, *now.facts))
    found = {n: (then.facts.get(n, ""), now.facts.get(n, "")) for n in names if then.facts.get(n) != now.facts.get(n)}
    hardware = {"kind": (then.kind, now.kind)} if then.kind != now.kind else {n: v for n, v in found.items() if n in _HARDWARE}
    for name, (was, here) in hardware.items():
        raise LatencyModelError(
            f"{now.name!r} was {was or 'nothing'} ({name}) in the earlier table, now it is {here or 'nothing'}: another device. "
            "Nothing of it can be taken over; build a table of its own"
        )
    return found


def stale(earlier: Bundle, collector: Collector, probe: Probe | None = None, progress: Progress = silent) -> Expiry:
    """Which rows of an earlier table of this device have expired.

    Old and new figures are compared relative to the reference operator, of which the pace of the whole device is told. Rows that
    can't be measured again from their operators (networks, operators of quantised models) expire with their groups. Raises
    LatencyModelError where the table is another device's or Bench's, or has no operator that can be probed.
    """
    probe = probe or Probe()
    changes = changes_of(earlier.device, collector.device.info)
    if earlier.bench != collector.bench:
        raise LatencyModelError("the earlier table was measured otherwise (delegate, threads, precision, …); build a new one")
    first = _chosen(earlier, collector, probe.per_group, ())
    if not first:
        raise LatencyModelError("the earlier table has no samples of operators to compare with; build a new one")
    seen = _probed(first, collector, progress)
    suspects = [
        group for group, ratios in _groups(seen).items() if abs(_mean(ratios)[0] - _pace(seen)) > np.log1p(probe.smallest) / 2
    ]
    more = _chosen(earlier, collector, 2 * probe.per_group, [row.subject for row, _ in first])
    seen += _probed([(row, a) for row, a in more if group_of(row.operators[0]) in suspects], collector, progress)
    return _judged(earlier, changes, seen, probe)


def renew(expiry: Expiry, collector: Collector, progress: Progress = silent) -> None:
    """Puts the rows that hold into the store as this device's, and measures the operators of the stale ones again."""
    info = collector.device.info
    taken = [row.measurement for row in expiry.held if row.measurement is not None and row.measurement.device != info.fingerprint]
    known = collector.store.find([m.artifact for m in taken], info.fingerprint, collector.bench)
    collector.store.add_device(info)
    collector.store.add(
        [
            replace(m, device=info.fingerprint, bench=collector.bench.key, context=_carried(m))
            for m in taken
            if m.artifact not in known
        ]
    )
    todo = [artifact for row in expiry.stale if (artifact := _artifact(row, collector)) is not None]
    collector.measure(todo, write_operator(REFERENCE, collector.folder), progress, again=_same_device(expiry.stale, collector))


def _carried(m: Measurement) -> dict[str, str]:
    """What it cost was spent on the earlier table."""
    kept = {name: value for name, value in m.context.items() if name not in ("device_s", "measured_for")}
    return {**kept, CARRIED: m.context.get(CARRIED, m.device)}


def _same_device(rows: Sequence[MeasuredRow], collector: Collector) -> bool:
    """Whether the store would answer with the very rows that are in doubt. (Under new software it knows nothing yet.)"""
    return any(row.measurement is not None and row.measurement.device == collector.device.info.fingerprint for row in rows)


_Seen = list[tuple[MeasuredRow, Measurement]]


def _chosen(earlier: Bundle, collector: Collector, count: int, without: Sequence[str]) -> list[tuple[MeasuredRow, Artifact]]:
    """Of each group those that lie evenly among its milliseconds and whose batches agree."""
    groups = defaultdict[str, list[MeasuredRow]](list)
    beside = write_operator(REFERENCE, collector.folder).sha256
    for row in earlier.measured:
        m = row.measurement
        if len(row.operators) == 1 and m is not None and m.reference_ms and m.context.get(REFERENCE_KEY, beside) == beside:
            groups[group_of(row.operators[0])].append(row)
    found = []
    for rows in groups.values():
        calm = sorted(rows, key=lambda row: row.spread or 0.0)[: max(4 * count, len(rows) // 2)]
        calm = [row for row in sorted(calm, key=lambda row: row.ms) if row.subject not in without]
        places = sorted({round((i + 0.5) / count * len(calm) - 0.5) for i in range(count)}) if calm else []
        for row in (calm[i] for i in places):
            artifact = _artifact(row, collector)
            if artifact is not None:
                found.append((row, artifact))
    return found


def _artifact(row: MeasuredRow, collector: Collector) -> Artifact | None:
    """The file that was measured, where the operator alone tells what was in it."""
    if len(row.operators) != 1:
        return None
    try:
        artifact = write_operator(row.operators[0], collector.folder)
    except ExportError:
        return None
    return artifact if artifact.sha256 == row.artifact else None


def _probed(chosen: Sequence[tuple[MeasuredRow, Artifact]], collector: Collector, progress: Progress) -> _Seen:
    reference = write_operator(REFERENCE, collector.folder)
    same = _same_device([row for row, _ in chosen], collector)
    found = collector.measure([artifact for _, artifact in chosen], reference, progress, again=same)
    return [(row, m) for (row, _), m in zip(chosen, found, strict=True) if m.failure is None and m.reference_ms]


def _groups(seen: _Seen) -> dict[str, list[tuple[float, float]]]:
    """By group, for each operator: the logarithm of now over then by the clock, and its standard deviation."""
    then = usual_reference(row.measurement for row, _ in seen if row.measurement is not None)
    now = usual_reference(m for _, m in seen)
    found = defaultdict[str, list[tuple[float, float]]](list)
    for row, m in seen:
        assert row.measurement is not None
        off = np.log(m.ms_at(now)) - np.log(row.measurement.ms_at(then))
        noise = np.hypot(m.spread, row.measurement.spread) / _IQR / np.sqrt(3)  # medians of some batches
        found[group_of(row.operators[0])].append((float(off), float(max(noise, 0.01))))
    return found


def _mean(ratios: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """And its standard error, at least what the operators disagree."""
    offs, noises = np.array(ratios).T
    apart = float(np.std(offs, ddof=1)) if len(offs) > 1 else 0.0
    return float(np.mean(offs)), float(max(np.sqrt(np.mean(noises**2)), apart) / np.sqrt(len(offs)))


def _pace(seen: _Seen) -> float:
    return float(np.median([_mean(ratios)[0] for ratios in _groups(seen).values()]))


def _judged(earlier: Bundle, changes: Mapping[str, tuple[str, str]], seen: _Seen, probe: Probe) -> Expiry:
    pace, moved = _pace(seen), []
    for group, ratios in sorted(_groups(seen).items()):
        off, error = _mean(ratios)
        off -= pace
        if abs(off) > max(np.log1p(probe.smallest), probe.deviations * error):
            names = tuple(row.subject for row, _ in seen if group_of(row.operators[0]) == group)
            moved.append(Moved(group, float(np.exp(off + pace)), error, names))
    gone = {m.group for m in moved}
    everything = abs(pace) > np.log1p(probe.drift) or _REFERENCE_GROUP in gone
    old = [row for row in earlier.measured if everything or any(group_of(spec) in gone for spec in row.operators)]
    expired = {id(row) for row in old}
    what = ", ".join(f"{name}: {was or 'nothing'} became {now or 'nothing'}" for name, (was, now) in changes.items())
    if everything:
        told = f"the whole device runs at {np.exp(pace):.2f} times the milliseconds, or the reference operator moved"
    else:
        told = f"{len(moved)} of {len(_groups(seen))} groups moved" if moved else "no group moved beyond noise"
    return Expiry(
        changes=changes,
        pace=float(np.exp(pace)),
        moved=tuple(moved),
        stale=tuple(old),
        held=tuple(row for row in earlier.measured if id(row) not in expired),
        why=f"{what or 'the same software'}; {told}",
    )
