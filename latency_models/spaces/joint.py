"""Options whose operators depend on other choices: which combinations an architecture or a path takes, and the cheapest ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, reduce
from operator import mul
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from paceline.arch import Arch, Choice
from paceline.latency_models.model import Floats
from paceline.latency_models.spaces.codes import Codes, is_single, options_at
from paceline.space_operators import SpaceOperators, decisions

Factor = tuple[tuple[str, ...], Floats]
"""A cost that depends on what some choices take: their names, and an array with one axis for each of them."""


class Joint:
    """The keys of `operators.options` in order, which SpaceLatency has one row for: all combinations that matter.

    Where no choice depends on another these are the options, and everything is as in the encoded vector.
    """

    def __init__(self, operators: SpaceOperators) -> None:
        self.space = operators.space
        self.given = {name: others for name, others in operators.given.items() if others}
        names = {other for others in self.given.values() for other in others}
        self.decisions = {c.name: decisions(c) for c in self.space.choices if c.name in names}

    def shape(self, choice: Choice) -> tuple[int, ...]:
        """The axes of a choice's rows: its options, then what each of the choices takes on which it depends."""
        return (len(choice.options), *(len(self.decisions[name]) for name in self.given.get(choice.name, ())))

    @cached_property
    def parts(self) -> dict[str, slice]:
        """The rows of each choice."""
        ends = np.cumsum([math.prod(self.shape(c)) for c in self.space.choices]).tolist()
        return {c.name: slice(start, end) for c, start, end in zip(self.space.choices, [0, *ends], ends, strict=False)}

    def rows(self, codes: Codes) -> npt.NDArray[np.int64]:
        """The rows of option numbers, both of shape (archs, choices). Raises LatencyModelError for numbers of no option."""
        at = options_at(self.space, codes)
        if not self.given:
            return at
        column = {choice.name: i for i, choice in enumerate(self.space.choices)}
        for i, choice in enumerate(self.space.choices):
            taken = [codes[:, column[name]] for name in (choice.name, *self.given.get(choice.name, ()))]
            at[:, i] = np.ravel_multi_index(taken, self.shape(choice)) + self.parts[choice.name].start
        return at

    def encoded(self, encoded: Floats) -> Floats:
        """The 0/1 weights of the rows from those of the options, shapes (archs, rows), (archs, width)."""
        found: Floats = self._products(encoded, np.column_stack)
        return found

    def relaxed(self, codes: Tensor) -> Tensor:
        """The same of the codes of a relaxed path, differentiable: the chances of the combinations if choices are independent."""
        found: Tensor = self._products(codes, torch.column_stack)
        return found

    def _products(self, weights: Any, column_stack: Callable[[list[Any]], Any]) -> Any:
        if not self.given:
            return weights
        sets = [reduce(mul, [weights[:, j] if taken else 1 - weights[:, j] for j, taken in of_set]) for of_set in self._sets]
        factors = column_stack([weights, *sets, weights[:, 0] * 0 + 1])
        return reduce(mul, (factors[:, columns] for columns in self._columns))

    @cached_property
    def _sets(self) -> list[list[tuple[int, bool]]]:
        """What choices of several options take on which others depend: for each option its column, and whether it is taken."""
        return [
            [(part.start + i, option in taken) for i, option in enumerate(choice.options)]
            for choice, part in self.space.slices()
            if not is_single(choice)
            for taken in self.decisions.get(choice.name, ())
        ]

    @cached_property
    def _columns(self) -> list[npt.NDArray[np.int64]]:
        """For each factor of the products its column, shape (rows,): of weights, then of sets, then of ones."""
        own = {choice.name: part.start for choice, part in self.space.slices()}
        start, end = {}, self.space.width
        for choice in self.space.choices:
            start[choice.name] = own[choice.name] if is_single(choice) else end
            end += 0 if is_single(choice) else len(self.decisions.get(choice.name, ()))
        found = np.full((1 + max(map(len, self.given.values())), list(self.parts.values())[-1].stop), end)
        for choice in self.space.choices:
            axes = np.indices(self.shape(choice))
            found[0, self.parts[choice.name]] = own[choice.name] + axes[0].ravel()
            for i, other in enumerate(self.given.get(choice.name, ()), 1):
                found[i, self.parts[choice.name]] = start[other] + axes[i].ravel()
        return list(found)

    def cheapest(self, costs: Floats) -> Arch:
        """The architecture of the least sum of `costs`, shape (rows,), exactly; among equals it takes the first options.

        Choices on which no other depends take their best for each combination of the others; these are eliminated one by one
        (Bertelè and Brioschi 1972).
        """
        tables = {c.name: costs[self.parts[c.name]].reshape(self.shape(c)) for c in self.space.choices}
        factors: list[Factor] = []
        for choice in self.space.choices:
            others, table = self.given.get(choice.name, ()), tables[choice.name]
            if choice.name in self.decisions:
                of_sets = [
                    sum(table[choice.options.index(o)] for o in taken) + 0 * table[0] for taken in self.decisions[choice.name]
                ]
                factors.append(((choice.name, *others), np.stack(of_sets)))
            else:
                sums = np.concatenate([np.zeros((1, *table.shape[1:])), np.sort(table, axis=0).cumsum(axis=0)])
                factors.append((others, sums[choice.at_least : choice.at_most + 1].min(axis=0)))
        taken = {name: self.decisions[name][i] for name, i in _least(list(self.decisions), factors).items()}
        picks = [(c.name, taken[c.name] if c.name in taken else self._best(c, tables[c.name], taken)) for c in self.space.choices]
        return Arch(tuple(picks))

    def _best(self, choice: Choice, table: Floats, taken: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
        """The cheapest options of a choice, and those below 0, when others have `taken`."""
        for other in self.given.get(choice.name, ()):
            table = table[:, self.decisions[other].index(taken[other])]
        count = max(choice.at_least, min(int((table < 0).sum()), choice.at_most))
        return tuple(choice.options[i] for i in sorted(np.argsort(table, kind="stable")[:count].tolist()))


def _least(names: Sequence[str], factors: Sequence[Factor]) -> dict[str, int]:
    """The number of what each choice takes with which the sum of the factors is least."""
    left, order = list(factors), []
    remaining = list(names)
    while remaining:
        scopes = {name: {other for scope, _ in left if name in scope for other in scope} for name in remaining}
        name = min(remaining, key=lambda n: len(scopes[n]))  # the one that leaves the smallest table
        rest = tuple(other for other in names if other in scopes[name] - {name})
        mine = [factor for factor in left if name in factor[0]]
        total: Any = sum(_spread(factor, (name, *rest)) for factor in mine)
        left = [factor for factor in left if name not in factor[0]] + [(rest, total.min(axis=0))]
        order.append((name, rest, total.argmin(axis=0)))
        remaining.remove(name)
    found: dict[str, int] = {}
    for name, rest, best in reversed(order):
        found[name] = int(best[tuple(found[other] for other in rest)])
    return found


def _spread(factor: Factor, names: tuple[str, ...]) -> Floats:
    """The array with one axis for each of `names`, of length 1 for those on which it does not depend."""
    scope, values = factor
    ordered = values.transpose([scope.index(name) for name in names if name in scope])
    lengths = iter(ordered.shape)
    return ordered.reshape([next(lengths) if name in scope else 1 for name in names])
