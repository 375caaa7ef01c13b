"""Relaxed paths as rows that a latency model can read: as they are, as the derived architecture, or as random architectures.

A path holds one weight per option of every choice. A model that is not additive never saw weights between 0 and 1, so its figure
for them is biased; the straight-through forms give it architectures only, and pass the gradient to the weights as if the
architectures were the weights (Bengio et al., arXiv 1308.3432).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from paceline.arch import Arch, Choice, Space
from paceline.errors import LatencyModelError
from paceline.latency_models.model import Prediction
from paceline.latency_models.spaces.chance import kept_ms

Form = Callable[[Space, Mapping[str, Tensor]], Tensor]
"""Gives the codes of a path, shape (codes, width), differentiable in its weights. The path's latency is their mean latency."""

_ROUNDING = 1e-5  # of a sum of float32 probabilities


def soft(space: Space, path: Mapping[str, Tensor]) -> Tensor:
    """The weights as they are, one code. Exact for additive models (ProxylessNAS, arXiv 1812.00332, section 3.3)."""
    return flat(space, path)[None]


def topk_st(space: Space, path: Mapping[str, Tensor]) -> Tensor:
    """The architecture that `Space.decode` derives from the weights, one code; straight-through."""
    weights = flat(space, path)
    derived = torch.from_numpy(space.encode(space.decode(weights.detach().cpu().numpy()))).to(weights)
    return (derived + (weights - weights.detach()))[None]  # the bracket is 0: the value stays exact


@dataclass(frozen=True)
class Sampled:
    """`count` random architectures; an option is taken with the probability of its weight; straight-through.

    Where a choice takes one option that is the distribution of a Gumbel arg max. Where it takes several, systematic sampling
    (Madow 1949) keeps the probability of each option exactly. Raises LatencyModelError for weights that are no such
    probabilities: outside [0, 1], or of a sum outside `at_least` to `at_most`.
    """

    count: int
    generator: torch.Generator

    def __call__(self, space: Space, path: Mapping[str, Tensor]) -> Tensor:
        weights = flat(space, path)
        known = weights.detach().cpu()
        drawn = torch.cat([self._drawn(choice, known[part]) for choice, part in space.slices()], dim=1)
        return drawn.to(weights) + (weights - weights.detach())

    def _drawn(self, choice: Choice, weights: Tensor) -> Tensor:
        """0/1, shape (count, options): the weights laid end to end, those that hold one of u, u + 1, … for a random u < 1."""
        total = float(weights.sum())
        fits = choice.at_least - _ROUNDING <= total <= choice.at_most + _ROUNDING
        if not fits or bool((weights < 0).any() | (weights > 1).any()):
            raise LatencyModelError(
                f"the weights of choice {choice.name!r} are no probabilities of taking {choice.at_least} to {choice.at_most} "
                f"options: {[round(w, 4) for w in weights.tolist()]}, their sum is {total:.4g}. Normalise them, or use topk_st"
            )
        ends = torch.cat([torch.zeros(1, dtype=weights.dtype), weights.cumsum(0)])
        whole = round(total)
        if whole and abs(total - whole) <= _ROUNDING:  # else rounding could take one option too few
            ends = (ends * (whole / total)).clamp(max=whole)
            ends[-1] = whole
        u = torch.rand((self.count, 1), generator=self.generator, dtype=ends.dtype)
        return torch.ceil(ends - u).diff(dim=1).clamp(0, 1)


def flat(space: Space, path: Mapping[str, Tensor]) -> Tensor:
    """All weights of a path, float64, shape (width,). Raises LatencyModelError for a path of another space."""
    unknown = sorted(set(path) - {choice.name for choice in space.choices})
    if unknown:
        raise LatencyModelError(f"the path has weights for {unknown[0]!r}, which is no choice of this space")
    for choice in space.choices:
        if choice.name not in path or path[choice.name].shape != (len(choice.options),):
            raise LatencyModelError(f"the path needs {len(choice.options)} weights for choice {choice.name!r}")
    return torch.cat([path[choice.name].double() for choice in space.choices])


class LatencyOnSpace(Protocol):
    """What SpaceLatency and CodeLatency have in common."""

    @property
    def space(self) -> Space: ...

    def predict(self, archs: Sequence[Arch]) -> Prediction: ...

    def expected_ms(self, path: Mapping[str, Tensor], form: Form = soft) -> Tensor: ...


def over_limit(
    latency: LatencyOnSpace, path: Mapping[str, Tensor], limit_ms: float, chance: float, form: Form = topk_st
) -> Tensor:
    """By how much a relaxed path breaks P(latency <= limit_ms) >= chance, relative to the limit: a hinge, 0 where it is kept.

    The distance from the expected milliseconds to those kept with this chance is that of the derived architecture.
    """
    derived = latency.predict([latency.space.decode(flat(latency.space, path).detach().cpu().numpy())])
    factor = float(kept_ms(derived, chance)[0] / derived.ms[0])
    return torch.relu(latency.expected_ms(path, form) * (factor / limit_ms) - 1)
