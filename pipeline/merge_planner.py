"""Which of a network's exact merges pay on a device: asked of its latency model, solved exactly, measured whole.

One convolution that computes what two did may be slower than both: other kernels of the runtime run it. So merging is a decision
for each device. Segments of the network whose merges do not touch each other are independent and add up; the joints of a chain
of layers interact with their neighbours only (`merge_solver`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from torch import Tensor, nn

from paceline.errors import DeviceError
from paceline.exporters.merge import merged
from paceline.exporters.merge_forms import OptionalMerge, optional_merges
from paceline.latency_models.collection.collect import SECOND, Collector
from paceline.measurement import Artifact, Measurement, Progress, usual_reference
from paceline.pipeline.latency import Show
from paceline.pipeline.merge_costs import Cost, Costs, Deployment, NetworkCosts
from paceline.pipeline.merge_plan import Alternative, Decision, MergePlan, WholeForm
from paceline.pipeline.merge_segments import Form, Made, Segment, segments_of
from paceline.pipeline.merge_solver import Way, fastest_runs, fastest_together

_CLOSE = 1.05
"""Whole networks within this factor of the fastest are measured in a second session."""

_NOISIEST = 0.02
"""However noisy the device is: forms further apart than this are no tie."""

_FEW = 4
"""All forms of a segment that has no more than so many are measured as networks by themselves."""


@dataclass(frozen=True, eq=False)
class _Options:
    """The different forms of a segment and their costs; of a chain those with one run of merges."""

    segment: Segment
    costs: dict[Made, Cost]

    def fastest(self, most: int) -> list[Way]:
        if not self.segment.is_chain:
            return sorted(((cost.ms, made) for made, cost in self.costs.items()), key=lambda way: way[0])[:most]
        run_ms = {run: self.costs[self.segment.of_run(*run)].ms for run in self.segment.runs()}
        kept = self.costs[self.segment.least].ms
        return fastest_runs(len(self.segment.merges), kept, lambda a, b: run_ms[a, b], self.segment.of_run, most)

    def cost(self, made: Made) -> Cost:
        """That of several runs follows from the costs of each."""
        if made in self.costs:
            return self.costs[made]
        kept, runs = self.costs[self.segment.least], [self.costs[self.segment.of_run(*r)] for r in self.segment.runs_in(made)]
        ms = kept.ms + sum(run.ms - kept.ms for run in runs)
        operators = kept.operators + sum(run.operators - kept.operators for run in runs)
        known = all(cost.source == "measured" for cost in (kept, *runs))
        return Cost(ms, operators, "measured" if known else "predicted")


class _Forms:
    """Forms of segments, made once for all segments that are alike: weights don't matter for what a form takes."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, frozenset[int]], Form] = {}

    def __call__(self, segment: Segment, made: Made) -> Form:
        key = segment.signature, segment.places(made)
        if key not in self._known:
            self._known[key] = segment.form(made)
        return self._known[key]


class MergePlanner:
    """Plans for the device of `collector`.

    `costs` tell what forms of segments take. The `candidates` whole networks that are predicted fastest are measured, and those
    with all merges, with none, and with those that cost neither work nor weights; `reference` is measured beside them. What the
    collector's store has is not measured again.
    """

    def __init__(
        self, costs: Costs, deployment: Deployment, collector: Collector, reference: Artifact, candidates: int = 3
    ) -> None:
        self._costs, self._deployment, self._collector, self._reference = costs, deployment, collector, reference
        self._candidates = candidates

    def plan(self, module: nn.Module, example: tuple[Tensor, ...], show: Show, measure: bool = True) -> MergePlan:
        """For inputs shaped like `example`. Without `measure` forms are predicted only, of segments and whole.

        Raises MergeError where the network can't be traced, DeviceError where none of the whole forms can be measured.
        """
        module = module.eval()
        merges = optional_merges(module)
        form_of = _Forms()
        options = self._options(segments_of(module, example), form_of, show)
        ways = fastest_together([o.fastest(self._candidates) for o in options], self._candidates)
        roles: dict[Made, list[str]] = {made: [f"predicted {i}"] for i, (_, made) in enumerate(ways, 1)}
        own = self._finalists(options, [made for _, made in ways], form_of, show) if measure else [{} for _ in options]
        named = {
            "all": [m.name for m in merges],
            "none": [name for o in options for name in o.segment.least],
            "free": [m.name for m in merges if m.free],
            "segments measured": [name for its in own if its for name in min(its, key=its.__getitem__)],
        }
        for role, names in named.items():
            roles.setdefault(frozenset(names), []).append(role)
        forms = self._different(module, example, merges, roles)
        with show("predict whole networks") as progress:
            costs = self._costs.of([form for form, _ in forms], progress, whole=True)
        whole = [
            WholeForm(tuple(sorted(form.made)), tuple(why), cost.ms, cost.operators)
            for (form, why), cost in zip(forms, costs, strict=True)
        ]
        noise = None
        if measure:
            whole, noise = self._measured([form for form, _ in forms], whole, show)
        whole.sort(key=lambda form: form.measured_ms or form.predicted_ms if not form.failure else float("inf"))
        made = _winner(whole, noise).made
        decisions = tuple(_decision(o, its, frozenset(made)) for o, its in zip(options, own, strict=True))
        info = self._collector.device.info
        return MergePlan(info.name, info.simulated, self._collector.bench.key, decisions, tuple(whole), made, noise)

    def _options(self, segments: Sequence[Segment], form_of: _Forms, show: Show) -> list[_Options]:
        """Forms of the same operators are asked about once, wherever they are."""
        asked: dict[str, Form] = {}
        forms: list[dict[Made, str]] = []
        with show("find the forms") as progress:
            for done, segment in enumerate(segments, 1):
                runs = [segment.least, *(segment.of_run(*run) for run in segment.runs())]
                its = dict[Made, str]()
                for made in runs if segment.is_chain else segment.choices:
                    form = form_of(segment, made)
                    if segment.is_chain or form.signature not in its.values():  # choices may come to the same
                        its[made] = form.signature
                    asked.setdefault(form.signature, form)
                forms.append(its)
                progress(done, len(segments))
        with show("what the forms take") as progress:
            costs = dict(zip(asked, self._costs.of(list(asked.values()), progress), strict=True)) if asked else {}
        return [
            _Options(segment, {made: costs[signature] for made, signature in its.items()})
            for segment, its in zip(segments, forms, strict=True)
        ]

    def _finalists(
        self, options: Sequence[_Options], ways: Sequence[Made], form_of: _Forms, show: Show
    ) -> list[dict[Made, float]]:
        """Of each segment the forms that are candidates, and that of no merge, measured as networks by themselves."""
        forms: list[dict[Made, Form]] = []
        for o in options:
            names = {merge.name for merge in o.segment.merges} | o.segment.least
            few = list(o.costs) if len(o.costs) <= _FEW else []
            wanted = dict.fromkeys([o.segment.least, *few, *(frozenset(made & names) for made in ways)])
            forms.append({made: form_of(o.segment, made) for made in wanted})
        unique = {form.signature: form for its in forms for form in its.values()}
        if not unique:
            return []
        costs = NetworkCosts(self._deployment, self._collector, self._reference)
        with show("measure forms of segments") as progress:
            found = dict(zip(unique, costs.of(list(unique.values()), progress), strict=True))
        return [{made: found[form.signature].ms for made, form in its.items()} for its in forms]

    def _different(
        self, module: nn.Module, example: tuple[Tensor, ...], merges: Sequence[OptionalMerge], roles: Mapping[Made, list[str]]
    ) -> list[tuple[Form, list[str]]]:
        """Forms of the whole network, each once, with all its roles."""
        found: dict[str, tuple[Form, list[str]]] = {}
        for made, why in roles.items():
            form = Form(made, merged(module, {m.name: m.name in made for m in merges}).module, example)
            found.setdefault(form.signature, (form, []))[1].extend(why)
        return list(found.values())

    def _measured(self, forms: Sequence[Form], whole: Sequence[WholeForm], show: Show) -> tuple[list[WholeForm], float]:
        """With their milliseconds, and by how far these may be off."""
        with show("write whole networks") as progress:
            artifacts = []
            for done, form in enumerate(forms, 1):
                artifacts.append(self._deployment.write(form.module, form.example, f"merged at {len(form.made)} places"))
                progress(done, len(forms))
        with show("measure whole networks") as progress:
            found = self._sessions(artifacts, progress)
        usual = usual_reference(found)
        told = [
            replace(form, failure=m.failure.reason) if m.failure else replace(form, measured_ms=m.ms_at(usual))
            for form, m in zip(whole, found, strict=True)
        ]
        if all(form.failure for form in told):
            raise DeviceError(f"no form of the network can be measured, the first: {told[0].failure}")
        spread = median(m.spread for m in found if m.failure is None)
        return told, min(max(spread, self._collector.bench.agreement), _NOISIEST)

    def _sessions(self, artifacts: Sequence[Artifact], progress: Progress) -> list[Measurement]:
        """All in one session, those that are close to the fastest in a second one."""
        found = self._collector.measure(artifacts, self._reference, progress)
        usual = usual_reference(found)
        ms = [m.ms_at(usual) if m.failure is None else float("inf") for m in found]
        close = [a for a, its in zip(artifacts, ms, strict=True) if its <= _CLOSE * min(ms) < float("inf")]
        todo = {a.sha256: a for a, m in zip(artifacts, found, strict=True) if a in close and SECOND not in m.context}
        if len(close) > 1 and todo:
            self._collector.device.close()
            self._collector.once_more(list(todo.values()), self._reference)
            found = self._collector.measure(artifacts, self._reference)
        return found


def _winner(forms: Sequence[WholeForm], noise: float | None) -> WholeForm:
    """Of forms that are no slower than the fastest, as far as can be told, the one with the fewest operators."""
    if noise is None:
        return forms[0]
    limit = (forms[0].measured_ms or 0.0) * (1 + noise)
    tied = [form for form in forms if form.measured_ms is not None and form.measured_ms <= limit]
    return min(tied, key=lambda form: form.operators)


def _decision(options: _Options, own: Mapping[Made, float], made: Made) -> Decision:
    segment = options.segment
    mine = made & ({merge.name for merge in segment.merges} | segment.least)
    alternatives = []
    for its in dict.fromkeys([*options.costs, *own, *([mine] if segment.is_chain else [])]):
        cost = options.cost(its)
        alternatives.append(Alternative(tuple(sorted(its)), cost.ms, cost.operators, cost.source, own.get(its)))
    alternatives.sort(key=lambda a: a.predicted_ms)
    unasked = tuple(merge.name for merge in segment.unasked)
    return Decision(segment.name, segment.merges, unasked, tuple(alternatives), tuple(sorted(mine)))
