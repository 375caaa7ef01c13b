"""Which measurements come next: those that teach most for what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from paceline.latency_models.collection.belief import Belief
from paceline.latency_models.collection.candidates import Candidate, Corpus
from paceline.latency_models.collection.collect import GROUP
from paceline.latency_models.collection.outlook import Outlook
from paceline.latency_models.features import group_of
from paceline.latency_models.model import Floats
from paceline.measurement import Bench

NETWORKS = 8
"""The most networks of a batch: each takes as long as many operators, and the batch is what is planned without looking."""

_SPREAD, _OF_GROUP = 13, 4
"""Of a batch, the operators that are spread; and how many of a group come first among them."""

_ROUNDS, _LOAD_S = 4.0, 0.05


@dataclass(frozen=True)
class Left:
    """What may still be measured: rows, seconds of the device, rows of operators; None without a limit."""

    rows: int | None = None
    seconds: float | None = None
    operators: int | None = None

    def price(self, seconds: Floats, usual_s: float) -> Floats:
        """What measurements of so many seconds cost, as parts of what is left; inf where it is not enough.

        Where only rows are limited they are taken to leave time for operators, each `usual_s`: somebody waits for them.
        """
        if self.exhausted:
            return np.full(len(seconds), np.inf)
        time = self.seconds if self.seconds is not None else usual_s * (1 if self.rows is None else self.rows)
        price = seconds / time + (0.0 if self.rows is None else 1 / self.rows)
        return np.asarray(np.where(seconds <= (np.inf if self.seconds is None else self.seconds), price, np.inf))

    def without(self, seconds: float, operator: bool) -> Left:
        """After one more row, of an operator or of a network."""
        return Left(
            None if self.rows is None else self.rows - 1,
            None if self.seconds is None else max(self.seconds - seconds, 0.0),
            None if self.operators is None else self.operators - operator,
        )

    @property
    def takes_operators(self) -> bool:
        return self.operators is None or self.operators > 0

    @property
    def exhausted(self) -> bool:
        return (self.rows is not None and self.rows <= 0) or (self.seconds is not None and self.seconds <= 0)


class Planner(Protocol):
    def plan(
        self, belief: Belief, operators: Sequence[Candidate], networks: Sequence[Candidate], left: Left, costs: Costs
    ) -> list[Candidate]:
        """The next batch, of what may be measured; empty where nothing of it fits into what is left."""


class Costs:
    """What measuring takes, in seconds of the device: by the Bench, then as it was seen (`saw`)."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._nominal, self._actual = 0.0, 0.0

    def seconds(self, ms: Floats) -> Floats:
        """Of artifacts that take so many milliseconds."""
        return self._by_bench(ms) * (self._actual / self._nominal if self._nominal else 1.0)

    def saw(self, ms: Floats, seconds: float) -> None:
        """That these together took so long."""
        self._nominal += float(self._by_bench(ms).sum())
        self._actual += seconds

    def _by_bench(self, ms: Floats) -> Floats:
        b = self._bench
        batch = np.minimum(np.maximum(b.batch_ms, b.min_invokes * ms), np.maximum(b.max_batch_ms, 10 * ms))
        return np.asarray(_LOAD_S + _ROUNDS * (b.warmup_ms + np.minimum(batch, b.max_invokes * ms)) / 1e3)


class GreedyPlanner:
    """The best gain for its price, then the best beside it, and so on (see `outlook`), for the networks of `corpus`.

    Kinds of operators without any row come first: no model says anything of a network with an unknown kind.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._mix, self._weights = corpus.mix, corpus.weights

    def plan(
        self, belief: Belief, operators: Sequence[Candidate], networks: Sequence[Candidate], left: Left, costs: Costs
    ) -> list[Candidate]:
        outlook = Outlook(belief, self._mix, self._weights, [c.operators for c in networks])
        places = np.array([belief.index[c.operators[0]] for c in operators], int)
        free = [np.ones(len(operators), bool), np.ones(len(networks), bool)]
        seconds = [
            costs.seconds(belief.ms[places]),
            costs.seconds(belief.predict([c.operators for c in networks])),
        ]
        kinds = np.array([c.operators[0].kind for c in operators])
        unseen = {str(kind) for kind in kinds} - belief.kinds_seen
        usual_s = float(np.median(seconds[0])) if operators else 1.0
        limits, chosen = [GROUP, NETWORKS], list[Candidate]()
        while True:
            gains = [outlook.gains_of_operators()[places], outlook.gains_of_networks()]
            worth = [np.where(f, g / left.price(s, usual_s), 0.0) for f, g, s in zip(free, gains, seconds, strict=True)]
            worth[0] *= left.takes_operators
            first = np.isin(kinds, list(unseen)) * worth[0]
            if first.max(initial=0.0) > 0:
                worth = [first, np.zeros(len(networks))]
            which = int(np.argmax([w.max(initial=0.0) for w in worth]))
            if limits[which] == 0 or worth[which].max(initial=0.0) <= 0.0:
                return chosen
            at = int(np.argmax(worth[which]))
            free[which][at] = False
            limits[which] -= 1
            left = left.without(float(seconds[which][at]), operator=which == 0)
            if which == 0:
                outlook.teach_operator(int(places[at]))
                unseen.discard(operators[at].operators[0].kind)
                chosen.append(operators[at])
            else:
                outlook.teach_network(at)
                chosen.append(networks[at])


class SpreadPlanner:
    """What `GreedyPlanner` takes, and beside it operators that are spread over the corpus, `_SPREAD` of every batch.

    The greedy choice is heavy operators; a regression on those alone extrapolates everything small or rare. So some of every
    group are measured, and then any, drawn with a probability that grows slowly with their share of the networks' latency.
    """

    def __init__(self, corpus: Corpus, rng: np.random.Generator) -> None:
        self._greedy, self._corpus, self._rng = GreedyPlanner(corpus), corpus, rng
        self._groups = {c.name: group_of(c.operators[0]) for c in corpus.operators}

    def plan(
        self, belief: Belief, operators: Sequence[Candidate], networks: Sequence[Candidate], left: Left, costs: Costs
    ) -> list[Candidate]:
        best = self._greedy.plan(belief, operators, networks, left, costs)
        heavy = [c for c in best if len(c.operators) == 1]
        kept = heavy[: -(-len(heavy) * (GROUP - _SPREAD) // GROUP)]
        taken = {c.name for c in kept}
        others = self._drawn([c for c in operators if c.name not in taken], len(heavy) - len(kept), belief)
        return _affordable([*(c for c in best if len(c.operators) > 1), *kept, *others], belief, left, costs)

    def _drawn(self, operators: Sequence[Candidate], count: int, belief: Belief) -> list[Candidate]:
        """Of groups with few rows first."""
        if not count:
            return []
        open_names = {c.name for c in operators}
        rows = Counter(group for name, group in self._groups.items() if name not in open_names)
        share = self._shares(belief)[[belief.index[c.operators[0]] for c in operators]]
        order = np.argsort(self._rng.exponential(size=len(operators)) / np.maximum(share, 1e-12) ** 0.25)
        chosen: list[int] = []
        for at in order:
            group = self._groups[operators[at].name]
            if rows[group] < _OF_GROUP and len(chosen) < count:
                rows[group] += 1
                chosen.append(int(at))
        chosen += [int(at) for at in order if at not in set(chosen)][: count - len(chosen)]
        return [operators[at] for at in chosen]

    def _shares(self, belief: Belief) -> Floats:
        """Of each operator that the belief knows, its part of the latency of the mix, shape (operators,)."""
        shares = np.zeros(len(belief.ms))
        for network, weight in zip(self._corpus.mix, self._corpus.weights, strict=True):
            places = [belief.index[spec] for spec in network]
            ms = belief.ms[places]
            np.add.at(shares, places, weight * ms / ms.sum())
        return shares


class RandomPlanner:
    """What may be measured in random order, one network for every `per_network` operators: what a plan is compared with."""

    def __init__(self, rng: np.random.Generator, per_network: int = 12) -> None:
        self._rng, self._per_network = rng, per_network

    def plan(
        self, belief: Belief, operators: Sequence[Candidate], networks: Sequence[Candidate], left: Left, costs: Costs
    ) -> list[Candidate]:
        few = -(-GROUP // self._per_network)
        drawn = [networks[i] for i in self._rng.permutation(len(networks))[:few]]
        drawn += [operators[i] for i in self._rng.permutation(len(operators))[:GROUP]]
        return _affordable(drawn, belief, left, costs)


def _affordable(candidates: Sequence[Candidate], belief: Belief, left: Left, costs: Costs) -> list[Candidate]:
    """One after the other, those for which there is enough left."""
    chosen = []
    for candidate in candidates:
        seconds = costs.seconds(belief.predict([candidate.operators]))
        operator = len(candidate.operators) == 1
        if np.isfinite(left.price(seconds, 1.0)[0]) and (left.takes_operators or not operator):
            chosen.append(candidate)
            left = left.without(float(seconds[0]), operator)
    return chosen
