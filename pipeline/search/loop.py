"""The loop around a searcher."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from paceline.errors import ConfigError
from paceline.measurement import Progress, silent
from paceline.pipeline.objectives import Objective
from paceline.pipeline.search.archive import Archive, Evaluated
from paceline.pipeline.search.evaluation import Cache, Evaluation
from paceline.pipeline.search.searcher import Searcher


@dataclass(frozen=True)
class Patience:
    """A search ends early where its hypervolume has not grown by more than the share `gain` in the last `generations`.

    Before anything feasible was found it goes on.
    """

    generations: int
    gain: float = 0.0

    def __post_init__(self) -> None:
        if self.generations < 1 or self.gain < 0:
            raise ConfigError(f"patience lasts 1 generation or more and its gain is not below 0, got {self}")

    def ends(self, archive: Archive) -> bool:
        volumes = archive.hypervolumes()
        if len(volumes) <= self.generations:
            return False
        before = volumes[-1 - self.generations]
        return before > 0 and volumes[-1] <= before * (1 + self.gain)


def search(
    searcher: Searcher,
    objectives: Sequence[Objective],
    *,
    generations: int | None = None,
    evaluations: int | None = None,
    patience: Patience | None = None,
    cache: Cache,
    executor: Executor | None = None,
    progress: Progress = silent,
) -> Archive:
    """Lets `searcher` propose until there were `generations` proposals or `evaluations` architectures, or `patience` ends; gives
    everything that was evaluated. It also ends when the space is used up.

    `cache` is read before anything is evaluated and written as soon as a value is there. So a search that was killed is resumed
    by running it again with a new searcher of the same seed: it replays the same proposals without evaluating them again. Costly
    objectives are not evaluated where a cheap one breaks its limit. `executor` evaluates those of one proposal in parallel, where
    they can be called from there (by processes: where they can be pickled); the result is the same for any number of workers.

    Raises SpaceError for a value that is not finite, ConfigError for objectives of one name and for a search without an end.
    """
    names = [o.name for o in objectives]
    if len(set(names)) != len(names) or not names:
        raise ConfigError(f"a search needs objectives of different names, got {names}")
    if generations is None and evaluations is None:
        raise ConfigError("a search needs an end: a number of generations, of evaluations, or both")
    evaluation = Evaluation(objectives, cache, executor)
    members: list[Evaluated] = []
    generation = 0
    while (generations is None or generation < generations) and (evaluations is None or len(members) < evaluations):
        archs = searcher.ask()
        if not archs:
            break
        now = archs if evaluations is None else archs[: evaluations - len(members)]
        ahead = len(members) + len(archs) * (generations - generation) if generations is not None else evaluations
        shown = _Shown(progress, len(members), min(n for n in (ahead, evaluations) if n is not None), generation)
        scores = evaluation.values(now, shown.one_more)
        members += [Evaluated(arch, values, generation) for arch, values in zip(now, scores, strict=True)]
        if len(now) < len(archs):
            break
        searcher.tell(archs, scores)
        generation += 1
        if patience is not None and patience.ends(Archive(tuple(objectives), tuple(members))):
            break
    return Archive(tuple(objectives), tuple(members))


@dataclass
class _Shown:
    """Shows how many architectures are done."""

    progress: Progress
    done: int
    total: int
    generation: int

    def one_more(self) -> None:
        self.done += 1
        self.progress(self.done, self.total, f"generation {self.generation + 1}")
