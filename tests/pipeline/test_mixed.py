from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import fx, nn

from paceline.arch import Arch
from paceline.errors import SpaceError
from paceline.pipeline.supernet import Mixed, derive, hard, path, space_of
from paceline.pipeline.testing import check_supernet


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.factor


def scales(*factors: float, at_most: int = 1) -> Mixed:
    return Mixed("m", {f"x{f:.0f}": Scale(f) for f in factors}, at_most=at_most)


def test_weighted_sum_of_the_options_with_weight() -> None:
    net = scales(2.0, 3.0, 5.0)
    x = torch.ones(1)
    with path(net, {"m": torch.tensor([0.5, 0.0, 2.0])}):
        assert net(x).item() == 0.5 * 2 + 2.0 * 5
    assert [o.calls for o in net.options.values()] == [1, 0, 1]


def test_gradient_reaches_the_weights() -> None:
    net = scales(2.0, 3.0)
    weights = torch.tensor([0.25, 0.75], requires_grad=True)
    with path(net, {"m": weights}):
        net(torch.ones(1)).sum().backward()
    assert weights.grad is not None
    assert weights.grad.tolist() == [2.0, 3.0]


def test_no_path_is_an_error_and_the_old_one_comes_back_after_an_exception() -> None:
    net = scales(2.0, 3.0)
    x = torch.ones(1)
    with pytest.raises(SpaceError, match="has no weights"):
        net(x)
    with path(net, {"m": torch.tensor([1.0, 0.0])}):
        with pytest.raises(RuntimeError, match="size"), path(net, {"m": torch.tensor([0.0, 1.0])}):
            net(torch.ones(1) @ torch.ones(2))
        assert net(x).item() == 2.0
    with pytest.raises(SpaceError, match="has no weights"):
        net(x)


def test_a_path_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    net = nn.Sequential(scales(2.0, 3.0), Mixed("n", {"a": nn.Identity(), "b": nn.Identity()}))
    one = torch.tensor([1.0, 0.0])
    for wrong, message in [
        ({"m": one}, "disagree on the choices n"),
        ({"m": one, "n": one, "o": one}, "disagree on the choices o"),
        ({"m": one, "n": torch.ones(3)}, "needs 2 weights"),
        ({"m": one, "n": torch.zeros(2)}, "at least one other weight"),
    ]:
        with pytest.raises(SpaceError, match=message), path(net, wrong):
            pass
        with pytest.raises(SpaceError, match="'m' has no weights"):
            net(torch.ones(1))


def test_derived_network_computes_as_the_supernet_along_the_path(net: nn.Module) -> None:
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.running_mean, -1, 1)
            nn.init.uniform_(m.running_var, 0.5, 2)
            nn.init.uniform_(m.weight, 0.5, 2)
    check_supernet(net, torch.randn(3, 1, 16, 16))


def test_derived_network_is_plain_and_independent(net: nn.Module) -> None:
    arch = space_of(net).sample(np.random.default_rng(1))
    derived = derive(net, arch).eval()
    assert not any(isinstance(m, Mixed) for m in derived.modules())
    mine = {p.data_ptr() for p in net.parameters()}
    assert not mine & {p.data_ptr() for p in derived.parameters()}
    x = torch.randn(1, 1, 16, 16)
    expected = derived(x)
    for p in net.parameters():
        nn.init.zeros_(p)
    torch.testing.assert_close(derived(x), expected)
    torch.testing.assert_close(fx.symbolic_trace(derived)(x), expected)
    torch.testing.assert_close(torch.export.export(derived, (x,), strict=False).module()(x), expected)


def test_several_options_become_their_sum() -> None:
    net = nn.Sequential(scales(2.0, 3.0, 5.0, at_most=2))
    arch = Arch((("m", ("x2", "x5")),))
    assert derive(net, arch)(torch.ones(1)).item() == 7.0
    with path(net, hard(space_of(net), arch)):
        assert net(torch.ones(1)).item() == 7.0
    fx.symbolic_trace(derive(net, arch))


def test_choices_within_options() -> None:
    inner = Mixed("inner", {"twice": Scale(2.0), "thrice": Scale(3.0)})
    net = nn.Sequential(Mixed("outer", {"nested": nn.Sequential(inner, Scale(10.0)), "plain": Scale(7.0)}))
    assert [c.name for c in space_of(net).choices] == ["outer", "inner"]
    assert derive(net, Arch((("outer", ("nested",)), ("inner", ("thrice",)))))(torch.ones(1)).item() == 30.0
    check_supernet(net, torch.ones(1))


def test_spaces_that_make_no_sense_are_refused() -> None:
    with pytest.raises(SpaceError, match="holds no Mixed"):
        space_of(nn.Linear(1, 1))
    with pytest.raises(SpaceError, match="different names"):
        space_of(nn.Sequential(scales(1.0), scales(2.0)))
    with pytest.raises(SpaceError, match="may take nothing"):
        Mixed("m", {"a": nn.Identity()}, at_least=0)
    with pytest.raises(SpaceError, match="can't be a module's name"):
        Mixed("m", {"a.b": nn.Identity()})
    with pytest.raises(SpaceError, match="no option 'z'"):
        derive(scales(1.0), Arch((("m", ("z",)),)))
