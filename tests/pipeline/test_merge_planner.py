"""The merge planner: exact, true to what forms compute, by prediction and by measurement."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from paceline.devices.bench import BenchOptions
from paceline.devices.device import Device
from paceline.devices.kinds.simulated import open_simulated
from paceline.errors import ConfigError, LatencyModelError
from paceline.exporters.merge import check_merge, merged
from paceline.exporters.merge_forms import optional_merges
from paceline.exporters.torch_graph import graph_of
from paceline.latency_models.bundle.bundle import Bundle
from paceline.latency_models.defaults import table_model
from paceline.measurement import Artifact, Bench, Failure, Measurement, Progress, silent
from paceline.pipeline import merge_segments
from paceline.pipeline.merge_costs import Cost, OnnxDeployment, OperatorCosts, TfliteDeployment
from paceline.pipeline.merge_device import planner_for, reference_of
from paceline.pipeline.merge_plan import MergePlan
from paceline.pipeline.merge_segments import Form, Segment, segments_of
from paceline.pipeline.merge_solver import Way, fastest_runs, fastest_together
from paceline.store import Store


class Sum(nn.Module):
    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = (branch(x) for branch in self.branches)
        return sum(rest, first)


def conv(i: int, o: int, kernel: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(i, o, kernel, 1, kernel // 2, groups=groups, bias=False)


def mixed() -> nn.Module:
    """A chain of three, parallel convolutions, a grouped one: five segments with a stem that has nothing to decide."""
    torch.manual_seed(0)
    return nn.Sequential(
        *[nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU6()],
        *[conv(16, 4), conv(4, 24, 3), conv(24, 16), nn.ReLU()],
        *[Sum(conv(16, 16, 3), conv(16, 16)), nn.ReLU()],
        *[conv(16, 64), conv(64, 16), nn.Hardswish()],
        conv(16, 16, 3, groups=4),
    ).eval()


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(conv(3, 4), conv(4, 24, 3), nn.ReLU(), Sum(conv(24, 24, 3), conv(24, 24)), nn.ReLU()).eval()


IMAGE = (torch.zeros(1, 3, 16, 16),)


def hidden(title: str) -> nullcontext[Progress]:
    return nullcontext(silent)


class Priced:
    """Costs by a formula of what a form has: so many milliseconds for each convolution, and for each weight."""

    def __init__(self, each_ms: float, weight_ms: float) -> None:
        self.each_ms, self.weight_ms = each_ms, weight_ms
        self.asked: list[Form] = []

    def of(self, forms: Sequence[Form], progress: Progress = silent, whole: bool = False) -> list[Cost]:
        self.asked += forms
        every = [[m for m in form.module.modules() if isinstance(m, nn.Conv2d)] for form in forms]
        return [Cost(sum(self.each_ms + self.weight_ms * m.weight.numel() for m in c), len(c), "predicted") for c in every]


class Paced:
    """A device that counts what it measures, and can't run what `refuse` is in the name of."""

    def __init__(self, inner: Device, refuse: str = "") -> None:
        self.inner, self.refuse, self.measured = inner, refuse, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def measure(self, artifacts: Sequence[Artifact], bench: Bench, reference: Artifact | None = None) -> list[Measurement]:
        self.measured += len(artifacts)
        found = self.inner.measure(artifacts, bench, reference)
        return (
            [
                Measurement(m.subject, m.artifact, m.device, m.bench, failure=Failure("no memory"))
                if self.refuse in m.subject
                else m
                for m in found
            ]
            if self.refuse
            else found
        )


@pytest.fixture
def phone() -> Device:
    return open_simulated("phone", "simulated-mid", 1)


def planned(device: Device, folder: Path, net: nn.Module, measure: bool = True, **settings: object) -> MergePlan:
    with Store(folder / "store.sqlite") as store:
        planner = planner_for(device, BenchOptions(), store, folder, 0, **settings)  # type: ignore[arg-type]
        return planner.plan(net, IMAGE, hidden, measure)


@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_runs_of_a_chain_are_solved_exactly(count: int, most: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    kept, more = 10.0, {run: float(rng.normal()) for run in itertools.combinations_with_replacement(range(count), 2)}
    found = fastest_runs(
        count, kept, lambda a, b: kept + more[a, b], lambda a, b: frozenset(str(i) for i in range(a, b + 1)), most
    )
    every = []
    for made in itertools.product((False, True), repeat=count):
        runs = [list(g) for on, g in itertools.groupby(range(count), key=lambda i: made[i]) if on]
        every.append((kept + sum(more[run[0], run[-1]] for run in runs), frozenset(str(i) for i in range(count) if made[i])))
    every.sort(key=lambda way: way[0])
    assert [names for _, names in found] == [names for _, names in every[:most]]
    assert [ms for ms, _ in found] == pytest.approx([ms for ms, _ in every[:most]])


@given(st.lists(st.lists(st.floats(0, 9), min_size=1, max_size=4), max_size=4), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_segments_add_up_exactly(ms: list[list[float]], most: int) -> None:
    segments: list[list[Way]] = [[(its, frozenset([f"{s}/{i}"])) for i, its in enumerate(ways)] for s, ways in enumerate(ms)]
    every = sorted(sum(some) for some in itertools.product(*ms))
    together = fastest_together([sorted(ways, key=lambda w: w[0])[:most] for ways in segments], most)
    assert [its for its, _ in together] == pytest.approx(every[:most])


def test_a_segment_without_forms_is_an_error() -> None:
    with pytest.raises(LatencyModelError, match="no form"):
        fastest_together([[]], 1)


def test_greed_is_beaten_by_the_chain() -> None:
    """The best single joint is the middle one; both outer ones together are better."""
    ms = {(0, 0): 8.0, (1, 1): 7.0, (2, 2): 8.0, (0, 1): 20.0, (1, 2): 20.0, (0, 2): 20.0}
    best = fastest_runs(3, 10.0, lambda a, b: ms[a, b], lambda a, b: frozenset("abc"[a : b + 1]), 1)
    assert best == [(6.0, frozenset("ac"))]


def test_every_segment_is_cut_out_whole() -> None:
    net = mixed()
    merges = optional_merges(net)
    segments = segments_of(net, IMAGE)
    assert [merge.name for segment in segments for merge in segment.merges] == [merge.name for merge in merges]
    assert all(sum(p.numel() for p in s.module.parameters()) < sum(p.numel() for p in net.parameters()) for s in segments)
    for segment in segments:
        none = segment.form(segment.least)
        x = tuple(torch.randn(t.shape) for t in segment.example)
        for made in segment.choices or map(segment.of_run, *zip(*segment.runs(), strict=True)):
            check_merge(none.module, segment.form(made).module, x)
    operators = [[op.kind for op in graph_of(s.form(s.least).module, s.example).ops] for s in segments]
    assert operators == [["CONV_2D"] * 3, ["CONV_2D", "CONV_2D", "ADD"], ["CONV_2D", "CONV_2D", "HARD_SWISH"], ["CONV_2D"]]


def test_many_merges_of_a_sum_are_not_all_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge_segments, "MOST", 0)
    segment = next(s for s in segments_of(mixed(), IMAGE) if not s.is_chain and s.unasked)
    assert segment.merges == ()
    assert list(segment.choices) == [segment.least] == [frozenset(m.name for m in segment.unasked)]


def test_a_sum_of_five_has_as_many_forms_as_a_set_of_five_has_partitions() -> None:
    net = nn.Sequential(Sum(*(conv(4, 4, k) for k in (3, 3, 5, 1, 1)))).eval()
    (segment,) = segments_of(net, (torch.zeros(1, 4, 8, 8),))
    assert len(segment.merges) == 10
    assert len(segment.choices) == 52
    for made in segment.choices[::10]:
        check_merge(net, segment.form(made).module, torch.randn(1, 4, 8, 8))


@pytest.mark.parametrize(("each_ms", "weight_ms"), [(1.0, 0.0), (0.0, 1e-3), (1.0, 1e-3), (0.2, 1e-3)])
def test_the_plan_is_the_best_of_all_choices(each_ms: float, weight_ms: float, phone: Device, tmp_path: Path) -> None:
    net = mixed()
    names = [merge.name for merge in optional_merges(net)]
    with Store(tmp_path / "store.sqlite") as store:
        planner = planner_for(phone, BenchOptions(), store, tmp_path, 0)
        planner._costs = Priced(each_ms, weight_ms)
        plan = planner.plan(net, IMAGE, hidden, measure=False)
    choices = [dict(zip(names, made, strict=True)) for made in itertools.product((False, True), repeat=len(names))]
    forms = [Form(frozenset(), merged(net, choice).module, IMAGE) for choice in choices]
    costs = Priced(each_ms, weight_ms).of(forms)
    assert plan.winner.predicted_ms == pytest.approx(min(cost.ms for cost in costs))
    assert plan.noise is None
    assert all(form.measured_ms is None for form in plan.forms)
    check_merge(net, merged(net, plan.choices()).module, torch.randn(1, 3, 16, 16))


def test_forms_of_equal_operators_are_asked_once(phone: Device, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*(layer for _ in range(3) for layer in (Sum(conv(8, 8, 3), conv(8, 8)), nn.ReLU()))).eval()
    with Store(tmp_path / "store.sqlite") as store:
        planner = planner_for(phone, BenchOptions(), store, tmp_path, 0)
        costs = planner._costs = Priced(1.0, 0.0)
        plan = planner.plan(net, (torch.zeros(1, 8, 8, 8),), hidden, measure=False)
    assert len(plan.decisions) == 3
    assert len(costs.asked) - len(plan.forms) == 2


def test_the_winner_was_measured(phone: Device, tmp_path: Path) -> None:
    plan = planned(phone, tmp_path, small())
    assert plan.simulated
    assert plan.noise is not None
    measured = [form.measured_ms for form in plan.forms]
    assert None not in measured
    assert plan.winner.measured_ms is not None
    assert plan.winner.measured_ms <= min(ms for ms in measured if ms) * (1 + plan.noise)
    assert {"all", "none", "free", "predicted 1"} <= {role for form in plan.forms for role in form.roles}
    for decision in plan.decisions:
        shown = {a.made: a for a in decision.alternatives}
        assert shown[decision.made].measured_ms is not None
        assert decision.made == tuple(sorted(set(plan.made) & {m.name for m in decision.merges}))


def test_nothing_is_measured_twice(phone: Device, tmp_path: Path) -> None:
    counted = Paced(phone)
    plan = planned(counted, tmp_path, small())  # type: ignore[arg-type]
    before = counted.measured
    assert before > 0
    assert planned(counted, tmp_path, small()) == plan  # type: ignore[arg-type]
    assert counted.measured == before


def test_a_form_that_fails_is_no_winner(phone: Device, tmp_path: Path) -> None:
    other = planned(Paced(phone, "merged at 0 places"), tmp_path, small())  # type: ignore[arg-type]
    failed = [form for form in other.forms if form.failure]
    assert failed
    assert all("no memory" in form.failure and form.measured_ms is None for form in failed)
    assert not other.winner.failure


def test_two_devices_get_two_networks(tmp_path: Path) -> None:
    """Depthwise is cheap on one and dear on the other: there a depthwise and a pointwise layer become one dense layer."""
    torch.manual_seed(0)
    net = nn.Sequential(conv(3, 8, 3), nn.ReLU(), conv(8, 8, 3, groups=8), conv(8, 8), nn.ReLU()).eval()
    mid, wide = (
        planned(open_simulated("a phone", profile, 1), tmp_path / profile, net) for profile in ("simulated-mid", "simulated-wide")
    )
    assert mid.made != wide.made


def test_a_network_with_nothing_to_decide(phone: Device, tmp_path: Path) -> None:
    plan = planned(phone, tmp_path, nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval())
    assert plan.decisions == ()
    assert plan.made == ()
    assert len(plan.forms) == 1


def test_a_table_of_another_device_is_refused(phone: Device, tmp_path: Path) -> None:
    other = open_simulated("phone", "simulated-wide", 1)
    table = Bundle(other.info, other.default_bench(), ())
    with pytest.raises(ConfigError, match="paceline table build"):
        planned(phone, tmp_path, small(), table=table)


def test_rows_of_a_table_are_not_measured(phone: Device, tmp_path: Path) -> None:
    counted = Paced(phone)
    with Store(tmp_path / "store.sqlite") as store:
        planner = planner_for(counted, BenchOptions(), store, tmp_path, 0)  # type: ignore[arg-type]
        planner.plan(small(), IMAGE, hidden, measure=False)
        before, rows = counted.measured, Bundle.from_store(store, phone.info, phone.default_bench(), {}).rows()
    assert before > 0
    segments = segments_of(small(), IMAGE)
    forms = [segment.form(made) for segment in segments for made in segment.choices or [segment.least]]
    costs = OperatorCosts(table_model(), rows).of(forms)
    assert {cost.source for cost in costs} == {"measured"}
    assert "predicted" in {cost.source for cost in OperatorCosts(table_model(), rows[:3]).of(forms)}
    assert counted.measured == before


def test_every_runtime_has_its_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    form = Form(frozenset(), nn.Sequential(conv(8, 8, 3), nn.ReLU()).eval(), (torch.zeros(1, 8, 8, 8),))
    for deployment, suffix in (
        (TfliteDeployment(tmp_path), ".tflite"),
        (OnnxDeployment(tmp_path), ".onnx"),
    ):
        first, again = (deployment.write(form.module, form.example, "a name") for _ in range(2))
        assert first.path.suffix == suffix
        assert (first.path, first.sha256) == (again.path, again.sha256)
        assert deployment.count(first) > 0
    assert reference_of("onnxruntime", tmp_path).format == "onnx"


def test_forms_are_made_once_for_all_segments_that_are_alike(
    phone: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    sums = [*(Sum(conv(8, 8, 3), conv(8, 8)) for _ in range(5)), Sum(conv(8, 8, 5), conv(8, 8))]
    net = nn.Sequential(*(layer for each in sums for layer in (each, nn.ReLU()))).eval()
    x = (torch.zeros(1, 8, 8, 8),)
    assert len({segment.signature for segment in segments_of(net, x)}) == 2
    made: list[str] = []
    form = Segment.form
    monkeypatch.setattr(Segment, "form", lambda self, names: made.append(self.name) or form(self, names))
    with Store(tmp_path / "store.sqlite") as store:
        planner = planner_for(phone, BenchOptions(), store, tmp_path, 0)
        planner._costs = Priced(1.0, 0.0)
        plan = planner.plan(net, x, hidden, measure=False)
    assert len(plan.decisions) == len(plan.made) == 6
    assert len(made) == 2 * 2
    check_merge(net, merged(net, plan.choices()).module, torch.randn(1, 8, 8, 8))


def test_segments_of_equal_layers_but_other_merges_are_not_alike() -> None:
    """A bias that a zero padding would see forbids a merge, a bias of zero doesn't: the layers look the same."""

    def chain(bias: float) -> nn.Module:
        first = nn.Conv2d(4, 4, 1)
        nn.init.constant_(first.bias, bias)  # type: ignore[arg-type]
        return nn.Sequential(first, conv(4, 4, 3))

    torch.manual_seed(0)
    net = nn.Sequential(Sum(chain(0.0), chain(1.0)), nn.ReLU(), Sum(chain(1.0), chain(0.0)), nn.ReLU()).eval()
    one, other = segments_of(net, (torch.zeros(1, 4, 8, 8),))
    assert [(m.kind, m.free) for m in one.merges] == [(m.kind, m.free) for m in other.merges]
    assert one.signature != other.signature
