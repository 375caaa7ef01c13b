"""Which merges of a linear region cost nothing."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from paceline.exporters.merge_plan import Added, Conv, Decision, Part, Planner
from paceline.exporters.merge_regions import Linear, Refusal


def decisions(region: Linear) -> tuple[dict[Decision, bool], tuple[Refusal, ...]]:
    """Every merge of a region with whether it is free, and what is refused.

    Free are the terms of sums and concatenations that become one, chains inside of them included, where neither the
    multiply-accumulates nor the weights grow. A chain by itself is not: it may reach from one block of a network into the next.
    """
    apart, together = Planner(lambda d: False), Planner(lambda d: d.kind != "dense")
    best = cost(apart.plan(region))
    together.plan(region)
    offered = {**together.offered, **apart.offered}
    refused = tuple(refusal for name, refusal in together.refused.items() if name not in offered)
    free: frozenset[str] = frozenset()
    for names in _bundles(offered.values()):
        if names <= free:
            continue
        trial = free | names
        costs = cost(Planner(lambda d, names=trial: d.name in names).plan(region))  # type: ignore[misc]
        if costs[0] <= best[0] and costs[1] <= best[1]:
            free, best = trial, costs
    return {decision: name in free for name, decision in offered.items()}, refused


def cost(part: Part | fx.Node) -> tuple[float, int]:
    """Multiply-accumulates for one position of what a region reads, and weights."""
    convs: dict[Conv, float] = {}
    _area(part, convs)
    return sum(conv.form.macs / area for conv, area in convs.items()), sum(conv.form.kernel.numel() for conv in convs)


def _area(part: Part | fx.Node, convs: dict[Conv, float]) -> float:
    """How many positions of the region's input make one of a part's; notes the convolutions on the way."""
    if isinstance(part, fx.Node):
        return 1.0
    if isinstance(part, Conv):
        area = _area(part.input, convs) * part.form.stride[0] * part.form.stride[1]
        if part.is_conv:
            convs[part] = area
        return area
    terms = [term for _, term in part.terms] if isinstance(part, Added) else part.terms
    return max(_area(term, convs) for term in terms)


def _bundles(offered: Iterable[Decision]) -> list[frozenset[str]]:
    """Sets of merges to try, larger ones first: all, those about each term of a sum, each by itself."""
    names = {d.name: d.within for d in offered if d.kind != "dense" and (d.kind != "chain" or d.within)}
    terms = [frozenset(n for n, within in names.items() if within == term) for term in dict.fromkeys(names.values())]
    return [frozenset(names), *terms, *(frozenset([name]) for name in names)]
