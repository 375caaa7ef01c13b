"""An architecture as integers, for evolution."""

from __future__ import annotations

from collections.abc import Iterator

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
        self.parts: list[tuple[Choice, slice]] = []
        """Each choice with its genes."""
        for c in space.choices:
            genes = [len(c.options) - 1] if _single(c) else [1] * len(c.options)
            self.parts.append((c, slice(len(highest), len(highest) + len(genes))))
            highest += genes
        self.highest: Genes = np.array(highest, np.int64)
        """The largest value of each gene, shape (genes,); the smallest is 0."""
        self.open = [(c, part) for c, part in self.parts if c.size > 1]
        """The choices that leave something to choose, with their genes."""

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
        for c, part in self.parts:
            values = genes[part].tolist()
            taken = values if _single(c) else [i for i, value in enumerate(values) if value]
            if not c.at_least <= len(taken) <= c.at_most:
                raise SpaceError(f"genes {genes.tolist()}: choice {c.name!r} takes {c.at_least} to {c.at_most} options")
            picks.append((c.name, tuple(c.options[i] for i in taken)))
        return Arch(tuple(picks))

    def repair(self, genes: Genes, rng: np.random.Generator) -> Genes:
        """The same genes, where a choice takes too many or too few options with random ones dropped or added."""
        genes = genes.copy()
        for c, part in self.parts:
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

    def decide(self, choice: Choice, rng: np.random.Generator, shares: npt.NDArray[np.float64] | None = None) -> Genes:
        """A random decision as the genes of `choice`: the number of options uniform in its bounds, then which ones by `shares`,
        uniform without them."""
        taken = rng.choice(len(choice.options), int(rng.integers(choice.at_least, choice.at_most + 1)), replace=False, p=shares)
        if _single(choice):
            return np.asarray(taken, np.int64)
        genes = np.zeros(len(choice.options), np.int64)
        genes[taken] = 1
        return genes

    def neighbours(self, genes: Genes) -> Iterator[Genes]:
        """Every architecture one step away: another option, or where a choice takes several, one more, one less, or another."""
        for choice, part in self.open:
            here = genes[part]
            for step in _others(choice, int(here[0])) if _single(choice) else _steps(choice, here):
                changed = genes.copy()
                changed[part] = step
                yield changed


def _single(choice: Choice) -> bool:
    return choice.at_least == choice.at_most == 1


def _others(choice: Choice, taken: int) -> Iterator[Genes]:
    return (np.array([i], np.int64) for i in range(len(choice.options)) if i != taken)


def _steps(choice: Choice, here: Genes) -> Iterator[Genes]:
    """One option added, dropped, or exchanged for another."""
    taken, free = np.flatnonzero(here == 1).tolist(), np.flatnonzero(here == 0).tolist()
    flips = [[i] for i in free if len(taken) < choice.at_most] + [[i] for i in taken if len(taken) > choice.at_least]
    for flip in flips + [[i, j] for i in taken for j in free]:
        step = here.copy()
        step[flip] = 1 - step[flip]
        yield step
