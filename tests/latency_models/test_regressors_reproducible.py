"""Chance comes from `random_state` alone: the same figures in every process, and nobody else's numbers are used up."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from paceline.latency_models.regressors.hybrid import HybridRegressor
from paceline.latency_models.regressors.mlp import MlpRegressor
from paceline.latency_models.regressors.trees import TreesRegressor


def digest(random_state: int = 0) -> str:
    """Of the predictions of everything in which chance is used."""
    x = np.random.default_rng(0).uniform(0, 2, (80, 7))
    y = 1 + x.sum(axis=1) + 2 * x[:, 0] * (x[:, 4] > 1)
    mlp, trees = MlpRegressor(True, epochs=5, random_state=random_state), TreesRegressor(True, 10, random_state=random_state)
    hybrid = HybridRegressor(True, epochs=20, random_state=random_state)
    return hashlib.sha256(b"".join(model.fit(x, y).predict(x).tobytes() for model in (mlp, trees, hybrid))).hexdigest()


def test_same_seed_same_predictions_in_another_process_and_no_global_chance() -> None:
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    here = digest()
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(torch.get_rng_state(), torch_state)
    script = f"import {Path(__file__).stem}; print({Path(__file__).stem}.digest())"
    there = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parent, check=True, timeout=120
    )
    assert there.stdout.strip() == here


def test_another_seed_trains_otherwise() -> None:
    assert digest(1) != digest(0)
