"""Merging in traced networks: what stays as it is, errors and promises."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from paceline.exporters.merge import MergeError, check_merge, merged

from networks import TOLERANCE, Net, Sum, conv_bn, count, image, randomised

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
    "constant of positions": Net(lambda n, x: n.a(x) + torch.ones(8, 8), a=conv()),
    "power": Net(lambda n, x: n.a(x) ** 2.0, a=conv()),
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
