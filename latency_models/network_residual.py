"""What whole networks take more or less than the calibrated sum of their operators, by what they consist of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator

from paceline.graph import OpSpec
from paceline.latency_models.features import one_hot, sizes, window_of
from paceline.latency_models.model import Floats
from paceline.latency_models.regressors.gaussian_process import GaussianProcessRegressor
from paceline.latency_models.regressors.kernel import Kernel

_FAR = 0.1
"""Networks that are further off (relative) count as being so far off: they are measurement errors as often as not."""
_ENDLESS = 1e6
"""A length over which nothing changes."""
_SHARE = 4.0
"""A quarter of the latency in other kinds of operators makes networks as unlike as a factor of e in latency."""


class NetworkResidual(BaseEstimator):  # type: ignore[misc]
    """A Gaussian process over networks: those of like latency, depth, MACs and kinds of operators are off by like factors.

    Clocks, caches and the runtime's own work depend on what a network is made of, not only on how much; no sum over operators
    says it. Logarithms of factors vary by `variance` over a distance of `length` (see `described`), measurements by `noise`. It
    is kept only where the networks it has not seen are nearer by at least the share `gain` (leave-one-out).

    Learned: `process_` (None: not kept), and `held_out_`, the factor of each network without that network.
    """

    def __init__(self, variance: float = 0.002, length: float = 1.5, noise: float = 0.001, gain: float = 0.01) -> None:
        self.variance, self.length, self.noise, self.gain = variance, length, noise, gain

    def fit(self, sums: Floats, ms: Floats, measured: Floats) -> Self:
        """`sums`: of `parts` over each network, shape (networks, …). `ms`: its calibrated latency; `measured`: the real one."""
        ratios = np.exp(np.clip(np.log(measured / ms), -_FAR, _FAR))
        self.process_: GaussianProcessRegressor | None = None
        self.held_out_ = np.ones(len(ms))
        if len(ms) < 10:
            return self
        features = described(sums, ms)
        width = features.shape[1]
        near, far = (self.length,) * width, (_ENDLESS,) * width
        kernel = Kernel(near, near, far, self.variance, own=0.0, own_rough=0.0, constant=0.0, noise=self.noise, nugget=0.0)
        process = GaussianProcessRegressor(relative=True, kernel=kernel).fit(features, ratios)
        factors = process.held_out()
        if np.abs(np.log(ratios / factors)).mean() < (1 - self.gain) * np.abs(np.log(ratios)).mean():
            self.process_, self.held_out_ = process, factors
        return self

    def factors(self, sums: Floats, ms: Floats) -> Floats:
        """By what to multiply the calibrated latency, shape (networks,)."""
        return np.ones(len(ms)) if self.process_ is None else self.process_.predict(described(sums, ms))


def part_of(spec: OpSpec) -> str:
    """Kind, with convolutions told apart as GPUs do: of a single pixel, grouped, 1x1, larger."""
    if spec.kind != "CONV_2D":
        return spec.kind
    pixels, *_ = sizes(spec)
    if pixels == 1:
        return "FULLY_CONNECTED"
    grouped = spec.inputs[1].shape[-1] < spec.inputs[0].shape[-1]
    return "CONV_2D grouped" if grouped else "CONV_2D 1x1" if window_of(spec) == (1, 1) else "CONV_2D"


def parts(operators: Sequence[OpSpec], ms: Floats, names: Sequence[str]) -> Floats:
    """What a NetworkResidual needs of each operator, to be summed over a network, shape (operators, 2 + names): one, its MACs,
    and its milliseconds in the column of its `part_of`."""
    counts = np.array([[1.0, spec.macs] for spec in operators]).reshape(len(operators), 2)
    return np.concatenate([counts, one_hot(operators, part_of, names) * ms[:, None]], axis=1)


def described(sums: Floats, ms: Floats) -> Floats:
    """Logarithms of latency, number of operators and MACs, and the shares of the latency by kind of operator."""
    shares = sums[:, 2:] / np.maximum(sums[:, 2:].sum(axis=1, keepdims=True), 1e-12)
    return np.column_stack([np.log(ms), np.log(sums[:, 0]), np.log(sums[:, 1] + 1e6), _SHARE * shares])
