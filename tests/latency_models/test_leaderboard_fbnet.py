"""The protocol `fbnet` on made-up networks, and on the real devices where the data are."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paceline.errors import DataError
from paceline.latency_models.leaderboard import fbnet
from paceline.latency_models.leaderboard.fbnet import FILE, PROTOCOL, indicators, quantities, read_networks
from paceline.latency_models.regressors.linear import LinearRegressor, ProportionalRegressor
from paceline.measurement import silent

DATA = os.environ.get("PACELINE_DATA")
NAMES = ("k3_e1", "k3_e1_g2", "k3_e3", "k3_e6", "k5_e1", "k5_e1_g2", "k5_e3", "k5_e6", "skip")


def write(folder: Path, networks: int = 2000, **other: Any) -> Path:
    rng = np.random.default_rng(0)
    options = rng.integers(0, 9, (networks, 22)).astype(np.uint8)
    table = rng.uniform(0.5, 3, (22, 9))
    ms = 5 + table[np.arange(22), options].sum(axis=1)
    (folder / FILE).parent.mkdir(parents=True, exist_ok=True)
    arrays = {"arch_op": options, "op_names": np.array(NAMES), "lat_ms__summed": ms, "lat_ms__rounded": np.round(ms), **other}
    np.savez(folder / FILE, **{name: array for name, array in arrays.items() if array is not None})
    return folder


def linear_models(seed: int) -> dict[str, Any]:
    return {
        "macs only": (ProportionalRegressor(relative=True), "quantities"),
        "fitted table": (LinearRegressor(relative=True), "indicators"),
        "hybrid": (LinearRegressor(relative=True), "both"),
    }


def test_a_table_is_recovered_and_rounding_is_the_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fbnet, "models", linear_models)
    write(tmp_path)
    found = {(r.device, r.model): r for device in ("summed", "rounded") for r in PROTOCOL.results(tmp_path, 1, (device,), silent)}
    assert {(r.protocol, r.test, r.k, r.seeds) for r in found.values()} == {("fbnet", "last 1000", 900, 1)}
    assert [r.is_default for r in found.values()] == [False, False, True] * 2
    assert found["summed", "fitted table"].mape < 1e-6
    assert found["summed", "hybrid"].mape < 1e-6
    assert found["summed", "macs only"].mape > 0.01
    assert found["summed", "hybrid"].noise_floor is None
    floor = found["rounded", "hybrid"].noise_floor
    assert floor == pytest.approx(np.mean(0.25 / np.load(tmp_path / FILE)["lat_ms__rounded"][-1000:]))
    assert found["rounded", "fitted table"].mape == pytest.approx(floor, rel=0.3)  # rounding is all the noise there is


def test_seeds_draw_other_networks_to_learn_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fbnet, "models", linear_models)
    monkeypatch.setattr(fbnet, "each", lambda work, jobs, progress: [work(job) for job in jobs])
    write(tmp_path)
    found = PROTOCOL.results(tmp_path, 2, ("rounded",), silent)
    assert all(r.sd["mape"] > 0 for r in found)


def test_features_of_a_network(tmp_path: Path) -> None:
    options = np.full((2000, 22), 8, dtype=np.uint8)
    options[1, 0] = 3  # k3_e6 on 16 channels at 112 x 112
    networks = read_networks(write(tmp_path, arch_op=options) / FILE)
    one_hot, amounts = indicators(networks), quantities(networks)
    assert one_hot.shape == (2000, 198)
    assert np.all(one_hot.sum(axis=1) == 22)
    assert one_hot[1, 3] == 1
    assert amounts.shape == (2000, 1 + 3 * 9 + 2 * 22)
    assert amounts[1, 0] - amounts[0, 0] == pytest.approx(112**2 * (16 * 96 + 9 * 96 + 96 * 16) / 1e6)
    assert amounts[1, 1:10].tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 21]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"arch_op": None}, "arch_op"),
        ({"networks": 1500}, "at least 1900"),
        ({"op_names": np.array([*NAMES[:8], "k3_x"])}, "'k3_x'"),
        ({"lat_ms__summed": np.ones(7)}, "lat_ms__summed"),
        ({"lat_ms__summed": np.zeros(2000)}, "lat_ms__summed"),
    ],
)
def test_files_that_are_not_what_they_should_be(tmp_path: Path, other: dict[str, Any], reason: str) -> None:
    write(tmp_path, **other)
    with pytest.raises(DataError, match=reason):
        read_networks(tmp_path / FILE)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="isn't the file"):
        PROTOCOL.results(tmp_path, 1, (), silent)
    (tmp_path / FILE.parent).mkdir()
    (tmp_path / FILE).write_bytes(b"PK no zip")
    with pytest.raises(DataError, match="isn't the file"):
        PROTOCOL.results(tmp_path, 1, (), silent)


@pytest.mark.skipif(DATA is None, reason="the public latencies are not here: set PACELINE_DATA to their folder")
@pytest.mark.parametrize("device", ["raspi4", "samsung_s7"])
def test_the_default_on_real_devices(device: str) -> None:
    assert DATA is not None
    found = {r.model: r for r in PROTOCOL.results(Path(DATA), 1, (device,), silent)}
    if device == "raspi4":
        assert found["fitted table"].mape <= 0.002
        assert found["hybrid"].mape <= 0.002
    else:
        assert found["hybrid"].mape < 0.9 * found["fitted table"].mape
        assert found["hybrid"].noise_floor < found["hybrid"].mape
