"""Which operators became slower or faster from one bundle to another, as far as the noise lets one say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import false_discovery_control, t

from paceline.errors import ConfigError
from paceline.latency_models.bundle.bundle import Bundle
from paceline.latency_models.bundle.rows import MeasuredRow
from paceline.latency_models.bundle.stored import reference_of
from paceline.latency_models.model import Floats

SESSION_NOISE = 0.01
"""How far two sessions are taken to differ (relative) where too few rows are in common to see it."""

_ENOUGH = 20
_MEDIAN = math.pi / 2
"""The variance of a median over that of a mean (of normal values)."""


@dataclass(frozen=True)
class Change:
    """One thing that both bundles have. `ratio` is after / before, with an interval; `q` is its p-value corrected for how many
    rows were compared (Benjamini and Hochberg, 1995): where all rows with q <= 0.05 are called changed, 5 % of those aren't."""

    subject: str
    kind: str
    before_ms: float
    after_ms: float
    ratio: float
    low: float
    high: float
    p: float
    q: float
    verdict: Literal["slower", "faster", "not shown"]


@dataclass(frozen=True)
class Difference:
    """Changes, the largest first. `typical` is the median ratio.

    Ratios are free of the device's drift where both figures had the same reference: `pace` says how much longer each takes in the
    second bundle, by its SHA-256 or by the kind of row. Without one they are those of the figures. `session_noise` is how far two
    sessions differ in any row (relative). `failing` was measured before and fails now: subject and reason.
    """

    changes: tuple[Change, ...]
    typical: float
    pace: dict[str, float]
    session_noise: float
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    failing: tuple[tuple[str, str], ...]


def diff(before: Bundle, after: Bundle, confidence: float = 0.95, session_noise: float | None = None) -> Difference:
    """Compares the rows of the same subject, the newest of each bundle.

    The noise of a row is that of its batches (Welch's interval of the ratio of two medians) and that between sessions, which
    is estimated from how far all the ratios scatter around their median (robustly: what changed doesn't count as noise) unless
    `session_noise` says it. Drift is taken out where both bundles are of the same device, Bench and runtime. Raises ConfigError.
    """
    if not 0 < confidence < 1 or (session_noise is not None and not 0 <= session_noise < 1):
        raise ConfigError(f"confidence {confidence} and session noise {session_noise} must lie between 0 and 1")
    old, new = _newest(before), _newest(after)
    common = [subject for subject in old if subject in new]
    alike = (before.device.fingerprint, before.bench.key) == (after.device.fingerprint, after.bench.key)
    pace = {name: after.usual_ms[name] / ms for name, ms in before.usual_ms.items() if alike and name in after.usual_ms}
    pairs = [(old[subject], new[subject]) for subject in common]
    steps = np.array([math.log(b.ms / a.ms / _pace(a, b, pace)) for a, b in pairs])
    parts = np.array([_variances([a for a, _ in pairs]), _variances([b for _, b in pairs])])  # bundle, what, row
    noise = _between(steps, parts[:, 0].sum(axis=0)) if session_noise is None else session_noise
    failing = {row.subject: row.reason for row in after.failed if row.subject in old and row.subject not in new}
    return Difference(
        changes=_changes(pairs, steps, parts, noise, confidence),
        typical=float(np.exp(np.median(steps))) if len(steps) else float("nan"),
        pace=pace,
        session_noise=noise,
        only_before=tuple(sorted(old.keys() - new.keys() - failing.keys())),
        only_after=tuple(sorted(new.keys() - old.keys())),
        failing=tuple(sorted(failing.items())),
    )


def _newest(bundle: Bundle) -> dict[str, MeasuredRow]:
    return {row.subject: row for row in sorted(bundle.measured, key=lambda row: row.measured_at or 0.0)}


def _pace(a: MeasuredRow, b: MeasuredRow, pace: Mapping[str, float]) -> float:
    return pace.get(reference_of(a), 1.0) if reference_of(a) == reference_of(b) else 1.0


def _variances(rows: Sequence[MeasuredRow]) -> Floats:
    """Of the logarithm of each figure, and its degrees of freedom, shape (2, rows). A row of one batch has the usual noise of a
    batch; what comes without any noise has none but that between sessions."""
    batches = [_log_batches(row) for row in rows]
    single = [float(np.var(b, ddof=1)) for b in batches if len(b) > 1]
    usual = float(np.median(single)) if single else 0.0
    found = []
    for row, b in zip(rows, batches, strict=True):
        if len(b) > 1:
            found.append((_MEDIAN * float(np.var(b, ddof=1)) / len(b), len(b) - 1.0))
        elif len(b) == 1:
            found.append((usual, float(max(len(single), 1))))
        elif row.std_ms is not None and row.count:
            found.append(((row.std_ms / row.ms) ** 2 / row.count, max(row.count - 1.0, 1.0)))
        else:
            found.append((0.0, 1.0))
    return np.array(found).reshape(len(rows), 2).T


def _log_batches(row: MeasuredRow) -> Floats:
    m = row.measurement
    if m is None:
        return np.zeros(0)
    return np.log(np.asarray(m.batch_ms) / (m.reference_ms or 1.0))


def _between(steps: Floats, within: Floats) -> float:
    """The scatter of the ratios (median absolute deviation) that the rows' own noise doesn't explain."""
    if len(steps) < _ENOUGH:
        return SESSION_NOISE
    scatter = 1.4826 * float(np.median(np.abs(steps - np.median(steps))))
    return math.sqrt(max(scatter**2 - float(np.median(within)), 0.0))


def _changes(
    pairs: Sequence[tuple[MeasuredRow, MeasuredRow]], steps: Floats, parts: Floats, noise: float, confidence: float
) -> tuple[Change, ...]:
    if not pairs:
        return ()
    variances, freedom = parts[:, 0], parts[:, 1]
    total = variances.sum(axis=0) + noise**2 + 1e-12  # rows without any noise, of one and the same table
    doubt = (variances**2 / freedom).sum(axis=0) + (noise**2) ** 2 / max(len(pairs) - 1, 1)
    degrees = total**2 / np.maximum(doubt, 1e-300)
    error = np.sqrt(total)
    p = 2 * t.sf(np.abs(steps) / error, degrees)
    q = false_discovery_control(p)
    reach = t.ppf((1 + confidence) / 2, degrees) * error
    found = [
        Change(
            subject=a.subject,
            kind=a.kind,
            before_ms=a.ms,
            after_ms=b.ms,
            ratio=math.exp(steps[i]),
            low=math.exp(steps[i] - reach[i]),
            high=math.exp(steps[i] + reach[i]),
            p=float(p[i]),
            q=float(q[i]),
            verdict="not shown" if q[i] > 1 - confidence else "slower" if steps[i] > 0 else "faster",
        )
        for i, (a, b) in enumerate(pairs)
    ]
    return tuple(sorted(found, key=lambda change: (-abs(math.log(change.ratio)), change.subject)))
