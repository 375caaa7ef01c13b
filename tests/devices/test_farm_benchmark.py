"""The farm benchmark, small: every job ends once although an agent is killed and phones fail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="pip install 'paceline[farm]'")

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "farm.py"
SMALL = "--phones 6 --agents 2 --jobs 60 --kills 1 --dead 1 --restart-s 2 --real-time 0.05"


def test_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    store = tmp_path / "store.sqlite"
    command = [sys.executable, str(BENCHMARK), *SMALL.split(), "--store", str(store)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "agents killed 1, phones dead 1" in done.stdout
    assert "yes: every job ended once" in done.stdout
    assert "yes: the store holds each result once" in done.stdout
    assert store.exists()
