"""A network for one device that must keep limits on others: searched, measured and reported on all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from paceline.cli import app
from paceline.errors import ConfigError, LimitError
from paceline.pipeline.config import load_config
from paceline.pipeline.testing_recipes import prepare

ALSO = 'also = [{ id = "mid", limit_quantile = 0.5 }, { id = "wide", delegate = "gpu" }]\n'
MID = '[[device]]\nid = "mid"\nkind = "simulated"\nprofile = "simulated-mid"\nseed = 2\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    prepare(folder)
    with (folder / "devices.toml").open("a") as devices:
        devices.write(MID)
    config = (folder / "search.toml").read_text()
    (folder / "search.toml").write_text(ALSO + config)
    (folder / "fast.toml").write_text(ALSO.replace("limit_quantile = 0.5", "limit_ms = 1e-4") + config)
    return folder


def searched(folder: Path, *options: str) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return CliRunner().invoke(app, ["search", "fairnas", "--config", "search.toml", "--out", "out", *options])


@pytest.fixture(scope="module")
def summary(folder: Path) -> dict[str, Any]:
    done = searched(folder, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_network_of_the_front_keeps_every_limit(summary: dict[str, Any]) -> None:
    names = ["mid (xnnpack)", "wide (gpu)"]
    limits = [other["limit_ms"] for other in summary["also"]]
    assert len({summary["limit_ms"], *limits}) == 3
    assert summary["front"]
    for row in summary["front"]:
        assert row["predicted_ms"] <= summary["limit_ms"]
        assert list(row["also_ms"]) == names
        assert all(ms <= limit for ms, limit in zip(row["also_ms"].values(), limits, strict=True))


def test_the_file_was_measured_on_every_device(summary: dict[str, Any]) -> None:
    assert summary["limit_kept"]
    for other in summary["also"]:
        assert 0 < other["measured_ms"] <= other["limit_ms"]
        assert other["predicted_low_ms"] <= other["predicted_ms"] <= other["predicted_high_ms"]
        assert {p["name"] for p in other["predictor"]} >= {"noise floor", "table", "macs only"}
    assert [other["device"] for other in summary["also"]] == ["mid", "wide"]
    assert len({summary["measured_ms"], *(other["measured_ms"] for other in summary["also"])}) == 3


def test_the_report_and_the_terminal_show_them(summary: dict[str, Any], folder: Path) -> None:
    html = (folder / "out" / "report.html").read_text(encoding="utf-8")
    assert "Other devices" in html
    assert "mid (xnnpack), simulated" in html
    assert "2 of 2 other limits kept" in html
    again = searched(folder)  # it had finished
    assert again.exit_code == 0, again.output
    assert "wide (gpu)," in again.stdout


def test_a_limit_that_no_network_keeps_names_its_device(folder: Path) -> None:
    done = searched(folder, "--config", "fast.toml", "--out", "fast")
    assert isinstance(done.exception, LimitError)
    assert "keeps 0.0001 ms on mid (xnnpack)" in str(done.exception)


def test_devices_of_the_command_line_share_a_limit() -> None:
    config = load_config(None, also=[{"id": "a", "file": None}, {"id": "b"}], limit_ms=3.0)
    assert [(other.id, other.limit_ms) for other in config.also] == [("a", None), ("b", None)]
    with pytest.raises(ConfigError, match="'local' is given twice; leave one out"):
        load_config(None, also=[{"id": "local"}])
    with pytest.raises(ConfigError, match=r"\[also\.0\] unknown option 'limit'; did you mean 'limit_ms'"):
        load_config(None, also=[{"id": "a", "limit": 3}])
