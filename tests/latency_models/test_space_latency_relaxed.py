"""Relaxed paths in their three forms, on models that are additive and on one that is not."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from paceline.arch import Choice, Space
from paceline.errors import LatencyModelError
from paceline.latency_models.spaces.relaxed import Sampled, soft, topk_st

SPACE = Space((Choice("a", tuple("xyz")), Choice("b", tuple("xy")), Choice("c", tuple("pqrs"), 1, 3)))


def path_of(seed: int) -> dict[str, Tensor]:
    """Probabilities; those of the choice of several options add up to 2."""
    rng = np.random.default_rng(seed)
    weights = {"a": rng.dirichlet(np.ones(3)), "b": rng.dirichlet(np.ones(2)), "c": 1 - rng.dirichlet(np.ones(4)) * 2}
    while weights["c"].min() < 0:
        weights["c"] = 1 - rng.dirichlet(np.ones(4)) * 2
    return {name: torch.tensor(w, requires_grad=True) for name, w in weights.items()}


def drawn(path: Mapping[str, Tensor], count: int, seed: int = 0) -> Tensor:
    return Sampled(count, torch.Generator().manual_seed(seed))(SPACE, path)


def test_soft_is_the_weights_themselves() -> None:
    path = path_of(0)
    codes = soft(SPACE, path)
    assert codes.shape == (1, 9)
    np.testing.assert_array_equal(codes.detach()[0], torch.cat([path[name].detach() for name in "abc"]))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_topk_is_exactly_the_derived_architecture(seed: int) -> None:
    path = path_of(seed)
    codes = topk_st(SPACE, path)
    weights = soft(SPACE, path)[0].detach().numpy()
    np.testing.assert_array_equal(codes.detach()[0], SPACE.encode(SPACE.decode(weights)))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_sampled_codes_are_architectures(seed: int) -> None:
    for code in drawn(path_of(seed), 20, seed).detach().numpy():
        np.testing.assert_array_equal(SPACE.encode(SPACE.decode(code)), code)
        assert code.sum() == 4  # one, one and two options


@pytest.mark.parametrize("seed", range(5))
def test_options_are_sampled_with_the_probability_of_their_weight(seed: int) -> None:
    path = path_of(seed)
    shares = drawn(path, 40_000, seed).detach().mean(dim=0)
    np.testing.assert_allclose(shares, soft(SPACE, path)[0].detach(), atol=0.012)  # five standard errors of a share


def test_options_of_weight_0_and_1_are_certain_in_float32_too() -> None:
    path = {
        "a": torch.softmax(torch.tensor([0.0, 300.0, 0.0]), 0),
        "b": torch.tensor([1.0, 0.0]),
        "c": torch.tensor([1.0, 0.7, 0.3, 0.0]),
    }
    codes = drawn(path, 5000)
    assert np.unique(codes[:, :3], axis=0).tolist() == [[0.0, 1.0, 0.0]]
    assert np.unique(codes[:, 3:5], axis=0).tolist() == [[1.0, 0.0]]
    assert np.unique(codes[:, 5:], axis=0).tolist() == [[1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]]


@pytest.mark.parametrize("form", [soft, topk_st, Sampled(7, torch.Generator().manual_seed(0))])
def test_the_gradient_passes_through_every_form(form: object) -> None:
    """Of an additive model it is the options' costs, whatever was drawn."""
    assert callable(form)
    path, costs = path_of(1), torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    (form(SPACE, path) @ costs).mean().backward()
    found = torch.cat([path[name].grad for name in "abc"])  # type: ignore[misc]
    np.testing.assert_allclose(found, costs, rtol=1e-12)


def test_the_same_generator_gives_the_same_codes() -> None:
    path = path_of(3)
    assert (drawn(path, 50, 1) == drawn(path, 50, 1)).all()
    assert (drawn(path, 50, 1) != drawn(path, 50, 2)).any()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"a": None}, "needs 3 weights for choice 'a'"),
        ({"b": torch.ones(3) / 3}, "needs 2 weights for choice 'b'"),
        ({"z": torch.ones(2)}, "weights for 'z', which is no choice"),
    ],
)
def test_paths_of_another_space_are_refused(change: dict[str, Tensor | None], reason: str) -> None:
    path = {name: w for name, w in (path_of(0) | change).items() if w is not None}
    for form in (soft, topk_st, Sampled(2, torch.Generator())):
        with pytest.raises(LatencyModelError, match=reason):
            form(SPACE, path)


@pytest.mark.parametrize("weights", [[0.5, 0.6], [1.5, -0.5], [0.2, 0.2]])
def test_weights_that_are_no_probabilities_are_not_sampled(weights: list[float]) -> None:
    with pytest.raises(LatencyModelError, match="choice 'b' are no probabilities of taking 1 to 1"):
        drawn(path_of(0) | {"b": torch.tensor(weights)}, 3)
