from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from paceline.arch import Arch, Choice, Space
from paceline.errors import ConfigError, SpaceError
from paceline.exporters.merge import check_merge, merged
from paceline.exporters.torch_graph import graph_of
from paceline.graph import macs_of
from paceline.pipeline.operators import shipped, space_operators
from paceline.pipeline.ops import ConvBNAct, MBConv, RepConv, Skip, SqueezeExcite, initialise
from paceline.pipeline.spaces import SPACES, Chain, MBConvOp, Op, SkipOp, Stage, Stem, Tail
from paceline.pipeline.spaces.bsnas import elastic_slots
from paceline.pipeline.supernet import Mixed, Uniform, Width, derive, elastic, hard, path, recalibrate, space_of
from paceline.pipeline.supernet.width_policies import Broadening, Sandwich, Spring
from paceline.pipeline.testing import check_policy, check_supernet


def images(n: int = 2, channels: int = 3, size: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


def spread(net: nn.Module, seed: int = 0) -> None:
    """Weights and statistics that differ in every channel, so that a wrong slice shows."""
    rng = torch.Generator().manual_seed(seed)
    for name, values in (*net.named_parameters(), *net.named_buffers()):
        if values.is_floating_point():
            low = 0.5 if "var" in name or name.endswith("bn.weight") else -0.5
            values.data.uniform_(low, 1.0, generator=rng)


def widths() -> tuple[Width, Width, Width]:
    return Width("a", {"4": 4, "6": 6, "8": 8}), Width("e", {"2": 2, "3": 3}), Width("b", {"6": 6, "9": 9})


def block(c_in: int, e: int, c_out: int) -> nn.Module:
    return MBConv(c_in, c_out, 3, 2, e, SqueezeExcite(c_in * e, max(1, c_in * e // 4)), shortcut=False)


def network() -> nn.Sequential:
    """Stem, a block with shortcut or its like, a block with an elastic expansion, a classifier: widths of each kind."""
    a, e, b = widths()
    options = {
        "mb": elastic(lambda c: MBConv(c, c, 3, 1, 2), a),
        "rep": elastic(lambda c: RepConv(c, c), a),
        "skip": Skip(1, 1, 1),
    }
    net = nn.Sequential(
        elastic(lambda c: ConvBNAct(3, c, 3), a),
        Mixed("layer", options),
        elastic(block, a, e, b),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        elastic(lambda c: nn.Linear(c, 5), b),
    )
    spread(net)
    return net.eval()


def every(space: Space) -> list[Arch]:
    archs: list[tuple[tuple[str, tuple[str, ...]], ...]] = [()]
    for c in space.choices:
        archs = [(*picks, (c.name, (o,))) for picks in archs for o in c.options]
    return [Arch(picks) for picks in archs]


def test_widths_are_choices_of_the_space_in_order() -> None:
    assert space_of(network()) == Space(
        (
            Choice("a", ("4", "6", "8")),
            Choice("layer", ("mb", "rep", "skip")),
            Choice("e", ("2", "3")),
            Choice("b", ("6", "9")),
        )
    )


def test_every_path_is_the_derived_network_of_plain_layers() -> None:
    net = network()
    for arch in every(space_of(net)):
        alone = derive(net, arch)
        assert {type(m).__module__ for m in alone.modules()}.isdisjoint(
            {"paceline.pipeline.supernet.elastic", "paceline.pipeline.supernet.widths", "paceline.pipeline.supernet.mixed"}
        )
        with torch.no_grad(), path(net, hard(space_of(net), arch)):
            torch.testing.assert_close(net(images()), alone(images()), rtol=1e-6, atol=1e-6)


def test_a_slice_is_a_block_that_was_built_narrow_with_the_first_weights() -> None:
    a, e, b = widths()
    wide = elastic(block, a, e, b).eval()
    spread(wide)
    narrow = block(6, 2, 6).eval()
    with torch.no_grad():
        for name, values in narrow.state_dict().items():
            values.copy_(wide.state_dict()[name][tuple(slice(n) for n in values.shape)])
    picks = Arch((("a", ("6",)), ("e", ("2",)), ("b", ("6",))))
    assert set(picks.picks) == {(c.name, picks[c.name]) for c in space_of(wide).choices}
    with torch.no_grad(), path(wide, hard(space_of(wide), Arch(tuple((c.name, picks[c.name]) for c in space_of(wide).choices)))):
        torch.testing.assert_close(wide(images(channels=6)), narrow(images(channels=6)), rtol=1e-6, atol=1e-6)


def test_only_the_slice_is_computed_and_learns() -> None:
    net = network().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    arch = Arch((("a", ("4",)), ("layer", ("mb",)), ("e", ("2",)), ("b", ("6",))))
    with path(net, hard(space_of(net), arch)):
        net(images()).square().sum().backward()
    small = {k: v.shape for k, v in derive(net, arch).state_dict().items()}
    assert len(small) > 20
    for name, p in net.named_parameters():
        if "options.rep" in name:
            assert p.grad is None
            continue
        assert p.grad is not None
        inside = torch.zeros_like(p, dtype=torch.bool)
        inside[tuple(slice(n) for n in small[name.replace("options.mb.", "")])] = True
        assert not p.grad[~inside].any(), name
        assert p.grad[inside].any() or "conv.bias" in name, name
    stat = "0.bn.running_mean"
    assert torch.equal(net.state_dict()[stat][4:], before[stat][4:])
    assert not torch.equal(net.state_dict()[stat][:4], before[stat][:4])


def test_recalibration_is_of_the_slice() -> None:
    net = network()
    arch = Arch((("a", ("6",)), ("layer", ("skip",)), ("e", ("2",)), ("b", ("6",))))
    before = net.state_dict()["0.bn.running_var"].clone()
    batches = [(images(4, seed=s), torch.zeros(4)) for s in (1, 2)]
    alone = derive(net, arch)
    recalibrate(alone, batches)
    with path(net, hard(space_of(net), arch)):
        recalibrate(net, batches)
    again = derive(net, arch)
    for name, values in alone.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], values, rtol=1e-6, atol=1e-6)
    assert torch.equal(net.state_dict()["0.bn.running_var"][6:], before[6:])


def linear_in_masks() -> nn.Sequential:
    """One layer mixes the channels of each width, and no activation stands behind one."""
    a, _, b = widths()
    net = nn.Sequential(
        elastic(lambda c: ConvBNAct(3, c, 3, act=None), a),
        elastic(lambda c: ConvBNAct(c, c, 3, groups=c, act=None), a),
        elastic(lambda c, d: nn.Conv2d(c, d, 1), a, b),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        elastic(lambda c: nn.Linear(c, 5), b),
    )
    spread(net)
    return net.eval().double()


def test_a_relaxed_path_is_the_mean_of_its_networks_where_the_network_is_linear_in_the_masks() -> None:
    net = linear_in_masks()
    x = images().double()
    weights = {"a": torch.tensor([0.2, 0.5, 0.3], dtype=torch.double), "b": torch.tensor([0.6, 0.4], dtype=torch.double)}
    expected = torch.zeros(2, 5, dtype=torch.double)
    with torch.no_grad():
        for arch in every(space_of(net)):
            chance = [weights[c.name][c.options.index(arch[c.name][0])] for c in space_of(net).choices]
            with path(net, hard(space_of(net), arch)):
                expected += torch.stack(chance).prod() * net(x)
        with path(net, weights):
            torch.testing.assert_close(net(x), expected)


def test_relaxed_weights_have_the_gradient_of_the_mean_and_one_hot_ones_are_exact() -> None:
    net = linear_in_masks()
    x = images().double()
    weights = {
        "a": torch.tensor([0.2, 0.5, 0.3]).double().requires_grad_(),
        "b": torch.tensor([0.6, 0.4]).double().requires_grad_(),
    }

    def loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        with path(net, {"a": a, "b": b}):
            out: torch.Tensor = net(x).sum()
            return out

    assert torch.autograd.gradcheck(loss, (weights["a"], weights["b"]))
    net = network()
    for arch in every(space_of(net))[::7]:
        one_hot = {name: w.clone().requires_grad_() for name, w in hard(space_of(net), arch).items()}
        with path(net, one_hot):
            relaxed = net(images())
        torch.testing.assert_close(relaxed, derive(net, arch)(images()), rtol=1e-5, atol=1e-5)


def test_operators_of_every_width_are_those_of_its_exported_network() -> None:
    net = network()
    found = space_operators(net, images(1))
    assert found.given == {"layer": ("a",), "e": ("a",), "b": ("a", "e")}
    for arch in every(space_of(net))[::5]:
        whole = graph_of(shipped(net, arch), images(1))
        assert Counter(found.of(arch)) == Counter(whole.operators())
        assert macs_of(found.of(arch)) == whole.macs()
        alone = derive(net, arch).double()
        check_merge(alone, merged(alone).module, images().double(), 1e-9)


def test_a_reduced_space_with_widths() -> None:
    chain = SPACES["bsnas_small"].chain
    net = chain.supernet(0)
    x = images(channels=chain.in_channels, size=chain.image_size)
    assert space_of(net) == chain.space()
    assert chain.space().size == (3 * 3 * 4 * 3 * 4) * 4**3
    check_supernet(net, x)
    rng = np.random.default_rng(0)
    for _ in range(5):
        arch = chain.space().sample(rng)
        alone, built = derive(net, arch), chain.network(arch, 0)
        assert {k: v.shape for k, v in alone.state_dict().items()} == {k: v.shape for k, v in built.state_dict().items()}


def macs_of_layers(net: nn.Module, x: torch.Tensor) -> int:
    """Counted by hooks, without any graph."""
    counts: list[int] = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda m, args, y: counts.append(y[0].numel() * m.weight[0].numel()))
    net.eval()(x)
    return sum(counts)


def test_operators_of_a_chain_with_widths() -> None:
    options: dict[str, Op] = {"k3e2": MBConvOp(3, 2), "skip": SkipOp()}
    slots = elastic_slots(8, (Stage(8, 1, 1), Stage(16, 2, 2)), options, (0.5, 1.0), round)
    chain = Chain("tiny", Stem(8, stride=1), slots, Tail(32), 1, 3, 8)  # its head is, at some widths, what its last layer is too
    x = images(1, 1)
    net = chain.supernet(0)
    found = space_operators(net, x)
    assert found.given == {
        "stage1_layer1": ("stage1_width",),
        "stage2_layer1": ("stage1_width", "stage2_width"),
        "stage2_layer2": ("stage2_width",),
    }
    for arch in every(chain.space()):
        whole = graph_of(shipped(net, arch), x)
        assert Counter(found.of(arch)) == Counter(whole.operators())
        assert macs_of(found.of(arch)) == macs_of_layers(chain.network(arch, 0), x)


def test_the_full_space_is_data() -> None:
    space = SPACES["bsnas"].chain.space()
    layers = [c for c in space.choices if "layer" in c.name]
    assert len(layers) == 21
    assert all(len(c.options) == 6 for c in layers)
    assert [c.options for c in space.choices if c.name == "stage2_width"] == [("16", "24", "32")]
    assert len(space.choices) == 21 + 7


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda a, b: MBConv(a, b, 3, 1, 2), "MBConv can't be elastic.*a shortcut that only equal widths allow"),
        (lambda a, b: nn.Sequential(*([nn.ReLU()] * (a == b))), "Sequential can't be elastic"),
        (lambda a, b: nn.Conv2d(a, 2 * b, 1, groups=2), "only zero padding, and one group or depthwise"),
        (lambda a, b: nn.Conv2d(a, b, 3, padding=1, padding_mode="reflect"), "only zero padding"),
        (lambda a, b: nn.Conv1d(a, b, 1), "Conv1d can't be elastic: .* its part 'itself'"),
        (lambda a, b: nn.BatchNorm2d(b, affine=False), "affine parameters"),
        (lambda a, b: nn.Conv2d(a, 24 // b, 1), "differs from the largest"),
    ],
)
def test_what_cannot_be_elastic_is_refused(build: object, reason: str) -> None:
    a, b = Width("a", {"4": 4, "8": 8}), Width("b", {"4": 4, "8": 8})
    with pytest.raises(SpaceError, match=reason):
        elastic(build, a, b)  # type: ignore[arg-type]


def test_mistakes_are_named() -> None:
    a, other = Width("a", {"4": 4, "8": 8}), Width("other", {"4": 4, "8": 8})
    net = nn.Sequential(elastic(lambda c: nn.Conv2d(3, c, 1), a), elastic(lambda c: nn.Conv2d(c, 3, 1), other))
    with pytest.raises(SpaceError, match="choice 'a' has no weights"):
        net(images())
    one, two = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    with path(net, {"a": one, "other": two}), pytest.raises(SpaceError, match=r"got 4 channels, its input has 8.*other decides"):
        net(images())
    with pytest.raises(SpaceError, match="every option of choice 'a' weight 0"), path(net, {"a": one * 0, "other": two}):
        pass
    with pytest.raises(SpaceError, match="'a' has no weights"):  # the path was put back
        net(images())
    with pytest.raises(SpaceError, match="from the least number to the largest"):
        Width("down", {"8": 8, "4": 4})


SPACE = Space((Choice("layer", ("x", "y")), Choice("s1_width", tuple("12345")), Choice("s2_width", tuple("123"))))


def test_a_sandwich_has_the_largest_and_the_smallest_widths() -> None:
    check_policy(Sandwich(), SPACE)
    layers = set()
    for seed in range(20):
        largest, smallest, *others = Sandwich(random=2).paths(SPACE, np.random.default_rng(seed))
        assert len(others) == 2
        assert [int(largest[name].argmax()) for name in ("s1_width", "s2_width")] == [4, 2]
        assert [int(smallest[name].argmax()) for name in ("s1_width", "s2_width")] == [0, 0]
        layers.add((int(largest["layer"].argmax()), int(smallest["layer"].argmax())))
    assert len(layers) == 4
    with pytest.raises(SpaceError, match=r"no choice is called '\*_width' \(only\)"):
        Sandwich().paths(Space((Choice("only", ("x",)),)), np.random.default_rng(0))


def test_widths_broaden_from_the_middle() -> None:
    spring = Spring(Broadening(every=2), Uniform(50), SPACE)
    seen = []
    for epoch in range(6):
        check_policy(spring, SPACE)
        paths = spring.paths(SPACE, np.random.default_rng(epoch))
        seen.append([sorted({int(p[name].argmax()) for p in paths}) for name in ("layer", "s1_width", "s2_width")])
        spring.after_epoch(epoch + 1)
    narrow, wider, widest = ([[0, 1], [2], [1]], [[0, 1], [1, 2, 3], [0, 1, 2]], [[0, 1], [0, 1, 2, 3, 4], [0, 1, 2]])
    assert seen == [narrow, narrow, wider, wider, widest, widest]
    again = Spring(Broadening(every=2), Uniform(50), SPACE)
    again.load_state_dict(spring.state_dict())
    assert again.space == spring.space == SPACE
    with pytest.raises(ConfigError, match="every >= 1"):
        Broadening(every=0)


def test_initialise_knows_elastic_layers() -> None:
    net = network()
    initialise(net, 1)
    assert torch.equal(net[0].bn.weight, torch.ones(8))
    assert torch.equal(net[0].bn.running_mean, torch.zeros(8))
    assert torch.equal(net[1].options["mb"].body.project.bn.weight, torch.full((8,), 0.2))
