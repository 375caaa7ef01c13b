"""Milliseconds of the architectures of one space from their operators, a million a second; of relaxed paths as a loss term."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from paceline.arch import Arch
from paceline.graph import OpSpec
from paceline.latency_models.model import Floats, LatencyModel, Prediction
from paceline.latency_models.spaces.codes import Codes, checked, codes_of, encode_all, is_single
from paceline.latency_models.spaces.joint import Joint
from paceline.latency_models.spaces.relaxed import Form, soft
from paceline.space_operators import SpaceOperators

_BLOCK = 1 << 11  # architectures at a time: their figures stay in the cache


class SummedModel(LatencyModel, Protocol):
    """A latency model whose prediction follows from sums over the operators of a network: milliseconds, and what is unsure."""

    def addends(self, operators: Sequence[OpSpec]) -> Floats:
        """What each operator adds to these sums, shape (operators, sums)."""

    def of_sums(self, sums: Floats) -> Prediction:
        """The prediction of networks with these sums, shape (networks, sums)."""


class SpaceLatency:
    """What `model` says about the networks of a space, from the `operators` of its options.

    The model is asked once per option (and combination of the options on which its operators depend); architectures are sums.
    They agree with `model.predict` up to rounding.
    """

    def __init__(self, model: SummedModel, operators: SpaceOperators) -> None:
        self.model, self.operators, self.space = model, operators, operators.space
        self._joint = Joint(operators)

    def predict(self, archs: Sequence[Arch]) -> Prediction:
        """Of each architecture, shape (archs,). Raises SpaceError for one of another space."""
        return self.predict_encoded(encode_all(self.space, archs))

    def predict_codes(self, codes: Codes) -> Prediction:
        """The same for option numbers, shape (archs, choices), where every choice takes exactly one option.

        Raises LatencyModelError for numbers that are no options.
        """
        at = self._joint.rows(codes)
        sums = np.empty((len(at), len(self._fixed)))
        ones = np.ones(len(self.space.choices))
        for i, addends in enumerate(self._options.T.copy()):
            for start in range(0, len(at), _BLOCK):
                sums[start : start + _BLOCK, i] = np.take(addends, at[start : start + _BLOCK]) @ ones
        return self.model.of_sums(sums + self._fixed)

    def predict_encoded(self, encoded: npt.NDArray[np.generic]) -> Prediction:
        """The same for 0/1 weights as `Space.encode` gives them, shape (archs, width), in any dtype.

        Raises LatencyModelError for rows that are no architectures.
        """
        if all(map(is_single, self.space.choices)):
            blocks = range(0, max(len(encoded), 1), _BLOCK)
            return self.predict_codes(np.concatenate([codes_of(self.space, encoded[i : i + _BLOCK], i) for i in blocks]))
        sums = np.empty((len(encoded), len(self._fixed)))
        for start in range(0, len(encoded), _BLOCK):
            weights = checked(self.space, encoded[start : start + _BLOCK], start)
            sums[start : start + _BLOCK] = self._joint.encoded(weights.astype(float)) @ self._options
        return self.model.of_sums(sums + self._fixed)

    def expected_ms(self, path: Mapping[str, Tensor], form: Form = soft) -> Tensor:
        """The latency of a relaxed path, a differentiable scalar: the mean over the codes that `form` makes of it.

        `path` holds one weight per option of every choice. Of the model only what is additive counts (`operator_ms`, `base_ms`);
        where that is all of it, a hard path gives `predict`'s figure. Raises LatencyModelError for a path of another space.
        """
        weights = self._joint.relaxed(form(self.space, path))
        return (weights @ torch.from_numpy(self._option_ms).to(weights)).mean() + self._fixed_ms

    def fastest(self) -> Arch:
        """The architecture of the cheapest options: with an additive model the fastest of the whole space."""
        return self._joint.cheapest(self._option_ms)

    def quantile(self, share: float, rng: np.random.Generator, samples: int = 1000) -> float:
        """The predicted milliseconds that a share of random networks of the space keeps."""
        archs = [self.space.sample(rng) for _ in range(samples)]
        return float(np.quantile(self.predict(archs).ms, share))

    @cached_property
    def _taken(self) -> list[tuple[OpSpec, ...]]:
        """The operators of each row of `Joint`."""
        return [self.operators.options[key] for key in self.operators.combinations()]

    @cached_property
    def _fixed(self) -> Floats:
        """Sums over what every network holds, shape (sums,)."""
        return np.asarray(self.model.addends(self.operators.fixed).sum(axis=0))

    @cached_property
    def _options(self) -> Floats:
        """Sums over each row, shape (rows, sums)."""
        return np.stack([self.model.addends(operators).sum(axis=0) for operators in self._taken])

    @cached_property
    def _fixed_ms(self) -> float:
        return self.model.base_ms + float(self.model.operator_ms(self.operators.fixed).sum())

    @cached_property
    def _option_ms(self) -> Floats:
        """Milliseconds of each row, shape (rows,)."""
        return np.array([self.model.operator_ms(operators).sum() for operators in self._taken])
