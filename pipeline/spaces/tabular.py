"""Spaces of which every architecture was trained and measured by others: searchers are tested there against known optima."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from paceline.arch import Arch, Choice, Space
from paceline.errors import DataError, LimitError, SpaceError
from paceline.latency_models.leaderboard.nb201_cells import EDGES, OPERATORS

Floats = npt.NDArray[np.float64]

NB201_TASKS = ("cifar10", "cifar100", "imagenet16_120")
MACRO_OPERATORS = ("identity", "MB3_K3", "MB6_K5")
_LATENCY = "lat_ms__"


@dataclass(frozen=True, eq=False)
class Tabular:
    """A space with what is known of each architecture; the rows are all option numbers, the last choice counting fastest.

    `quality`, shape (archs,): larger is better. `costs`: by device milliseconds, or counts such as "params", shape (archs,) each.
    """

    name: str
    space: Space
    quality: Floats
    costs: Mapping[str, Floats]

    def __post_init__(self) -> None:
        if any(c.at_least != 1 or c.at_most != 1 for c in self.space.choices):
            raise SpaceError(f"{self.name}: a table has rows for choices of exactly one option each")
        for figure, column in {"quality": self.quality, **self.costs}.items():
            if column.shape != (self.space.size,) or not np.isfinite(column).all():
                raise DataError(f"{self.name}: {figure} needs a finite value for each of {self.space.size} architectures")

    def row(self, arch: Arch) -> int:
        """Raises SpaceError for an architecture of another space."""
        row = self._rows.get(arch.picks)
        if row is None:
            self.space.check(arch)  # says what is wrong
            raise AssertionError("an architecture of the space has a row")
        return row

    def arch(self, row: int) -> Arch:
        numbers = np.unravel_index(row, self._shape)
        return Arch(tuple((c.name, (c.options[n],)) for c, n in zip(self.space.choices, numbers, strict=True)))

    def quality_of(self, arch: Arch) -> float:
        return float(self.quality[self.row(arch)])

    def cost(self, name: str) -> Callable[[Arch], float]:
        """What looks up one of the costs, such as the milliseconds on a device. Raises DataError for one that isn't there."""
        column = self._column(name)
        return lambda arch: float(column[self.row(arch)])

    def quantile(self, name: str, share: float) -> float:
        """The cost that a share of all architectures keeps."""
        return float(np.quantile(self._column(name), share))

    def best(self, limits: Mapping[str, float]) -> Arch:
        """The architecture of the highest quality among those whose costs are at most these. Raises LimitError where none is."""
        allowed = np.ones(len(self.quality), bool)
        for name, limit in limits.items():
            allowed &= self._column(name) <= limit
        if not allowed.any():
            asked = ", ".join(f"{name} <= {limit:g}" for name, limit in limits.items())
            raise LimitError(f"no architecture of {self.name} keeps {asked}; raise the limit")
        return self.arch(int(np.argmax(np.where(allowed, self.quality, -np.inf))))

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        return tuple(len(c.options) for c in self.space.choices)

    @cached_property
    def _rows(self) -> Mapping[tuple[tuple[str, tuple[str, ...]], ...], int]:
        return {self.arch(row).picks: row for row in range(len(self.quality))}

    def _column(self, name: str) -> Floats:
        if name not in self.costs:
            raise DataError(f"{self.name} has no figure {name!r}; it has {', '.join(sorted(self.costs))}")
        return self.costs[name]


def nasbench201(data: Path, task: str = "cifar10") -> Tabular:
    """NAS-Bench-201 (Dong and Yang, arXiv 2001.00326): one of 5 operators on each of 6 edges of a cell, 15,625 architectures.

    Quality: test accuracy in percent after 200 epochs on `task` (one of NB201_TASKS), the mean over the published runs. Costs:
    milliseconds on the devices of HELP (Lee et al., arXiv 2106.08630) and HW-NAS-Bench (Li et al., arXiv 2103.10584); several
    phones' are rounded to whole ones. Cells that do the same work were trained and measured each by itself; each keeps its row.

    `data` is the folder that holds nb201/nb201.npz. Raises DataError where it isn't there or holds something else.
    """
    if task not in NB201_TASKS:
        raise DataError(f"NAS-Bench-201 has no task {task!r}; it has {', '.join(NB201_TASKS)}")
    path = data / "nb201" / "nb201.npz"
    arrays = _read(path, ("arch_code", "op_names", f"acc_{task}_test200"), _LATENCY)
    if tuple(map(str, arrays["op_names"])) != OPERATORS:
        raise DataError(f"{path}: op_names must be {', '.join(OPERATORS)}; take the file from where its README says")
    space = Space(tuple(Choice(f"edge{source}{target}", OPERATORS) for source, target in EDGES))
    order = _order(path, space, arrays["arch_code"])
    devices = {name.removeprefix(_LATENCY): arrays[name] for name in arrays if name.startswith(_LATENCY)}
    costs = {name: _sorted(path, name, column, order) for name, column in devices.items()}
    return Tabular(f"nasbench201 {task}", space, _sorted(path, task, arrays[f"acc_{task}_test200"], order), costs)


def nasbench_macro(data: Path) -> Tabular:
    """NAS-Bench-Macro (Su et al., arXiv 2103.11922): 8 layers, each identity or one of two MBConvs, 6,561 architectures.

    Quality: CIFAR-10 test accuracy in percent, the mean over 3 runs. Costs: "params" and "flops"; no latencies are published.

    `data` is the folder that holds nb_macro/nb_macro.npz. Raises DataError where it isn't there or holds something else.
    """
    path = data / "nb_macro" / "nb_macro.npz"
    arrays = _read(path, ("arch", "mean_acc", "params", "flops"))
    space = Space(tuple(Choice(f"layer{i}", MACRO_OPERATORS) for i in range(1, 9)))
    order = _order(path, space, arrays["arch"])
    costs = {name: _sorted(path, name, arrays[name], order) for name in ("params", "flops")}
    return Tabular("nasbench_macro", space, _sorted(path, "mean_acc", arrays["mean_acc"], order), costs)


def _read(path: Path, names: Sequence[str], prefix: str | None = None) -> dict[str, npt.NDArray[np.generic]]:
    """These arrays of a file, and those whose names start with `prefix`."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            more = [name for name in arrays.files if prefix and name.startswith(prefix)]
            return {name: arrays[name] for name in [*names, *more]}
    except (OSError, KeyError, ValueError) as e:
        raise DataError(f"{path}: the table can't be read ({e}). Put the file there, or name the folder that holds it") from e


def _order(path: Path, space: Space, codes: npt.NDArray[np.generic]) -> npt.NDArray[np.intp]:
    """The place of each architecture of the space in a file with these option numbers, shape (archs, choices)."""
    shape = tuple(len(c.options) for c in space.choices)
    numbers = np.asarray(codes, np.int64)
    if numbers.shape != (space.size, len(shape)) or (numbers < 0).any() or (numbers >= np.array(shape)).any():
        raise DataError(f"{path}: needs {space.size} architectures of {len(shape)} option numbers, has shape {numbers.shape}")
    rows = np.ravel_multi_index(tuple(numbers.T), shape)
    if len(np.unique(rows)) != space.size:
        raise DataError(f"{path}: holds an architecture twice, so another one is missing")
    return np.argsort(rows)


def _sorted(path: Path, name: str, column: npt.NDArray[np.generic], order: npt.NDArray[np.intp]) -> Floats:
    if column.shape != order.shape:
        raise DataError(f"{path}: {name} needs one value for each of {len(order)} architectures, has shape {column.shape}")
    return np.asarray(column, np.float64)[order]
