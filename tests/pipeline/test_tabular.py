"""Spaces that others trained and measured whole."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from paceline.arch import Arch, Choice, Space
from paceline.errors import DataError, LimitError, SpaceError
from paceline.latency_models.leaderboard.nb201_cells import OPERATORS
from paceline.pipeline.objectives import Objective
from paceline.pipeline.search import Nsga2, RandomSearch, search
from paceline.pipeline.spaces.tabular import Tabular, nasbench201, nasbench_macro

DATA = os.environ.get("PACELINE_DATA")
public = pytest.mark.skipif(DATA is None, reason="the public tables are not here: set PACELINE_DATA to their folder")

SMALL = Tabular(
    "small",
    Space((Choice("a", ("x", "y")), Choice("b", ("p", "q", "r")))),
    np.array([1.0, 5.0, 3.0, 9.0, 2.0, 4.0]),
    {"phone": np.array([1.0, 4.0, 2.0, 8.0, 3.0, 3.5]), "params": np.array([6.0, 5.0, 4.0, 3.0, 2.0, 1.0])},
)


def picked(a: str, b: str) -> Arch:
    return Arch((("a", (a,)), ("b", (b,))))


def test_rows_are_architectures_in_order() -> None:
    assert [SMALL.row(SMALL.arch(i)) for i in range(6)] == list(range(6))
    assert SMALL.arch(4) == picked("y", "q")
    assert SMALL.quality_of(picked("x", "q")) == 5.0
    assert SMALL.cost("phone")(picked("y", "r")) == 3.5
    with pytest.raises(SpaceError, match="has no option 's'"):
        SMALL.row(picked("x", "s"))


def test_the_best_under_limits() -> None:
    assert SMALL.best({}) == picked("y", "p")
    assert SMALL.best({"phone": 3.5}) == picked("y", "r")
    assert SMALL.best({"phone": 4.0, "params": 4.0}) == picked("y", "r")
    assert SMALL.quantile("phone", 0.5) == 3.25
    with pytest.raises(LimitError, match=r"no architecture of small keeps phone <= 0\.5"):
        SMALL.best({"phone": 0.5})
    with pytest.raises(DataError, match="has no figure 'tablet'; it has params, phone"):
        SMALL.best({"tablet": 1.0})


def test_a_table_that_does_not_fit_its_space_is_refused() -> None:
    with pytest.raises(DataError, match="phone needs a finite value for each of 6"):
        Tabular("t", SMALL.space, SMALL.quality, {"phone": np.ones(5)})
    with pytest.raises(DataError, match="quality needs a finite value"):
        Tabular("t", SMALL.space, np.full(6, np.nan), {})
    with pytest.raises(SpaceError, match="exactly one option"):
        Tabular("t", Space((Choice("a", ("x", "y"), 1, 2),)), np.ones(3), {})


def written(folder: Path, **changed: np.ndarray) -> Path:
    """A NAS-Bench-201 file in another order than ours."""
    codes = np.stack(np.unravel_index(np.random.default_rng(0).permutation(5**6), (5,) * 6), axis=1)
    arrays = {
        "arch_code": codes.astype(np.uint8),
        "op_names": np.array(OPERATORS),
        "acc_cifar10_test200": codes @ 5.0 ** np.arange(5, -1, -1),
        "lat_ms__phone": 1.0 + codes.sum(axis=1),
    } | changed
    (folder / "nb201").mkdir()
    np.savez(folder / "nb201" / "nb201.npz", **{k: v for k, v in arrays.items() if v is not None})  # type: ignore[arg-type]
    return folder


def test_nasbench201_is_read_whatever_its_order(tmp_path: Path) -> None:
    table = nasbench201(written(tmp_path))
    assert table.space.size == 15625
    assert table.quality.tolist() == list(range(15625))
    taken = {"edge01": 0, "edge02": 1, "edge12": 2, "edge03": 3, "edge13": 4, "edge23": 0}
    arch = Arch(tuple((edge, (OPERATORS[o],)) for edge, o in taken.items()))
    assert table.quality_of(arch) == int("012340", 5)
    assert table.cost("phone")(arch) == 11.0


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"op_names": np.array(["none", "skip", "conv1", "conv3", "pool"])}, "op_names must be none, skip_connect"),
        ({"acc_cifar10_test200": None}, "can't be read .*acc_cifar10_test200"),
        ({"lat_ms__phone": np.ones(3)}, "phone needs one value for each of 15625"),
        ({"arch_code": np.zeros((15625, 6), np.uint8)}, "holds an architecture twice"),
        ({"arch_code": np.zeros((10, 6), np.uint8)}, "needs 15625 architectures of 6 option numbers"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, changed: dict[str, np.ndarray], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        nasbench201(written(tmp_path, **changed))


def test_missing_files_and_tasks_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nb201\.npz: the table can't be read"):
        nasbench201(tmp_path)
    with pytest.raises(DataError, match=r"nb_macro\.npz: the table can't be read"):
        nasbench_macro(tmp_path)
    with pytest.raises(DataError, match="no task 'mnist'; it has cifar10"):
        nasbench201(tmp_path, "mnist")


@public
def test_the_published_optima_of_nasbench201() -> None:
    assert DATA is not None
    for task, best in (("cifar10", 94.37), ("cifar100", 73.51), ("imagenet16_120", 47.31)):
        table = nasbench201(Path(DATA), task)
        assert table.quality_of(table.best({})) == pytest.approx(best, abs=0.005)
    assert {"pixel2", "pixel3", "raspi4", "samsung_a50", "eyeriss", "fpga"} <= table.costs.keys()


@public
def test_the_published_optimum_of_nasbench_macro() -> None:
    """The source names it 22212202."""
    assert DATA is not None
    table = nasbench_macro(Path(DATA))
    best = table.best({})
    assert "".join(str(c.options.index(best[c.name][0])) for c in table.space.choices) == "22212202"
    assert table.quality_of(best) == pytest.approx(93.127, abs=0.001)


@public
def test_nsga2_comes_nearer_to_the_optimum_of_nasbench201_than_random_search() -> None:
    assert DATA is not None
    table = nasbench201(Path(DATA))
    limit = table.quantile("eyeriss", 0.3)
    objectives = (
        Objective("accuracy", table.quality_of, "max"),
        Objective("ms", table.cost("eyeriss"), at_most=limit, cheap=True),
    )

    def accuracy(make: type[Nsga2] | type[RandomSearch]) -> float:
        runs = [
            search(make(table.space, objectives, population=20, seed=seed), objectives, evaluations=300, cache={})
            for seed in range(5)
        ]
        return float(np.mean([max(m.values["accuracy"] for m in run.feasible()) for run in runs]))

    best = table.quality_of(table.best({"eyeriss": limit}))
    assert accuracy(RandomSearch) < accuracy(Nsga2) <= best
