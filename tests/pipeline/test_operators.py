from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from paceline.errors import SpaceError
from paceline.exporters.torch_graph import graph_of
from paceline.graph import macs_of
from paceline.pipeline import operators
from paceline.pipeline.networks import leaning_archs
from paceline.pipeline.operators import shipped, space_operators
from paceline.pipeline.spaces import mobile
from paceline.pipeline.supernet import Mixed, space_of
from paceline.space_operators import SpaceOperators

EXAMPLE = torch.zeros(1, 3, 16, 16)


@pytest.fixture(scope="module")
def supernet() -> nn.Module:
    return mobile(3, 10, 16, stages=((8, 2, 2), (16, 2, 1)), stem=8, head=32, kernels=(3, 5), expansions=(2,)).supernet(3)


@pytest.fixture(scope="module")
def found(supernet: nn.Module) -> SpaceOperators:
    return space_operators(supernet, EXAMPLE)


def test_operators_of_an_architecture_are_those_of_its_exported_network(supernet: nn.Module, found: SpaceOperators) -> None:
    rng = np.random.default_rng(0)
    for _ in range(8):
        arch = space_of(supernet).sample(rng)
        whole = graph_of(shipped(supernet, arch), EXAMPLE).operators()
        assert Counter(found.of(arch)) == Counter(whole)


def test_options_by_hand(found: SpaceOperators) -> None:
    kinds = {o: [spec.kind for spec in found.options["stage1_layer2", o]] for o in ("k3e2", "rep3", "skip")}
    assert kinds == {"k3e2": ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "ADD"], "rep3": ["CONV_2D"], "skip": []}
    expand, depthwise, project, _ = found.options["stage1_layer2", "k3e2"]
    assert [s.macs for s in (expand, depthwise, project)] == [16 * 8 * 16, 16 * 16 * 9, 16 * 16 * 8]
    assert len(set(found.distinct())) == len(found.distinct())


def test_equal_options_are_exported_once(supernet: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    exported: list[nn.Module] = []

    def counting(module: nn.Module, x: torch.Tensor) -> object:
        exported.append(module)
        return graph_of(module, x)

    twice = mobile(
        3, 10, 16, stages=((8, 4, 2),), stem=8, head=8, kernels=(3,), expansions=(2,), squeeze=(False,), skip=False
    ).supernet(3)
    monkeypatch.setattr(operators, "graph_of", counting)
    space_operators(twice, EXAMPLE)
    assert len(exported) == 2 + 2 + 1  # the first layer, the three others, a whole network


def test_the_supernet_is_left_as_it_was(supernet: nn.Module) -> None:
    before = {k: v.clone() for k, v in supernet.state_dict().items()}
    supernet.train()
    space_operators(supernet, EXAMPLE)
    assert all(m.training for m in supernet.modules())
    assert all(torch.equal(v, before[k]) for k, v in supernet.state_dict().items())
    assert not any(m._forward_pre_hooks for m in supernet.modules())


def test_fusion_across_options_is_an_error() -> None:
    class Late(nn.Module):
        """Its activation is fused into the convolution of the choice before it."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x)

    net = nn.Sequential(
        Mixed("conv", {"k1": nn.Conv2d(3, 4, 1), "k3": nn.Conv2d(3, 4, 3, padding=1)}), Mixed("act", {"relu": Late()})
    )
    with pytest.raises(SpaceError, match="something is fused across options"):
        space_operators(net, EXAMPLE)


def test_structure_tells_options_apart() -> None:
    one = nn.Conv2d(4, 4, 3, padding=1)
    assert operators._structure(one) == operators._structure(nn.Conv2d(4, 4, 3, padding=1))
    for other in (
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, bias=False),
    ):
        assert operators._structure(one) != operators._structure(other)


def test_leaning_architectures_reach_the_ends_that_random_ones_do_not() -> None:
    net = mobile(3, 10, 16, stages=((8, 4, 2), (16, 4, 1)), stem=8, head=32, kernels=(3, 5), expansions=(2, 4)).supernet(3)
    found = space_operators(net, EXAMPLE)
    leaning = leaning_archs(found, 20, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    random = [macs_of(found.of(found.space.sample(rng))) for _ in range(200)]
    macs = [macs_of(found.of(arch)) for arch in leaning]
    assert len(set(leaning)) == 20
    assert max(macs[:3]) < np.quantile(random, 0.05)
    assert min(macs[-3:]) > np.quantile(random, 0.95)
