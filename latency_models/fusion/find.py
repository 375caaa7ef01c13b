"""Finding by measurement which neighbouring operators a device runs as one.

nn-Meter (Zhang et al., MobiSys 2021, section 4.2) compares a pair with the sum of its two operators. A sum carries the start of a
model twice, and on accelerators the travel of the result between; beside a convolution of a millisecond the few microseconds of
an activation drown in it. So here the pair is compared with itself: once as it is, and once with the result between as a result
of the model too, so that it has to exist (`kept`). What another result costs is seen where nothing can be fused, because two
consumers read it (`twice`, `twice_kept`). The operators alone only say how much there was to save.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from paceline.devices.device import Device
from paceline.errors import ExportError, LatencyModelError
from paceline.exporters.fused_operators import Step, in_a_row
from paceline.exporters.operator_models import write_steps
from paceline.graph import TensorSpec
from paceline.latency_models.collection.collect import Collector
from paceline.latency_models.fusion.figures import combined, figure_of
from paceline.latency_models.fusion.fusions import Evidence, Finding, Fusions
from paceline.latency_models.fusion.measured_overheads import find_overheads, reference_of
from paceline.latency_models.fusion.overheads import Overheads
from paceline.latency_models.fusion.pairs import Pair, common_pairs
from paceline.latency_models.fusion.resizing import doubled
from paceline.measurement import Artifact, Bench, Measurement, Progress, silent
from paceline.store import Store

SIZES = 3
"""How many sizes of each kind of pair are measured, where there are more."""

_BATCHES = (9, 15)
"""Of every model; and of those that left open what is true, once more: loaded anew, they lie elsewhere in memory."""

_OPEN = ("undecided", "contradictory")

_TYPICAL = 80_000
"""Elements between the operators of a pair that are told apart best: far above the clock's steps, and still in the caches."""

_LAUNCH_MS, _MOST_COPIES = 0.1, 4
"""Where the start of a model takes longer than this, several copies of a pair stand side by side in it, to be seen beside it."""

_WEIGHTS = (-1, 1, 1, -1)
"""Of together, kept, twice and twice_kept: what fusing saves."""


def precise(bench: Bench, batches: int = _BATCHES[0]) -> Bench:
    """`bench` for differences of figures: every batch is measured, whether or not the first ones agree."""
    return replace(bench, batches=batches, agreement=0.0)


def find_fusions(
    device: Device,
    bench: Bench,
    store: Store,
    folder: Path,
    pairs: Sequence[Pair] | None = None,
    progress: Progress = silent,
    overheads: Overheads | None = None,
) -> Fusions:
    """What the device fuses under `bench`, asked of `pairs` (`pairs_in` of networks; `common_pairs` if None).

    Models go to `folder`, every measurement to `store` at once: interrupted and called again, it continues. `overheads` are those
    of `find_overheads`, which is asked if None. A pair that can't be measured is a finding with its reason. Raises what
    `Device.measure` raises, and LatencyModelError where the overheads can't be measured.
    """
    chosen = telling(common_pairs() if pairs is None else pairs)
    dtype = Counter(pair.producer.outputs[0].dtype for pair in chosen).most_common(1)[0][0] if chosen else "float32"
    known = overheads or find_overheads(device, precise(bench), store, folder, dtype)
    evidence = defaultdict[str, list[Evidence]](list)
    for batches in _BATCHES:
        open_questions = [pair for pair in chosen if Finding(pair.name, tuple(evidence[pair.name])).verdict in _OPEN]
        collector = Collector(device, precise(bench, batches), store, folder)
        for name, its in _asked(collector, open_questions, known, reference_of(dtype, folder), progress):
            evidence[name].append(its)
    findings = tuple(Finding(name, tuple(its)) for name, its in evidence.items())
    return Fusions(device.info.fingerprint, device.info.runtime_of(bench), bench.delegate, bench.key, findings)


def _asked(
    collector: Collector, pairs: Sequence[Pair], overheads: Overheads, reference: Artifact, progress: Progress
) -> list[tuple[str, Evidence]]:
    copies = min(max(1, round(overheads.launch(()).value / _LAUNCH_MS)), _MOST_COPIES)
    probes = [_written(pair, copies, collector.folder) for pair in pairs]
    measured = collector.measure([a for probe in probes for a in probe.artifacts], reference, progress)
    by_artifact = {m.artifact: m for m in measured}
    return [(probe.pair.name, _judged(probe, copies, by_artifact, overheads)) for probe in probes]


def telling(pairs: Sequence[Pair], sizes: int = SIZES) -> list[Pair]:
    """At most `sizes` pairs of each name, with results of different shapes, the most telling ones (see _TYPICAL).

    What occurs in one size only is asked in twice that size, too, where possible: one size decides nothing.
    """
    by_name = defaultdict[str, dict[TensorSpec, Pair]](dict)
    for pair in sorted(pairs, key=lambda p: (p.producer.key, p.consumer.key, p.operand)):
        by_name[pair.name].setdefault(pair.producer.outputs[0], pair)
    found: list[Pair] = []
    for name in dict.fromkeys(pair.name for pair in pairs):
        its = sorted(by_name[name].values(), key=lambda p: abs(math.log((p.producer.outputs[0].elements or 1) / _TYPICAL)))
        larger = doubled(its[0]) if len(its) == 1 else None
        found += its[:sizes] if larger is None else [*its, larger]
    return found


@dataclass(frozen=True)
class _Probe:
    """A pair and its models: together, kept, twice, twice_kept, the producer, the consumer; none where they can't be written."""

    pair: Pair
    artifacts: tuple[Artifact, ...]
    failure: str = ""


def _written(pair: Pair, copies: int, folder: Path) -> _Probe:
    once = in_a_row(pair.producer, (pair.consumer, pair.operand))
    twice = (*once, Step(pair.consumer, ((pair.operand, 0),)))
    models = {
        "together": (once, False),
        "result kept": (once, True),
        "read twice": (twice, False),
        "read twice, result kept": (twice, True),
        "the first alone": (in_a_row(pair.producer), False),
        "the second alone": (in_a_row(pair.consumer), False),
    }
    try:
        written = [
            write_steps(_side_by_side(steps, copies), folder, f"{copies} x {pair.name}: {what}", _firsts(steps, copies, kept))
            for what, (steps, kept) in models.items()
        ]
    except ExportError as e:
        return _Probe(pair, (), str(e))
    return _Probe(pair, tuple(written))


def _side_by_side(steps: Sequence[Step], copies: int) -> list[Step]:
    starts = [i * len(steps) for i in range(copies)]
    return [Step(s.spec, tuple((operand, n + start) for operand, n in s.reads)) for start in starts for s in steps]


def _firsts(steps: Sequence[Step], copies: int, kept: bool) -> list[int]:
    return [i * len(steps) for i in range(copies)] if kept else []


def _judged(probe: _Probe, copies: int, measured: Mapping[str, Measurement], overheads: Overheads) -> Evidence:
    pair = probe.pair
    nothing = Evidence(pair.producer.key, pair.consumer.key, pair.operand, copies, 0.0, failure=probe.failure)
    found = [measured[a.sha256] for a in probe.artifacts]
    if not found:
        return nothing
    if found[0].delegation is not None and found[0].delegation.state == "partial":
        return replace(nothing, split=True)
    try:
        figures = [figure_of(m, overheads.reference_ms) for m in found]
    except LatencyModelError as e:
        return replace(nothing, failure=str(e))
    saved = combined([w / copies for w in _WEIGHTS], figures[: len(_WEIGHTS)])
    alone = zip((pair.producer, pair.consumer), figures[len(_WEIGHTS) :], strict=True)
    own = [combined((1.0,), (figure,)).less(overheads.launch([spec], copies)) for spec, figure in alone]
    smaller = min(own, key=lambda estimate: estimate.value).times(1 / copies)
    return replace(nothing, together_ms=figures[0].ms, saved_ms=saved, smaller_ms=smaller)
