"""How far measuring pays: error of a new device's model against minutes of device time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paceline.errors import LatencyModelError
from paceline.latency_models.model import Floats
from paceline.latency_models.regressors.regressor import Regressor
from paceline.latency_models.transfer.choice import choose
from paceline.latency_models.transfer.prior import DevicePrior, KnownDevice, device_prior
from paceline.latency_models.transfer.transfer import TransferRegressor

Seconds = Callable[[Floats], Floats]
"""Device time of measuring networks that take these milliseconds, overhead included; same shape."""


@dataclass(frozen=True)
class CurvePoint:
    """After `measurements` and `minutes` of device time: the median absolute relative error on networks like the pool's."""

    measurements: int
    minutes: float
    error: float


def measured_curve(
    prior: DevicePrior,
    pool: npt.ArrayLike,
    picks: npt.NDArray[np.intp],
    ms: Floats,
    counts: Sequence[int],
    seconds: Seconds,
) -> list[CurvePoint]:
    """Of a device on which the rows `picks` of `pool` were measured in this order, in `ms`, shape (picks,).

    The error is what each model expects of itself over the whole pool: its spread there times its leave-one-out errors, the
    median of both. Raises LatencyModelError for a count beyond the picks or below 2.
    """
    features = np.asarray(pool, dtype=np.float64)
    _check(counts, len(picks))
    spent = np.cumsum(seconds(ms)) / 60
    points = []
    for count in counts:
        model = TransferRegressor(prior).fit(features[picks[:count]], ms[:count])
        expected = model.predict_interval(features)
        error = float(np.median(expected.difficulty) * np.median(np.abs(expected.errors)))
        points.append(CurvePoint(count, float(spent[count - 1]), error))
    return points


def expected_curve(
    known: Sequence[KnownDevice], counts: Sequence[int], seconds: Seconds, regressor: Regressor | None = None
) -> list[CurvePoint]:
    """Before a new device is measured: what the known ones, each as the new one of the others, would have cost and given.

    The pool is each device's own rows; the error is measured on those that were not picked. Means over the devices. Raises
    LatencyModelError for fewer than two devices, and for counts below 2 or that leave no row to test on.
    """
    if len(known) < 2:
        raise LatencyModelError("what a new device would take is learned from two known devices or more")
    _check(counts, min(len(device.ms) for device in known) - 1)
    minutes, errors = [], []
    for device in known:
        prior = device_prior([other for other in known if other.name != device.name], regressor)
        picks = choose(prior, device.X, max(counts))
        rest = np.setdiff1d(np.arange(len(device.ms)), picks)
        spent = np.cumsum(seconds(device.ms[picks])) / 60
        models = [TransferRegressor(prior).fit(device.X[picks[:count]], device.ms[picks[:count]]) for count in counts]
        minutes.append([spent[count - 1] for count in counts])
        errors.append([np.median(np.abs(model.predict(device.X[rest]) / device.ms[rest] - 1)) for model in models])
    means = zip(counts, np.mean(minutes, axis=0), np.mean(errors, axis=0), strict=True)
    return [CurvePoint(count, float(minute), float(error)) for count, minute, error in means]


def _check(counts: Sequence[int], most: int) -> None:
    wrong = [count for count in counts if not 2 <= count <= most]
    if wrong or not counts:
        raise LatencyModelError(f"a curve over {list(counts)} measurements: each count needs to be from 2 to {most}")
