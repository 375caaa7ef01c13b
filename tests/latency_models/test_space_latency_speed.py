"""The benchmark of speed measures models that work: times are not looked at here."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "latency_models_speed.py"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_what_is_timed_is_what_the_model_says(script: dict[str, Any]) -> None:
    latency, codes = script["table"](), script["CODES"][:50]
    archs = [latency.space.decode(weights) for weights in script["one_hot"](latency.space, codes)]
    expected = latency.model.predict([latency.operators.of(arch) for arch in archs])
    for name in ("ms", "low", "high", "difficulty"):
        np.testing.assert_allclose(getattr(latency.predict_codes(codes), name), getattr(expected, name), rtol=1e-9)
    assert np.ptp(expected.ms) > 0


def test_every_line_has_a_name_of_its_own_and_what_was_wanted_is_among_them(script: dict[str, Any]) -> None:
    names = [speed.name for speed in script["SPEEDS"]]
    assert len(set(names)) == len(names)
    assert {"table, option numbers", "MLP, option numbers"} <= set(names)
    assert sum(speed.aim == "< 60" for speed in script["SPEEDS"]) >= 4
