"""The protocol `blocks` on made-up blocks whose latency is known, and on the real ones where they are."""

import csv
import gzip
import itertools
import os
from pathlib import Path

import numpy as np
import pytest

from paceline.errors import DataError
from paceline.latency_models.leaderboard import blocks
from paceline.latency_models.leaderboard.blocks import FILE, PROTOCOL, block_features, read_blocks
from paceline.latency_models.regressors.hybrid import HybridRegressor
from paceline.latency_models.regressors.linear import LinearRegressor, ProportionalRegressor
from paceline.measurement import silent

DATA = os.environ.get("PACELINE_DATA")
COLUMNS = ("key", "block", *blocks.FIELDS)


def write(folder: Path, rows: list[dict[str, object]], devices: tuple[str, ...] = ("ms_a", "ms_b")) -> Path:
    path = folder / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", newline="") as file:
        writer = csv.DictWriter(file, (*COLUMNS, *devices))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def row(hw: int, cin: int, cout: int, stride: int, kernel: int, expand: int, se: int) -> dict[str, object]:
    shape = dict(zip(blocks.FIELDS, (hw, cin, cout, stride, kernel, expand, se), strict=True))
    macs = block_features({name: np.array([float(value)]) for name, value in shape.items()})[0, 0]
    return {"key": str(shape), "block": "conv", **shape, "ms_a": 0.1 + macs / 1e7, "ms_b": "" if hw == 20 else 1 + hw / 100}


def rows() -> list[dict[str, object]]:
    shapes = itertools.product((16, 20, 28), (16, 24), (16, 24), (1, 2), (3, 5), (1, 4), (0, 1))
    return [row(*shape) for shape in shapes] + [{"key": "x", "block": "firstconv", "hw": 1, "ms_a": 1, "ms_b": 1}]


def linear_models(seed: int) -> dict[str, object]:
    return {"macs only": ProportionalRegressor(relative=True), "hybrid": LinearRegressor(relative=True)}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "models", linear_models)
    monkeypatch.setattr(blocks, "each", lambda work, jobs, progress: [work(job) for job in jobs])


def test_figures_of_known_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "models", linear_models)
    done = []
    found = PROTOCOL.results(write(tmp_path, rows()), 1, ("a",), lambda *at: done.append(at[:2]))
    assert [(r.protocol, r.test, r.device, r.model, r.is_default, r.seeds) for r in found] == [
        ("blocks", "5-fold", "a", "macs only", False, 1),
        ("blocks", "5-fold", "a", "hybrid", True, 1),
    ]
    assert all(r.mape < 1e-6 and r.within_10 == 1 and r.noise_floor is None for r in found)
    assert found[0].k == 192 * 4 // 5
    assert done == [(1, 1)]


@pytest.mark.usefixtures("quick")
def test_every_device_over_the_blocks_that_it_ran(tmp_path: Path) -> None:
    found = PROTOCOL.results(write(tmp_path, rows()), 2, (), silent)
    assert {(r.device, r.seeds, r.k) for r in found} == {("a", 2, 153), ("b", 2, 102)}  # b didn't run those of side 20
    by_device = {(r.device, r.model): r for r in found}
    assert by_device["b", "macs only"].mape > 0.01 > by_device["b", "hybrid"].mape


def test_macs_of_a_block() -> None:
    shape = {"hw": 8.0, "cin": 16.0, "cout": 24.0, "stride": 2.0, "kernel": 5.0, "expand": 3.0, "se": 1.0}
    features = block_features({name: np.array([value]) for name, value in shape.items()})
    assert features[0, 0] == 64 * 16 * 48 + 16 * 25 * 48 + 2 * 48 * 12 + 16 * 48 * 24
    assert np.all(np.isfinite(features))


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="isn't the table"):
        read_blocks(tmp_path / FILE)
    write(tmp_path, rows()[-1:])
    with pytest.raises(DataError, match="no MBConv block"):
        read_blocks(tmp_path / FILE)
    for wrong in (-1.0, 0.0):
        write(tmp_path, [*rows(), {**rows()[0], "ms_a": wrong}])
        with pytest.raises(DataError, match="ms_a"):
            read_blocks(tmp_path / FILE)
    (tmp_path / FILE).write_bytes(b"no gzip")
    with pytest.raises(DataError, match="isn't the table"):
        read_blocks(tmp_path / FILE)


@pytest.mark.skipif(DATA is None, reason="the public block tables are not here: set PACELINE_DATA to their folder")
def test_the_default_on_a_real_phone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert DATA is not None
    monkeypatch.setattr(blocks, "models", lambda seed: {"hybrid": HybridRegressor(relative=True, epochs=20, random_state=seed)})
    (found,) = PROTOCOL.results(Path(DATA), 1, ("pixel4",), silent)
    assert found.k == 1430
    assert found.mape <= 0.024
    assert found.within_10 >= 0.978
