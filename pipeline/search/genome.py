"""An architecture as integers, for evolution."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from paceline.arch import Arch, Choice, Space
from paceline.errors import SpaceError

Genes = npt.NDArray[np.int64]


class Genome:
    """An architecture as integers: one gene in 0…options-1 for a choice of exactly one option, else one 0/1 gene per option.

    `encode` and `decode` are inverse to each other on every architecture and on every repaired genome.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        highest: list[int] = []
        self._parts: list[tuple[Choice, slice]] = []
        for c in space.choices:
            genes = [len(c.options) - 1] if _single(c) else [1] * len(c.options)
            self._parts.append((c, slice(len(highest), len(highest) + len(genes))))
            highest += genes
        self.highest: Genes = np.array(highest, np.int64)
        """The largest value of each gene, shape (genes,); the smallest is 0."""

    def encode(self, arch: Arch) -> Genes:
        self.space.check(arch)
        genes: list[int] = []
        for c in self.space.choices:
            taken = arch[c.name]
            genes += [c.options.index(taken[0])] if _single(c) else [int(o in taken) for o in c.options]
        return np.array(genes, np.int64)

    def decode(self, genes: Genes) -> Arch:
        """Raises SpaceError for genes that are no architecture."""
        if genes.shape != self.highest.shape or (genes < 0).any() or (genes > self.highest).any():
            raise SpaceError(f"genes {genes.tolist()} are outside of 0…{self.highest.tolist()}")
        picks = []
        for c, part in self._parts:
            values = genes[part]
            taken = [int(values[0])] if _single(c) else np.flatnonzero(values).tolist()
            picks.append((c.name, tuple(c.options[i] for i in taken)))
        arch = Arch(tuple(picks))
        self.space.check(arch)
        return arch

    def repair(self, genes: Genes, rng: np.random.Generator) -> Genes:
        """The same genes, where a choice takes too many or too few options with random ones dropped or added."""
        genes = genes.copy()
        for c, part in self._parts:
            if _single(c):
                continue
            values = genes[part]  # a view
            excess = int(values.sum()) - c.at_most
            lack = c.at_least - int(values.sum())
            if excess > 0:
                values[rng.choice(np.flatnonzero(values == 1), excess, replace=False)] = 0
            elif lack > 0:
                values[rng.choice(np.flatnonzero(values == 0), lack, replace=False)] = 1
        return genes


def _single(choice: Choice) -> bool:
    return choice.at_least == choice.at_most == 1
