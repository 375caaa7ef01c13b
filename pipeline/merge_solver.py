"""The fastest of all combinations of merges, exactly: by dynamic programming, not one merge after the other."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from functools import cache

from paceline.errors import LatencyModelError

Way = tuple[float, frozenset[str]]
"""Milliseconds, and the merges that are made."""


def fastest_runs(
    count: int, kept_ms: float, run_ms: Callable[[int, int], float], of_run: Callable[[int, int], frozenset[str]], most: int
) -> list[Way]:
    """The `most` fastest ways to merge a chain with `count` joints, the fastest first.

    A run of neighbouring joints that are merged, `first` to `last`, becomes one layer; the joint behind it stays. `kept_ms` is
    what the chain takes with no joint merged, `run_ms(first, last)` what it takes with that run alone merged, `of_run` its names.
    Each layer's cost depends on its own run only, so the best of the rest is solved once for every position.
    """

    @cache
    def behind(at: int) -> tuple[Way, ...]:
        """The best ways for the joints from `at` on, as milliseconds more than `kept_ms`."""
        if at >= count:
            return ((0.0, frozenset()),)
        ways = list(behind(at + 1))
        for last in range(at, count):
            more, names = run_ms(at, last) - kept_ms, of_run(at, last)
            ways += [(more + ms, names | rest) for ms, rest in behind(last + 2)]
        return tuple(heapq.nsmallest(most, ways, key=_order))

    return [(kept_ms + ms, names) for ms, names in behind(0)]


def fastest_together(segments: Sequence[Sequence[Way]], most: int) -> list[Way]:
    """The `most` fastest combinations of one way for each of independent segments: their milliseconds add up.

    Exact if every segment brings its `most` fastest ways. Raises LatencyModelError for a segment without any.
    """
    together: list[Way] = [(0.0, frozenset())]
    for ways in segments:
        if not ways:
            raise LatencyModelError("a segment has no form that can be deployed; leave its merges out")
        pairs = itertools.product(together, ways)
        together = heapq.nsmallest(most, ((a + b, made | more) for (a, made), (b, more) in pairs), key=_order)
    return together


def _order(way: Way) -> tuple[float, int, list[str]]:
    """Of equal milliseconds the one with fewer merges, some may do nothing; then by name: the same order in every process."""
    return way[0], len(way[1]), sorted(way[1])
