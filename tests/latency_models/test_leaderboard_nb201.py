"""The protocol nb201: cells, tests, and its results on a small made-up file and on the real one."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.errors import DataError
from paceline.latency_models.leaderboard import nb201
from paceline.latency_models.leaderboard.nb201_cells import (
    OPERATORS,
    features,
    live,
    macs,
    one_hot,
    reaching_output,
    swapped,
    twins,
)
from paceline.latency_models.leaderboard.result import Result
from paceline.latency_models.model import Floats
from paceline.measurement import silent

DATA = os.environ.get("PACELINE_DATA")
RNG = np.random.default_rng(0)
CODES = np.array([[int(d) for d in np.base_repr(i, 5).zfill(6)] for i in RNG.permutation(5**6)[:1300]])
cells = st.lists(st.integers(0, 4), min_size=6, max_size=6).map(lambda code: np.array([code]))


def cell(text: str) -> np.ndarray[Any, Any]:
    return np.array([[int(c) for c in text]])


def test_pruning() -> None:
    #                                01 02 12 03 13 23
    assert live(cell("304300")).tolist() == [[0, 0, 0, 3, 0, 0]]  # nodes 1 and 2 lead nowhere
    assert reaching_output(cell("000003")).tolist() == [[0, 0, 0, 0, 0, 3]]  # it convolves zeros, yet its output counts
    assert live(cell("000003")).sum() == 0
    assert live(cell("303003")).tolist() == [[3, 0, 3, 0, 0, 3]]
    assert live(cell("333333")).tolist() == [[3] * 6]


@given(cells)
def test_pruning_only_removes(code: np.ndarray[Any, Any]) -> None:
    kept, alive = reaching_output(code), live(code)
    assert np.all((kept == code) | (kept == 0))
    assert np.all((alive == kept) | (alive == 0))
    np.testing.assert_array_equal(live(alive), alive)
    np.testing.assert_array_equal(macs(alive), macs(code))


@given(cells)
def test_names_of_nodes_do_not_matter(code: np.ndarray[Any, Any]) -> None:
    code[:, 2] = 0
    counts = slice(0, 12)
    np.testing.assert_array_equal(swapped(swapped(code)), code)
    np.testing.assert_array_equal(features(code)[:, counts], features(swapped(code))[:, counts])
    np.testing.assert_array_equal(features(code)[:, -3:], features(swapped(code))[:, -3:])


def test_macs_are_those_of_the_benchmark() -> None:
    # NAS-Bench-201's own figures (there called FLOPs) for its largest and its smallest network
    assert macs(cell("333333"))[0] == pytest.approx(220.12e6, rel=1e-3)
    assert macs(cell("000000"))[0] == pytest.approx(7.78e6, rel=0.02)


def test_features() -> None:
    chain = features(cell("302003"))[0]
    assert chain.shape == (75,)
    assert chain[:4].tolist() == [0, 1, 2, 0]  # skips, 1x1, 3x3, pools
    assert chain[-3:].tolist() == [0, 3, 3]  # additions, convolutions and operators on the longest path
    assert features(cell("131330"))[0][-3:].tolist() == [1, 1, 2]
    assert one_hot(cell("304300")).sum() == 6


def test_twins() -> None:
    found = twins(CODES)
    has = np.flatnonzero(found >= 0)
    assert len(has) > 4
    np.testing.assert_array_equal(CODES[found[has]], swapped(CODES[has]))
    np.testing.assert_array_equal(found[found[has]], has)
    assert np.all(CODES[has, 2] == 0)


def test_the_tests_rows() -> None:
    ms = np.linspace(0.1, 5.0, 15625)
    rows = nb201.tests_of(ms)
    assert rows["A"].tolist() == list(range(1000, 1800))
    assert rows["B"][0] == np.flatnonzero(ms >= 0.5)[0] > 900
    assert len(nb201.tests_of(ms + 1)["B"]) == 15625 - 900


def write(folder: Path, **changes: Any) -> Path:
    costs = {"1080ti_1": [0, 1, 1, 1.0], "pixel3": [0, 1, 9, 3.0], "samsung_a50": [0, 2, 10, 1.0], "fpga": [0, 1, 7, 1.5]}
    counts = features(CODES)[:, :4]
    made: dict[str, Any] = {f"lat_ms__{d}": 1.0 + counts @ np.array(c) for d, c in costs.items()}
    made["lat_ms__new phone"] = (1.0 + counts @ np.array([0, 1, 8, 2.0])) * np.exp(0.03 * RNG.standard_normal(len(CODES)))
    made |= {"arch_code": CODES, "op_names": np.array(OPERATORS)} | changes
    (folder / "nb201").mkdir(exist_ok=True)
    np.savez(folder / "nb201" / "nb201.npz", **{name: array for name, array in made.items() if array is not None})
    return folder


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting others takes longer than these jobs."""
    monkeypatch.setattr(nb201, "each", lambda work, jobs, progress: [work(job) for job in jobs])


def by_model(results: list[Result], test: str, k: int) -> dict[str, Result]:
    return {r.model: r for r in results if r.test == test and r.k == k}


@pytest.mark.usefixtures("one_process")
def test_a_small_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nb201, "COUNTS", (5, 30))
    results = nb201.PROTOCOL.results(write(tmp_path), 2, (), silent)
    assert {r.device for r in results} == {"fpga", "new phone"}  # unknown devices are new ones, too
    assert {r.model for r in results if r.is_default} == {"transfer"}
    assert all(r.seeds == 2 for r in results if r.k > 0)
    few = by_model([r for r in results if r.device == "new phone"], "A", 5)
    assert set(few) == {"macs only", "fitted table", "hybrid", "transfer", "transfer, random picks"}
    assert few["transfer"].spearman > few["fitted table"].spearman
    assert few["transfer"].sd["spearman"] == 0  # nothing is random
    floor = few["transfer"].noise_floor
    assert floor is not None
    assert 0.01 < floor < 0.06  # two measurements with 3 % noise
    assert few["transfer"].mape < 0.06


@pytest.mark.usefixtures("one_process")
def test_a_known_device_that_is_named_is_a_new_one_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nb201, "COUNTS", (5,))
    results = nb201.PROTOCOL.results(write(tmp_path), 1, ("pixel3", "unheard of"), silent)
    assert {r.device for r in results} == {"pixel3"}
    assert 0.9 < by_model(results, "A", 5)["transfer"].spearman < 1


ms: Floats = np.ones(len(CODES))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"arch_code": None}, "arch_code"),
        ({"arch_code": CODES[:, :5]}, "6 of the operators"),
        ({"arch_code": CODES[:900], "lat_ms__fpga": ms[:900]}, "more than 900"),
        ({"op_names": np.array(["none", "conv"])}, "6 of the operators"),
        ({"lat_ms__fpga": np.where(np.arange(len(CODES)) == 7, 0.0, ms)}, "fpga .* row 7"),
        ({"lat_ms__fpga": np.where(np.arange(len(CODES)) == 8, np.nan, ms)}, "fpga .* row 8"),
        ({"lat_ms__fpga": ms[:-1]}, "fpga"),
        ({"lat_ms__1080ti_1": None, "lat_ms__pixel3": None, "lat_ms__samsung_a50": None}, "none of the known devices"),
    ],
)
def test_files_that_are_not_what_they_should_be(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        nb201.read(write(tmp_path, **changes))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no NAS-Bench-201 latencies"):
        nb201.PROTOCOL.results(tmp_path, 1, (), silent)
    (tmp_path / "nb201").mkdir()
    (tmp_path / "nb201" / "nb201.npz").write_bytes(b"PK no zip")
    with pytest.raises(DataError, match="no NAS-Bench-201 latencies"):
        nb201.PROTOCOL.results(tmp_path, 1, (), silent)


@pytest.mark.skipif(DATA is None, reason="the public latencies are not here: set PACELINE_DATA to their folder")
@pytest.mark.usefixtures("one_process")
def test_real_devices_from_ten_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    assert DATA is not None
    monkeypatch.setattr(nb201, "COUNTS", (10,))
    results = nb201.PROTOCOL.results(Path(DATA), 1, ("raspi4", "gold_6226"), silent)
    for device, least in (("raspi4", 0.9), ("gold_6226", 0.98)):
        found = by_model([r for r in results if r.device == device], "A", 10)
        assert found["transfer"].spearman >= least
        assert found["transfer"].spearman > max(r.spearman for m, r in found.items() if "transfer" not in m)
