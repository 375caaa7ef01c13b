"""Rows that can't be right: no latencies, outliers, contradictions, a wrong unit. They are named, not silently dropped.

An outlier is far from a robust fit of its group of operators: rates for MACs and bytes (`features.amounts`) that minimise a
Cauchy loss of logarithms (Holland & Welsch 1977), near those of the kind, and these near those of all rows. So a few bad rows of
a group, or a group of bad rows alone, don't pull the fit to them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import least_squares

from paceline.errors import LatencyModelError
from paceline.graph import OpSpec
from paceline.latency_models.features import amounts, group_of, kind_of
from paceline.latency_models.model import Floats, Row

Doubt = Literal["no latency", "outlier", "contradiction"]

_FAR, _VERY_FAR, _FEW = np.log(10.0), np.log(20.0), 5
"""What counts as far from the fit of a group, and where it has fewer rows than that to tell by."""

_CONTRADICTION = 1.5
"""Two rows of the same operators that are so far apart can't both be right."""

_RATES = np.array([2e-3, 0.1, 0.1, 0.1, 1.0])
"""Milliseconds for an operator, a million MACs, a megabyte of weights, one of activations, a million runs, of an ordinary
phone."""

_MILLISECONDS, _RATE, _LAUNCH = (8e-4, 0.8), (1e-4, 5.0), (1e-5, 10.0)
"""What is believed: of the geometric mean of milliseconds per million MACs and for a small operator, and of each alone.

From a fast server (0.001, 0.0004) over phones (0.05, 0.002) and their GPUs (0.003, 0.3) to a single-board computer (3, 0.05).
"""


@dataclass(frozen=True)
class Flag:
    """A row that can't be right: its place among the rows, what it is of, and why."""

    row: int
    subject: str
    ms: float
    doubt: Doubt
    reason: str


@dataclass(frozen=True)
class Checked:
    """`rows` that can be believed, and those that were `flagged`."""

    rows: tuple[Row, ...]
    flagged: tuple[Flag, ...]


def checked(rows: Sequence[Row], refuse: bool = False) -> Checked:
    """Tells rows that can be believed from others. With `refuse` the first one that can't be raises LatencyModelError.

    Raises LatencyModelError, too, where all rows together look like another unit than milliseconds.
    """
    flags = {i: _flag(rows, i, "no latency", "that is no latency") for i, row in enumerate(rows) if not _is_latency(row.ms)}
    valid = [i for i in range(len(rows)) if i not in flags]
    _check_unit([rows[i] for i in valid])
    flags |= _outliers(rows, [i for i in valid if len(rows[i].operators) == 1], [i for i in valid if len(rows[i].operators) > 1])
    flags |= _contradictions(rows, [i for i in valid if i not in flags])
    if refuse and flags:
        first = flags[min(flags)]
        raise LatencyModelError(
            f"row {first.row}, {first.subject}: {first.ms:g} ms, {first.reason} ({len(flags)} such rows). "
            "Measure it again or leave it out"
        )
    kept = tuple(row for i, row in enumerate(rows) if i not in flags)
    return Checked(kept, tuple(flags[i] for i in sorted(flags)))


def _is_latency(ms: float) -> bool:
    return bool(np.isfinite(ms) and ms > 0)


def _flag(rows: Sequence[Row], at: int, doubt: Doubt, reason: str) -> Flag:
    operators = rows[at].operators
    subject = operators[0].key if len(operators) == 1 else f"a network of {len(operators)} operators"
    return Flag(at, subject, rows[at].ms, doubt, reason)


def _contradictions(rows: Sequence[Row], places: Sequence[int]) -> dict[int, Flag]:
    same = defaultdict[tuple[OpSpec, ...], list[int]](list)
    for i in places:
        same[rows[i].operators].append(i)
    found = {}
    for mine in same.values():
        figures = np.array([rows[i].ms for i in mine])
        middle = float(np.median(figures))
        if figures.max() <= _CONTRADICTION * figures.min():
            continue
        for i, ms in zip(mine, figures, strict=True):
            if max(ms / middle, middle / ms) > np.sqrt(_CONTRADICTION) or len(mine) == 2:
                others = ", ".join(f"{rows[j].ms:.4g}" for j in mine if j != i)
                found[i] = _flag(rows, i, "contradiction", f"other rows of the same say {others} ms")
    return found


def _outliers(rows: Sequence[Row], singles: Sequence[int], networks: Sequence[int]) -> dict[int, Flag]:
    if not singles:
        return {}
    specs = [rows[i].operators[0] for i in singles]
    logs = np.log([rows[i].ms for i in singles])
    fit = _Fit(specs, logs)
    far = logs - np.log(fit.ms(specs))
    support = np.array([fit.support(spec) for spec in specs])
    found = {}
    for i, off, n in zip(singles, far, support, strict=True):
        if abs(off) > (_FAR if n >= _FEW else _VERY_FAR):
            found[i] = _flag(rows, i, "outlier", _told(off, "what the other rows let expect"))
    whole = [i for i in networks if fit.knows(rows[i].operators)]
    if whole:
        sums = np.array([fit.ms(rows[i].operators).sum() for i in whole])
        ratios = np.log([rows[i].ms for i in whole]) - np.log(sums)
        ratios -= float(np.median(ratios)) if len(whole) >= _FEW else 0.0
        for i, off in zip(whole, ratios, strict=True):
            if abs(off) > (_FAR if len(whole) >= _FEW else _VERY_FAR):
                found[i] = _flag(rows, i, "outlier", _told(off, "what its operators let expect"))
    return found


def _told(off: float, of_what: str) -> str:
    return f"{np.exp(abs(off)):.0f} times {'above' if off > 0 else 'below'} {of_what}"


class _Fit:
    """Rates of each group, near those of its kind, near those of all rows. `logs` are logarithms of milliseconds."""

    def __init__(self, specs: Sequence[OpSpec], logs: Floats) -> None:
        every = amounts(specs)
        start = np.log(_RATES) + float(np.median(logs - np.log(every @ _RATES)))
        self._all = _rates(every, logs, start, 3.0)
        self._kinds = {k: _rates(every[at], logs[at], self._all, 1.5) for k, at in _places(map(kind_of, specs)).items()}
        groups = _places(map(group_of, specs))
        self._groups = {g: _rates(every[at], logs[at], self._kinds[kind_of(specs[at[0]])], 1.0) for g, at in groups.items()}
        self._rows = {g: len(at) for g, at in groups.items()}

    def ms(self, specs: Sequence[OpSpec]) -> Floats:
        rates = [self._groups.get(group_of(spec), self._kinds.get(kind_of(spec), self._all)) for spec in specs]
        return np.asarray((amounts(specs) * np.exp(rates)).sum(axis=1))

    def support(self, spec: OpSpec) -> int:
        """Rows of its group."""
        return self._rows.get(group_of(spec), 0)

    def knows(self, specs: Sequence[OpSpec]) -> bool:
        return all(kind_of(spec) in self._kinds for spec in specs)


def _rates(every: Floats, logs: Floats, near: Floats, freedom: float) -> Floats:
    """Logarithms of rates that fit most rows, within some `freedom` of `near`. What is far away hardly pulls."""

    def errors(rates: Floats) -> Floats:
        return np.concatenate([logs - np.log(every @ np.exp(rates)), (rates - near) / freedom * _PULL])

    def slopes(rates: Floats) -> Floats:
        parts = every * np.exp(rates)
        return np.concatenate([-parts / parts.sum(axis=1)[:, None], np.eye(len(near)) / freedom * _PULL])

    def loss(squares: Floats) -> Floats:  # and its derivatives
        found = np.stack([squares, np.ones_like(squares), np.zeros_like(squares)])
        z = squares[: len(logs)]
        found[:, : len(logs)] = np.log1p(z), 1 / (1 + z), -1 / (1 + z) ** 2
        return found

    # from where a median puts the rows and from where the others are: the better one, so that many bad rows don't decide
    starts = [near, near + float(np.median(logs - np.log(every @ np.exp(near))))]
    fits = [least_squares(errors, start, slopes, loss=loss, f_scale=0.3) for start in starts]
    return np.asarray(min(fits, key=lambda fit: float(fit.cost)).x)


_PULL = 0.3
"""So much that five rows are believed that a kernel is a hundred times as slow as others of its kind, and two are not."""


def _places(labels: Iterable[Hashable]) -> dict[Hashable, list[int]]:
    found = defaultdict[Hashable, list[int]](list)
    for i, label in enumerate(labels):
        found[label].append(i)
    return found


def _check_unit(rows: Sequence[Row]) -> None:
    """Large operators tell the rate of a processor, small ones what a launch takes."""
    if not rows:
        return
    ms = np.array([row.ms for row in rows])
    macs = np.array([sum(spec.macs for spec in row.operators) for row in rows]) / 1e6
    moved = np.array([sum(t.bytes for spec in row.operators for t in (*spec.inputs, *spec.outputs)) for row in rows]) / 1e6
    heavy, small = macs > 5, (macs < 0.2) & (moved < 0.05) & np.array([len(row.operators) == 1 for row in rows])
    rate = float(np.median(ms[heavy] / macs[heavy])) if heavy.any() else None
    launch = float(np.median(ms[small])) if small.any() else None
    said = [] if rate is None else [f"{rate:.3g} ms for a million multiply-accumulates"]
    said += [] if launch is None else [f"{launch:.3g} ms for a small operator"]
    told = ((rate, _RATE), (launch, _LAUNCH))
    judged = [(value, limits) for value, limits in told if value is not None]
    if rate is not None and launch is not None:
        judged = [(float(np.sqrt(rate * launch)), _MILLISECONDS)]
    for value, (low, high) in judged:
        if not low <= value <= high:
            remedy = "microseconds, divide them by" if value > high else "seconds, multiply them by"
            medians = " and ".join(said)
            raise LatencyModelError(f"the rows are hardly milliseconds, in the median {medians}. If they are {remedy} 1000")
