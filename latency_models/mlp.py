"""The MLP regressor: an operator's milliseconds from its shape, learned from the rows, for operators without a row too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

import numpy as np
import torch
from torch import nn

from paceline.errors import LatencyModelError
from paceline.graph import OpSpec
from paceline.latency_models.additive import COST_PRIOR, Additive, cost_terms
from paceline.latency_models.features import shape_matrix
from paceline.latency_models.linear import check_known
from paceline.latency_models.model import Floats, Network, Prediction, Row, single


class MlpRegressor:
    """Log-milliseconds of an operator from its `shape_features`: three layers, full-batch Adam, L1 on logarithms.

    `seed` decides the initial weights. Raises LatencyModelError for an operator of a kind it has no row of.
    """

    name = "mlp"

    def __init__(self, seed: int, hidden: int = 64, steps: int = 1500, confidence: float = 0.9) -> None:
        self.seed, self.hidden, self.steps, self.confidence = seed, hidden, steps, confidence

    def fit(self, rows: Sequence[Row]) -> Self:
        operators = single(rows)
        if not operators:
            raise LatencyModelError("the MLP regressor needs measured operators")
        self.kinds_ = sorted({row.operators[0].kind for row in operators})
        features = shape_matrix([row.operators[0] for row in operators], self.kinds_)
        target = np.log([row.ms for row in operators])
        self.mean_, self.std_ = features.mean(axis=0), features.std(axis=0) + 1e-6
        self.center_ = float(target.mean())
        self.net_ = self._train(torch.tensor(self._scaled(features)), torch.tensor(target - self.center_))
        self._additive = Additive(cost_terms(self.cost), COST_PRIOR, rows, self.confidence)
        return self

    def cost(self, operators: Sequence[OpSpec]) -> Floats:
        check_known(operators, self.kinds_, lambda spec: spec.kind, self.name)
        if not operators:
            return np.zeros(0)
        features = shape_matrix(operators, self.kinds_)
        with torch.no_grad():
            logs = self.net_(torch.tensor(self._scaled(features)))[:, 0].numpy()
        return np.asarray(np.exp(logs + self.center_))

    def predict(self, networks: Sequence[Network]) -> Prediction:
        return self._additive.predict(networks)

    def operator_ms(self, operators: Sequence[OpSpec]) -> Floats:
        return self._additive.operator_ms(operators)

    @property
    def base_ms(self) -> float:
        return self._additive.base_ms

    def _scaled(self, features: Floats) -> Floats:
        return np.asarray((features - self.mean_) / self.std_)

    def _train(self, x: torch.Tensor, y: torch.Tensor) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            layers = [nn.Linear(x.shape[1], self.hidden), nn.SiLU(), nn.Linear(self.hidden, self.hidden), nn.SiLU()]
            net = nn.Sequential(*layers, nn.Linear(self.hidden, 1)).double()
        optimizer = torch.optim.Adam(net.parameters(), lr=5e-3, weight_decay=1e-5)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        with _one_thread():  # the matrices are small: handing them to other threads takes longer than to multiply them
            for _ in range(self.steps):
                optimizer.zero_grad()
                nn.functional.smooth_l1_loss(net(x)[:, 0], y, beta=0.05).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
        return net.eval()


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
