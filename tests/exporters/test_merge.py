"""Merging in traced networks: found where it is exact, and proven equal."""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from paceline.exporters.merge import check_merge, merged

from networks import TOLERANCE, Net, Sum, conv_bn, count, image, randomised


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_set_of_branches_merges_into_one_convolution(data: st.DataObject) -> None:
    channels = data.draw(st.sampled_from([4, 6, 8]))
    groups = data.draw(st.sampled_from([1, 2, channels]))
    stride = data.draw(st.sampled_from([1, 2]))
    dilation = data.draw(st.sampled_from([1, 2]))
    out = data.draw(st.sampled_from([channels, 2 * channels]))
    k = data.draw(st.sampled_from([3, 5, 7]))
    options = {"groups": groups, "stride": stride, "dilation": dilation}
    kinds = ["kxk", "kxk again", "1x1", "1xk", "kx1", *(["identity", "norm"] if stride == 1 and out == channels else [])]
    wanted = data.draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=6, unique=True).filter(lambda w: "x" in "".join(w)))
    sizes = {"kxk": k, "kxk again": k, "1x1": 1, "1xk": (1, k), "kx1": (k, 1)}
    others = {"identity": nn.Identity(), "norm": nn.BatchNorm2d(channels)}
    branches = [conv_bn(channels, out, sizes[w], **options) if w in sizes else others[w] for w in wanted]
    after = nn.BatchNorm2d(out) if data.draw(st.booleans()) else None
    net = randomised(Sum(branches, after), seed=data.draw(st.integers(0, 1000)))
    result = merged(net, choose=lambda merge: True)
    assert (count(result.module, nn.Conv2d), count(result.module, nn.BatchNorm2d)) == (1, 0)
    (merge,) = result.report
    assert len(merge.branches) == len(branches)
    assert merge.params_after == sum(p.numel() for p in result.module.parameters())
    assert merge.params_before == sum(p.numel() for p in net.parameters())
    check_merge(net, result.module, image(2, channels, data.draw(st.integers(8, 11)), data.draw(st.integers(8, 11))), TOLERANCE)


def test_a_repvgg_block_becomes_one_convolution() -> None:
    block = Net(
        lambda n, x: n.act(n.dense(x) + n.point(x) + n.same(x)),
        dense=conv_bn(8, 8, 3),
        point=conv_bn(8, 8, 1),
        same=nn.BatchNorm2d(8),
        act=nn.ReLU(),
    )
    net = randomised(nn.Sequential(block, copy.deepcopy(block)))
    result = merged(net)
    assert [type(m) for m in result.module.modules() if not list(m.children())] == [nn.Conv2d, nn.ReLU] * 2
    assert [m.name for m in result.report] == ["0.merged", "1.merged"]
    assert result.report[0].branches == (
        "3x3 conv 0.dense.0 + BatchNorm 0.dense.1",
        "1x1 conv 0.point.0 + BatchNorm 0.point.1",
        "BatchNorm 0.same",
    )
    conv = result.module.get_submodule("0.merged")
    assert isinstance(conv, nn.Conv2d)
    assert (conv.kernel_size, conv.padding, conv.groups) == ((3, 3), (1, 1), 1)
    assert conv.bias is not None
    assert result.report[0].params_before == 8 * 8 * 9 + 8 * 8 + 6 * 8
    assert result.report[0].params_after == 8 * 8 * 9 + 8
    check_merge(net, result.module, image(2, 8, 9, 11), TOLERANCE)


def test_over_parameterised_depthwise_and_pointwise_blocks() -> None:
    def over(channels_in: int, out: int, k: int, groups: int, stride: int = 1) -> nn.Module:
        copies: list[nn.Module] = [conv_bn(channels_in, out, k, groups=groups, stride=stride) for _ in range(4)]
        scale = [conv_bn(channels_in, out, 1, groups=groups, stride=stride)] if k > 1 else []
        skip = [nn.BatchNorm2d(out)] if stride == 1 and channels_in == out else []
        return nn.Sequential(Sum([*copies, *scale, *skip]), nn.ReLU())

    net = randomised(nn.Sequential(over(8, 8, 3, 8), over(8, 16, 1, 1), over(16, 16, 3, 16, 2), over(16, 16, 1, 1)))
    result = merged(net)
    convs = [m for m in result.module.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.kernel_size, m.groups, m.stride) for m in convs] == [
        ((3, 3), 8, (1, 1)),
        ((1, 1), 1, (1, 1)),
        ((3, 3), 16, (2, 2)),
        ((1, 1), 1, (1, 1)),
    ]
    assert count(result.module, nn.BatchNorm2d) == 0
    assert [len(m.branches) for m in result.report] == [6, 4, 5, 5]
    check_merge(net, result.module, image(1, 8, 7, 9), TOLERANCE)


def test_a_folded_convolution_keeps_its_path_and_everything_else_its_weights() -> None:
    net = randomised(nn.Sequential(conv_bn(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5)))
    result = merged(net)
    assert [m.name for m in result.report] == ["0.0"]
    assert sorted(result.module.state_dict()) == ["0.0.bias", "0.0.weight", "3.bias", "3.weight"]
    check_merge(net, result.module, image(2, 3, 8, 8), TOLERANCE)


@pytest.mark.parametrize(
    "total",
    [
        lambda n, x: n.a(x) + n.b(x) + x,
        lambda n, x: x + (n.a(x) + n.b(x)),
        lambda n, x: torch.add(n.a(x), n.b(x)) + x,
        lambda n, x: n.a(x).add(n.b(x)).add_(x),
        lambda n, x: operator.iadd(operator.iadd(n.a(x), n.b(x)), x),
        lambda n, x: operator.iadd(x, n.a(x) + n.b(x)),
        lambda n, x: sum([n.a(x), n.b(x), x]),
        lambda n, x: functools.reduce(torch.add, [n.a(x), n.drop(n.b(x)), n.same(x)]),
    ],
)
def test_every_way_to_add(total: Callable[[nn.Module, Tensor], Tensor]) -> None:
    net = randomised(Net(total, a=conv_bn(4, 4, 3), b=conv_bn(4, 4, (1, 3)), drop=nn.Dropout2d(), same=nn.Identity()))
    result = merged(net)
    assert (count(result.module, nn.Conv2d), count(result.module, nn.BatchNorm2d, nn.Identity, nn.Dropout2d)) == (1, 0)
    check_merge(net, result.module, image(2, 4, 6, 5), TOLERANCE)


def test_a_branch_that_is_added_twice_counts_twice() -> None:
    net = Net(lambda n, x: (lambda y: y + y)(n.a(x)), a=nn.Conv2d(3, 3, 3, padding=1))
    result = merged(net)
    assert count(result.module, nn.Conv2d) == len(result.report) == 1
    check_merge(net, result.module, image(1, 3, 5, 5), TOLERANCE)


def test_a_residual_merges_into_a_linear_convolution_of_any_groups() -> None:
    for groups in (1, 2, 4):
        net = Net(lambda n, x: x + n.a(x), a=nn.Conv2d(4, 4, 3, padding=1, groups=groups))
        result = merged(net)
        conv = result.module.get_submodule("a")
        assert isinstance(conv, nn.Conv2d)
        assert conv.groups == groups
        assert result.report[0].branches[1] == "identity"
        check_merge(net, result.module, image(1, 4, 5, 5), TOLERANCE)


def test_what_merges_is_gathered_from_a_sum_with_a_rest() -> None:
    net = randomised(
        Net(
            lambda n, x: n.bn(n.a(x) + n.act(n.b(x)) + n.c(x) + x),
            a=conv_bn(4, 4, 3),
            b=conv_bn(4, 4, 3),
            c=conv_bn(4, 4, 1),
            act=nn.ReLU(),
            bn=nn.BatchNorm2d(4),
        )
    )
    result = merged(net)
    assert [m.name for m in result.report] == ["merged", "b.0"]
    assert (count(result.module, nn.Conv2d), count(result.module, nn.BatchNorm2d)) == (2, 1)
    check_merge(net, result.module, image(1, 4, 6, 6), TOLERANCE)


def test_a_sum_that_is_read_elsewhere_merges_by_itself() -> None:
    net = Net(
        lambda n, x: (lambda y: (y + n.c(x)) * y)(n.a(x) + n.b(x)), a=conv_bn(4, 4, 3), b=conv_bn(4, 4, 1), c=conv_bn(4, 4, 3)
    )
    result = merged(randomised(net))
    assert [m.name for m in result.report] == ["merged", "c.0"]
    check_merge(net, result.module, image(1, 4, 6, 6), TOLERANCE)


def test_a_sum_that_is_read_elsewhere_and_does_not_merge_stays() -> None:
    net = Net(
        lambda n, x: (lambda y: (y + n.c(x)) * y)(n.a(x) + n.act(n.b(x))),
        a=conv_bn(4, 4, 3),
        b=conv_bn(4, 4, 1),
        c=conv_bn(4, 4, 3),
        act=nn.ReLU(),
    )
    result = merged(randomised(net))
    assert [m.name for m in result.report] == ["a.0", "b.0", "c.0"]
    check_merge(net, result.module, image(1, 4, 6, 6), TOLERANCE)


def test_a_finer_grouped_branch_merges_into_a_denser_one_of_its_size() -> None:
    net = randomised(Sum([conv_bn(8, 8, 3, groups=8), conv_bn(8, 8, 3, groups=4), conv_bn(8, 8, 3, groups=2)]))
    result = merged(net)
    (conv,) = (m for m in result.module.modules() if isinstance(m, nn.Conv2d))
    assert conv.groups == 2
    check_merge(net, result.module, image(1, 8, 6, 6), TOLERANCE)


def test_a_shared_layer_is_folded_once() -> None:
    head = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
    net = randomised(Net(lambda n, x: n.head(x) + n.head(n.act(x)), head=head, act=nn.ReLU()))
    result = merged(net)
    assert (len(result.report), count(result.module, nn.Conv2d), count(result.module, nn.BatchNorm2d)) == (1, 1, 0)
    check_merge(net, result.module, image(1, 4, 6, 6), TOLERANCE)


def test_a_layer_that_is_also_used_without_its_batchnorm_stays_beside_the_folded_one() -> None:
    net = randomised(Net(lambda n, x: n.bn(n.a(x)) - n.a(n.act(x)), a=nn.Conv2d(4, 4, 3), bn=nn.BatchNorm2d(4), act=nn.ReLU()))
    result = merged(net)
    assert (count(result.module, nn.Conv2d), count(result.module, nn.BatchNorm2d)) == (2, 0)
    check_merge(net, result.module, image(1, 4, 6, 6), TOLERANCE)


def test_the_padding_mode_is_kept() -> None:
    a, b = (nn.Conv2d(4, 4, k, padding=k // 2, padding_mode="reflect") for k in (3, 5))
    net = randomised(Sum([nn.Sequential(a, nn.BatchNorm2d(4)), b, nn.Conv2d(4, 4, 1), nn.Identity()]))
    result = merged(net)
    assert count(result.module, nn.Conv2d) == 1
    check_merge(net, result.module, image(1, 4, 6, 6), TOLERANCE)


class MyConv(nn.Conv2d):
    """A user's subclass that computes the same."""


class Doubled(nn.Conv2d):
    """A user's subclass that computes something else, but linear too."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return 2 * super()._conv_forward(input, weight, bias)


class Rectified(nn.Conv2d):
    """A user's subclass that does not."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight, bias).abs()


@pytest.mark.parametrize(("kind", "left"), [(MyConv, 0), (Doubled, 0), (Rectified, 1)])
def test_subclasses_merge_where_they_are_linear(kind: type[nn.Conv2d], left: int) -> None:
    net = randomised(nn.Sequential(kind(3, 4, 3), nn.BatchNorm2d(4)))
    result = merged(net)
    assert count(result.module, nn.BatchNorm2d) == left
    check_merge(net, result.module, image(1, 3, 6, 6), TOLERANCE)
