"""Several bundles of one device and Bench as one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from paceline.errors import DataError
from paceline.latency_models.bundle.bundle import Bundle
from paceline.latency_models.bundle.rows import FailedRow, MeasuredRow
from paceline.latency_models.bundle.stored import paced


@dataclass(frozen=True)
class Contradiction:
    """What bundles don't agree on: what was `kept` and what was `dropped`, in words."""

    subject: str
    kept: str
    dropped: str


@dataclass(frozen=True)
class Merged:
    bundle: Bundle
    contradictions: tuple[Contradiction, ...]


def merge(bundles: Sequence[Bundle]) -> Merged:
    """All rows at one usual pace, that of the references of those kept. Of the same subject the newest row counts, and a figure
    counts more than a failure; figures that differ by more than the Bench's tolerance are contradictions. A fitted model is left
    out, it has not seen all of the rows.

    Raises DataError for none, and for bundles of different devices or Benches.
    """
    if not bundles:
        raise DataError("there is nothing to merge: name two bundles or more")
    first = bundles[0]
    for other in bundles[1:]:
        _check_alike(first, other)
    alike = paced(row for bundle in bundles for row in bundle.measured).rows
    newest: dict[tuple[str, ...], MeasuredRow] = {}
    contradictions = []
    for row in sorted(alike, key=lambda row: row.measured_at or 0.0):
        earlier = newest.get(_identity(row))
        if earlier is not None and abs(row.ms / earlier.ms - 1) > first.bench.tolerance:
            contradictions.append(Contradiction(row.subject, f"{row.ms:.5g} ms", f"{earlier.ms:.5g} ms"))
        newest[_identity(row)] = row
    rows, usual = paced(newest.values())
    failed, doubted = _failures(bundles, rows)
    fusion, denied = _fusion(bundles)
    merged = Bundle(
        first.device,
        first.bench,
        rows,
        failed,
        usual,
        {name: _joined(b.versions.get(name, "") for b in bundles) for b in bundles for name in b.versions},
        _joined(bundle.licence for bundle in bundles),
        _joined(bundle.origin for bundle in bundles),
        fusion,
    )
    return Merged(merged, (*contradictions, *doubted, *denied))


def _check_alike(first: Bundle, other: Bundle) -> None:
    if first.device.fingerprint != other.device.fingerprint:
        names = [f"{b.device.name} ({b.device.fingerprint})" for b in (first, other)]
        facts = first.device.facts.items() ^ other.device.facts.items()
        why = f"; they differ in {', '.join(sorted({name for name, _ in facts}))}" if facts else ""
        raise DataError(
            f"can't merge the bundles of {names[0]} and {names[1]}: not the same device{why}. "
            "Keep one bundle each; `paceline table diff` compares them."
        )
    if first.bench != other.bench:
        mine, its = asdict(first.bench), asdict(other.bench)
        names = [f"{name} ({mine[name]} and {its[name]})" for name in mine if mine[name] != its[name]]
        raise DataError(
            f"can't merge bundles of {first.device.name} that were measured in different ways: {', '.join(names)}. "
            "Keep one bundle each; `paceline table diff` compares them."
        )


def _identity(row: MeasuredRow) -> tuple[str, ...]:
    """Networks of one name may be different files; the file of an operator may have been written in another way."""
    return (row.kind, row.subject) if row.kind == "operator" else (row.kind, row.subject, row.artifact)


def _failures(bundles: Sequence[Bundle], rows: Sequence[MeasuredRow]) -> tuple[tuple[FailedRow, ...], list[Contradiction]]:
    figures = {row.subject: row.ms for row in rows}
    latest = sorted((row for bundle in bundles for row in bundle.failed), key=lambda row: row.measured_at or 0.0)
    found = {(row.subject, row.artifact): row for row in latest}
    doubted = [
        Contradiction(row.subject, f"{figures[row.subject]:.5g} ms", f"fails: {row.reason}")
        for row in found.values()
        if row.subject in figures
    ]
    left = [row for row in found.values() if row.subject not in figures]
    return tuple(sorted(left, key=lambda row: (row.subject, row.artifact))), doubted


def _fusion(bundles: Sequence[Bundle]) -> tuple[Any, list[Contradiction]]:
    """Of the last bundle that has it."""
    known = [bundle.fusion for bundle in bundles if bundle.fusion is not None]
    if not known:
        return None, []
    others = any(facts != known[-1] for facts in known)
    return known[-1], [Contradiction("fusion", "what the last bundle found", "other findings")] * others


def _joined(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(filter(None, texts)))
