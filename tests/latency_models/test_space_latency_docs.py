"""The examples of docs/latency_models.md run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paceline.arch import Choice, Space
from paceline.latency_models.regressors.hybrid import HybridRegressor
from paceline.latency_models.spaces.code_latency import CodeLatency
from paceline.latency_models.spaces.codes import encode_all

DOCUMENT = Path(__file__).parents[2] / "docs" / "latency_models.md"
LOSS, TRANSFER = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
SPACE = Space(tuple(Choice(f"c{i}", tuple("abc")) for i in range(4)))
RNG = np.random.default_rng(0)
ARCHS = [SPACE.sample(RNG) for _ in range(60)]
COSTS = RNG.uniform(0.5, 2, SPACE.width)


def test_latency_as_a_loss_term() -> None:
    latency = CodeLatency(SPACE, HybridRegressor(relative=True)).fit(ARCHS, encode_all(SPACE, ARCHS) @ COSTS)
    names: dict[str, Any] = {
        "latency": latency,
        "alphas": {c.name: torch.zeros(3, requires_grad=True) for c in SPACE.choices},
        "task_loss": torch.zeros(()),
        "generator": torch.Generator().manual_seed(0),
        "limit_ms": 0.5 * float(latency.predict(ARCHS).ms.min()),
    }
    exec(LOSS, names)
    assert float(names["loss"].detach()) > 0.2
    names["loss"].backward()
    for choice, part in SPACE.slices():
        gradient = names["alphas"][choice.name].grad
        assert int(gradient.argmax()) == int(COSTS[part].argmax())  # the costliest option is pushed down the most


def test_transfer_to_a_new_device() -> None:
    codes = encode_all(SPACE, ARCHS)
    other = COSTS * RNG.uniform(0.8, 1.2, SPACE.width)
    names: dict[str, Any] = {
        "codes_a": codes,
        "ms_a": codes @ COSTS,
        "codes_b": codes[:40],
        "ms_b": 3 * codes[:40] @ other,
        "pool": codes,
        "measured_ms": np.ones(20),
    }
    exec(TRANSFER, names)
    assert len(set(names["picks"])) == 20
    measured = 2 * codes[names["picks"]] @ (COSTS + other)
    model = names["TransferRegressor"](names["prior"]).fit(codes[names["picks"]], measured)
    np.testing.assert_allclose(model.predict(codes), 2 * codes @ (COSTS + other), rtol=0.1)
