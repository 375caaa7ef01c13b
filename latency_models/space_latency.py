"""A latency model on one space: milliseconds of architectures, and of relaxed paths as a loss term."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from paceline.arch import Arch
from paceline.errors import LatencyModelError
from paceline.latency_models.model import LatencyModel, Prediction
from paceline.space_operators import SpaceOperators


class SpaceLatency:
    """What `model` says about the networks of a space, from the `operators` of its options."""

    def __init__(self, model: LatencyModel, operators: SpaceOperators) -> None:
        self.model, self.operators = model, operators

    def predict(self, archs: Sequence[Arch]) -> Prediction:
        """Milliseconds of each architecture, shape (archs,)."""
        return self.model.predict([self.operators.of(arch) for arch in archs])

    def expected_ms(self, path: Mapping[str, Tensor]) -> Tensor:
        """The latency of a relaxed path, a differentiable scalar: every option's milliseconds times its weight.

        `path` holds one weight per option of every choice; a hard path gives `predict`'s figure. Source: ProxylessNAS
        (arXiv 1812.00332, section 3.3), E[T] = sum of p_k F(op_k). Raises LatencyModelError for a path of another space.
        """
        total = torch.tensor(self._fixed_ms, dtype=torch.float64)
        for choice in self.operators.space.choices:
            if choice.name not in path or path[choice.name].shape != (len(choice.options),):
                raise LatencyModelError(f"the path needs {len(choice.options)} weights for choice {choice.name!r}")
            total = total + (path[choice.name].double() * self._option_ms[choice.name]).sum()
        return total

    def fastest(self) -> Arch:
        """The architecture that is predicted to be the fastest of the whole space: of every choice the cheapest options."""
        picks = []
        for choice in self.operators.space.choices:
            costs = self._option_ms[choice.name].numpy()
            taken = max(choice.at_least, min(int((costs < 0).sum()), choice.at_most))
            cheapest = np.sort(np.argsort(costs, kind="stable")[:taken])
            picks.append((choice.name, tuple(choice.options[i] for i in cheapest)))
        return Arch(tuple(picks))

    def quantile(self, share: float, rng: np.random.Generator, samples: int = 1000) -> float:
        """The predicted milliseconds that a share of random networks of the space keeps."""
        archs = [self.operators.space.sample(rng) for _ in range(samples)]
        return float(np.quantile(self.predict(archs).ms, share))

    @cached_property
    def _fixed_ms(self) -> float:
        return self.model.base_ms + float(self.model.operator_ms(self.operators.fixed).sum())

    @cached_property
    def _option_ms(self) -> dict[str, Tensor]:
        """Per choice the milliseconds of its options, shape (options,)."""
        return {
            choice.name: torch.tensor(
                [float(self.model.operator_ms(self.operators.options[choice.name, option]).sum()) for option in choice.options],
                dtype=torch.float64,
            )
            for choice in self.operators.space.choices
        }
