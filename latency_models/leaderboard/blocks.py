"""The protocol `blocks`: MBConv blocks measured on phones, learned from four fifths and predicted for the rest.

Data: the block tables of nn-Meter (github.com/microsoft/nn-Meter, MIT), campaign v3, in `latency_blocklut_nnmeter`: 1,788 MBConv
blocks with hard-swish on Pixel 1 and Pixel 4; every column `ms_<device>` of the file is a device. Five folds, shuffled by seed;
a seed's figures are those of all blocks together, each predicted by the model that didn't learn from it.

There is no noise floor: every block was measured once. The campaigns v1 and v2 measured some of the same blocks, but with
settings that are not told, and their ratio to v3 (0.5 to 1.9) depends on the shape: that is no repetition.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import KFold

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

FILE = Path("latency_blocklut_nnmeter", "nnmeter_block_lut_v3_wide.csv.gz")
FIELDS = ("hw", "cin", "cout", "stride", "kernel", "expand", "se")
FOLDS = 5
DEFAULT = "hybrid"


@dataclass(frozen=True)
class Blocks:
    """`shape`: of each of FIELDS (blocks,). `ms`: by device (blocks,), NaN where a block wasn't measured."""

    shape: Mapping[str, Floats]
    ms: Mapping[str, Floats]


@dataclass(frozen=True)
class _Job:
    seed: int
    features: Floats
    ms: Floats


class BlocksProtocol:
    name = "blocks"

    def results(self, data: Path, seeds: int, devices: Sequence[str], progress: Progress) -> list[Result]:
        blocks = read_blocks(data / FILE)
        features = block_features(blocks.shape)
        chosen = [name for name in blocks.ms if not devices or name in devices]
        known = {name: np.isfinite(blocks.ms[name]) for name in chosen}
        jobs = [_Job(seed, features[known[name]], blocks.ms[name][known[name]]) for name in chosen for seed in range(seeds)]
        done = each(_accuracies, jobs, progress)
        results = []
        for i, device in enumerate(chosen):
            of_seeds = done[i * seeds : (i + 1) * seeds]
            learned = int(known[device].sum()) * (FOLDS - 1) // FOLDS
            for column, first in enumerate(of_seeds[0]):
                results.append(
                    summarised(
                        self.name,
                        f"{FOLDS}-fold",
                        device,
                        learned,
                        first.name,
                        first.name == DEFAULT,
                        [accuracies[column] for accuracies in of_seeds],
                        noise_floor=None,
                    )
                )
        return results


PROTOCOL = BlocksProtocol()


def models(seed: int) -> dict[str, Regressor]:
    """What is compared, all for `block_features`."""
    return {
        "macs only": ProportionalRegressor(relative=True),
        "fitted table": LinearRegressor(relative=True),
        "trees": TreesRegressor(relative=True, random_state=seed),
        "mlp": MlpRegressor(relative=True, random_state=seed),
        DEFAULT: HybridRegressor(relative=True, random_state=seed),
    }


def _accuracies(job: _Job) -> list[Accuracy]:
    folds = list(KFold(FOLDS, shuffle=True, random_state=job.seed).split(job.features))
    accuracies = []
    for name, model in models(job.seed).items():
        predicted = np.zeros(len(job.ms))
        for train, test in folds:
            predicted[test] = clone(model).fit(job.features[train], job.ms[train]).predict(job.features[test])
        accuracies.append(accuracy_of(name, predicted, job.ms))
    return accuracies


def read_blocks(path: Path) -> Blocks:
    """The MBConv blocks of the file. Raises DataError where it isn't there, or isn't such a file."""
    try:
        with gzip.open(path, "rt", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["block"] == "conv"]
        shape = {name: np.array([float(row[name]) for row in rows]) for name in FIELDS}
        columns = [name for name in (rows[0] if rows else ()) if name.startswith("ms_")]
        ms = {name.removeprefix("ms_"): np.array([float(row[name] or "nan") for row in rows]) for name in columns}
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, KeyError, ValueError) as e:
        raise DataError(f"{path} isn't the table of blocks that the protocol blocks needs: {e!r}") from e
    if not rows or not ms:
        raise DataError(f"{path} holds no MBConv block (block = conv), or no column ms_<device>")
    for device, column in ms.items():
        if np.any(column <= 0) or np.isfinite(column).sum() < FOLDS * 2:
            raise DataError(f"{path}: column ms_{device} needs at least {FOLDS * 2} latencies, and all of them positive")
    return Blocks(shape, ms)


def block_features(shape: Mapping[str, Floats]) -> Floats:
    """An MBConv block by its operators, (blocks, features); the first feature are its MACs.

    Operators: 1x1 expansion (none where `expand` is 1), depthwise convolution, squeeze-and-excitation, 1x1 projection, addition
    (of equal shapes). In turn: MACs and elements moved of each; logarithms of MACs, sizes and channels; what is left over when
    kernels take channels and pixels in tiles; indicators of what there is.
    """
    hw, cin, cout, stride, kernel, expand, se = (shape[name] for name in FIELDS)
    side = np.ceil(hw / stride)
    before, after, wide = hw**2, side**2, cin * expand
    expands = (expand > 1).astype(float)
    adds = ((stride == 1) & (cin == cout)).astype(float)
    macs = np.column_stack(
        [
            before * cin * wide * expands,
            after * kernel**2 * wide,
            se * wide**2 / 2,  # two fully connected layers, wide to wide / 4 and back
            after * wide * cout,
        ]
    )
    moved = np.column_stack(
        [
            before * (cin + wide) * expands,
            (before + after) * wide,
            se * 2 * after * wide,
            after * (wide + cout),
            adds * 3 * after * cout,
        ]
    )
    striding, large = stride == 2, kernel == 5
    depthwise = macs[:, 1:2] * np.column_stack([striding, large, striding & large])  # kernels of their own
    activated = np.column_stack([after * wide, before * wide * expands])
    sizes = np.column_stack([hw, side, cin, wide, cout, expand, moved.sum(axis=1)])
    tiles = [wide % 16, cout % 16, before % 16, after % 16, before % 6, after % 6, side % 4, side % 2, hw % 8]
    return np.column_stack(
        [
            *(macs.sum(axis=1), macs, moved, depthwise, activated, macs[:, 3] * se),
            *(np.log(macs.sum(axis=1)), np.log1p(macs), np.log(sizes)),
            *tiles,
            *(se, large, striding, adds, expands),
        ]
    )
