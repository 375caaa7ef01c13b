from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from paceline.arch import Choice, Space
from paceline.errors import SpaceError
from paceline.pipeline.supernet import PartlyFrozen, StrictFair, Uniform, path, space_of, train_supernet
from paceline.pipeline.supernet.mixed import mixed_of
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


def test_strict_fair_refuses_choices_of_several_options() -> None:
    with pytest.raises(SpaceError, match="takes at least 2"):
        StrictFair().paths(Space((Choice("c", ("a", "b", "c"), 2, 3),)), np.random.default_rng(0))
