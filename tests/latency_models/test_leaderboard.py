"""The leaderboard around its protocols."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paceline.errors import ConfigError, DataError
from paceline.latency_models.leaderboard import leaderboard as board
from paceline.latency_models.leaderboard.result import Result, summarised
from paceline.latency_models.metrics import accuracy_of
from paceline.progress import progress

FIELDS = {
    *("protocol", "test", "device", "k", "model", "is_default", "seeds", "spearman", "kendall", "mape", "rmspe"),
    *("within_5", "within_10", "noise_floor", "covered", "sd"),
}


def result() -> Result:
    measured = np.array([1.0, 2.0, 4.0, 8.0])
    seeds = [accuracy_of("m", measured * factor, measured) for factor in (1.04, 1.08)]
    return summarised("p", "t", "d", 10, "m", True, seeds, 0.01)


def test_a_result_is_the_mean_over_seeds() -> None:
    found = result()
    assert (found.mape, found.sd["mape"]) == (pytest.approx(0.06), pytest.approx(0.02 * math.sqrt(2)))
    assert (found.rmspe, found.within_5, found.within_10) == (pytest.approx(0.06), 0.5, 1.0)
    assert (found.spearman, found.kendall, found.seeds) == (1.0, 1.0, 2)


def test_json_has_the_agreed_fields_and_no_nan() -> None:
    [row] = board.as_json([replace(result(), spearman=float("nan"))])
    assert set(row) == FIELDS
    assert row["spearman"] is None
    assert json.loads(json.dumps(row, allow_nan=False)) == row


@pytest.mark.parametrize("name", [n for n in board.NAMES if n != "host"])
def test_a_named_protocol_without_its_data_is_an_error(name: str, tmp_path: Path) -> None:
    assert board.protocol_of(name).name == name
    with pytest.raises(DataError):
        board.run(tmp_path, [name], 1, (), progress)


def test_nothing_at_all_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=str(tmp_path)):
        board.run(tmp_path, (), 1, (), progress)
    with pytest.raises(DataError, match="--data"):
        board.run(tmp_path / "none", (), 1, (), progress)


def test_an_unknown_protocol_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="nb201, fbnet"):
        board.protocol_of("imagenet")
