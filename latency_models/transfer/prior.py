"""What the known devices say about a device that is not known yet.

On every device a network's latency has a shape (milliseconds relative to the device's mean) that is learned from its
measurements by an ordinary regressor. A new device is a draw from a Gaussian process over architectures: its shape varies around
the mean of the known shapes in the directions in which these differ, and a little on its own, linearly and in pairs of features.
(A process with an explicit basis: Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, section 2.7. How much a
feature may matter is learned from the known devices by expectation maximisation: MacKay's automatic relevance determination.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt
from sklearn.base import clone

from paceline.errors import LatencyModelError
from paceline.latency_models.model import Floats
from paceline.latency_models.regressors.linear import LinearRegressor
from paceline.latency_models.regressors.regressor import Regressor
from paceline.latency_models.transfer.process import PriorView, Setting, probabilities

_PRETEND_ROWS = 100  # of each known device, to see which setting would have suited it as a new one
_UNLIKE = 0.2  # how probable it is that a new device is not like any known one, so that every setting may suit it
_SHAPE_ERROR = 0.02  # of the regressors of the known shapes, relative to the mean latency
_NEVER_SEEN = 0.1  # what features may matter that mattered on no known device, relative to the average feature
_INDICATOR = 0.01  # what a column of 0 and 1, which says what something is, may matter, relative to one that says how much

SETTINGS = tuple(
    Setting(deviation, interaction, familiar, noise)
    for deviation, interaction, familiar, noise in product(
        (1e-4, 1e-3, 1e-2, 1e-1), (0.0, 0.3), (True, False), (0.005, 0.02, 0.06, 0.2)
    )
)


@dataclass(frozen=True)
class KnownDevice:
    """Measurements of a device: features X, shape (rows, features), and milliseconds, shape (rows,).

    The devices needn't have measured the same architectures, but their columns mean the same.
    """

    name: str
    X: Floats
    ms: Floats


@dataclass(frozen=True)
class DevicePrior:
    """Made by `device_prior`. `regressors` predict each known device's shape; features are standardised by `center` and `scale`,
    and `relevance`, (2, features), is how much each may matter on a new device, in general and going by the known ones (mean 1).
    `chances` of the `settings` add up to 1.
    """

    names: tuple[str, ...]
    regressors: tuple[Regressor, ...]
    center: Floats
    scale: Floats
    relevance: Floats
    settings: tuple[Setting, ...]
    chances: Floats

    def shapes(self, X: npt.ArrayLike) -> Floats:
        """The latency of each architecture on each known device, relative to that device's mean: shape (devices, rows)."""
        return np.stack([regressor.predict(X) for regressor in self.regressors])

    def view(self, X: npt.ArrayLike) -> PriorView:
        features = (np.asarray(X, dtype=np.float64) - self.center) / self.scale
        shapes = self.shapes(X)
        mean = shapes.mean(axis=0)
        # A shape may come out near zero or below it where architectures are unlike all measured ones; latencies don't.
        spread = (shapes - mean).T / np.sqrt(len(shapes))
        return PriorView(np.maximum(mean, 0.05), spread, features / np.sqrt(features.shape[1]), self.relevance)


def device_prior(
    known: Sequence[KnownDevice], regressor: Regressor | None = None, settings: Sequence[Setting] = SETTINGS
) -> DevicePrior:
    """Fits a clone of `regressor` (default: the fitted table, LinearRegressor) to each known device.

    A setting's chance is how well it would have suited the known devices, each as the new one of the others. Raises
    LatencyModelError without devices, for two of one name, for rows that don't fit together and for latencies that are not
    positive and finite.
    """
    _check(known)
    union = np.unique(np.concatenate([device.X for device in known]), axis=0)
    shapes = [_shape(device, union, regressor or LinearRegressor()) for device in known]
    names = [device.name for device in known]
    even = np.full(len(settings), 1 / len(settings))
    prior = _assembled(names, shapes, union, tuple(settings), even)
    if len(known) == 1:
        return prior
    suited = []
    for i, device in enumerate(known):
        others = [j for j in range(len(known)) if j != i]
        without = _assembled([names[j] for j in others], [shapes[j] for j in others], union, prior.settings, even)
        rows = np.unique(np.linspace(0, len(device.ms) - 1, _PRETEND_ROWS).astype(int))
        suited.append(probabilities(without.view(device.X[rows]), device.ms[rows], settings, even))
    return replace(prior, chances=(1 - _UNLIKE) * np.mean(suited, axis=0) + _UNLIKE * even)


def _shape(device: KnownDevice, union: Floats, regressor: Regressor) -> Regressor:
    mean = float(np.mean(clone(regressor).fit(device.X, device.ms).predict(union)))  # of the same architectures on all devices
    fitted: Regressor = clone(regressor).fit(device.X, device.ms / mean)
    return fitted


def _assembled(
    names: Sequence[str], shapes: Sequence[Regressor], union: Floats, settings: tuple[Setting, ...], chances: Floats
) -> DevicePrior:
    spread = union.std(axis=0)
    scale = np.where(spread > 1e-12, spread, 1.0)
    indicators = np.all((union == 0) | (union == 1), axis=0)
    general = np.where(indicators, _INDICATOR, 1.0)
    general /= general.mean()
    prior = DevicePrior(tuple(names), tuple(shapes), union.mean(axis=0), scale, general[None], settings, chances)
    values = prior.shapes(union)
    seen = _relevance((union - prior.center) / scale, (values - values.mean(axis=0)).T, general)
    familiar = seen + _NEVER_SEEN * general
    return replace(prior, relevance=np.stack([general, familiar / familiar.mean()]))


def _relevance(features: Floats, differences: Floats, general: Floats) -> Floats:
    """The variance of each feature's coefficient among the devices' `differences` (rows, devices), relative to the average."""
    gram = features.T @ features / _SHAPE_ERROR**2
    target = features.T @ differences / _SHAPE_ERROR**2
    variance = general * (float(np.mean(differences**2)) / features.shape[1] + 1e-12)
    for _ in range(20):
        posterior = np.linalg.inv(gram + np.diag(1 / variance))
        variance = np.mean((posterior @ target) ** 2, axis=1) + np.diag(posterior)
    return np.asarray(variance / variance.mean())


def _check(known: Sequence[KnownDevice]) -> None:
    if not known:
        raise LatencyModelError(
            "there is no known device to transfer from: measure more of the new one and fit a regressor to it"
        )
    names = [device.name for device in known]
    if len(set(names)) < len(names):
        raise LatencyModelError(f"known devices need different names, got {', '.join(names)}")
    first = known[0]
    for device in known:
        if device.X.ndim != 2 or device.X.shape[1:] != first.X.shape[1:] or device.ms.shape != (len(device.X),):
            raise LatencyModelError(
                f"{device.name}: features {device.X.shape} and milliseconds {device.ms.shape} don't fit together, or the columns "
                f"are not those of {first.name} {first.X.shape}"
            )
        bad = np.flatnonzero(~(np.isfinite(device.ms) & (device.ms > 0)) | ~np.isfinite(device.X).all(axis=1))
        if len(bad):
            raise LatencyModelError(
                f"{device.name}: row {bad[0]} ({device.ms[bad[0]]:g} ms) is not finite or not positive, {len(bad)} rows are like "
                "this. Drop these rows, or measure them again"
            )
