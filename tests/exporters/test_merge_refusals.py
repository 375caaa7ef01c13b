"""What is no convolution is refused, with the reason, and what is one is found."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from paceline.exporters.algebra import MergeError, to_conv
from paceline.exporters.merge import merged
from paceline.exporters.merge_forms import branch_form

from networks import Net, check_exact, conv_bn, padded_point, randomised


def branch(*layers: nn.Module) -> nn.Module:
    return randomised(nn.Sequential(*layers)).eval()


class Gate(nn.Module):
    """Squeeze-and-excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(4, 4, 1), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.act(self.conv(x.mean((2, 3), keepdim=True)))


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "non-linearity": (branch(conv_bn(4, 4, 1), nn.ReLU(), conv_bn(4, 4, 3)), "ReLU 1: it is not linear"),
    "squeeze-and-excitation": (branch(conv_bn(4, 4, 1), Gate()), r"mean\(\): it is not linear"),
    "max pool": (branch(conv_bn(4, 4, 1), nn.MaxPool2d(3, 1, 1)), "MaxPool2d 1: it is not linear"),
    "group norm": (branch(nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4)), "GroupNorm 1: it is not linear"),
    "instance norm": (branch(nn.Conv2d(4, 4, 1), nn.InstanceNorm2d(4)), "InstanceNorm2d 1: it is not linear"),
    "dropout in training": (branch(nn.Conv2d(4, 4, 1), nn.Dropout()).train(), "in training mode"),
    "BatchNorm in training": (branch(conv_bn(4, 4, 1)).train(), "in training mode"),
    "no statistics": (branch(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)), "no running statistics"),
    "zero padding with a bias": (branch(conv_bn(4, 4, 1), conv_bn(4, 4, 3)), "zero padding with a bias"),
    "norm before zero padding": (branch(nn.BatchNorm2d(4), conv_bn(4, 4, 3)), "zero padding with a bias"),
    "padding twice": (branch(nn.Conv2d(4, 4, 3, padding=1, bias=False), conv_bn(4, 4, 3)), "padding inside"),
    "border excluded": (branch(conv_bn(4, 4, 1), nn.AvgPool2d(3, 1, 1, count_include_pad=False)), "count_include_pad=False"),
    "windows beyond the border": (branch(conv_bn(4, 4, 1), nn.AvgPool2d(2, ceil_mode=True)), "ceil_mode=True"),
    "uneven padding": (branch(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(4, 4, 3)), "not alike on both sides"),
    "another constant": (branch(nn.Conv2d(4, 4, 1), nn.ConstantPad2d(1, 0.5), nn.Conv2d(4, 4, 3)), "padding with 0.5"),
    "strides": (Net(lambda n, x: n.a(x) + n.b(x), a=nn.Conv2d(4, 4, 1, stride=2), b=nn.Conv2d(4, 4, 1)).eval(), "strides differ"),
    "not centred": (
        Net(lambda n, x: n.a(x) + n.b(x), a=nn.Conv2d(4, 4, 3, 2, 1), b=nn.Conv2d(4, 4, 2, 2)).eval(),
        "not centred",
    ),
    "identity of other channels": (Net(lambda n, x: n.a(x) + x, a=nn.Conv2d(1, 4, 1)).eval(), "channels differ"),
    "identity with a stride": (Net(lambda n, x: n.a(x) + x, a=nn.Conv2d(4, 4, 1, stride=2)).eval(), "strides differ"),
    "padding modes": (
        Net(lambda n, x: n.a(x) + n.b(x), a=nn.Conv2d(4, 4, 3, 1, 1), b=nn.Conv2d(4, 4, 3, 1, 1, padding_mode="reflect")).eval(),
        "padding modes differ",
    ),
    "no channels": (nn.AvgPool2d(2).eval(), "nothing in it has a number of channels"),
}


@pytest.mark.parametrize(("net", "reason"), [pytest.param(*case, id=name) for name, case in REFUSED.items()])
def test_what_is_no_convolution_is_refused_with_the_reason(net: nn.Module, reason: str) -> None:
    with pytest.raises(MergeError, match=reason):
        branch_form(net)


def test_the_form_of_a_branch_is_its_convolution() -> None:
    net = branch(*padded_point(4, 4, 1, 1), nn.Conv2d(4, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6))
    form = branch_form(net)
    assert (form.size, form.stride, form.padding) == ((3, 3), (2, 2), (1, 1))
    check_exact(net, to_conv(form, torch.float32), 2, 4, 9, 7)


def test_a_merged_network_says_what_it_refused() -> None:
    net = Net(
        lambda n, x: n.b(n.a(x)) + n.act(n.c(x)) + n.pool(x) + n.d(x),
        **{name: conv_bn(4, 4, k) for name, k in {"a": 1, "b": 3, "c": 1, "d": 3}.items()},
        act=nn.ReLU(),
        pool=nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    )
    result = merged(randomised(net))
    assert [(r.where, r.reason.split(":")[0].split(" with ")[0]) for r in result.refused] == [
        ("ReLU act", "it is not linear, so its branch can't be added to the others"),
        ("AvgPool2d pool", "average pooling"),
        ("a.0 > b.0", "zero padding"),
    ]
    check_exact(net, result.module, 1, 4, 7, 7)


def test_an_ordinary_residual_network_refuses_nothing() -> None:
    block = Net(lambda n, x: n.act(x + n.b(n.act(n.a(x)))), a=conv_bn(4, 4, 3), b=conv_bn(4, 4, 3), act=nn.ReLU())
    assert merged(randomised(nn.Sequential(conv_bn(4, 4, 3), nn.ReLU(), block))).refused == ()
