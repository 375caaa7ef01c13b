from __future__ import annotations

import pytest
import torch
from torch import fx, nn

from paceline.errors import SpaceError
from paceline.pipeline.ops import (
    ACTIVATIONS,
    GATES,
    ConvBNAct,
    MBConv,
    RepConv,
    Skip,
    SqueezeExcite,
    StabilisedSkip,
    align,
    initialise,
    unstabilised,
)

OPERATIONS = [
    ConvBNAct(8, 12, 5, 2),
    MBConv(8, 8, 3, 1, 3),
    MBConv(8, 16, 7, 2, 6, SqueezeExcite(48, 12)),
    MBConv(8, 8, 5, 1, 1),
    RepConv(8, 8),
    RepConv(8, 12, 2),
    SqueezeExcite(8, 3),
    *(SqueezeExcite(8, 3, act, GATES["sigmoid"]) for act in ACTIVATIONS.values()),
    Skip(8, 8, 1),
    StabilisedSkip(8, 8, 1),
]


@pytest.mark.parametrize("op", OPERATIONS, ids=lambda op: type(op).__name__)
def test_every_operation_can_be_traced_and_exported(op: nn.Module) -> None:
    x = torch.randn(2, 8, 9, 9)
    op.eval()
    expected = op(x)
    torch.testing.assert_close(fx.symbolic_trace(op)(x), expected)
    torch.testing.assert_close(torch.export.export(op, (x,), strict=False).module()(x), expected)


def test_shapes_and_strides() -> None:
    x = torch.randn(2, 8, 9, 9)
    assert MBConv(8, 16, 7, 2, 6, SqueezeExcite(48, 12))(x).shape == (2, 16, 5, 5)
    assert RepConv(8, 12, 2)(x).shape == (2, 12, 5, 5)
    assert ConvBNAct(8, 12, 5)(x).shape == (2, 12, 9, 9)


def test_parameters_of_mbconv_are_the_hand_count() -> None:
    hidden, inner = 8 * 3, 6
    expected = (8 * hidden + 2 * hidden) + (25 * hidden + 2 * hidden) + (hidden * 12 + 2 * 12)
    assert sum(p.numel() for p in MBConv(8, 12, 5, 1, 3).parameters()) == expected
    squeeze = hidden * inner + inner + inner * hidden + hidden
    assert sum(p.numel() for p in MBConv(8, 12, 5, 1, 3, SqueezeExcite(hidden, inner)).parameters()) == expected + squeeze


def test_residual_only_where_shapes_agree() -> None:
    def is_residual(op: MBConv) -> bool:
        nn.init.zeros_(op.body.project.bn.weight)
        x = torch.randn(1, 8, 6, 6)
        return op(x).shape == x.shape and torch.equal(op(x), x)

    assert is_residual(MBConv(8, 8, 3, 1, 3))
    assert not is_residual(MBConv(8, 8, 3, 2, 3))
    assert not is_residual(MBConv(8, 16, 3, 1, 3))
    assert not is_residual(MBConv(8, 8, 3, 1, 3, shortcut=False))


def test_repconv_is_the_sum_of_its_branches() -> None:
    op = RepConv(4, 4).eval()
    x = torch.randn(1, 4, 5, 5)
    assert op.identity is not None
    torch.testing.assert_close(op(x), torch.relu(op.dense(x) + op.point(x) + op.identity(x)))
    assert RepConv(4, 4, 2).identity is None


def test_illegal_operations_are_refused() -> None:
    for skip in (Skip, StabilisedSkip):
        with pytest.raises(SpaceError, match="skip can't go from 8 to 16"):
            skip(8, 16, 1)
    with pytest.raises(SpaceError, match="kernel of 4"):
        ConvBNAct(8, 8, 4)


def test_a_stabilised_skip_starts_as_it_says_and_is_deployed_as_identity() -> None:
    net = nn.Sequential(StabilisedSkip(4, 4, 1), nn.Conv2d(4, 4, 1), StabilisedSkip(4, 4, 1, "kaiming"))
    initialise(net, 0)
    x = torch.randn(2, 4, 3, 3)
    assert torch.equal(net[0](x), x)
    assert not torch.allclose(net[2](x), x)
    plain = unstabilised(net)
    assert [type(m) for m in plain] == [Skip, nn.Conv2d, Skip]
    assert torch.equal(plain(x), net[1](x))
    assert isinstance(net[0], StabilisedSkip)
    assert plain[1].weight is not net[1].weight


def test_initialise_depends_on_the_seed_alone() -> None:
    one, other = (MBConv(8, 8, squeeze=SqueezeExcite(48, 12)) for _ in range(2))
    one(torch.randn(4, 8, 8, 8))  # moves BatchNorm's statistics
    state = torch.get_rng_state()
    initialise(one, 5)
    initialise(other, 5)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    initialise(other, 6)
    assert not torch.equal(one.body.project.conv.weight, other.body.project.conv.weight)


def test_aligned_blocks_share_what_fits() -> None:
    shapes = ((5, 3, None), (3, 6, None), (7, 6, SqueezeExcite(48, 12)), (3, 1, None))
    blocks = [MBConv(8, 8, k, 1, e, squeeze) for k, e, squeeze in shapes]
    plain = {k: v.clone() for k, v in blocks[3].state_dict().items()}
    align(blocks)
    small, source, large = (dict(b.body.named_parameters()) for b in blocks[:3])
    assert torch.equal(small["expand.conv.weight"], source["expand.conv.weight"][:24])
    assert torch.equal(small["project.conv.weight"], source["project.conv.weight"][:, :24])
    assert torch.equal(small["depthwise.conv.weight"][:, :, 1:4, 1:4], source["depthwise.conv.weight"][:24])
    assert torch.equal(large["depthwise.conv.weight"][:, :, 2:5, 2:5], source["depthwise.conv.weight"])
    assert 0 < float(large["depthwise.conv.weight"].detach()[:, :, 0].abs().max()) < 0.1
    assert all(torch.equal(v, plain[k]) for k, v in blocks[3].state_dict().items())


def test_aligned_blocks_compute_nearly_the_same() -> None:
    torch.manual_seed(0)
    one, other = MBConv(8, 12, 3, 1, 6), MBConv(8, 12, 7, 1, 6)
    x = torch.randn(8, 8, 12, 12)

    def likeness() -> float:
        return float(torch.nn.functional.cosine_similarity(one(x).detach().flatten(), other(x).detach().flatten(), dim=0))

    before = likeness()
    align([one, other])
    assert likeness() > 0.8 > abs(before)
