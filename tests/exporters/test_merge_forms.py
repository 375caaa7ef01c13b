"""Merges that may or may not pay: found, chosen, made, exact either way."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from paceline.exporters.algebra import MergeError
from paceline.exporters.merge import check_merge, merged
from paceline.exporters.merge_forms import optional_merges

from networks import Net, Sum, check_exact, conv_bn, count, image, padded_point, randomised


class BiasPad(nn.Module):
    """BatchNorm, then padding with what BatchNorm makes of zeros (Diverse Branch Block)."""

    def __init__(self, channels: int, padding: int) -> None:
        super().__init__()
        self.bn, self.padding = nn.BatchNorm2d(channels), padding

    def forward(self, x: Tensor) -> Tensor:
        bn = self.bn
        fill = (bn.bias - bn.running_mean * bn.weight / torch.sqrt(bn.running_var + bn.eps)).view(1, -1, 1, 1)
        return functional.pad(bn(x) - fill, [self.padding] * 4) + fill


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_diverse_branch_block_is_one_convolution(data: st.DataObject) -> None:
    """kxk, 1x1, 1x1-kxk, 1x1-average pool and identity, dense and grouped, any stride, dilated."""
    c, k = data.draw(st.sampled_from([4, 8])), data.draw(st.sampled_from([3, 5]))
    groups, stride = data.draw(st.sampled_from([1, 2, 4])), data.draw(st.sampled_from([1, 2]))
    dilation = data.draw(st.sampled_from([1, 2]))
    p, options = dilation * (k // 2), {"stride": stride, "groups": groups, "dilation": dilation}
    explicit = data.draw(st.booleans())

    def first(padding: int) -> list[nn.Module]:
        if not explicit:
            return padded_point(c, c, groups, padding)
        return [nn.Conv2d(c, c, 1, groups=groups, bias=False), BiasPad(c, padding)]

    branches = {
        "kxk": conv_bn(c, c, k, **options),
        "1x1": conv_bn(c, c, 1, stride=stride, groups=groups),
        "1x1-kxk": nn.Sequential(*first(p), nn.Conv2d(c, c, k, bias=False, **options), nn.BatchNorm2d(c)),
        "1x1-avg": nn.Sequential(*first(k // 2), nn.AvgPool2d(k, stride), nn.BatchNorm2d(c)),
    }
    if stride == 1:
        branches["identity"] = nn.BatchNorm2d(c)
    net = randomised(Sum(branches.values()), data.draw(st.integers(0, 99)))
    shape = 2, c, data.draw(st.integers(7, 12)), data.draw(st.integers(7, 12))
    # Beside a dilated kernel the pool needs taps between the others: that costs, so it is made only when asked for.
    results = [merged(net, lambda merge: merge.kind != "dense"), *([merged(net)] if dilation == 1 else [])]
    for result in results:
        assert (count(result.module, nn.Conv2d), count(result.module, nn.BatchNorm2d, nn.AvgPool2d)) == (1, 0)
        assert result.refused == ()
        check_exact(net, result.module, *shape)
    exact = copy.deepcopy(net).double()
    check_merge(exact, merged(exact, lambda merge: merge.kind != "dense").module, image(*shape).double(), 1e-13)


CHAINS: dict[str, nn.Module] = {
    "1x1 > 3x3 unpadded": nn.Sequential(conv_bn(4, 6, 1), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)),
    "1x1 without bias > 3x3": nn.Sequential(nn.Conv2d(4, 6, 1, bias=False), conv_bn(6, 4, 3)),
    "3x3 > 1x1": nn.Sequential(conv_bn(4, 6, 3, stride=2), nn.Conv2d(6, 4, 1)),
    "grouped": nn.Sequential(conv_bn(4, 8, 3, groups=2), conv_bn(8, 4, 1, groups=4)),
    "depthwise > pointwise": nn.Sequential(conv_bn(4, 4, 3, groups=4), conv_bn(4, 6, 1)),
    "expand > project": nn.Sequential(conv_bn(4, 24, 1), nn.Dropout(), conv_bn(24, 4, 1)),
    "kx1 > 1xk": nn.Sequential(nn.Conv2d(4, 4, (5, 1), padding=(2, 0), bias=False), conv_bn(4, 4, (1, 5))),
    "3x3 > 3x3 unpadded": nn.Sequential(conv_bn(4, 4, 3), nn.Conv2d(4, 4, 3)),
    "1x1 of stride 2 > 3x3": nn.Sequential(nn.Conv2d(4, 4, 1, stride=2, bias=False), conv_bn(4, 4, 3)),
    "pool > 1x1": nn.Sequential(nn.AvgPool2d(2), conv_bn(4, 8, 1)),
    "1x1 > functional pool": Net(lambda n, x: functional.avg_pool2d(n.a(x), 2, 2), a=conv_bn(4, 4, 1)),
    "1x1 > reflecting 3x3": nn.Sequential(conv_bn(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")),
    "functions": Net(
        lambda n, x: functional.conv2d(functional.conv2d(x, 2 * n.a.weight, n.a.bias), n.b.weight, padding=0),
        a=nn.Conv2d(4, 6, 1),
        b=nn.Conv2d(6, 4, 3),
    ),
}


@pytest.mark.parametrize("net", [pytest.param(net, id=name) for name, net in CHAINS.items()])
def test_a_chain_is_made_when_chosen_and_stays_else(net: nn.Module) -> None:
    net = randomised(net)
    (merge,) = (merge for merge in optional_merges(net) if merge.kind != "dense")
    assert (merge.kind, merge.free, len(merge.layers)) == ("chain", False, 2)
    apart, one = merged(net), merged(net, {merge.name: True})
    assert count(one.module, nn.Conv2d) == 1
    assert count(one.module, nn.Conv2d, nn.AvgPool2d) < max(2, count(apart.module, nn.Conv2d, nn.AvgPool2d))
    assert count(one.module, nn.BatchNorm2d) == count(apart.module, nn.BatchNorm2d) == 0 or "pool" in str(merge.layers)
    for module in (apart.module, one.module):
        check_exact(net, module, 2, 4, 9, 12)


def test_every_subset_of_merges_of_a_region_computes_the_same() -> None:
    """Parallel depthwise 3x3, 5x5 and 7x7, then a pointwise layer, then a factorised pair: chains behind a sum."""
    parallel = Sum([conv_bn(4, 4, k, groups=4) for k in (3, 5, 7)])
    pair = Sum([conv_bn(6, 6, (1, 3)), conv_bn(6, 6, (3, 1))])
    net = randomised(nn.Sequential(parallel, nn.Conv2d(4, 6, 1), nn.ReLU(), pair))
    merges = optional_merges(net)
    assert {m.kind for m in merges} == {"chain", "parallel"}
    assert {m.region for m in merges} == {"0.branches.0.0", "3.branches.0.0"}
    assert sum(m.free for m in merges) == 3
    counts = set()
    for made in itertools.product([False, True], repeat=len(merges)):
        module = merged(net, dict(zip([m.name for m in merges], made, strict=True))).module
        check_exact(net, module, 1, 4, 8, 9)
        counts.add(count(module, nn.Conv2d))
    assert counts == {2, 3, 4, 5, 6}


def test_parallel_kernels_that_no_branch_contains_are_left_to_the_device() -> None:
    net = randomised(Sum([conv_bn(4, 4, (7, 1)), conv_bn(4, 4, (1, 7))]))
    (merge,) = optional_merges(net)
    assert (merge.kind, merge.free) == ("parallel", False)
    assert count(merged(net).module, nn.Conv2d) == 2
    result = merged(net, lambda merge: True)
    assert count(result.module, nn.Conv2d) == 1
    check_exact(net, result.module, 1, 4, 8, 9)


def test_neighbours_in_a_concatenation_merge() -> None:
    run = lambda n, x: n.bn(torch.cat([n.a(x), n.b(x), n.act(n.c(x)), n.d(x)], dim=1))  # noqa: E731
    sizes = {"a": 3, "b": 3, "c": 1, "d": 1}
    net = randomised(Net(run, bn=nn.BatchNorm2d(16), act=nn.ReLU(), **{name: conv_bn(4, 4, k) for name, k in sizes.items()}))
    (merge,) = optional_merges(net)
    assert (merge.kind, merge.free, merge.name) == ("concat", True, "a.0 | b.0")
    result = merged(net)
    assert [m.name for m in result.report] == ["merged", "c.0", "d.0"]
    check_exact(net, result.module, 1, 4, 7, 8)
    whole = randomised(
        Net(lambda n, x: n.bn(torch.cat([n.a(x), n.b(x)], 1)), a=conv_bn(4, 4, 3), b=conv_bn(4, 8, 1), bn=nn.BatchNorm2d(12))
    )
    assert count(merged(whole).module, nn.Conv2d) == 2
    one = merged(whole, lambda merge: True).module
    assert (count(one, nn.Conv2d), count(one, nn.BatchNorm2d)) == (1, 0)
    check_exact(whole, one, 1, 4, 7, 8)


def test_a_grouped_convolution_may_be_computed_densely() -> None:
    net = randomised(nn.Sequential(conv_bn(8, 8, 3, groups=4), nn.ReLU()))
    (merge,) = optional_merges(net)
    assert (merge.name, merge.kind, merge.free) == ("dense 0.0", "dense", False)
    (conv,) = (m for m in merged(net, {"dense 0.0": True}).module.modules() if isinstance(m, nn.Conv2d))
    assert conv.groups == 1
    check_exact(net, merged(net, {"dense 0.0": True}).module, 1, 8, 7, 7)


@pytest.mark.parametrize(
    "run",
    [
        lambda n, x: n.a(x) * n.scale.view(1, -1, 1, 1),
        lambda n, x: n.scale[:, None, None] * n.a(x) + 0.5,
        lambda n, x: x + n.scale.view(-1, 1, 1) * (n.a(x) - n.b(x)),
        lambda n, x: -n.a(x) / 2 - n.scale.exp().view(1, -1, 1, 1),
        lambda n, x: n.b(x) - (x - n.a(x)).mul_(0.5),
    ],
)
def test_scales_shifts_and_differences_go_into_the_kernel(run: Callable[[nn.Module, Tensor], Tensor]) -> None:
    net = Net(run, a=conv_bn(4, 4, 3), b=conv_bn(4, 4, 1))
    net.scale = nn.Parameter(torch.linspace(-1, 2, 4))
    randomised(net)
    result = merged(net)
    assert [node.op for node in result.module.graph.nodes] == ["placeholder", "call_module", "output"]
    check_exact(net, result.module, 2, 4, 7, 6)


def test_linear_layers_and_their_norms() -> None:
    """A head that averages two classifiers, each behind a norm (RepViT), and a linear bottleneck."""
    heads = Net(
        lambda n, x: (n.b(n.a(x)) + n.d(n.c(x))) / 2,
        a=nn.BatchNorm1d(8),
        b=nn.Linear(8, 5),
        c=nn.BatchNorm1d(8),
        d=nn.Linear(8, 5),
    )
    net = randomised(nn.Sequential(nn.Flatten(), heads, nn.Linear(5, 7), nn.BatchNorm1d(7)))
    result = merged(net)
    assert (count(result.module, nn.Linear), count(result.module, nn.BatchNorm1d)) == (2, 0)
    check_exact(net, result.module, 3, 8, 1, 1)
    one = merged(net, lambda merge: True).module
    assert count(one, nn.Linear) == 1
    check_exact(net, one, 3, 8, 1, 1)


def test_a_norm_of_what_may_be_a_sequence_stays() -> None:
    """(N, 4, 4): BatchNorm1d normalises the second axis, a linear layer gives the last."""
    net = randomised(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    result = merged(net)
    assert "second, not the features" in result.refused[0].reason
    check_exact(net, result.module, 2, 4, 4)


def test_a_choice_about_an_unknown_merge_is_refused() -> None:
    net = randomised(nn.Sequential(conv_bn(4, 8, 1), conv_bn(8, 4, 1)))
    with pytest.raises(MergeError, match=r"no merge is named 'x'; this network's are 0\.0 > 1\.0"):
        merged(net, {"x": True})


def test_a_layer_with_two_scales_in_two_places_is_two_convolutions() -> None:
    net = Net(lambda n, x: n.a(x) * n.first, a=nn.Conv2d(4, 4, 1))
    net.first, net.second = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(3.0))
    net.run = lambda n, x: n.a(x) * n.first - torch.relu(n.a(torch.relu(x)) * n.second)
    result = merged(randomised(net))
    assert count(result.module, nn.Conv2d) == 2
    check_exact(net, result.module, 1, 4, 5, 6)


def test_dropout_as_a_function_vanishes_and_chance_is_no_constant() -> None:
    net = Net(
        lambda n, x: n.b(functional.dropout(n.a(x), 0.5, n.training)) * torch.rand_like(n.a.bias).view(-1, 1, 1).clamp(min=2),
        a=nn.Conv2d(4, 4, 1),
        b=nn.BatchNorm2d(4),
    )
    result = merged(randomised(net))
    assert [m.name for m in result.report] == ["a"]
    assert "rand_like" in str(result.module.graph)
    check_exact(net, result.module, 1, 4, 5, 6)
