"""Any reordering of blocks as TRANSPOSEs of rank 4 at most."""

from __future__ import annotations

import functools
import itertools

Order = tuple[int, ...]
Step = tuple[tuple[Order, ...], Order]
"""Neighbouring blocks in groups, and the permutation of the groups."""
_RANK = 4


@functools.cache
def steps(order: Order) -> tuple[Step, ...]:
    """What sorts the blocks `order`, a permutation of 0 … n-1: one step, two, or where that does not do a few more.

    Of plans of equal length the one that leaves the innermost block in its place most often: the longer the stretches that a
    TRANSPOSE moves, the faster it is.
    """
    goal = tuple(range(len(order)))
    if order == goal:
        return ()
    first, last = _reached(order), {state: _inverse(step) for state, step in _reached(goal).items()}
    if goal in first:
        return (first[goal],)
    both = [(first[state], last[state]) for state in first if state in last]
    return min(both, key=_inner_moves) if both else _one_by_one(order)


def _reached(state: Order) -> dict[Order, Step]:
    """The states one step away, and the step of the lowest rank that leads there."""
    found: dict[Order, Step] = {}
    for count in range(2, min(_RANK, len(state)) + 1):
        for cuts in itertools.combinations(range(1, len(state)), count - 1):
            groups = tuple(state[a:b] for a, b in itertools.pairwise((0, *cuts, len(state))))
            for perm in itertools.permutations(range(count)):
                found.setdefault(tuple(b for g in perm for b in groups[g]), (groups, perm))
    del found[state]
    return found


def _inverse(step: Step) -> Step:
    groups, perm = step
    return tuple(groups[g] for g in perm), tuple(perm.index(g) for g in range(len(perm)))


def _inner_moves(plan: tuple[Step, ...]) -> tuple[int, int]:
    return sum(perm[-1] != len(perm) - 1 for _, perm in plan), sum(len(perm) for _, perm in plan)


def _one_by_one(order: Order) -> tuple[Step, ...]:
    """Brings each block to its place in turn."""
    found: list[Step] = []
    for place in range(len(order)):
        at = order.index(place)
        if at != place:
            parts = (order[:place], order[place:at], order[at : at + 1], order[at + 1 :])
            kept = [p for p in range(4) if parts[p]]
            perm = tuple(kept.index(p) for p in (0, 2, 1, 3) if parts[p])
            found.append((tuple(parts[p] for p in kept), perm))
            order = (*order[:place], place, *order[place:at], *order[at + 1 :])
    return tuple(found)
