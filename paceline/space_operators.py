"""Which operators every option of a space needs: what a space costs, without building its networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from paceline.arch import Arch, Choice, Space
from paceline.errors import SpaceError
from paceline.graph import OpSpec


def decisions(choice: Choice) -> list[tuple[str, ...]]:
    """All that a choice can take, the fewest options first; as many as `Choice.size`."""
    counts = range(choice.at_least, choice.at_most + 1)
    return [taken for n in counts for taken in itertools.combinations(choice.options, n)]


@dataclass(frozen=True)
class SpaceOperators:
    """The operators of a space: `fixed` in every network, those of `options` where that option is taken.

    `given` names the choices on which the operators of a choice's options depend besides: how many channels another choice
    leaves them to read, what another choice puts into them. The keys of `options` are (choice, option), and behind them what each
    of the choices in `given[choice]` takes, "k3" or "k3+k5". Exact for spaces in which no operator depends on more than that,
    fusion across options included.

    Raises SpaceError where `given` does not fit the space, or the operators of an option are missing.
    """

    space: Space
    fixed: tuple[OpSpec, ...]
    options: Mapping[tuple[str, ...], tuple[OpSpec, ...]]
    given: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = {c.name for c in self.space.choices}
        for name, others in self.given.items():
            wrong = next((n for n in (name, *others) if n not in names or others.count(name)), None)
            if wrong:
                raise SpaceError(f"the operators of choice {name!r} can't depend on {wrong!r}; name other choices of the space")
        missing = next((key for key in self.combinations() if key not in self.options), None)
        if missing:
            raise SpaceError(f"the operators of option {' '.join(missing)!r} are missing; give them, as () where it has none")

    def combinations(self) -> Iterator[tuple[str, ...]]:
        """All keys of `options`, in the order of the space; what the last of the given choices takes changes fastest."""
        taken = {c.name: ["+".join(options) for options in decisions(c)] for c in self.space.choices if c.name in self._givens}
        for choice in self.space.choices:
            others = (taken[other] for other in self.given.get(choice.name, ()))
            yield from itertools.product((choice.name,), choice.options, *others)

    @property
    def _givens(self) -> set[str]:
        return {other for others in self.given.values() for other in others}

    def of(self, arch: Arch) -> tuple[OpSpec, ...]:
        """The operators of one architecture (as a multiset; the fixed ones first)."""
        self.space.check(arch)
        taken = {c.name: "+".join(o for o in c.options if o in arch[c.name]) for c in self.space.choices}
        found = list(self.fixed)
        for choice, options in arch.picks:
            others = [taken[other] for other in self.given.get(choice, ())]
            found += (spec for option in options for spec in self.options[choice, option, *others])
        return tuple(found)

    def of_options(self, figure: Callable[[tuple[OpSpec, ...]], float]) -> dict[tuple[str, str], float]:
        """A figure of the operators of each option by itself: its mean over what the choices take on which they depend."""
        found: dict[tuple[str, str], list[float]] = {}
        for choice, option, *others in self.combinations():
            found.setdefault((choice, option), []).append(figure(self.options[choice, option, *others]))
        return {pick: math.fsum(figures) / len(figures) for pick, figures in found.items()}

    def distinct(self) -> tuple[OpSpec, ...]:
        """Every operator that some network of the space needs, once, in a stable order: the rows of its latency table."""
        every = [*self.fixed, *(spec for specs in self.options.values() for spec in specs)]
        return tuple(dict.fromkeys(every))
