from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from paceline.errors import SpaceError
from paceline.pipeline.ops import MBConv, SqueezeExcite
from paceline.pipeline.spaces import (
    SPACES,
    Chain,
    MBConvOp,
    MultiKernelOp,
    Op,
    Se,
    SkipOp,
    Slot,
    StabilisedSkipOp,
    Stage,
    Stem,
    Tail,
    Widths,
    mobile,
    mobile_imagenet,
    slots_of,
)
from paceline.pipeline.spaces.options import multiple_of_8
from paceline.pipeline.supernet import ShadowBatchNorm, hard, path, space_of

BLOCKS: dict[str, Op] = {"k3e2": MBConvOp(3, 2), "k5e2": MBConvOp(5, 2), "skip": SkipOp()}


def tiny(options: dict[str, Op], stages: tuple[Stage, ...] = (Stage(8, 2, 1),), **extra: object) -> Chain:
    return Chain("tiny", Stem(8), slots_of(8, stages, lambda _: options), Tail(16, **extra), 1, 3, 16)  # type: ignore[arg-type]


def test_slots_leave_out_what_does_not_fit() -> None:
    slots = slots_of(8, (Stage(8, 2, 2), Stage(16, 2, 1)), lambda _: BLOCKS)
    assert [(s.name, s.c_in, s.c_out, s.stride) for s in slots] == [
        ("stage1_layer1", 8, 8, 2),
        ("stage1_layer2", 8, 8, 1),
        ("stage2_layer1", 8, 16, 1),
        ("stage2_layer2", 16, 16, 1),
    ]
    assert ["skip" in s.options for s in slots] == [False, True, False, True]


def test_chains_that_can_not_be_are_refused() -> None:
    with pytest.raises(SpaceError, match=r"'a' goes from 8 to 16 channels with stride 1, which option 'skip' \(SkipOp\) can't"):
        Slot("a", 8, 16, 1, BLOCKS)
    slot = Slot("a", 8, 8, 1, BLOCKS)
    with pytest.raises(SpaceError, match="slot 'a' reads 8 channels, but 16 come in"):
        Chain("c", Stem(16), (slot,), Tail(8))
    wide = Slot("a", 8, 8, 1, {"k3e2": MBConvOp(3, 2)}, writes=Widths("w", {"8": 8, "16": 16}))
    with pytest.raises(SpaceError, match="slot 'b' reads no width that is to be decided, but w comes in"):
        Chain("c", Stem(8), (wide, Slot("b", 8, 8, 1, {"k3e2": MBConvOp(3, 2)})), Tail(8))
    with pytest.raises(SpaceError, match="images of 4 pixels are too small for a total stride of 8"):
        Chain("c", Stem(8), slots_of(8, (Stage(8, 2, 2), Stage(8, 1, 2)), lambda _: BLOCKS), Tail(8), image_size=4)
    with pytest.raises(SpaceError, match="no slot"):
        Chain("c", Stem(8), (), Tail(8))
    with pytest.raises(SpaceError, match="different names"):
        Chain("c", Stem(8), (slot, slot), Tail(8))


def test_architectures_from_words() -> None:
    chain = tiny({"e2": MultiKernelOp(2, (3, 5), 2)})
    arch = chain.arch("e2 k3+k5 e2 k5")
    assert arch["stage1_layer1_kernels"] == ("k3", "k5")
    for wrong, reason in (
        ("e2 k3", "4 choices, got 2 words"),
        ("e2 k9 e2 k3", "no option 'k9'"),
        ("e2 k3+k3 e2 k3", "different"),
    ):
        with pytest.raises(SpaceError, match=reason):
            chain.arch(wrong)
    with pytest.raises(SpaceError, match="decides"):
        chain.network(SPACES["fairnas_small"].chain.space().sample(np.random.default_rng(0)), 0)


def test_stem_and_tail_are_built_as_described() -> None:
    options = {"k3e2": MBConvOp(3, 2)}
    slots = slots_of(4, (Stage(8, 1, 1),), lambda _: options)
    stem = Stem(6, stride=1, kernel=5, act="hswish", separable=4, separable_act="relu")
    chain = Chain("c", stem, slots, Tail(16, "hswish", second=20, dropout=0.5), 1, 3, 8)
    net = chain.network(chain.arch("k3e2"), 0)
    assert isinstance(net, nn.Sequential)
    assert [name for name, _ in net.named_children()] == [
        *("stem", "separable", "stage1_layer1", "head", "pool", "second", "flatten", "dropout", "classifier")
    ]
    acts = [type(m).__name__ for m in net.modules() if "ReLU" in type(m).__name__ or "swish" in type(m).__name__]
    assert acts == ["Hardswish", "ReLU", "ReLU6", "ReLU6", "Hardswish", "Hardswish"]
    assert net.stem.conv.weight.shape == (6, 1, 5, 5)
    assert net.second.conv.weight.shape == (20, 16, 1, 1)
    assert net.second.conv.bias is None
    assert net.classifier.weight.shape == (3, 20)
    plain = tiny(options)
    names = [name for name, _ in plain.network(plain.arch("k3e2 k3e2"), 0).named_children()]
    assert names == ["stem", "stage1_layer1", "stage1_layer2", "head", "pool", "flatten", "classifier"]
    assert not MBConv(8, 8, shortcut=False).residual


def test_the_separable_block_of_a_stem_has_no_shortcut() -> None:
    chain = Chain("c", Stem(8, separable=8), slots_of(8, (Stage(8, 1, 1),), lambda _: BLOCKS), Tail(8), 1, 3, 8)
    separable = chain.network(chain.arch("skip"), 0).get_submodule("separable")
    assert isinstance(separable, MBConv)
    assert not separable.residual


@pytest.mark.parametrize(
    ("se", "inner", "act", "gate"),
    [
        (Se(), 13, "ReLU", "Hardsigmoid"),
        (Se(act=None, gate="sigmoid"), 13, "SiLU", "Sigmoid"),
        (Se(0.5, "input"), 9, "ReLU", "Hardsigmoid"),
        (Se(rounding="multiple_of_8", act="hswish"), 16, "Hardswish", "Hardsigmoid"),
        (Se(0.001), 1, "ReLU", "Hardsigmoid"),
    ],
)
def test_squeeze_and_excitation_is_built_as_described(se: Se, inner: int, act: str, gate: str) -> None:
    block = MBConvOp(3, 3, se, "swish").build(Slot("a", 18, 24, 1, {}), None)
    (squeeze,) = (m for m in block.modules() if isinstance(m, SqueezeExcite))
    assert squeeze.reduce.weight.shape == (inner, 54, 1, 1)
    assert (type(squeeze.act).__name__, type(squeeze.gate).__name__) == (act, gate)
    assert squeeze.reduce.bias is not None
    assert squeeze.expand.bias is not None


@pytest.mark.parametrize(("channels", "expected"), [(1, 8), (8, 8), (11, 8 + 8), (12, 16), (24, 24), (36, 40), (60, 64)])
def test_multiple_of_8(channels: int, expected: int) -> None:
    assert multiple_of_8(channels) == expected


def test_the_seed_makes_the_weights_and_the_global_generator_is_left_alone() -> None:
    chain = tiny(BLOCKS)
    arch = chain.arch("k3e2 skip")
    state = torch.get_rng_state()
    for make in (chain.supernet, lambda seed: chain.network(arch, seed)):
        one, again, other = (make(seed).state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(a, b) for a, b in zip(one.values(), again.values(), strict=True))
        assert not torch.equal(one["stem.conv.weight"], other["stem.conv.weight"])
    assert torch.equal(state, torch.get_rng_state())


def test_options_of_a_slot_start_aligned() -> None:
    slot = tiny({"k3e2": MBConvOp(3, 2), "k5e4": MBConvOp(5, 4)}).supernet(0).get_submodule("stage1_layer1.options")
    small, large = (slot.get_submodule(f"{name}.body.expand.conv").weight for name in ("k3e2", "k5e4"))
    assert torch.equal(small, large[:16])
    banks = tiny({f"e{e}": MultiKernelOp(e, (3, 5), 2) for e in (2, 4)}).supernet(0).get_submodule("stage1_layer1.options")
    for kernel in ("k3", "k5"):
        small, large = (banks.get_submodule(f"{e}.body.depthwise.options.{kernel}.conv").weight for e in ("e2", "e4"))
        assert torch.equal(small, large[:16])


def test_a_slot_may_take_several_options() -> None:
    slot = Slot("a", 8, 8, 1, {"k3": MBConvOp(3, 2), "k5": MBConvOp(5, 2), "skip": SkipOp()}, at_most=2)
    chain = Chain("c", Stem(8), (slot,), Tail(8), 1, 3, 8)
    assert chain.space().size == 3 + 3
    arch = chain.arch("k3+skip")
    net = chain.network(arch, 0).eval()
    x = torch.randn(1, 8, 4, 4)
    block = net.get_submodule("a.terms.k3")
    torch.testing.assert_close(net.get_submodule("a")(x), block(x) + x)


def test_the_kernels_of_a_mixpath_block_are_summed_and_normed_by_their_number() -> None:
    chain = tiny({f"e{e}": MultiKernelOp(e, (3, 5, 7), 2) for e in (2, 4)}, (Stage(8, 1, 1),))
    net = chain.supernet(0)
    assert chain.space() == space_of(net)
    assert chain.space().size == 2 * (3 + 3)
    arch = chain.arch("e4 k3+k7")
    slot = net.get_submodule("stage1_layer1")
    body = slot.get_submodule("options.e4.body")
    x = torch.randn(4, 8, 6, 6)
    with path(net, hard(chain.space(), arch)):
        got = slot(x)
    wide = body.get_submodule("expand")(x)
    summed = sum(body.get_submodule(f"depthwise.options.{k}")(wide) for k in ("k3", "k7"))
    shadow = body.get_submodule("project.bn")
    assert isinstance(shadow, ShadowBatchNorm)
    expected = x + shadow.norms["2"](body.get_submodule("project.conv")(summed))
    torch.testing.assert_close(got, expected)
    ordinary = tiny({"e2": MultiKernelOp(2, (3, 5), 2, shadow=False)}).supernet(0)
    assert not any(isinstance(m, ShadowBatchNorm) for m in ordinary.modules())


def test_a_stabilised_skip_may_start_as_any_convolution() -> None:
    for start in ("identity", "kaiming"):
        net = tiny({"k3e2": MBConvOp(3, 2), "skip": StabilisedSkipOp(start)}).supernet(0)
        weight = net.get_parameter("stage1_layer2.options.skip.conv.weight").squeeze()
        assert torch.equal(weight, torch.eye(8)) == (start == "identity")


def test_mobile_chains() -> None:
    blocks = [f"k{k}e{e}{se}" for k in (3, 5, 7) for e in (3, 6) for se in ("", "_se")]
    for slot in SPACES["mobile_small"].chain.slots:
        assert tuple(slot.options) == (*blocks, "rep3", *(() if slot.name.endswith("layer1") else ("skip",)))
    narrow = mobile_imagenet(0.5)
    assert [s.c_out for s in narrow.slots[::4]] == [16, 24, 40, 48, 96]
    assert narrow.tail.channels == 1280
    one = mobile(1, 3, 16, stages=((8, 1, 2),), kernels=(3,), expansions=(2,), squeeze=(False,), rep=False, skip=False)
    assert one.space().size == 1
