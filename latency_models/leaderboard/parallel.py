"""Independent parts of a protocol on all cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from sklearn.utils.parallel import Parallel, delayed

from paceline.measurement import Progress

T = TypeVar("T")
J = TypeVar("J")


def each(work: Callable[[J], T], jobs: Sequence[J], progress: Progress) -> list[T]:
    """`work(job)` of each job, in order; in processes of one thread each where there are several jobs and cores."""
    results: list[T] = []
    pool = Parallel(n_jobs=-1 if len(jobs) > 1 else 1, return_as="generator")
    for result in pool(delayed(work)(job) for job in jobs):
        results.append(result)
        progress(len(results), len(jobs))
    return results
