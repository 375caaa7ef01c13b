"""A published search as data: what makes it different from others, and nothing of how it is executed."""

from __future__ import annotations

import difflib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from paceline.errors import ConfigError
from paceline.pipeline.config import Config
from paceline.pipeline.recipes.goals import Goal
from paceline.pipeline.recipes.searchers import Problem, nsga2
from paceline.pipeline.search import Searcher
from paceline.pipeline.supernet import BranchSearch, Policy
from paceline.pipeline.supernet.shrinking import Shrinking


@dataclass(frozen=True)
class Paper:
    """Where a system was published; `arxiv` is the number of its preprint."""

    title: str
    venue: str
    arxiv: str


class MakeSearcher(Protocol):
    """A search algorithm with its settings. `population` and `seed` are those of the run."""

    def __call__(self, problem: Problem, *, population: int, seed: int) -> Searcher: ...


@dataclass(frozen=True)
class Recipe:
    """A published system: how its supernet is trained, what is searched for, and by which algorithm.

    `full` and `reduced` are the settings of a run where its config says nothing else: those of the paper on the space of the
    paper, and small ones that finish in minutes on a CPU. `reconstructed` says, sentence by sentence, what the sources do not
    tell and is ours; there is none exactly where the status is "faithful". `additions` is what the paper does not do.
    """

    name: str
    title: str
    paper: Paper
    status: Literal["faithful", "reconstruction"]
    full: Config
    reduced: Config
    policy: Policy
    goals: tuple[Goal, ...]
    searcher: MakeSearcher = nsga2
    shrinking: Callable[[int], Shrinking] | None = None
    """When options are turned off in a training of so many epochs; None: never."""
    branches: Callable[[int], BranchSearch] | None = None
    """How branches are chosen in a training of so many epochs; None: they are choices like others."""
    recalibrate: bool = True
    """Whether BatchNorm is recalibrated for each candidate before its accuracy is taken from the supernet."""
    reconstructed: tuple[str, ...] = ()
    additions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.status == "reconstruction") != bool(self.reconstructed):
            raise ConfigError(
                f"recipe {self.name!r} has status {self.status!r} and {len(self.reconstructed)} reconstructed details; "
                'a "reconstruction" names what is reconstructed, a "faithful" one has nothing to name'
            )

    def settings(self, space: str | None) -> Config:
        """The defaults on a space: `full` on the paper's own, `reduced` on any other and where none is named."""
        return self.full if space == self.full.space.name else self.reduced

    def described(self, epochs: int) -> str:
        """All of it that decides a run with a supernet of so many epochs; a searcher counts by its name."""
        shrinking = None if self.shrinking is None else self.shrinking(epochs)
        searcher = getattr(self.searcher, "__qualname__", type(self.searcher).__qualname__)
        return repr((self.name, self.policy, self.goals, searcher, shrinking, self.recalibrate))


RECIPES: dict[str, Recipe] = {}
"""Every recipe by name."""

_FILES: dict[str, Path] = {}


def recipe(make: Callable[[], Recipe]) -> Recipe:
    """Registers the recipe that the decorated function makes. Raises ConfigError for a name that is taken."""
    made, file = make(), Path(make.__code__.co_filename)
    if _FILES.get(made.name, file) != file:
        raise ConfigError(f"{file} defines the recipe {made.name!r}, which {_FILES[made.name]} has defined; rename one")
    RECIPES[made.name], _FILES[made.name] = made, file
    return made


def file_of(known: Recipe) -> Path:
    """The module that defines a registered recipe."""
    return _FILES[known.name]


def find_recipe(source: str) -> Recipe:
    """The recipe of that name, or `path/to/file.py:name` in a file of one's own. Raises ConfigError where there is none."""
    path, _, name = source.rpartition(":")
    known = RECIPES
    if path.endswith(".py"):
        file = Path(path).absolute()
        _execute(file, path)
        known = {known: made for known, made in RECIPES.items() if _FILES[known] == file}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known) or 'none'}"
        where = f"{path} defines no recipe" if path else "no recipe has the name"
        raise ConfigError(f"{where} {name!r}; {hint} (one of your own is path/to/file.py:name)")
    return known[name]


def _execute(path: Path, name: str) -> None:
    """Runs a file with recipes as a module, so that its decorators register them."""
    spec = importlib.util.spec_from_file_location(f"paceline_recipe_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(f"no file {name} to take a recipe from")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except ConfigError:
        raise
    except Exception as e:
        trace = "".join(traceback.format_exception_only(e)).strip()
        raise ConfigError(f"{name} fails when it is loaded: {trace}") from e
