"""The MLP regressor: an ensemble of small networks, trained together and differentiable in their inputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted
from torch.nn import functional

from paceline.latency_models.model import Floats
from paceline.latency_models.regressors.checks import checked_features, checked_rows, standardisation

Layers = list[tuple[torch.Tensor, torch.Tensor]]
"""Weights (members, inputs, outputs) and biases (members, 1, outputs) of each layer."""
_ROWS_AT_ONCE = 8192


class MlpRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """The mean of `members` MLPs with SiLU: AdamW, cosine, Huber loss on standardised targets (logarithms where `relative`).

    Each member leaves out another fold of the rows, so that the rows have held-out predictions at no extra cost. `epochs` passes
    over the rows are made in batches of `batch_size`, but at most `max_steps` steps.

    Learned: `coefs_`, per layer (members, inputs, outputs), `intercepts_`, per layer (members, 1, outputs), float32; the
    standardisation `mean_`, `scale_` (features,), `target_mean_`, `target_scale_`; and `held_out_` (rows of positive weight,):
    what the one member that didn't learn from a row predicts for it, NaN where `members` is 1.
    """

    def __init__(
        self,
        relative: bool = False,
        hidden: tuple[int, ...] = (64, 64),
        members: int = 5,
        epochs: int = 150,
        max_steps: int = 8000,
        batch_size: int = 64,
        learning_rate: float = 5e-3,
        weight_decay: float = 0.1,
        huber: float = 0.3,
        random_state: int = 0,
    ) -> None:
        self.relative = relative
        self.hidden = hidden
        self.members = members
        self.epochs = epochs
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.huber = huber
        self.random_state = random_state

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> Self:
        features, targets, weights = checked_rows(self, X, y, sample_weight)
        targets = np.log(targets) if self.relative else targets
        self.mean_, self.scale_ = standardisation(features, weights)
        middle, spread = standardisation(targets[:, None], weights)
        self.target_mean_, self.target_scale_ = float(middle[0]), float(spread[0]) if np.isfinite(spread[0]) else 1.0
        x = torch.from_numpy(((features - self.mean_) / self.scale_).astype(np.float32))
        t = torch.from_numpy(((targets - self.target_mean_) / self.target_scale_).astype(np.float32))
        w = torch.from_numpy((weights / weights.mean()).astype(np.float32))
        rng = np.random.default_rng(self.random_state)
        folds = rng.permutation(len(x)) % self.members
        with _one_thread():
            layers = self._trained(x, t, w, _rows_of_members(folds, self.members), rng)
        self.coefs_ = [coefs.detach().numpy() for coefs, _ in layers]
        self.intercepts_ = [biases.detach().numpy() for _, biases in layers]
        with torch.inference_mode(), _one_thread():
            each = torch.cat([self._of_members(chunk) for chunk in _chunks(features)], dim=1).double().numpy()
        self.held_out_ = each[folds, np.arange(len(folds))] if self.members > 1 else np.full(len(folds), np.nan)
        return self

    def predict(self, X: npt.ArrayLike) -> Floats:
        check_is_fitted(self)
        features = checked_features(self, X)
        with torch.inference_mode(), _one_thread():
            return torch.cat([self.torch_predict(chunk) for chunk in _chunks(features)]).double().numpy()

    def torch_predict(self, x: torch.Tensor) -> torch.Tensor:
        """`predict` of a tensor (rows, features), probabilities instead of 0 and 1 among them: (rows,), differentiable."""
        return self._unscaled(self._standardised(x).mean(dim=0))

    def _of_members(self, x: torch.Tensor) -> torch.Tensor:
        return self._unscaled(self._standardised(x))

    def _unscaled(self, y: torch.Tensor) -> torch.Tensor:
        y = y * self.target_scale_ + self.target_mean_
        return y.exp() if self.relative else y

    def _standardised(self, x: torch.Tensor) -> torch.Tensor:
        """What each member says in standardised targets, (members, rows)."""
        scaled = ((x.double() - torch.tensor(self.mean_)) / torch.tensor(self.scale_)).float()
        layers = [(torch.tensor(c), torch.tensor(b)) for c, b in zip(self.coefs_, self.intercepts_, strict=True)]
        return _forward(scaled.expand(len(self.coefs_[0]), *scaled.shape), layers)

    def _trained(
        self, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, rows: npt.NDArray[np.int64], rng: np.random.Generator
    ) -> Layers:
        """`rows`, (members, rows of each), says what each member learns from."""
        layers = self._initial(x.shape[1], rng)
        decayed = {"params": [coefs for coefs, _ in layers], "weight_decay": self.weight_decay}
        others = {"params": [biases for _, biases in layers], "weight_decay": 0.0}
        optimizer = torch.optim.AdamW([decayed, others], lr=self.learning_rate, fused=True)
        batches = max(1, round(rows.shape[1] / self.batch_size))
        steps = min(self.epochs * batches, self.max_steps)
        for step in range(steps):
            if step % batches == 0:
                shuffled = torch.from_numpy(rng.permuted(rows, axis=1))
            batch = shuffled[:, step % batches :: batches]
            for group in optimizer.param_groups:
                group["lr"] = self._rate(step / steps)
            optimizer.zero_grad()
            losses = functional.huber_loss(_forward(x[batch], layers), y[batch], delta=self.huber, reduction="none")
            (w[batch] * losses).mean(dim=1).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return layers

    def _initial(self, features: int, rng: np.random.Generator) -> Layers:
        sizes = [features, *self.hidden, 1]
        layers = []
        for inputs, outputs in itertools.pairwise(sizes):
            deviation = np.float32(np.sqrt((2 if outputs > 1 else 0.1) / inputs))
            coefs = rng.standard_normal((self.members, inputs, outputs), dtype=np.float32) * deviation
            layers.append((torch.from_numpy(coefs).requires_grad_(), torch.zeros(self.members, 1, outputs, requires_grad=True)))
        return layers

    def _rate(self, progress: float) -> float:
        warm_up = min(1.0, (progress + 0.01) / 0.05)
        return self.learning_rate * warm_up * 0.5 * (1 + float(np.cos(np.pi * progress)))


def _forward(x: torch.Tensor, layers: Layers) -> torch.Tensor:
    """(members, rows, features) to (members, rows)."""
    for coefs, biases in layers[:-1]:
        x = functional.silu(torch.baddbmm(biases, x, coefs))
    return torch.baddbmm(layers[-1][1], x, layers[-1][0])[..., 0]


def _rows_of_members(folds: npt.NDArray[np.int64], members: int) -> npt.NDArray[np.int64]:
    """The rows outside each member's fold, equally many for each: (members, rows of each). All rows for a single member."""
    if members == 1:
        return np.arange(len(folds))[None]
    outside = [np.flatnonzero(folds != member) for member in range(members)]
    least = min(len(rows) for rows in outside)
    return np.stack([rows[:least] for rows in outside])


def _chunks(features: Floats) -> Iterator[torch.Tensor]:
    for start in range(0, len(features), _ROWS_AT_ONCE):
        yield torch.tensor(features[start : start + _ROWS_AT_ONCE])


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small matrices take longer when threads share them, much longer on a busy machine; and sums don't depend on the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
