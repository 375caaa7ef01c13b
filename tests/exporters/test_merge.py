"""Merging in traced networks: found where it is exact, left where it is not, proven equal, the given network untouched."""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Callable, Iterable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from paceline.exporters.merge import MergeError, check_merge, merged

torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other

TOLERANCE = 1e-5


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """The network with random BatchNorm parameters and statistics: the default ones would hide mistakes at the borders."""
    g = torch.Generator().manual_seed(seed)
    for m in module.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None and m.running_var is not None:
            m.running_mean.copy_(torch.randn(m.num_features, generator=g))
            m.running_var.copy_(torch.rand(m.num_features, generator=g) + 0.5)
            if m.affine:
                m.weight.data = torch.rand(m.num_features, generator=g) + 0.5
                m.bias.data = torch.randn(m.num_features, generator=g)
    for p in module.parameters():
        if p.dim() > 1:
            p.data = torch.randn(p.shape, generator=g) / p[0].numel() ** 0.5
    return module


def image(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


def count(module: nn.Module, *kinds: type[nn.Module]) -> int:
    return sum(isinstance(m, kinds) for m in module.modules())


def conv_bn(channels_in: int, channels_out: int, size: int | tuple[int, int], **options: int) -> nn.Sequential:
    height, width = (size, size) if isinstance(size, int) else size
    d = options.get("dilation", 1)
    conv = nn.Conv2d(channels_in, channels_out, size, padding=(d * (height // 2), d * (width // 2)), bias=False, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out))


class Sum(nn.Module):
    """Branches of one input, summed one after the other, with what may follow."""

    def __init__(self, branches: Iterable[nn.Module], after: nn.Module | None = None) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.after = nn.Identity() if after is None else after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(functools.reduce(operator.add, [branch(x) for branch in self.branches]))


class Net(nn.Module):
    """Named layers and a forward of its own."""

    def __init__(self, run: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


# What merges


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
    result = merged(net)
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
    """A user's subclass that does not."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return 2 * super()._conv_forward(input, weight, bias)


@pytest.mark.parametrize(("kind", "left"), [(MyConv, 0), (Doubled, 1)])
def test_subclasses_merge_where_they_compute_the_same(kind: type[nn.Conv2d], left: int) -> None:
    net = randomised(nn.Sequential(kind(3, 4, 3), nn.BatchNorm2d(4)))
    result = merged(net)
    assert count(result.module, nn.BatchNorm2d) == left
    check_merge(net, result.module, image(1, 3, 6, 6), TOLERANCE)


# What stays


def conv(k: int = 1, **options: object) -> nn.Conv2d:
    return nn.Conv2d(4, 4, k, **{"padding": k // 2, **options})


UNMERGEABLE: dict[str, nn.Module] = {
    "non-linearity between": Sum([nn.Sequential(conv(), nn.ReLU()), conv(3)]),
    "plain residual": Sum([nn.Identity(), nn.Sequential(conv(), nn.ReLU(), conv())]),
    "non-linearity before the BatchNorm": nn.Sequential(conv(3), nn.ReLU(), nn.BatchNorm2d(4)),
    "BatchNorm before zero padding": nn.Sequential(nn.BatchNorm2d(4), conv(3)),
    "no convolution among the branches": Sum([nn.BatchNorm2d(4), nn.Identity()]),
    "no convolution among the linear branches": Sum([nn.BatchNorm2d(4), nn.Identity(), nn.Sequential(conv(), nn.ReLU())]),
    "kernels that are not centred": Net(lambda n, x: n.a(x) + n.b(x), a=conv(3, stride=2), b=conv(2, stride=2, padding=0)),
    "different strides": Net(lambda n, x: (lambda y: n.a(y) + n.b(y))(x[:, :, :1, :1]), a=conv(3, stride=2), b=conv(3)),
    "different inputs": Net(lambda n, x: n.a(x) + n.b(n.act(x)), a=conv(), b=conv(), act=nn.ReLU()),
    "BatchNorm of a value read elsewhere": Net(lambda n, x: (lambda y: n.bn(y) * y)(n.a(x)), a=conv(), bn=nn.BatchNorm2d(4)),
    "branch that is read elsewhere": Net(lambda n, x: (lambda y: (y + n.b(x)) * y)(n.a(x)), a=conv(), b=conv()),
    "groups that would cost": Sum([conv(), conv(3, groups=4)]),
    "dilations that would cost": Sum([conv(3), conv(3, padding=2, dilation=2)]),
    "padding modes": Sum([conv(3), conv(3, padding_mode="circular")]),
    "weighted sum": Net(lambda n, x: torch.add(n.a(x), x, alpha=2), a=conv()),
    "constant": Net(lambda n, x: n.a(x) + 1.0, a=conv()),
    "part of a value": Net(lambda n, x: n.a(x)[:, :2] + x[:, :2], a=conv()),
    "pooling": Net(lambda n, x: n.pool(x) + n.a(x), a=conv(), pool=nn.MaxPool2d(3, 1, 1)),
}


@pytest.mark.parametrize("net", [pytest.param(net, id=reason) for reason, net in UNMERGEABLE.items()])
def test_what_has_no_exact_merge_stays(net: nn.Module) -> None:
    net = randomised(net)
    result = merged(net)
    assert result.report == ()
    assert count(result.module, nn.Conv2d, nn.BatchNorm2d) == count(net, nn.Conv2d, nn.BatchNorm2d)
    assert check_merge(net, result.module, image(2, 4, 8, 8)) == 0.0


def test_uneven_same_padding_stays() -> None:
    assert merged(nn.Sequential(conv(2, padding="same"), nn.BatchNorm2d(4))).report == ()


def test_a_broadcast_is_no_identity() -> None:
    net = Net(lambda n, x: x + n.a(x), a=nn.Conv2d(1, 4, 3, padding=1))
    result = merged(net)
    assert result.report == ()
    check_merge(net, result.module, image(1, 1, 5, 5))


@pytest.mark.parametrize(
    "run",
    [
        lambda n, x: (lambda y: y + n.b(x) + torch.relu_(x))(n.a(x)),
        lambda n, x: (lambda y, z: y + z + n.b(x))(n.a(x), n.act(x)),
        lambda n, x: (lambda y, z: y + n.b(x) + z)(n.a(x), x.mul_(2)),
        lambda n, x: (lambda y, z: y + n.b(x) + z)(n.a(x), operator.iadd(x, 1)),
        lambda n, x: (lambda y, v: n.a(x) + n.b(x) + operator.iadd(v, 1).view_as(x))(x, x.view(-1)),
        lambda n, x: (lambda r: operator.iadd(x, n.a(x) + n.b(x)) + r * x)(torch.sigmoid(x)),
        lambda n, x: (lambda y: operator.iadd(y, n.b(x)) * y)(n.a(x)),
        lambda n, x: (lambda s: (lambda y, z: y + z + n.b(s))(n.a(s), n.act(s)))(n.c(x)),
        lambda n, x: (lambda y, z: n.a[1](y) * z)(n.a[0](x), n.act(x)),
    ],
)
def test_what_is_changed_in_place_is_read_in_time(run: Callable[[nn.Module, Tensor], Tensor]) -> None:
    net = Net(run, a=conv_bn(4, 4, 3), b=conv_bn(4, 4, 1), c=conv_bn(4, 4, 1), act=nn.ReLU(inplace=True))
    result = merged(randomised(net))
    assert count(result.module, nn.BatchNorm2d) == 0
    check_merge(net, result.module, image(1, 4, 5, 5), TOLERANCE)


def test_an_in_place_activation_of_another_branch_does_not_hinder() -> None:
    net = Net(
        lambda n, x: (lambda y: y + n.act(n.c(x)) + n.b(x))(n.a(x)),
        a=conv_bn(4, 4, 3),
        b=conv_bn(4, 4, 1),
        c=conv_bn(4, 4, 3),
        act=nn.ReLU(inplace=True),
    )
    result = merged(randomised(net))
    assert count(result.module, nn.Conv2d) == 2
    check_merge(net, result.module, image(1, 4, 5, 5), TOLERANCE)


def test_hooks_are_not_merged_away() -> None:
    net = randomised(nn.Sequential(conv_bn(3, 4, 3), conv_bn(4, 4, 3)))
    net.get_submodule("0.0").register_forward_hook(lambda module, args, output: output * 3)
    result = merged(net)
    assert [m.name for m in result.report] == ["1.0"]
    check_merge(net, result.module, image(1, 3, 6, 6), TOLERANCE)


# Errors and promises


@pytest.mark.parametrize("make", [nn.BatchNorm2d, nn.BatchNorm1d])
def test_a_batchnorm_without_running_statistics_is_named(make: type[nn.Module]) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(make(4, track_running_stats=False)))
    with pytest.raises(MergeError, match=r"'1\.0' keeps no running statistics.*track_running_stats=True"):
        merged(net)


def test_a_network_that_cannot_be_traced_is_named_with_the_remedy() -> None:
    with pytest.raises(MergeError, match=r"Net can't be traced.*torch\.fx\.wrap"):
        merged(Net(lambda n, x: x if x.sum() > 0 else -x))


def test_broken_statistics_are_named() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    bn = net[1]
    assert isinstance(bn, nn.BatchNorm2d)
    assert bn.running_var is not None
    bn.running_var.fill_(float("nan"))
    with pytest.raises(MergeError, match=r"1x1 conv 0 \+ BatchNorm 1.*not finite"):
        merged(net)


def test_the_given_network_is_untouched() -> None:
    net = randomised(Sum([conv_bn(4, 4, 3), nn.BatchNorm2d(4)], nn.Dropout()))
    net.train()
    net.branches.eval()
    flags = {name: m.training for name, m in net.named_modules()}
    before, example = copy.deepcopy(net.state_dict()), image(1, 4, 5, 5)
    result = merged(net)
    check_merge(net, result.module, example, TOLERANCE)
    assert {name: m.training for name, m in net.named_modules()} == flags
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(example, image(1, 4, 5, 5))
    assert not any(m.training for m in result.module.modules())
    with torch.no_grad():
        for p in result.module.parameters():
            p.zero_()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_merging_draws_no_random_numbers() -> None:
    net = Sum([conv_bn(4, 4, 3), nn.BatchNorm2d(4)])
    state = torch.random.get_rng_state()
    merged(net)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_kernels_are_computed_in_double_precision() -> None:
    """Two branches with large, nearly opposite shifts: their sum in float32 has lost what float64 keeps."""
    net = randomised(Sum([conv_bn(8, 8, 3), conv_bn(8, 8, 1)]))
    first, second = (m for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    for bn, weight, var, mean in ((first, 0.71, 0.37, 3e6), (second, 0.53, 0.91, -3e6 * (0.71 / 0.53) * (0.91 / 0.37) ** 0.5)):
        bn.weight.data.fill_(weight)
        bn.running_var.fill_(var - bn.eps)
        bn.running_mean.add_(mean)
    x = image(2, 8, 7, 7)
    result = merged(net)
    with torch.no_grad():
        exact = copy.deepcopy(net).double().eval()(x.double())
        in_float32 = sum(bn.bias - bn.running_mean * bn.weight / torch.sqrt(bn.running_var + bn.eps) for bn in (first, second))
        conv = result.module.get_submodule("branches.merged")
        lossy = copy.deepcopy(result.module)
        lossy.get_submodule("branches.merged").bias = nn.Parameter(in_float32)
        error, lossy_error = (float((n(x) - exact).abs().max() / exact.abs().max()) for n in (result.module, lossy))
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight.dtype == torch.float32
    assert error <= 1e-6
    assert lossy_error > 1e-3


def test_a_double_network_stays_double_and_exact() -> None:
    net = randomised(Sum([conv_bn(4, 4, 3), conv_bn(4, 4, (3, 1)), nn.BatchNorm2d(4)])).double()
    result = merged(net)
    assert {p.dtype for p in result.module.parameters()} == {torch.float64}
    check_merge(net, result.module, image(1, 4, 6, 6).double(), 1e-13)


def test_the_check_sees_a_mistake_at_the_border() -> None:
    """A BatchNorm folded into the convolution behind it is right inside and wrong at the zero padding."""
    net = randomised(nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)))
    bn, conv = net[0], copy.deepcopy(net[1])
    scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    conv.bias.data += torch.einsum("oihw,i->o", conv.weight, bn.bias - bn.running_mean * scale).detach()
    conv.weight.data *= scale.detach().view(1, -1, 1, 1)
    x = image(1, 4, 6, 6)
    net.eval()
    assert torch.allclose(net(x)[..., 1:-1, 1:-1], conv(x)[..., 1:-1, 1:-1], atol=1e-5)
    with pytest.raises(MergeError, match=r"differs from the original by 0\.\d+ relative, more than 1e-05"):
        check_merge(net, conv, x)


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (Net(lambda n, x: x * float("nan")), "by nan"),
        (Net(lambda n, x: x[:, :1]), "have shapes"),
        (Net(lambda n, x: (x, x)), "have shapes"),
    ],
)
def test_the_check_refuses_what_is_no_match(after: nn.Module, reason: str) -> None:
    with pytest.raises(MergeError, match=reason):
        check_merge(nn.Identity(), after, image(1, 3, 2, 2))


def test_the_check_takes_several_inputs_and_outputs() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> dict[str, list[Tensor]]:
            return {"all": [x + y, x - y]}

    assert check_merge(Two(), merged(Two()).module, (image(2), image(2))) == 0.0


def test_a_merged_network_can_be_exported_by_torch() -> None:
    net = randomised(nn.Sequential(Sum([conv_bn(4, 4, 3), nn.BatchNorm2d(4)]), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)))
    module, x = merged(net).module, image(1, 4, 6, 6)
    program = torch.export.export(module, (x,))
    assert torch.equal(program.module()(x), module(x))
