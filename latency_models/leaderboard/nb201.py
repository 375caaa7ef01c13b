"""Protocol `nb201`: a new device from 5 to 900 measurements of NAS-Bench-201 networks, beside 21 devices known so far.

The latencies are those that HELP (Lee et al., arXiv 2106.08630) and HW-NAS-Bench (Li et al., arXiv 2103.10584) publish. Of
architectures 0 to 899, the pool, the known devices' latencies are all known and the new device's are measured for k. Two tests:
A, architectures 900 to 1899 without the fastest and the slowest tenth, and B, all from 900 on that take at least 0.5 ms, both by
the new device's true latency. Nothing of the tests is used. What the default takes for granted was settled on the known devices,
each as the new one of the others, within the pool, and on the four devices of nn-Meter in the same file.

By seed: the picks of the models with random picks, nested for growing k, and the training of networks. Transfer's own picks are
chosen, so its seeds differ only where a network gets a share.

Most devices ran what the cell says, dead operators too; most of what no model explains is that clocks changed while the
networks were measured one after another. `noise_floor` is the mean relative difference between the latencies of a network and its
twin, which differs in the names of two nodes only, over all rows of test B. The model "its twin, measured" predicts with that
measurement: its rank correlation is the reliability of the data, and about the square of what a perfect model can reach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from paceline.errors import DataError
from paceline.latency_models.leaderboard.nb201_cells import OPERATORS, Codes, features, macs, one_hot, twins
from paceline.latency_models.leaderboard.parallel import each
from paceline.latency_models.leaderboard.result import Result, summarised
from paceline.latency_models.metrics import Accuracy, accuracy_of
from paceline.latency_models.model import Floats
from paceline.latency_models.regressors.hybrid import HybridRegressor
from paceline.latency_models.regressors.linear import LinearRegressor, ProportionalRegressor
from paceline.latency_models.regressors.regressor import Regressor
from paceline.latency_models.transfer.choice import choose
from paceline.latency_models.transfer.prior import DevicePrior, KnownDevice, device_prior
from paceline.latency_models.transfer.transfer import TransferRegressor
from paceline.measurement import Progress
from paceline.seeds import Seeds

TARGETS = ("titan_rtx_256", "gold_6226", "pixel2", "raspi4", "eyeriss", "fpga")
SOURCES = (
    "1080ti_1", "1080ti_32", "1080ti_256", "2080ti_1", "2080ti_32", "2080ti_256", "titan_rtx_1", "titan_rtx_32",
    "titanx_1", "titanx_32", "titanx_256", "titanxp_1", "titanxp_32", "titanxp_256",
    "gold_6240", "silver_4114", "silver_4210r", "pixel3", "samsung_a50", "samsung_s7", "essential_ph_1",
)  # fmt: skip
POOL = 900
COUNTS = (5, 10, 20, 50, 100, POOL)
DEFAULT, TWIN = "transfer", "its twin, measured"
_LAST_A = 1900
_LEAST_MS = 0.5
_FILE = Path("nb201", "nb201.npz")
_PREFIX = "lat_ms__"


@dataclass(frozen=True)
class CellLatencies:
    """The data: `codes`, shape (cells, 6), and for each device the milliseconds of all cells."""

    codes: Codes
    ms: Mapping[str, Floats]


@dataclass(frozen=True)
class _Job:
    """A new device: what models see of all cells, its latencies, and what the known devices say."""

    device: str
    macs: Floats
    one_hot: Floats
    features: Floats
    ms: Floats
    prior: DevicePrior
    k: int
    seed: int


class Nb201:
    name = "nb201"

    def results(self, data: Path, seeds: int, devices: Sequence[str], progress: Progress) -> list[Result]:
        """Every device of the file that is not among the known ones is a new one. A known one that is named in `devices` is a new
        one of the other 20."""
        cells = read(data)
        codes, known_features = cells.codes, features(cells.codes[:POOL])
        seen = (macs(codes)[:, None], one_hot(codes), features(codes))
        new = [device for device in cells.ms if (device in devices if devices else device not in SOURCES)]
        priors: dict[tuple[str, ...], DevicePrior] = {}
        jobs = []
        for device in new:
            known = tuple(d for d in SOURCES if d in cells.ms and d != device)
            if known not in priors:
                priors[known] = device_prior([KnownDevice(d, known_features, cells.ms[d][:POOL]) for d in known])
            jobs += [_Job(device, *seen, cells.ms[device], priors[known], k, seed) for k in COUNTS for seed in range(seeds)]
        done = each(_accuracies, jobs, progress)
        found = []
        for i, device in enumerate(new):
            found += _repeated(cells, device)
            for j, k in enumerate(COUNTS):
                first = (i * len(COUNTS) + j) * seeds
                found += _summaries(device, k, done[first : first + seeds], noise_floor(cells, device))
        return found


def read(data: Path) -> CellLatencies:
    """Raises DataError where the file isn't there or holds something else."""
    path = data / _FILE
    try:
        with np.load(path, allow_pickle=False) as arrays:
            codes = np.asarray(arrays["arch_code"], dtype=np.int64)
            names = tuple(str(name) for name in arrays["op_names"])
            latencies = {
                k.removeprefix(_PREFIX): np.asarray(arrays[k], np.float64) for k in arrays.files if k.startswith(_PREFIX)
            }
    except (OSError, KeyError, ValueError) as e:
        raise DataError(f"{path}: no NAS-Bench-201 latencies ({e}). Put the file there, or leave the protocol nb201 out") from e
    if names != OPERATORS or codes.ndim != 2 or codes.shape[1] != 6 or len(codes) <= POOL or not np.isin(codes, range(5)).all():
        raise DataError(f"{path}: arch_code needs 6 of the operators {', '.join(OPERATORS)} for more than {POOL} cells")
    for device, ms in latencies.items():
        bad = np.arange(len(codes)) if ms.shape != (len(codes),) else np.flatnonzero(~(np.isfinite(ms) & (ms > 0)))
        if len(bad):
            raise DataError(f"{path}: {device} needs a positive latency for each of {len(codes)} cells; row {bad[0]} has none")
    if not any(device in latencies for device in SOURCES):
        raise DataError(f"{path}: holds none of the known devices {', '.join(SOURCES)}")
    return CellLatencies(codes, latencies)


def tests_of(ms: Floats) -> dict[str, npt.NDArray[np.intp]]:
    """The rows of each test on a device with these latencies."""
    middle = np.arange(POOL, min(_LAST_A, len(ms)))
    tenth = len(middle) // 10
    ordered = middle[np.argsort(ms[middle], kind="stable")]
    everything = np.arange(POOL, len(ms))
    return {"A": np.sort(ordered[tenth : len(middle) - tenth]), "B": everything[ms[everything] >= _LEAST_MS]}


def noise_floor(cells: CellLatencies, device: str) -> float | None:
    """See the module."""
    ms, twin = cells.ms[device], twins(cells.codes)
    rows = tests_of(ms)["B"]
    rows = rows[twin[rows] >= 0]
    return float(np.mean(np.abs(ms[twin[rows]] - ms[rows]) / ms[rows])) if len(rows) else None


def _repeated(cells: CellLatencies, device: str) -> list[Result]:
    ms, twin = cells.ms[device], twins(cells.codes)
    found = []
    for test, rows in tests_of(ms).items():
        twice = rows[twin[rows] >= 0]
        if len(twice):
            accuracy = accuracy_of(TWIN, ms[twin[twice]], ms[twice])
            found.append(summarised("nb201", test, device, 0, TWIN, False, [accuracy], noise_floor(cells, device)))
    return found


def _summaries(device: str, k: int, by_seed: Sequence[Mapping[str, Sequence[Accuracy]]], floor: float | None) -> list[Result]:
    return [
        summarised("nb201", test, device, k, model, model == DEFAULT, [done[test][column] for done in by_seed], floor)
        for test, accuracies in by_seed[0].items()
        for column, model in enumerate(accuracy.name for accuracy in accuracies)
    ]


def _accuracies(job: _Job) -> dict[str, list[Accuracy]]:
    """Of all models under each test."""
    rows = Seeds(job.seed).rng(f"nb201 {job.device}").permutation(POOL)[: job.k]
    chosen = choose(job.prior, job.features[:POOL], job.k) if job.k < POOL else rows
    transfer = TransferRegressor(job.prior, random_state=job.seed)
    predicted = {
        "macs only": _learned(ProportionalRegressor(), job.macs, job.ms, rows),
        "fitted table": _learned(LinearRegressor(), job.one_hot, job.ms, rows),
        "hybrid": _learned(HybridRegressor(random_state=job.seed), job.features, job.ms, rows),
        DEFAULT: _learned(transfer, job.features, job.ms, chosen),
    }
    if job.k < POOL:
        predicted["transfer, random picks"] = _learned(transfer, job.features, job.ms, rows)
    return {
        test: [accuracy_of(model, ms[tested], job.ms[tested]) for model, ms in predicted.items()]
        for test, tested in tests_of(job.ms).items()
    }


def _learned(regressor: Regressor, X: Floats, ms: Floats, rows: npt.NDArray[np.intp]) -> Floats:
    return regressor.fit(X[rows], ms[rows]).predict(X)


PROTOCOL = Nb201()
