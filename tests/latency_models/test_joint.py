"""Latency of spaces in which the operators of an option depend on other choices."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_space_latency import SPECS, Doubtful, same

from paceline.arch import Arch, Choice, Space
from paceline.errors import SpaceError
from paceline.graph import OpSpec
from paceline.latency_models.space_latency import SpaceLatency
from paceline.latency_models.spaces.codes import encode_all
from paceline.latency_models.spaces.relaxed import topk_st
from paceline.space_operators import SpaceOperators, decisions

from samples import conv


def filled(space: Space, depends: dict[str, tuple[str, ...]], seed: int) -> SpaceLatency:
    """Random operators for every combination."""
    rng = np.random.default_rng(seed)
    of = {c.name: ["+".join(taken) for taken in decisions(c)] for c in space.choices}
    keys = [
        key for c in space.choices for key in itertools.product((c.name,), c.options, *(of[n] for n in depends.get(c.name, ())))
    ]
    options = {key: tuple(SPECS[i] for i in rng.integers(0, len(SPECS), rng.integers(0, 3))) for key in keys}
    operators = SpaceOperators(space, (SPECS[4],), options, depends)
    assert list(operators.combinations()) == keys
    return SpaceLatency(Doubtful(seed), operators)


@st.composite
def latencies(draw: st.DrawFn, single: bool = False) -> SpaceLatency:
    """Up to four choices, some of them of several options, each depending on some others."""
    choices = []
    for i in range(draw(st.integers(2, 4))):
        n = draw(st.integers(1, 3))
        at_most = 1 if single else draw(st.integers(1, n))
        choices.append(Choice(f"c{i}", tuple("xyz"[:n]), draw(st.integers(1 if single else 0, at_most)), at_most))
    names = [c.name for c in choices]
    depends = {
        name: tuple(draw(st.lists(st.sampled_from([n for n in names if n != name]), unique=True, max_size=2))) for name in names
    }
    return filled(Space(tuple(choices)), depends, draw(st.integers(0, 2**32 - 1)))


def every(space: Space) -> list[Arch]:
    names = [c.name for c in space.choices]
    return [Arch(tuple(zip(names, taken, strict=True))) for taken in itertools.product(*(decisions(c) for c in space.choices))]


def hard(space: Space, arch: Arch) -> dict[str, torch.Tensor]:
    code = torch.from_numpy(space.encode(arch))
    return {c.name: code[part] for c, part in space.slices()}


@given(latencies())
@settings(max_examples=60, deadline=None)
def test_all_at_once_is_one_by_one(latency: SpaceLatency) -> None:
    archs = every(latency.space)[:200]
    expected = latency.model.predict([latency.operators.of(arch) for arch in archs])
    same(latency.predict(archs), expected)
    same(latency.predict_encoded(encode_all(latency.space, archs).astype(np.uint8)), expected)
    for arch, ms in list(zip(archs, expected.ms, strict=True))[::7]:
        assert latency.expected_ms(hard(latency.space, arch)).item() == pytest.approx(ms, rel=1e-12)


@given(latencies(single=True), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_option_numbers_and_relaxed_paths(latency: SpaceLatency, seed: int) -> None:
    """The latency of a relaxed path is the mean over architectures whose choices are drawn independently."""
    space = latency.space
    archs = every(space)
    codes = np.array([[c.options.index(arch[c.name][0]) for c in space.choices] for arch in archs], np.uint8)
    same(latency.predict_codes(codes), latency.predict(archs))
    rng = np.random.default_rng(seed)
    weights = {c.name: torch.from_numpy(rng.dirichlet(np.ones(len(c.options)))).requires_grad_() for c in space.choices}
    chances = [torch.stack([weights[name][i] for name, i in zip(weights, code, strict=True)]).prod() for code in codes.tolist()]
    mean = (torch.stack(chances) * torch.from_numpy(latency.predict(archs).ms)).sum()
    found = latency.expected_ms(weights)
    assert found.item() == pytest.approx(mean.item(), rel=1e-9)
    for name, w in weights.items():
        mine, theirs = (torch.autograd.grad(ms, w, retain_graph=True)[0] for ms in (found, mean))
        free = theirs - theirs.mean()  # they differ by a constant, since the mean divides by no sum
        torch.testing.assert_close(mine - mine.mean(), free, rtol=1e-8, atol=1e-8, msg=name)
    derived = space.decode(torch.cat(list(weights.values())).detach().numpy())
    assert latency.expected_ms(weights, topk_st).item() == pytest.approx(latency.predict([derived]).ms[0], rel=1e-12)


@given(latencies())
@settings(max_examples=60, deadline=None)
def test_the_cheapest_is_the_cheapest_of_all(latency: SpaceLatency) -> None:
    archs = every(latency.space)
    rng = np.random.default_rng(0)
    costs = rng.normal(size=len(list(latency.operators.combinations())))
    rows = dict(zip(latency.operators.combinations(), costs, strict=True))
    free = SpaceLatency(latency.model, latency.operators)
    found = free._joint.cheapest(costs)

    def total(arch: Arch) -> float:
        taken = {c.name: "+".join(o for o in c.options if o in arch[c.name]) for c in latency.space.choices}
        return sum(
            rows[name, option, *(taken[other] for other in latency.operators.given.get(name, ()))]
            for name, options in arch.picks
            for option in options
        )

    latency.space.check(found)
    assert total(found) == pytest.approx(min(map(total, archs)), abs=1e-12)
    assert latency.predict([latency.fastest()]).ms[0] == pytest.approx(latency.predict(archs).ms.min(), rel=1e-12)


def test_a_long_chain_of_widths_is_searched_in_no_time() -> None:
    """Each width depends on the one before: 8^30 architectures."""
    names = [f"w{i}" for i in range(30)]
    space = Space(tuple(Choice(name, tuple("abcdefgh")) for name in names))
    latency = filled(space, {name: (before,) for before, name in itertools.pairwise(names)}, 3)
    fastest = latency.predict([latency.fastest()]).ms[0]
    rng = np.random.default_rng(0)
    assert fastest < latency.predict_codes(rng.integers(0, 8, (20_000, 30))).ms.min()


def spec(i: int) -> tuple[OpSpec, ...]:
    return (conv(8, i, i, 1),)


def test_operators_by_hand() -> None:
    space = Space((Choice("op", ("conv", "skip")), Choice("width", ("8", "16"))))
    options = {
        ("op", "conv", "8"): spec(8),
        ("op", "conv", "16"): spec(16),
        ("op", "skip", "8"): (),
        ("op", "skip", "16"): (),
        ("width", "8"): spec(1),
        ("width", "16"): spec(2),
    }
    operators = SpaceOperators(space, spec(3), options, {"op": ("width",)})
    assert operators.of(Arch((("op", ("conv",)), ("width", ("16",))))) == spec(3) + spec(16) + spec(2)
    assert set(operators.distinct()) == {*spec(1), *spec(2), *spec(3), *spec(8), *spec(16)}
    macs = operators.of_options(lambda specs: float(sum(s.macs for s in specs)))
    assert macs["op", "conv"] == (spec(8)[0].macs + spec(16)[0].macs) / 2
    assert macs["op", "skip"] == 0
    assert macs["width", "16"] == spec(2)[0].macs
    del options["op", "conv", "16"]
    with pytest.raises(SpaceError, match="the operators of option 'op conv 16' are missing"):
        SpaceOperators(space, (), options, {"op": ("width",)})
    for wrong in ({"op": ("height",)}, {"op": ("op",)}, {"height": ("op",)}):
        with pytest.raises(SpaceError, match="can't depend on"):
            SpaceOperators(space, (), options, wrong)
