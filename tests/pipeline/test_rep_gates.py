"""The gates of branches: what a step keeps, what scores learn, when branches are fixed."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from paceline.arch import Choice
from paceline.errors import ConfigError, SpaceError
from paceline.exporters.merge import merged
from paceline.pipeline.spaces import Chain, SearchedRepOp, Stage, Tail, slots_of
from paceline.pipeline.supernet import (
    BranchGates,
    BranchSearch,
    PartlyFrozen,
    StrictFair,
    Uniform,
    derive,
    path,
    space_of,
    train_supernet,
)
from paceline.pipeline.supernet import Path as Weights
from paceline.pipeline.supernet.gates import kept_branches
from paceline.pipeline.tasks import Task, digits
from paceline.pipeline.testing import check_policy

SEARCH = BranchSearch(random_epochs=1, fixed_after=2, keep=0.5, lr=0.1)
BRANCHES = ("1x1", "kxk", "1xk", "kx1")


def net_of(*kernels: int, layers: int = 2) -> nn.Module:
    options = {f"k{k}": SearchedRepOp(BRANCHES, k) for k in kernels}
    slots = slots_of(1, (Stage(4, layers, 2),), lambda _: options)
    return Chain("small", None, slots, Tail(None), 1, 10, 8).supernet(0)


def gates_of(net: nn.Module, search: BranchSearch = SEARCH) -> BranchGates:
    return BranchGates(search, Uniform(), net)


def branch_weights(weights: Weights) -> torch.Tensor:
    return torch.cat([w for name, w in weights.items() if name.endswith("_branches")])


def scored(gates: BranchGates, scores: list[float]) -> None:
    with torch.no_grad():
        gates.scores.copy_(torch.tensor(scores))


@pytest.fixture(scope="module")
def tiny() -> Task:
    whole = digits(0, size=8)
    return Task("tiny", whole.classes, whole.train[torch.arange(96)], whole.val, whole.test, whole.mean, whole.std)


def test_the_best_of_the_whole_network_are_kept_and_one_of_each_layer() -> None:
    choices = (Choice("a", ("p", "q", "r"), 1, 3), Choice("b", ("p", "q", "r"), 1, 3))
    scores = np.array([5.0, 4.0, 3.0, -3.0, -1.0, -2.0], np.float32)
    assert kept_branches(choices, scores, 3).tolist() == [True, True, False, False, True, False]
    assert kept_branches(choices, scores, 2).tolist() == [True, False, False, False, True, False]
    assert kept_branches(choices, scores, 6).all()


def test_gates_are_exactly_0_or_1_and_pass_the_slope_of_the_sigmoid() -> None:
    gates = gates_of(net_of(3))
    gates.after_epoch(1)
    for seed in range(20):
        gates.scores.grad = None
        (weights,) = gates.paths(gates.whole, np.random.default_rng(seed))
        gate = branch_weights(weights)
        assert set(gate.tolist()) == {0.0, 1.0}
        assert float(gate.detach().sum()) == gates.count == 4
        gate.sum().backward()
        soft = torch.sigmoid(torch.from_numpy(np.random.default_rng(seed).logistic(size=8).astype(np.float32)))
        torch.testing.assert_close(gates.scores.grad, soft * (1 - soft))


def test_a_branch_that_is_not_computed_gets_no_gradient() -> None:
    net = net_of(3)
    gates = gates_of(net)
    gates.after_epoch(1)
    (weights,) = gates.paths(gates.whole, np.random.default_rng(0))
    with path(net, weights):
        net(torch.randn(4, 1, 8, 8)).square().sum().backward()
    assert gates.scores.grad is not None
    computed = branch_weights(weights).detach() == 1.0
    assert bool((gates.scores.grad[computed] != 0).all())
    assert bool((gates.scores.grad[~computed] == 0).all())
    assert gates.scores.grad is not None
    gates.update()
    assert gates.scores.grad is None
    assert bool((gates.scores[computed] != 0).all())
    assert bool((gates.scores[~computed] == 0).all())


def test_at_first_branches_are_drawn_at_random_and_nothing_learns() -> None:
    gates = gates_of(net_of(3))
    rng = np.random.default_rng(0)
    taken = torch.zeros(8)
    for _ in range(600):
        (weights,) = gates.paths(gates.whole, rng)
        assert not any(w.requires_grad for w in weights.values())
        taken += branch_weights(weights)
    assert taken.min() > 0.85 * taken.mean()
    gates.update()
    assert not gates.scores.any()


def test_in_the_end_the_best_stay() -> None:
    net = net_of(3)
    gates = gates_of(net)
    scored(gates, [0.0, 3.0, 2.0, 1.0, -4.0, -1.0, -2.0, -3.0])
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm)]
    for norm in norms:
        assert norm.running_mean is not None
        norm.running_mean.fill_(7.0)
    gates.after_epoch(1)
    assert gates.fixed is None
    assert float(norms[0].running_mean.sum()) > 0  # type: ignore[union-attr]
    gates.after_epoch(2)
    assert not any(norm.running_mean.any() for norm in norms)  # type: ignore[union-attr]
    kept = {"stage1_layer1_branches": ("kxk", "1xk", "kx1"), "stage1_layer2_branches": ("kxk",)}
    assert gates.kept == kept
    scored(gates, [9.0] + [0.0] * 7)
    assert gates.kept == kept
    assert gates.space.size == 1
    drawn = [branch_weights(gates.paths(gates.whole, np.random.default_rng(s))[0]).tolist() for s in range(5)]
    assert drawn == [[0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0]] * 5
    arch = gates.space.sample(np.random.default_rng(0))
    gates.whole.check(arch)
    assert {name: arch[name] for name in kept} == kept
    shipped = merged(derive(net.eval(), arch)).module
    assert [m.kernel_size for m in shipped.modules() if isinstance(m, nn.Conv2d)] == [(3, 3), (3, 3)]


def test_other_choices_are_decided_by_the_other_policy() -> None:
    net = net_of(3, 5, layers=3)
    space = space_of(net)
    gates = BranchGates(SEARCH, StrictFair(), net)
    gates.after_epoch(1)
    paths = gates.paths(space, np.random.default_rng(0))
    assert [list(p) for p in paths] == [[c.name for c in space.choices]] * 2
    assert Counter(int(p["stage1_layer2"].argmax()) for p in paths) == {0: 1, 1: 1}
    assert torch.equal(branch_weights(paths[0]), branch_weights(paths[1]))
    for p in paths:  # each has a graph of its own
        branch_weights(p).sum().backward()
    first, second = slots_of(1, (Stage(4, 2, 2),), lambda _: {f"k{k}": SearchedRepOp(BRANCHES, k) for k in (3, 5)})
    one = replace(second, options={"k3": second.options["k3"]})
    uneven = Chain("uneven", None, (first, one), Tail(None), 1, 10, 8).supernet(0)
    frozen = BranchGates(SEARCH, StrictFair(), uneven).paths(space_of(uneven), np.random.default_rng(0))
    assert any(isinstance(p, PartlyFrozen) for p in frozen)


@pytest.mark.parametrize("epochs", [0, 1, 2])
def test_it_is_a_policy(epochs: int) -> None:
    gates = gates_of(net_of(3, 5))
    gates.after_epoch(epochs)
    check_policy(gates, gates.whole)


def test_weight_decay_falls_on_a_cosine() -> None:
    search = BranchSearch(random_epochs=10, fixed_after=20, weight_decay=4e-4)
    assert [search.decay(e) for e in (0, 10, 15, 20)] == pytest.approx([4e-4, 4e-4, 2e-4, 0.0])
    gates = gates_of(net_of(3), BranchSearch(random_epochs=0, fixed_after=2, keep=0.5))
    gates.after_epoch(1)
    assert gates.state_dict()["epochs"] == 1


def test_killed_it_goes_on_and_ends_as_undisturbed(tiny: Task, tmp_path: Path) -> None:
    def trained(interrupted: bool) -> tuple[BranchGates, nn.Module]:
        search = BranchSearch(random_epochs=0, fixed_after=2, keep=0.5, lr=0.1)
        for stop in (5, 10_000) if interrupted else (10_000,):
            net = net_of(3, 5)
            gates = gates_of(net, search)

            def progress(done: int, total: int, note: str = "", stop: int = stop) -> None:
                if done == stop:
                    raise KeyboardInterrupt

            settings = {"epochs": 3, "batch": 32, "lr": 0.05, "seed": 1, "progress": progress}
            file = tmp_path / "checkpoint.pt" if interrupted else None
            try:
                train_supernet(net, gates, tiny, checkpoint=file, **settings)  # type: ignore[arg-type]
            except KeyboardInterrupt:
                assert stop == 5
        return gates, net

    (one, whole), (other, resumed) = trained(False), trained(True)
    assert one.scores.any()
    assert torch.equal(one.scores, other.scores)
    assert one.kept == other.kept
    assert other.fixed is not None
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


@pytest.mark.parametrize(
    "values", [{"random_epochs": 3, "fixed_after": 2}, {"keep": 0.0}, {"keep": 1.1}, {"lr": 0.0}, {"weight_decay": -1.0}]
)
def test_senseless_values_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="needs 0 <= random_epochs <= fixed_after"):
        BranchSearch(**values)  # type: ignore[arg-type]


def test_what_cannot_be_gated_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"keep=0\.2 leaves 1 of 8 branches to 2 layers; each needs one"):
        gates_of(net_of(3), BranchSearch(keep=0.2))
    with pytest.raises(SpaceError, match="no choice is called 'other'"):
        gates_of(net_of(3), BranchSearch(branches="other"))


@pytest.fixture(scope="module")
def planted() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks" / "papers"))
        yield importlib.import_module("repnas_planted")


def test_no_noisy_branch_is_kept(planted: ModuleType) -> None:
    budget = planted.BUDGETS["default"]
    found = planted.search(budget.epochs, budget.random_epochs, seed=2)
    assert found["noisy_kept"] == 0
    assert found["noisy_score"] < found["sound_score"]
    assert sum(map(len, found["kept"].values())) == 9


def test_the_benchmark_runs_through(planted: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = ["--results", str(tmp_path), "--processes", "1"]
    planted.main(["--budget", "tiny", "--seeds", "1", *kept])
    assert "chance would keep 3 each" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["searched", "random", "DBB + identity"])
def test_masks_are_trained_and_merged(planted: ModuleType, kind: str) -> None:
    found = importlib.import_module("repnas_masks").train_one("", kind, 1, 0)
    assert found["branches"] == (0 if kind.startswith("DBB") else 12)
    assert found["error"] < 1e-5
    assert found["shipped_params"] < found["trained_params"]
