"""Making a table: plan, measure, learn, until the budget is spent or the table is good enough."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from sklearn.base import clone

from paceline.devices.composed import CPU_DELEGATES
from paceline.errors import ConfigError, ExportError, TransientDeviceError
from paceline.exporters.operator_models import write_operator
from paceline.latency_models.collection.belief import Belief
from paceline.latency_models.collection.block_networks import reference_network
from paceline.latency_models.collection.candidates import Candidate, Corpus, write_graph
from paceline.latency_models.collection.collect import DEVICE_S, GROUP, REFERENCE, SECOND, Collector
from paceline.latency_models.collection.planner import Costs, Left, Planner, SpreadPlanner
from paceline.latency_models.features import group_of
from paceline.latency_models.model import LatencyModel, Row, single, whole
from paceline.measurement import REFERENCE_KEY, Artifact, Measurement, Progress, TransientFailure, silent, usual_reference

_HOPELESS = 3
"""After so many failures and no success, no more operators of a group are tried."""

_JUDGED, _FOLDS = 12, 4
"""With so many networks the error is told, from so many parts of them."""

_GROWTH = 1.2
"""By so much the rows grow before the error is told anew: telling it means fitting."""


@dataclass(frozen=True)
class Budget:
    """When to stop: after so many minutes of the device (`minutes`), so many `rows`, or at a held-out error (0.05: 5 %) of whole
    networks, whatever comes first; no more than so many rows are of `operators`. Raises ConfigError where nothing says so."""

    minutes: float | None = None
    rows: int | None = None
    target_error: float | None = None
    operators: int | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.minutes, self.rows, self.target_error, self.operators) if value is not None]
        if not given or min(given) <= 0:
            raise ConfigError("a table needs a budget above 0: minutes of the device, rows, or a target error")

    def left(self, rows: Sequence[Row], spent_s: float) -> Left:
        return Left(
            None if self.rows is None else self.rows - len(rows),
            None if self.minutes is None else 60 * self.minutes - spent_s,
            None if self.operators is None else self.operators - len(single(rows)),
        )


@dataclass(frozen=True)
class Table:
    """What was collected: `rows` of operators, then of networks, each with its measurement. `failures`: subjects and reasons.

    `spent_s`: for how long the device was busy for it, in all runs of the command. `error`: mean relative error of whole
    networks, held out with the operators that only they have (None: too few networks to tell). `stopped`: why it ends here.
    """

    rows: tuple[Row, ...]
    measurements: tuple[Measurement, ...]
    failures: tuple[tuple[str, str], ...]
    spent_s: float
    error: float | None
    stopped: str


class TableBuilder:
    """Builds a table of `corpus` with a collector whose `purpose` is this table. What the store has is not measured again.

    `model` is what the held-out error is told of.
    """

    def __init__(self, collector: Collector, corpus: Corpus, model: LatencyModel, planner: Planner | None = None) -> None:
        self._collector, self._corpus, self._model = collector, corpus, model
        self._planner = planner or SpreadPlanner(corpus, np.random.default_rng(0))
        networks = [*corpus.mix, *(c.operators for c in self._candidates())]
        self._belief = Belief(list(dict.fromkeys(chain(*networks))))
        self._costs = Costs(collector.bench)
        self._found: dict[str, Measurement] = {}
        self._failures: dict[str, str] = {}
        self._error: float | None = None
        self._judged = 0

    def build(self, budget: Budget, progress: Progress = silent) -> Table:
        """Raises TransientDeviceError where the device is lost; what was measured until then is kept."""
        self._remember()
        while True:
            rows = self._rows()
            self._learn(rows)
            spent = self._collector.spent_s()
            left = budget.left(rows, spent)
            if budget.target_error is not None and len(rows) >= _GROWTH * self._judged:
                self._judge(rows)
            good = budget.target_error is not None and self._error is not None and self._error <= budget.target_error
            operators, networks = self._open()
            batch = [] if good else self._planner.plan(self._belief, operators, networks, left, self._costs)
            again = [] if good or batch else self._once_more(left)
            if again:
                progress(len(rows), len(rows), f"{spent / 60:.1f} min of the device, networks a second time")
                self._measure(again, once_more=True)
                continue
            if not batch:
                spent_all = left.exhausted or operators or networks
                why = "the target error is met" if good else "the budget is spent" if spent_all else "all there is was measured"
                progress(len(rows), len(rows), why)
                if len(rows) > self._judged:
                    self._judge(rows)
                found = tuple(self._found[c.name] for c in self._candidates() if c.name in self._found)
                return Table(tuple(rows), found, tuple(self._failures.items()), spent, self._error, why)
            note = f"{spent / 60:.1f} min of the device" + ("" if self._error is None else f", error {self._error:.1%}")
            progress(len(rows), budget.rows or len(rows) + len(batch), note)
            for several in (True, False):
                self._measure([c for c in batch if (len(c.operators) > 1) == several])

    def _candidates(self) -> tuple[Candidate, ...]:
        return (*self._corpus.operators, *self._corpus.networks)

    def _remember(self) -> None:
        """What the store has of the corpus."""
        mine = (self._collector.device.info.fingerprint, self._collector.bench.key)
        keys = {row["subject"] for row in self._collector.store.rows() if (row["device"], row["bench"]) == mine}
        known = [c for c in self._corpus.operators if c.name in keys]
        artifacts = self._written([*known, *self._corpus.networks])
        found = self._collector.known([artifact for _, artifact in artifacts])
        for candidate, artifact in artifacts:
            if artifact.sha256 in found:
                self._keep(candidate, found[artifact.sha256])

    def _once_more(self, left: Left) -> list[Candidate]:
        """Networks that were measured in one session, where minutes are left over: sessions differ more than batches do."""
        once = [c for c in self._corpus.networks if c.name in self._found and SECOND not in self._found[c.name].context]
        seconds = self._costs.seconds(np.array([self._found[c.name].ms for c in once]))
        totals = np.cumsum(seconds) + 2 * seconds.max(initial=0.0)  # the reference is measured before and after
        return [c for c, total in zip(once, totals, strict=True) if total <= (left.seconds or 0.0)][:GROUP]

    def _measure(self, batch: Sequence[Candidate], once_more: bool = False) -> None:
        artifacts = self._written(batch)
        if not artifacts:
            return
        folder = self._collector.folder
        several = len(artifacts[0][0].operators) > 1
        reference = write_graph("reference network", reference_network, folder) if several else write_operator(REFERENCE, folder)
        measure = self._collector.once_more if once_more else self._collector.measure
        found = measure([artifact for _, artifact in artifacts], reference)
        lost = [m.failure.reason for m in found if isinstance(m.failure, TransientFailure)]
        if len(lost) == len(found):
            raise TransientDeviceError(
                f"nothing can be measured now, the last reason: {lost[-1]}; try the same command again later"
            )
        for (candidate, _), m in zip(artifacts, found, strict=True):
            self._keep(candidate, m)
        timed = [(m.ms, float(m.context[DEVICE_S])) for m in found if m.failure is None and DEVICE_S in m.context]
        self._costs.saw(np.array([ms for ms, _ in timed]), sum(seconds for _, seconds in timed))

    def _written(self, candidates: Sequence[Candidate]) -> list[tuple[Candidate, Artifact]]:
        """What can't be written is a failure."""
        found = []
        for candidate in candidates:
            try:
                found.append((candidate, candidate.write(self._collector.folder)))
            except ExportError as e:
                self._failures[candidate.name] = str(e)
        return found

    def _keep(self, candidate: Candidate, m: Measurement) -> None:
        """A figure that is partly the CPU's is none of the delegate."""
        if m.failure is not None:
            self._failures[candidate.name] = m.failure.reason
        elif m.delegation is not None and m.delegation.state != "full" and self._collector.bench.delegate not in CPU_DELEGATES:
            left = ", ".join(sorted(set(m.delegation.left or ())))
            self._failures[candidate.name] = f"the delegate left operators to the CPU: {left or 'which, it does not say'}"
        else:
            self._found[candidate.name] = m

    def _open(self) -> tuple[list[Candidate], list[Candidate]]:
        """What may be measured yet: operators, networks."""
        groups = {c.name: group_of(c.operators[0]) for c in self._corpus.operators}
        worked = {groups[name] for name in self._found if name in groups}
        failed = Counter(groups[name] for name in self._failures if name in groups)
        hopeless = {group for group, n in failed.items() if n >= _HOPELESS and group not in worked}
        done = self._found.keys() | self._failures.keys()
        operators = [c for c in self._corpus.operators if c.name not in done and groups[c.name] not in hopeless]
        return operators, [c for c in self._corpus.networks if c.name not in done]

    def _rows(self) -> list[Row]:
        """At the usual pace, that of each reference over all that was measured beside it."""
        mine = [(c.operators, self._found[c.name]) for c in self._candidates() if c.name in self._found]
        beside = defaultdict[str, list[Measurement]](list)
        for operators, m in mine:
            beside[m.context.get(REFERENCE_KEY, str(len(operators) > 1))].append(m)
        usual = {id(m): usual for found in beside.values() for usual in [usual_reference(found)] for m in found}
        return [Row(operators, m.ms_at(usual[id(m)])) for operators, m in mine]

    def _learn(self, rows: Sequence[Row]) -> None:
        networks = whole(rows)
        self._belief.learn({row.operators[0]: row.ms for row in single(rows)}, [(row.operators, row.ms) for row in networks])

    def _judge(self, rows: Sequence[Row]) -> None:
        if len(known_networks(rows)) >= _JUDGED:
            error = held_out_error(self._model, rows)
            self._error, self._judged = None if np.isnan(error) else error, len(rows)


def held_out_error(model: LatencyModel, rows: Sequence[Row]) -> float:
    """Mean relative error of `model` on the networks among `rows`, in four parts, each predicted without the networks of that
    part and without the rows of operators that only they have. Networks with kinds of operators without any row don't count;
    NaN where none does."""
    networks = known_networks(rows)
    uses = Counter(spec for row in networks for spec in set(row.operators))
    errors: list[float] = []
    for fold in range(_FOLDS):
        part = networks[fold::_FOLDS]
        inside = Counter(spec for row in part for spec in set(row.operators))
        left_out = {spec for spec in inside if inside[spec] == uses[spec]}
        alone = [row for row in single(rows) if row.operators[0] not in left_out]
        judged = known_networks([*alone, *part])
        if judged:
            kept = known_networks([*alone, *(row for i, row in enumerate(networks) if i % _FOLDS != fold)])
            predicted = clone(model).fit([*alone, *kept]).predict([row.operators for row in judged]).ms
            errors += [abs(ms / row.ms - 1) for ms, row in zip(predicted, judged, strict=True)]
    return float(np.mean(errors)) if errors else float("nan")


def known_networks(rows: Sequence[Row]) -> list[Row]:
    """The whole networks among `rows` of whose every kind of operator there is a row."""
    known = {row.operators[0].kind for row in single(rows)}
    return [row for row in whole(rows) if all(spec.kind in known for spec in row.operators)]
