"""The protocol `fbnet`: whole networks of the FBNet space on 27 devices, 900 of them measured.

Data: `fbnet_ofa_latency/fbnet_help.npz` (github.com/HayeonLee/HELP, MIT): 5,000 architectures of 22 layers with 9 options each.
Learned from are 900 of the first 4,000 architectures, drawn by seed, tested the last 1,000; every `lat_ms__<device>` is a device.

eyeriss, fpga, pixel3 and raspi4 are sums over a table (HW-NAS-Bench), all others were measured. The rows are in the order of
measurement, and the phones show it: their errors are alike in runs of some hundred networks (two states some 15 % apart on
pixel2, rows twice too slow on samsung_s7), which no model of architectures can know. That is why the default's robust trunk wins
there, and why no model comes near the floor. Where all latencies are whole milliseconds, the floor is the mean relative error
that rounding alone makes (a quarter of a millisecond, for an error that is uniform within half of one); else none is known,
because every network was measured once.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from paceline.errors import DataError
from paceline.latency_models.leaderboard.parallel import each
from paceline.latency_models.leaderboard.result import Result, summarised
from paceline.latency_models.metrics import Accuracy, accuracy_of
from paceline.latency_models.model import Floats
from paceline.latency_models.regressors.hybrid import HybridRegressor
from paceline.latency_models.regressors.linear import LinearRegressor, ProportionalRegressor
from paceline.latency_models.regressors.mlp import MlpRegressor
from paceline.latency_models.regressors.regressor import Regressor
from paceline.latency_models.regressors.trees import TreesRegressor
from paceline.measurement import Progress

FILE = Path("fbnet_ofa_latency", "fbnet_help.npz")
TRAIN, TEST = 900, 1000
DEFAULT = "hybrid"
STAGES = ((16, 1, 1), (24, 4, 2), (32, 4, 2), (64, 4, 2), (112, 4, 1), (184, 4, 2), (352, 1, 1))
"""Channels, layers and first stride (Wu et al., FBNet, table 1), after a stem of 16 channels at 112 x 112."""
_OPTION = re.compile(r"k(\d+)_e(\d+)(?:_g(\d+))?")


@dataclass(frozen=True)
class Networks:
    """`options` (networks, layers): indices into `names`. `ms` (networks,) by device."""

    options: npt.NDArray[np.int64]
    names: tuple[str, ...]
    ms: Mapping[str, Floats]


@dataclass(frozen=True)
class _Job:
    """Features (networks, …) that say which options there are, and how much there is to compute and to move."""

    seed: int
    indicators: Floats
    quantities: Floats
    ms: Floats


class FbnetProtocol:
    name = "fbnet"

    def results(self, data: Path, seeds: int, devices: Sequence[str], progress: Progress) -> list[Result]:
        networks = read_networks(data / FILE)
        one_hot = indicators(networks)
        amounts = quantities(networks)
        chosen = [name for name in networks.ms if not devices or name in devices]
        jobs = [_Job(seed, one_hot, amounts, networks.ms[name]) for name in chosen for seed in range(seeds)]
        done = each(_accuracies, jobs, progress)
        results = []
        for i, device in enumerate(chosen):
            of_seeds = done[i * seeds : (i + 1) * seeds]
            floor = rounding_floor(networks.ms[device])
            for column, first in enumerate(of_seeds[0]):
                accuracies = [row[column] for row in of_seeds]
                is_default = first.name == DEFAULT
                results.append(summarised(self.name, f"last {TEST}", device, TRAIN, first.name, is_default, accuracies, floor))
        return results


PROTOCOL = FbnetProtocol()


def models(seed: int) -> dict[str, tuple[Regressor, str]]:
    """What is compared, and the features that each gets. A table knows only which options there are."""
    return {
        "macs only": (ProportionalRegressor(relative=True), "quantities"),
        "fitted table": (LinearRegressor(relative=True), "indicators"),
        "robust table": (LinearRegressor(relative=True, robust=True), "indicators"),
        "trees": (TreesRegressor(relative=True, n_estimators=150, random_state=seed), "quantities"),
        "mlp": (MlpRegressor(relative=True, epochs=40, random_state=seed), "quantities"),
        DEFAULT: (HybridRegressor(relative=True, random_state=seed), "both"),
    }


def _accuracies(job: _Job) -> list[Accuracy]:
    features = {"indicators": job.indicators, "quantities": job.quantities, "both": np.hstack([job.indicators, job.quantities])}
    train = np.random.default_rng(job.seed).choice(len(job.ms) - TEST, TRAIN, replace=False)
    test = slice(len(job.ms) - TEST, None)
    return [
        accuracy_of(name, model.fit(features[kind][train], job.ms[train]).predict(features[kind][test]), job.ms[test])
        for name, (model, kind) in models(job.seed).items()
    ]


def rounding_floor(ms: Floats) -> float | None:
    """Of latencies in whole milliseconds: the mean relative error of a tested one as a measurement, by rounding alone."""
    return float(np.mean(0.25 / ms[-TEST:])) if np.all(ms == np.round(ms)) else None


def read_networks(path: Path) -> Networks:
    """Raises DataError where the file isn't there, or isn't such a file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            names = tuple(str(name) for name in file["op_names"])
            options = file["arch_op"].astype(np.int64)
            ms = {key.removeprefix("lat_ms__"): file[key].astype(float) for key in file.files if key.startswith("lat_ms__")}
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as e:
        raise DataError(f"{path} isn't the file of architectures and latencies that the protocol fbnet needs: {e!r}") from e
    layers = sum(count for _, count, _ in STAGES)
    if not ms or options.ndim != 2 or options.shape[1] != layers or len(options) < TRAIN + TEST or options.max() >= len(names):
        raise DataError(f"{path} needs lat_ms__<device> of at least {TRAIN + TEST} architectures with {layers} layers in arch_op")
    for device, column in ms.items():
        if column.shape != (len(options),) or not np.all(np.isfinite(column) & (column > 0)):
            raise DataError(f"{path}: lat_ms__{device} needs one positive latency for each of {len(options)} architectures")
    unknown = [name for name in names if name != "skip" and not _OPTION.fullmatch(name)]
    if unknown:
        raise DataError(f"{path}: the option {unknown[0]!r} isn't known; known are skip and k3_e6, k5_e1_g2 and the like")
    return Networks(options, names, ms)


def indicators(networks: Networks) -> Floats:
    """One-hot, (networks, layers * options)."""
    one_hot = networks.options[:, :, None] == np.arange(len(networks.names))
    return np.asarray(one_hot.reshape(len(networks.options), -1), dtype=float)


def quantities(networks: Networks) -> Floats:
    """Total MACs; of each option the count; of each option, then of each layer, MACs and elements moved. In millions.

    Shape (networks, 1 + 3 * options + 2 * layers).
    """
    layers = np.arange(networks.options.shape[1])
    cost = np.array([[_option_cost(name, layer) for name in networks.names] for layer in _layers()])
    chosen = cost[layers, networks.options] / 1e6  # (networks, layers, 2)
    is_option = networks.options[:, :, None] == np.arange(len(networks.names))
    by_option = np.einsum("nlo,nlc->noc", is_option, chosen).reshape(len(chosen), -1)
    by_layer = chosen.reshape(len(chosen), -1)
    return np.column_stack([chosen[:, :, 0].sum(axis=1), is_option.sum(axis=1), by_option, by_layer])


@dataclass(frozen=True)
class _Layer:
    cin: int
    cout: int
    side: int
    stride: int


def _layers() -> list[_Layer]:
    found, channels, side = [], 16, 112
    for cout, count, first_stride in STAGES:
        for i in range(count):
            stride = first_stride if i == 0 else 1
            found.append(_Layer(channels, cout, side, stride))
            channels, side = cout, side // stride
    return found


def _option_cost(name: str, layer: _Layer) -> tuple[float, float]:
    """MACs and elements moved of an option: 1x1 (in groups), depthwise, 1x1 (in groups).

    `skip` is nothing where shapes stay, else a 1x1 convolution; that one, and the 224 x 224 input, are a reconstruction.
    """
    before, after = layer.side**2, (layer.side // layer.stride) ** 2
    match = _OPTION.fullmatch(name)
    if match is None:
        stays = layer.stride == 1 and layer.cin == layer.cout
        return (0.0, 0.0) if stays else (after * layer.cin * layer.cout, before * layer.cin + after * layer.cout)
    kernel, expand, groups = (int(text or 1) for text in match.groups())
    wide = layer.cin * expand
    macs = before * layer.cin * wide / groups + after * wide * kernel**2 + after * wide * layer.cout / groups
    return macs, before * (layer.cin + 2 * wide) + after * (2 * wide + layer.cout)
