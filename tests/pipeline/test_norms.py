from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from paceline.arch import Arch, Choice, Space
from paceline.errors import SpaceError
from paceline.exporters.merge import check_merge, merged
from paceline.exporters.torch_graph import graph_of
from paceline.pipeline.ops import ConvBNAct
from paceline.pipeline.supernet import Mixed, ShadowBatchNorm, derive, hard, path, recalibrate, space_of
from paceline.pipeline.testing import check_supernet


def shadowed(shadow: bool = True) -> nn.Module:
    """Up to three of four kernels, summed, projected and normalised by how many there were."""
    torch.manual_seed(0)
    kernels = Mixed("kernels", {f"k{k}": ConvBNAct(4, 4, k, groups=4) for k in (1, 3, 5, 7)}, at_most=3)
    norm = ShadowBatchNorm(6, kernels.choice) if shadow else nn.BatchNorm2d(6)
    project = nn.Conv2d(4, 6, 1, bias=False)
    return nn.Sequential(Mixed("before", {"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(3, 4, 3, padding=1)}), kernels, project, norm)


def arch(*kernels: str) -> Arch:
    return Arch((("before", ("b",)), ("kernels", kernels)))


def images(seed: int = 0, n: int = 8) -> torch.Tensor:
    return torch.randn(n, 3, 9, 9, generator=torch.Generator().manual_seed(seed))


def spread(net: nn.Module) -> None:
    """Statistics and scales as different as training may make them."""
    rng = torch.Generator().manual_seed(5)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            for tensor, low, high in ((m.running_mean, -1, 1), (m.running_var, 0.5, 2), (m.weight, 0.5, 2), (m.bias, -1, 1)):
                nn.init.uniform_(tensor, low, high, generator=rng)


@pytest.mark.parametrize("taken", [("k1",), ("k1", "k7"), ("k1", "k3", "k5")])
def test_only_the_norm_of_the_active_number_learns_in_a_step(taken: tuple[str, ...]) -> None:
    net = shadowed()
    shadow = net[3]
    assert list(shadow.norms) == ["1", "2", "3"]
    before = {n: {k: v.clone() for k, v in norm.state_dict().items()} for n, norm in shadow.norms.items()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        with path(net, hard(space_of(net), arch(*taken))):
            (net(images()) ** 3).sum().backward()
        optimizer.step()
    for n, norm in shadow.norms.items():
        changed = [k for k, v in norm.state_dict().items() if not torch.equal(v, before[n][k])]
        assert sorted(changed) == (
            ["bias", "num_batches_tracked", "running_mean", "running_var", "weight"] if n == str(len(taken)) else []
        )


def test_it_adds_no_choice_and_normalises_each_number_as_its_own_norm() -> None:
    net = shadowed().eval()
    spread(net)
    assert [c.name for c in space_of(net).choices] == ["before", "kernels"]
    space = space_of(net)
    for taken in (("k3",), ("k1", "k5"), ("k3", "k5", "k7")):
        with torch.no_grad(), path(net, hard(space, arch(*taken))):
            inner = net[2](net[1](net[0](images())))
            torch.testing.assert_close(net(images()), net[3].norms[str(len(taken))](inner))
    check_supernet(net, images())


def test_recalibration_touches_the_active_norm_only() -> None:
    net = shadowed()
    spread(net)
    before = {k: v.clone() for k, v in net[3].state_dict().items()}
    with path(net, hard(space_of(net), arch("k3", "k7"))):
        recalibrate(net, [(images(s), torch.zeros(8)) for s in range(3)])
        net.eval()
        out = net(torch.cat([images(s) for s in range(3)]))
    changed = {k for k, v in net[3].state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {f"norms.2.{k}" for k in ("running_mean", "running_var", "num_batches_tracked")}
    norm = net[3].norms["2"]
    torch.testing.assert_close(out.mean((0, 2, 3)), norm.bias, rtol=0.05, atol=0.05)


def test_a_derived_network_holds_the_one_plain_norm_and_folds_exactly() -> None:
    net = shadowed().eval()
    spread(net)
    for taken in (("k3",), ("k1", "k5"), ("k1", "k3", "k7")):
        alone = derive(net, arch(*taken)).eval()
        assert type(alone[3]) is nn.BatchNorm2d
        assert torch.equal(alone[3].running_mean, net[3].norms[str(len(taken))].running_mean)
        with torch.no_grad(), path(net, hard(space_of(net), arch(*taken))):
            torch.testing.assert_close(alone(images()), net(images()))
        plain = merged(alone).module
        assert not any(isinstance(m, nn.BatchNorm2d) for m in plain.modules())
        check_merge(alone.double(), merged(alone.double()).module, images().double(), 1e-12)
        kinds = [op.kind for op in graph_of(derive(net, arch(*taken)).eval(), images(n=1)).ops]
        assert set(kinds) <= {"CONV_2D", "DEPTHWISE_CONV_2D", "ADD"}
        assert len(kinds) == 1 + 2 * len(taken), kinds


def test_the_norm_of_a_number_costs_what_one_norm_costs() -> None:
    one, shadow = derive(shadowed(False), arch("k1", "k3")), derive(shadowed(), arch("k1", "k3"))
    assert {k: v.shape for k, v in one.state_dict().items()} == {k: v.shape for k, v in shadow.state_dict().items()}


def test_what_has_no_norm_is_refused_and_leaves_the_old_path() -> None:
    net = shadowed()
    space = space_of(net)
    good = hard(space, arch("k1"))
    with pytest.raises(SpaceError, match="'kernels' has no weights"):
        net[3](images())
    with path(net, good):
        expected = net(images())
        for weights in ([0.5, 0.5, 0, 0], [1, 1, 1, 1], [2, 0, 0, 0], [1, 0.001, 0, 0]):
            wrong = {**good, "kernels": torch.tensor(weights, dtype=torch.float32)}
            with pytest.raises(SpaceError, match="take a hard path or another"), path(net, wrong):
                pass
        torch.testing.assert_close(net(images()), expected)
    stray = nn.Sequential(Mixed("m", {"a": nn.Identity(), "b": nn.Identity()}), ShadowBatchNorm(3, Choice("n", ("a",))))
    with pytest.raises(SpaceError, match="no choice 'n'"), path(stray, {"m": torch.tensor([1.0, 0.0])}):
        pass


def test_two_modules_of_one_choice_are_decided_together() -> None:
    first = Mixed("kernels", {"k1": nn.Conv2d(3, 3, 1), "k3": nn.Conv2d(3, 3, 3, padding=1)}, at_most=2)
    second = Mixed.joining(first.choice, {"k1": nn.Conv2d(3, 3, 1), "k3": nn.Conv2d(3, 3, 3, padding=1)})
    net = nn.Sequential(first, nn.Sequential(second, ShadowBatchNorm(3, first.choice))).eval()
    assert space_of(net) == Space((first.choice,))
    check_supernet(net, images())
    both = derive(net, Arch((("kernels", ("k1", "k3")),)))
    assert [len(m) for m in (both[0].terms, both[1][0].terms)] == [2, 2]
    with pytest.raises(SpaceError, match="needs the options"):
        Mixed.joining(first.choice, {"k1": nn.Identity(), "k5": nn.Identity()})


def test_all_sampled_subsets_find_a_norm() -> None:
    net = shadowed().eval()
    space = space_of(net)
    rng = np.random.default_rng(0)
    counts = set()
    for _ in range(30):
        found = space.sample(rng)
        with path(net, hard(space, found)):
            net(images())
        counts.add(len(found["kernels"]))
    assert counts == {1, 2, 3}
