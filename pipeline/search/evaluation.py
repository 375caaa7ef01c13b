"""Values of architectures: from the cache, from here, or from the workers of an executor."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import Executor, Future, as_completed

from paceline.arch import Arch
from paceline.errors import SpaceError
from paceline.pipeline.objectives import Objective

Cache = MutableMapping[str, Mapping[str, float]]
"""Architecture key -> values by objective."""

_Job = tuple[int, Objective]
"""The place of an architecture, and what to evaluate of it."""


class Evaluation:
    """Values of the objectives; the cache knows each of them as soon as it is there.

    Cheap objectives are evaluated here, costly ones only where no cheap one breaks its limit: by `executor`, or here without one.
    """

    def __init__(self, objectives: Sequence[Objective], cache: Cache, executor: Executor | None) -> None:
        self.cheap = [o for o in objectives if o.cheap]
        self.costly = [o for o in objectives if not o.cheap]
        self.cache, self.executor = cache, executor

    def values(self, archs: Sequence[Arch], one_more: Callable[[], None]) -> list[Mapping[str, float]]:
        """Of each architecture by objective; `one_more` is called whenever one has them all.

        Raises SpaceError for a value that is not finite, and whatever an objective raises, after what was begun is finished.
        """
        known = [dict(self.cache.get(arch.key, {})) for arch in archs]
        jobs: list[_Job] = []
        for i, arch in enumerate(archs):
            read = len(known[i])
            for o in self.cheap:
                if o.name not in known[i]:
                    known[i][o.name] = _finite(o.of(arch), o, arch)
            missing = [o for o in self._wanted(known[i]) if o.name not in known[i]]
            jobs += [(i, o) for o in missing]
            if not missing:
                if len(known[i]) > read:
                    self.cache[arch.key] = dict(known[i])
                one_more()
        left = Counter(i for i, _ in jobs)
        for i, o, value in self._done(jobs, archs):
            known[i][o.name] = _finite(value, o, archs[i])
            self.cache[archs[i].key] = dict(known[i])
            left[i] -= 1
            if not left[i]:
                one_more()
        return [
            {o.name: _finite(values[o.name], o, arch) for o in self._wanted(values)}
            for arch, values in zip(archs, known, strict=True)
        ]

    def _wanted(self, values: Mapping[str, float]) -> list[Objective]:
        """The objectives to evaluate where the cheap ones have these values."""
        broken = any(v > 0.0 for o in self.cheap for v in o.violations(values[o.name]))
        return self.cheap if broken else self.cheap + self.costly

    def _done(self, jobs: Sequence[_Job], archs: Sequence[Arch]) -> Iterator[tuple[int, Objective, float]]:
        """Each job with its value, as they get ready."""
        if self.executor is None:
            yield from ((i, o, o.of(archs[i])) for i, o in jobs)
            return
        running: dict[Future[float], _Job] = {self.executor.submit(o.of, archs[i]): (i, o) for i, o in jobs}
        failed: BaseException | None = None
        try:
            for future in as_completed(running):
                error = None if future.cancelled() else future.exception()
                if error is not None:
                    failed = failed or error
                    _cancel(running)  # what runs already still gets ready, and is kept
                elif not future.cancelled():
                    yield *running[future], future.result()
        finally:
            _cancel(running)
        if failed is not None:
            raise failed


def _cancel(futures: Mapping[Future[float], _Job]) -> None:
    for future in futures:
        future.cancel()


def _finite(value: float, objective: Objective, arch: Arch) -> float:
    if not math.isfinite(value):
        raise SpaceError(
            f"objective {objective.name!r} is {value} for architecture {arch.key}; an objective must be finite everywhere"
        )
    return float(value)
