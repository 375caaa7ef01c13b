"""Folding SCARLET's stabilisers: exact wherever it is done, refused with the reason wherever it can't be."""

from __future__ import annotations

import copy
import operator
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from paceline.exporters import fold_stabilisers
from paceline.exporters.merge import MergeError, check_merge, merged
from paceline.exporters.torch_graph import graph_of
from paceline.pipeline.ops.skip import StabilisedSkip
from paceline.pipeline.spaces.catalogue import find_space
from paceline.pipeline.supernet import derive

from networks import Net, count, image, randomised


def stabiliser(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 1, bias=False)


def block(c_in: int, c_out: int, stride: int = 1, kernel: int = 3, squeeze: bool = False, expand: bool = True) -> nn.Module:
    """An inverted residual; without `expand` its depthwise convolution reads the stream itself."""
    hidden = 3 * c_in if expand else c_in
    layers: list[nn.Module] = []
    if expand:
        layers += [nn.Conv2d(c_in, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.Hardswish()]
    depthwise = nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False)
    layers += [depthwise, nn.BatchNorm2d(hidden), nn.Hardswish()]
    if squeeze:
        gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(hidden, 8, 1), nn.ReLU(), nn.Conv2d(8, hidden, 1), nn.Hardsigmoid()
        )
        layers.append(Net(lambda n, x: x * n.gate(x), gate=gate))
    body = nn.Sequential(*layers, nn.Conv2d(hidden, c_out, 1, bias=False), nn.BatchNorm2d(c_out))
    if stride == 1 and c_in == c_out:
        return Net(lambda n, x: x + n.body(x), body=body)
    return body


def chain(*parts: nn.Module, channels: int, head: nn.Module | None = None, seed: int = 0) -> nn.Module:
    """Stem, the parts (whose last gives `channels`), head; BatchNorms randomised, in float64 and evaluation mode."""
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
    usual = (nn.Conv2d(channels, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net = nn.Sequential(stem, *parts, *((head,) if head else (*usual, nn.Dropout(0.2), nn.Linear(24, 5))))
    return randomised(net, seed).double().eval()


def folded_exactly(net: nn.Module, *names: str, tolerance: float = 1e-10) -> nn.Module:
    result = fold_stabilisers(net)
    assert [fold.name for fold in result.report] == list(names)
    example = image(2, 3, 17, 14).to(next(net.parameters()).dtype)
    assert check_merge(net, result.module, example, tolerance) <= tolerance
    present = {name for name, _ in result.module.named_modules()}
    assert present.isdisjoint(names)
    assert all(set(fold.layers) <= present and fold.layers for fold in result.report)
    return result.module


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_every_chain_computes_the_same_without_its_stabilisers(data: st.DataObject) -> None:
    parts: list[nn.Module] = [block(8, 8, expand=False)]
    names, width = [], 8
    for _ in range(data.draw(st.integers(1, 3))):
        wider = data.draw(st.sampled_from([6, 8, 12]))
        parts.append(block(width, wider, stride=2))
        width = wider
        for kind in data.draw(st.lists(st.sampled_from(["block", "squeeze", "stabiliser"]), max_size=4)):
            if kind == "stabiliser":
                names.append(str(len(parts) + 1))
            parts.append(stabiliser(width) if kind == "stabiliser" else block(width, width, squeeze=kind == "squeeze"))
    net = chain(*parts, channels=width, seed=data.draw(st.integers(0, 1000)))
    for name in names:  # well conditioned, as they are after training from the identity
        part = net.get_submodule(name)
        assert isinstance(part, nn.Conv2d)
        part.weight.data = torch.eye(part.in_channels).double()[:, :, None, None] + 0.3 * part.weight.data
    folded = folded_exactly(net, *names)
    assert count(folded, nn.BatchNorm2d) == 0
    folded_exactly(net.float(), *names, tolerance=1e-5)


def test_folding_into_the_next_convolution_alone_would_be_wrong() -> None:
    net = chain(block(8, 12, 2), stabiliser(12), block(12, 12), block(12, 16, 2), channels=16)
    naive = copy.deepcopy(net)
    assert isinstance(naive[2], nn.Conv2d)
    expand = naive[3].body[0]
    expand.weight.data = torch.einsum("ocij,cd->odij", expand.weight.data, naive[2].weight.data.flatten(1))
    naive[2] = nn.Identity()
    with pytest.raises(MergeError, match="differs"):
        check_merge(net, naive, image(2, 3, 17, 14).double())
    folded_exactly(net, "2")


def test_several_in_one_stage_are_taken_in_together() -> None:
    net = chain(block(8, 12, 2), stabiliser(12), block(12, 12), stabiliser(12), stabiliser(12), block(12, 12), channels=12)
    result = fold_stabilisers(net)
    assert [f.name for f in result.report] == ["2", "4", "5"]
    for fold in result.report:
        assert fold.layers == ("3.body.0", "3.body.6", "6.body.0", "6.body.6", "7")
        assert fold.condition == pytest.approx(float(torch.linalg.cond(net.get_submodule(fold.name).weight.detach().flatten(1))))
    folded_exactly(net, "2", "4", "5")


def test_in_the_last_stage_the_head_takes_it_in() -> None:
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))
    pixels = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(1), nn.Linear(12 * 2 * 2, 5))
    by_mean = Net(lambda n, x: n.classify(x.mean((2, 3))), classify=nn.Linear(12, 5))
    by_functions = Net(
        lambda n, x: n.classify(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 2), 1)), classify=nn.Linear(12 * 4, 5)
    )
    for head in (pooled, pixels, by_mean, by_functions):
        folded_exactly(chain(block(8, 12, 2), block(12, 12), stabiliser(12), channels=12, head=head), "3")


def test_where_the_stream_behind_is_held_the_layers_before_take_it_in() -> None:
    net = chain(block(8, 12, 2), block(12, 12), stabiliser(12), block(12, 12, expand=False), channels=12)
    folded_exactly(net, "3")
    assert fold_stabilisers(net).report[0].layers == ("1.6", "2.body.0", "2.body.6")


def test_parallel_options_and_calls_in_several_places() -> None:
    both = Net(lambda n, x: n.stabiliser(x) + n.other(x), stabiliser=stabiliser(12), other=block(12, 12))
    twice = Net(lambda n, x: n.b(n.b(n.w(n.b(n.w(x))))), w=stabiliser(12), b=block(12, 12))
    folded_exactly(chain(block(8, 12, 2), both, block(12, 12), channels=12), "2.stabiliser")
    folded_exactly(chain(block(8, 12, 2), twice, channels=12), "2.w", "2.w")


def test_the_network_itself_stays_as_it_is_and_nothing_is_drawn() -> None:
    net = chain(block(8, 12, 2), stabiliser(12), block(12, 12), channels=12)
    before, drawn = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    fold_stabilisers(net)
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert isinstance(net[2], nn.Conv2d)


def test_without_a_stabiliser_the_network_is_merged_and_ordinary_layers_stay() -> None:
    net = chain(
        block(8, 12, 2), nn.Sequential(stabiliser(12), nn.BatchNorm2d(12), nn.ReLU()), stabiliser(12), nn.ReLU(), channels=12
    )
    result = fold_stabilisers(net)
    assert result.report == ()
    check_merge(net, result.module, image(2, 3, 17, 14).double(), 1e-12)


def test_named_stabilisers() -> None:
    net = chain(block(8, 12, 2), stabiliser(12), block(12, 12), stabiliser(12), nn.ReLU(), channels=12)
    assert [f.name for f in fold_stabilisers(net, ["4"]).report] == ["4"]  # an activation reads it: else it is no stabiliser
    assert [f.name for f in fold_stabilisers(net, ["2", "4"]).report] == ["2", "4"]
    assert fold_stabilisers(net, []).report == ()
    for name in ("3.body.0", "9"):
        with pytest.raises(MergeError, match=f"'{name}' is no stabiliser"):
            fold_stabilisers(net, ["2", name])


@pytest.mark.parametrize("weight", [torch.zeros(12, 12), torch.diag(torch.arange(12.0)), torch.diag(torch.logspace(0, 6.2, 12))])
def test_a_singular_stabiliser_is_refused(weight: Tensor) -> None:
    net = chain(block(8, 12, 2), stabiliser(12), block(12, 12), channels=12)
    net[2].weight.data = weight.double()[:, :, None, None]
    with pytest.raises(MergeError, match=r"the stabiliser '2' is singular or nearly so .*condition number"):
        fold_stabilisers(net)


def test_well_conditioned_ones_that_multiply_to_a_singular_one_are_refused() -> None:
    net = chain(block(8, 12, 2), stabiliser(12), block(12, 12), stabiliser(12), block(12, 12), channels=12)
    for at in (2, 4):
        net[at].weight.data = torch.diag(torch.logspace(0, 4, 12)).double()[:, :, None, None]
    with pytest.raises(MergeError, match="the stabilisers '2', '4' together are singular"):
        fold_stabilisers(net)


def test_training_mode_is_refused() -> None:
    net = chain(block(8, 12, 2), stabiliser(12), block(12, 12), channels=12)
    net[1].train()
    with pytest.raises(MergeError, match=r"'1' is in training mode.*eval"):
        fold_stabilisers(net)


def test_streams_that_are_not_linear_are_refused() -> None:
    def read_twice(n: Net, x: Tensor) -> Tensor:
        y = n.w(x)
        total: Tensor = n.conv(y) + n.act(y)
        return total

    residual = Net(lambda n, x: n.act(x + n.body(x)), body=block(12, 12), act=nn.ReLU())
    twice = Net(read_twice, w=stabiliser(12), conv=nn.Conv2d(12, 12, 1), act=nn.ReLU())
    norm_first = Net(lambda n, x: x + n.body(x), body=nn.Sequential(nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 12, 1)))
    for parts, reason in (
        ((nn.ReLU(), stabiliser(12), residual), "ReLU '2' gives it, and ReLU '4.act' reads it"),
        ((nn.ReLU(), twice), "ReLU '2' gives it, and ReLU '3.act' reads it"),
        ((norm_first, stabiliser(12), norm_first), "BatchNorm2d '2.body.0' reads it, and BatchNorm2d '4.body.0' reads it"),
        (
            (nn.MaxPool2d(2), stabiliser(12), block(12, 12, expand=False)),
            "MaxPool2d '2' gives it, and Conv2d '4.body.0' reads it",
        ),
    ):
        with pytest.raises(MergeError, match=rf"can't fold '(3|3\.w)'.*{reason}"):
            fold_stabilisers(chain(block(8, 12, 2), *(copy.deepcopy(p) for p in parts), channels=12))


def test_a_stabiliser_on_a_shortcut_is_refused() -> None:
    inner = Net(lambda n, x: x + n.body(n.w(x)), w=stabiliser(12), body=block(12, 12))
    with pytest.raises(MergeError, match=r"can't fold '2.w': what comes out is added to what goes in"):
        fold_stabilisers(chain(block(8, 12, 2), inner, channels=12))


def test_what_is_changed_in_place_later_is_refused() -> None:
    def after(n: Net, x: Tensor) -> Tensor:
        z: Tensor = n.w(x)
        z += n.one(z)
        return z + n.other(x)

    inner = Net(after, w=stabiliser(12), one=block(12, 6), other=block(12, 12))
    inner.one.append(nn.Conv2d(6, 12, 1))
    with pytest.raises(MergeError, match=r"can't fold '2.w': iadd.* works in place"):
        fold_stabilisers(chain(block(8, 12, 2), inner, channels=12))
    # A fresh value may be added to in place.
    fine = Net(lambda n, x: operator.iadd(n.body(x), x), body=block(12, 12))
    folded_exactly(chain(block(8, 12, 2), fine, stabiliser(12), fine, channels=12), "3")


def test_a_network_of_scarlets_space_folds_to_the_operators_that_the_search_counted() -> None:
    chain = find_space("scarlet_small").chain
    arch = chain.arch("k3e3 skip k5e3_se skip skip k3e3_se skip")
    net = randomised(derive(chain.supernet(0), arch)).eval()
    stabilisers = [name for name, m in net.named_modules() if isinstance(m, StabilisedSkip)]
    g = torch.Generator().manual_seed(0)
    for name in stabilisers:
        weight = net.get_submodule(name).conv.weight
        weight.data = torch.eye(len(weight))[:, :, None, None] + 0.05 * torch.randn(weight.shape, generator=g)
    result = fold_stabilisers(net)
    assert [fold.name for fold in result.report] == [f"{name}.conv" for name in stabilisers]
    x = image(1, 1, 16, 16)
    check_merge(net, result.module, x, 1e-5)
    alone = merged(chain.network(arch, 0)).module
    assert Counter(graph_of(result.module, x).operators()) == Counter(graph_of(alone, x).operators())
