"""The loop around a searcher."""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence

from paceline.arch import Arch
from paceline.errors import ConfigError, SpaceError
from paceline.measurement import Progress, silent
from paceline.pipeline.objectives import Objective, in_order
from paceline.pipeline.search.archive import Archive, Evaluated
from paceline.pipeline.search.searcher import Searcher


def search(
    searcher: Searcher,
    objectives: Sequence[Objective],
    *,
    generations: int,
    cache: MutableMapping[str, Mapping[str, float]],
    progress: Progress = silent,
) -> Archive:
    """Lets `searcher` propose `generations` times; gives everything that was evaluated.

    `cache` (architecture key -> values) is read before anything is evaluated and written as soon as an architecture has its
    values. So a search that was killed is resumed by running it again with a new searcher of the same seed: it replays the
    same proposals without evaluating them again. Costly objectives are not evaluated where a cheap one breaks its limit. It
    ends early when the space is used up.

    Raises SpaceError for a value that is not finite, ConfigError for objectives of one name.
    """
    names = [o.name for o in objectives]
    if len(set(names)) != len(names) or not names:
        raise ConfigError(f"a search needs objectives of different names, got {names}")
    members: list[Evaluated] = []
    population = 0
    for generation in range(generations):
        archs = searcher.ask()
        if not archs:
            break
        population = population or len(archs)
        scores = []
        for i, arch in enumerate(archs):
            values = _values(arch, objectives, cache)
            scores.append(values)
            members.append(Evaluated(arch, values, generation))
            progress(generation * population + i + 1, generations * population, f"generation {generation + 1}")
        searcher.tell(archs, scores)
    return Archive(tuple(objectives), tuple(members))


def _values(arch: Arch, objectives: Sequence[Objective], cache: MutableMapping[str, Mapping[str, float]]) -> Mapping[str, float]:
    known = cache.get(arch.key, {})
    values: dict[str, float] = {}
    broken = False
    for o in in_order(objectives):
        if broken and not o.cheap:
            continue
        value = float(known[o.name] if o.name in known else o.of(arch))
        if not math.isfinite(value):
            raise SpaceError(
                f"objective {o.name!r} is {value} for architecture {arch.key}; an objective must be finite everywhere"
            )
        values[o.name] = value
        broken = broken or (o.cheap and any(v > 0.0 for v in o.violations(value)))
    if values.keys() - known.keys():
        cache[arch.key] = {**known, **values}
    return values
