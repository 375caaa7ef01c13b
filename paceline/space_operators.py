"""Which operators every option of a space needs: what a space costs, without building its networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from paceline.arch import Arch, Space
from paceline.graph import OpSpec


@dataclass(frozen=True)
class SpaceOperators:
    """The operators of a space: `fixed` in every network, `options[choice, option]` where that option is taken.

    Exact for spaces in which no operator depends on two choices, fusion across options included.
    """

    space: Space
    fixed: tuple[OpSpec, ...]
    options: Mapping[tuple[str, str], tuple[OpSpec, ...]]

    def of(self, arch: Arch) -> tuple[OpSpec, ...]:
        """The operators of one architecture (as a multiset; the fixed ones first)."""
        self.space.check(arch)
        taken = [(choice, option) for choice, options in arch.picks for option in options]
        return self.fixed + tuple(spec for pick in taken for spec in self.options[pick])

    def distinct(self) -> tuple[OpSpec, ...]:
        """Every operator that some network of the space needs, once, in a stable order: the rows of its latency table."""
        every = [*self.fixed, *(spec for specs in self.options.values() for spec in specs)]
        return tuple(dict.fromkeys(every))
