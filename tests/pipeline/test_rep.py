"""Blocks of several branches: where each branch can exist, and that a block ships as one convolution."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paceline.errors import SpaceError
from paceline.exporters.merge import check_merge, merged
from paceline.exporters.torch_graph import graph_of
from paceline.pipeline.operators import space_operators
from paceline.pipeline.ops import (
    ACNET,
    BRANCHES,
    DBB,
    ODBB,
    REPVGG,
    Place,
    RepBlock,
    branch_type,
    fitting,
    initialise,
    mobileone,
    rep_block,
)
from paceline.pipeline.ops.rep import PointFirst
from paceline.pipeline.spaces import Chain, MobileOneOp, RepOp, SearchedRepOp, Stage, Tail, find_space, repnas_a0, slots_of
from paceline.pipeline.supernet import derive, hard, path, space_of
from paceline.pipeline.testing import check_supernet

BLOCKS = {"RepVGG": REPVGG, "ACNet": ACNET, "DBB": DBB, "MobileOne": mobileone(4), "RepNAS": (*ODBB, "identity")}


def randomised(net: nn.Module, seed: int) -> nn.Module:
    """New weights, and BatchNorms with statistics and parameters of their own, without which mistakes at borders do not show."""
    rng = torch.Generator().manual_seed(seed)
    initialise(net, seed)
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                for tensor, low in ((m.weight, 0.5), (m.bias, -0.5), (m.running_mean, -0.5), (m.running_var, 0.5)):
                    assert tensor is not None
                    tensor.uniform_(low, low + 1.0, generator=rng)
    return net.eval()


def weighing(net: nn.Module) -> list[str]:
    """What of a network has weights or pools."""
    return [type(m).__name__ for m in net.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.AvgPool2d)]


@st.composite
def places(draw: st.DrawFn) -> Place:
    groups = draw(st.sampled_from((1, 2, 4)))
    width = st.integers(1, 3).map(lambda n: 4 * n)
    depthwise = draw(st.booleans())
    c_in = draw(width)
    c_out = c_in if depthwise else draw(width)
    numbers = (draw(st.sampled_from((1, 3, 5))), draw(st.sampled_from((1, 2))), draw(st.sampled_from((1, 2))))
    return Place(c_in, c_out, *numbers, c_in if depthwise else groups)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(place=places(), block=st.sampled_from(sorted(BLOCKS)), height=st.integers(5, 12), seed=st.integers(0, 99))
def test_a_block_ships_as_one_convolution(place: Place, block: str, height: int, seed: int) -> None:
    names = fitting(place, BLOCKS[block])
    net = randomised(rep_block(place, names), seed)
    x = torch.randn(2, place.c_in, height, 9, generator=torch.Generator().manual_seed(seed))
    assert net(x).shape == (2, place.c_out, -(-height // place.stride), -(-9 // place.stride))
    shipped = merged(net).module
    check_merge(net, shipped, x, tolerance=1e-6)
    check_merge(net.double(), merged(net.double()).module, x.double(), tolerance=1e-13)
    assert weighing(shipped) == ["Conv2d"]
    (conv,) = (m for m in shipped.modules() if isinstance(m, nn.Conv2d))
    assert (conv.stride, conv.groups) == ((place.stride,) * 2, place.groups)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(place=places(), name=st.sampled_from(sorted(BRANCHES)), seed=st.integers(0, 99))
def test_a_branch_beside_the_convolution_is_merged_into_it(place: Place, name: str, seed: int) -> None:
    kind = branch_type(name)
    reason = kind.refusal(place)
    if reason is not None:
        with pytest.raises(SpaceError, match=reason):
            kind.build(place)
        return
    net = randomised(rep_block(place, ("kxk", name), act=None), seed)
    shipped = merged(net.double()).module
    check_merge(net, shipped, torch.randn(1, place.c_in, 7, 10, dtype=torch.float64), tolerance=1e-13)
    assert weighing(shipped) == ["Conv2d"]


def test_padding_before_the_1x1_is_padding_with_its_shift() -> None:
    """The same function as DBB's code, which pads behind the first BatchNorm with what that makes of zeros."""
    place = Place(4, 6, 3, 2)
    branch = randomised(branch_type("1x1_kxk").build(place), 1).double()
    assert isinstance(branch, PointFirst)
    point, inner, last, bn = branch.children()
    assert isinstance(point, nn.Conv2d)
    assert isinstance(inner, nn.BatchNorm2d)
    x = torch.randn(2, 4, 7, 5, dtype=torch.float64)
    border = inner(torch.zeros(1, 4, 1, 1, dtype=torch.float64))
    behind = nn.functional.pad(inner(nn.functional.conv2d(x, point.weight)) - border, (1,) * 4) + border
    torch.testing.assert_close(branch(x), bn(last(behind)))


def test_the_serial_branch_starts_as_the_convolution_behind_it() -> None:
    branch = branch_type("1x1_kxk").build(Place(4, 4, groups=2))
    initialise(branch, 0)
    assert isinstance(branch, PointFirst)
    point, _, last, _ = branch.children()
    x = torch.randn(1, 4, 6, 6)
    assert isinstance(last, nn.Conv2d)
    torch.testing.assert_close(last(point(x)), nn.functional.conv2d(x, last.weight, padding=1, groups=2))


@pytest.mark.parametrize(
    ("name", "place", "reason"),
    [
        ("identity", Place(4, 4, stride=2), "does not go from 4 to 4 channels with stride 2"),
        ("identity", Place(4, 8), "does not go from 4 to 8 channels with stride 1"),
        ("1x1", Place(4, 4, 1), "a kernel of 1 has only itself"),
        ("1x1_avg", Place(4, 4, dilation=2), "average pooling has no dilation"),
        ("1x1_avg", Place(4, 8, groups=4), "pooling alone does not go from 4 to 8 channels"),
    ],
)
def test_a_branch_says_why_it_cannot_exist(name: str, place: Place, reason: str) -> None:
    with pytest.raises(SpaceError, match=f"branch '{name}' can't exist at .*: .*{reason}; leave it out there"):
        rep_block(place, ("kxk", name))


def test_impossible_places_and_unknown_branches_are_refused() -> None:
    with pytest.raises(SpaceError, match="a kernel of 4 has no centred padding"):
        Place(4, 4, 4)
    with pytest.raises(SpaceError, match="3 groups do not divide 4 and 4 channels"):
        Place(4, 4, groups=3)
    with pytest.raises(SpaceError, match="no type of branch is called '3x3'; there are 1x1, "):
        branch_type("3x3")


def chain(*kernels: int) -> Chain:
    options = {f"k{k}": SearchedRepOp(ODBB, k) for k in kernels}
    return Chain("searched", None, slots_of(2, (Stage(4, 2, 2),), lambda _: options), Tail(None), 2, 3, 10)


def test_options_share_one_choice_of_branches() -> None:
    searched = chain(3, 5)
    net = randomised(searched.supernet(0), 0)
    space = space_of(net)
    assert space == searched.space()
    assert space.size == (2 * 63) ** 2
    check_supernet(net, torch.randn(2, 2, 10, 10))


def test_a_derived_network_computes_the_same_and_merges() -> None:
    searched = chain(3, 5)
    net = randomised(searched.supernet(0), 0)
    arch = searched.arch("k5 1x1+kxk+1xk k3 1x1_avg+kxk+kx1")
    x = torch.randn(2, 2, 9, 9)
    alone = derive(net, arch)
    with torch.no_grad(), path(net, hard(searched.space(), arch)):
        torch.testing.assert_close(alone(x), net(x))
    shipped = merged(alone).module
    check_merge(alone, shipped, x, tolerance=1e-6)
    kernels = [m.kernel_size for m in shipped.modules() if isinstance(m, nn.Conv2d)]
    assert kernels == [(5, 5), (3, 3)]


def test_the_published_network_has_the_published_branches() -> None:
    arch = repnas_a0()
    taken = [options for name, options in arch.picks if name.endswith("_branches")]
    assert [len(t) for t in taken] == [2, 2, 1, 2, 1, 1, 2, 2, 2, 1, 2, 3, 2, 2, 2, 2, 2, 2, 2, 1, 2, 6]
    counts = {name: sum(name in t for t in taken) for name in ODBB}
    assert counts == {"1x1": 1, "1x1_avg": 1, "kxk": 18, "1x1_kxk": 21, "1xk": 2, "kx1": 1}
    slots = find_space("repnas").chain.slots
    assert [s.c_out for s in slots] == [48] * 3 + [96] * 4 + [192] * 14 + [1280]
    assert [i for i, s in enumerate(slots) if s.stride == 2] == [0, 1, 3, 7, 21]


def test_fixed_blocks_leave_out_what_cannot_exist() -> None:
    options = {"dbb": RepOp(DBB), "mobileone": MobileOneOp(3), "grouped": RepOp(REPVGG, groups=2, act=None)}
    fixed = Chain("fixed", None, slots_of(4, (Stage(4, 1, 1), Stage(8, 1, 2)), lambda _: options), Tail(None), 4, 3, 8)
    net = randomised(fixed.supernet(0), 0)
    check_supernet(net, torch.randn(2, 4, 8, 8))
    convolutions = {}
    for words in ("dbb mobileone", "mobileone grouped"):
        alone = derive(net, fixed.arch(words))
        x = torch.randn(1, 4, 9, 7)
        shipped = merged(alone).module
        check_merge(alone, shipped, x, tolerance=1e-6)
        convolutions[words] = [(m.kernel_size[0], m.groups) for m in shipped.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions == {
        "dbb mobileone": [(3, 1), (3, 4), (1, 1)],
        "mobileone grouped": [(3, 4), (1, 1), (3, 2)],
    }
    depthwise = slots_of(4, (Stage(8, 1, 1),), lambda _: {"dw": RepOp(REPVGG, groups=None), "dense": RepOp(REPVGG)})
    assert list(depthwise[0].options) == ["dense"]


def test_weights_are_those_of_the_seed() -> None:
    one, again, other = (chain(3).supernet(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[k], again[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)
    before = torch.get_rng_state(), repr(np.random.get_state())
    chain(3).supernet(1)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == repr(np.random.get_state())


def test_a_block_without_activation_is_linear() -> None:
    block = randomised(RepBlock({"a": branch_type("kxk").build(Place(2, 2))}, None), 0)
    x = torch.randn(1, 2, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(block(2 * x) - block(x), block(x) - block(0 * x))


def test_operators_are_those_of_the_merged_network() -> None:
    slots = slots_of(2, (Stage(4, 1, 2),), lambda _: {f"k{k}": SearchedRepOp(("1x1", "kxk", "1xk"), k) for k in (3, 5)})
    searched, example = Chain("searched", None, slots, Tail(None), 2, 3, 8), torch.zeros(1, 2, 8, 8)
    found = space_operators(searched.supernet(0), example)
    kernels = {}
    for picks in ("k3 1x1+kxk", "k5 1x1+kxk+1xk", "k5 1x1+1xk", "k5 1x1"):
        arch = searched.arch(picks)
        exported = graph_of(merged(searched.network(arch, 1)).module, example).operators()
        assert Counter(found.of(arch)) == Counter(exported)
        kernels[picks] = [spec.inputs[1].shape[1:3] for spec in exported if spec.kind == "CONV_2D"]
    assert list(kernels.values()) == [[(3, 3)], [(5, 5)], [(1, 5)], [(1, 1)]]
