from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import nn

from paceline.arch import Choice, Space
from paceline.errors import ConfigError, SpaceError
from paceline.pipeline.supernet import Mixed, PartlyFrozen, StrictFair, Uniform, path, restricted, space_of, train_supernet
from paceline.pipeline.supernet.mixed import mixed_of
from paceline.pipeline.supernet.policies import embedded
from paceline.pipeline.tasks import Task
from paceline.pipeline.testing import check_policy


class Counting:
    """A policy that, before each step, checks how many gradients have arrived at every option's parameters so far."""

    def __init__(self, policy: StrictFair | Uniform, net: nn.Module) -> None:
        self.policy, self.net, self.steps = policy, net, 0
        self.gradients: Counter[tuple[str, str, str]] = Counter()
        self.unequal = 0
        for mixed in mixed_of(net):
            for option, module in mixed.options.items():
                for name, p in module.named_parameters():
                    place = (mixed.choice.name, option, name)
                    p.register_post_accumulate_grad_hook(lambda _, place=place: self.gradients.update([place]))

    def check(self) -> None:
        for mixed in mixed_of(self.net):
            counts = {
                self.gradients[mixed.choice.name, option, name]
                for option, module in mixed.options.items()
                for name, _ in module.named_parameters()
            }
            self.unequal += counts != {self.steps}

    def paths(self, space: Space, rng: np.random.Generator) -> list:
        self.check()
        self.steps += 1
        return self.policy.paths(space, rng)


def test_strict_fairness_counts_of_real_gradients_are_equal_after_every_step(net: nn.Module, task: Task) -> None:
    assert sorted({len(c.options) for c in space_of(net).choices}) == [5, 6]
    counting = Counting(StrictFair(), net)
    train_supernet(net, counting, task, epochs=1, batch=100, lr=0.05, seed=1)
    counting.check()
    assert counting.steps == 10
    assert counting.unequal == 0


def test_uniform_sampling_is_not_strictly_fair(net: nn.Module, task: Task) -> None:
    counting = Counting(Uniform(6), net)
    train_supernet(net, counting, task, epochs=1, batch=200, lr=0.05, seed=1)
    counting.check()
    assert counting.unequal > 0


spaces = st.lists(st.integers(1, 7), min_size=1, max_size=5).map(
    lambda sizes: Space(tuple(Choice(f"c{i}", tuple(f"o{j}" for j in range(n))) for i, n in enumerate(sizes)))
)


@given(spaces, st.integers(0, 2**32))
def test_strict_fair_trains_each_option_once_in_as_many_paths_as_the_largest_choice_has_options(space: Space, seed: int) -> None:
    paths = StrictFair().paths(space, np.random.default_rng(seed))
    assert len(paths) == max(len(c.options) for c in space.choices)
    for c in space.choices:
        learned = Counter()
        for p in paths:
            assert sorted(p[c.name].tolist()) == [0.0] * (len(c.options) - 1) + [1.0]
            if not (isinstance(p, PartlyFrozen) and c.name in p.frozen):
                learned[int(p[c.name].argmax())] += 1
        assert learned == Counter(range(len(c.options)))


@given(spaces, st.integers(0, 2**32))
def test_policies_keep_the_protocol(space: Space, seed: int) -> None:
    check_policy(StrictFair(), space, seed)
    check_policy(Uniform(3), space, seed)


def test_frozen_options_pass_gradients_on_but_get_none(net: nn.Module) -> None:
    space = space_of(net)
    weights = Uniform().paths(space, np.random.default_rng(0))[0]
    with path(net, PartlyFrozen(weights, {"stage2_layer1"})):
        net(torch.randn(2, 1, 16, 16)).sum().backward()
    for mixed in mixed_of(net):
        taken = mixed.options[mixed.choice.options[int(weights[mixed.choice.name].argmax())]]
        got = [p.grad is not None for p in taken.parameters()]
        assert not any(got) if mixed.choice.name == "stage2_layer1" else all(got)
    assert all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("bounds", [(2, 3), (1, 2)])
def test_strict_fair_refuses_choices_of_several_options(bounds: tuple[int, int]) -> None:
    with pytest.raises(SpaceError, match=f"takes up to {bounds[1]}"):
        StrictFair().paths(Space((Choice("c", ("a", "b", "c"), *bounds),)), np.random.default_rng(0))


def test_uniform_takes_a_uniform_number_of_options_and_then_a_uniform_set() -> None:
    space = Space((Choice("c", ("a", "b", "c", "d"), 1, 3), Choice("one", ("x", "y", "z"))))
    rng = np.random.default_rng(0)
    paths = Uniform(6000).paths(space, rng)
    sets = Counter(tuple(p["c"].tolist()) for p in paths)
    for n, ways in ((1, 4), (2, 6), (3, 4)):
        seen = [count for taken, count in sets.items() if sum(taken) == n]
        assert len(seen) == ways
        assert chisquare(seen).pvalue > 1e-3
        assert sum(seen) == pytest.approx(2000, abs=150)  # 4 standard deviations
    assert chisquare(list(Counter(int(p["one"].argmax()) for p in paths).values())).pvalue > 1e-3


@given(spaces, st.integers(0, 2**32))
def test_a_path_of_a_part_is_the_same_path_of_the_whole(whole: Space, seed: int) -> None:
    rng = np.random.default_rng(seed)
    alive = {c.name: tuple(o for o in c.options if rng.random() < 0.5) or c.options[:1] for c in whole.choices}
    part = restricted(whole, alive)
    for policy in (Uniform(), StrictFair()):
        for small in policy.paths(part, rng):
            wide = embedded(small, part, whole)
            assert isinstance(wide, PartlyFrozen) == isinstance(small, PartlyFrozen)
            assert getattr(wide, "frozen", None) == getattr(small, "frozen", None)
            for c, few in zip(whole.choices, part.choices, strict=True):
                weights = dict(zip(c.options, wide[c.name].tolist(), strict=True))
                assert [weights.pop(o) for o in few.options] == small[c.name].tolist()
                assert not any(weights.values())
    relaxed = {c.name: torch.rand(len(c.options), requires_grad=True) for c in part.choices}
    sum(w.sum() for w in embedded(relaxed, part, whole).values()).backward()
    assert all(torch.equal(w.grad, torch.ones_like(w)) for w in relaxed.values())


def test_distinct_batches_deal_the_images_out_to_the_paths(task: Task) -> None:
    net = nn.Sequential(Mixed("m", {f"o{i}": nn.Sequential(nn.Flatten(), nn.Linear(256, 10)) for i in range(3)}))
    seen: list[torch.Tensor] = []
    net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    settings = {"epochs": 1, "batch": 90, "lr": 0.01, "seed": 4}
    losses = train_supernet(net, StrictFair(), task, **settings, distinct_batches=True)
    batches = [images for images, _ in task.batches("train", 90, seed=4, augment=True)]
    assert [len(x) for x in seen] == [30] * 3 * len(batches)
    for k, batch in enumerate(batches):
        assert sorted(x.sum().item() for x in batch) == sorted(x.sum().item() for x in torch.cat(seen[3 * k : 3 * k + 3]))
    assert len(losses) == 1
    with pytest.raises(ConfigError, match="too few to give each of 3 paths"):
        train_supernet(net, StrictFair(), task, **{**settings, "batch": 5}, distinct_batches=True)
