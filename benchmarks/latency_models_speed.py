"""How fast latency models predict and learn: architectures a second, seconds to fit. The figures of docs/latency_models.md.

    python benchmarks/latency_models_speed.py

Rows and targets are made up: time does not depend on their values. The space is FBNet's: 22 choices of 9 options.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from paceline.arch import Choice, Space
from paceline.graph import OpSpec
from paceline.latency_models.costs.table import TableCost
from paceline.latency_models.defaults import default_model
from paceline.latency_models.model import Floats, Row
from paceline.latency_models.network_latency import NetworkLatency
from paceline.latency_models.regressors.hybrid import HybridRegressor
from paceline.latency_models.regressors.linear import LinearRegressor
from paceline.latency_models.regressors.mlp import MlpRegressor
from paceline.latency_models.regressors.regressor import Regressor
from paceline.latency_models.regressors.trees import TreesRegressor
from paceline.latency_models.space_latency import SpaceLatency
from paceline.latency_models.spaces.code_latency import CodeLatency
from paceline.latency_models.spaces.codes import one_hot
from paceline.space_operators import SpaceOperators

SPACE = Space(tuple(Choice(f"layer {i}", tuple(f"block {k}" for k in range(9))) for i in range(22)))
ARCHS = 1_000_000
CODES = np.random.default_rng(0).integers(0, 9, (ARCHS, 22)).astype(np.uint8)


@dataclass(frozen=True)
class Speed:
    """One line of the table. `measure` gives the figure, `aim` says which one was wanted."""

    name: str
    measure: Callable[[], float]
    unit: str
    aim: str = ""


def archs_per_second(predict: Callable[[], object]) -> float:
    return ARCHS / min(seconds(predict) for _ in range(3))


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@cache
def table() -> SpaceLatency:
    """Fitted on the operators of all blocks (three convolutions each) and on 40 networks."""
    rng = np.random.default_rng(0)
    options = {
        (c.name, o): block(56 >> i // 6, 16 + 8 * i, k) for i, c in enumerate(SPACE.choices) for k, o in enumerate(c.options)
    }
    operators = SpaceOperators(SPACE, block(112, 16, 3), options)
    networks = [operators.of(SPACE.sample(rng)) for _ in range(40)]
    rows = [Row((spec,), float(rng.uniform(0.1, 2))) for spec in operators.distinct()]
    rows += [Row(network, float(rng.uniform(20, 30))) for network in networks]
    return SpaceLatency(NetworkLatency(TableCost(strict=True), folds=0).fit(rows), operators)


def block(size: int, channels: int, option: int) -> tuple[OpSpec, ...]:
    wide, kernel = 16 * (option + 1), 3 + 2 * (option % 3)
    image, common = f"1x{size}x{size}x", "dilation=(1,1) padding=SAME stride=(1,1)"
    keys = (
        f"CONV_2D {image}{channels} @{wide}x1x1x{channels} @{wide} -> {image}{wide} activation=RELU6 {common}",
        f"DEPTHWISE_CONV_2D {image}{wide} @1x{kernel}x{kernel}x{wide} @{wide} -> {image}{wide} activation=RELU6 {common}",
        f"CONV_2D {image}{wide} @{channels}x1x1x{wide} @{channels} -> {image}{channels} activation=NONE {common}",
    )
    return tuple(OpSpec.parse(key) for key in keys)


@cache
def code_model() -> CodeLatency:
    """Of networks whose first two choices cost more together, so that it is kept."""
    archs = [SPACE.sample(np.random.default_rng(i)) for i in range(1000)]
    ms = [5.0 + 5 * (max(arch["layer 0"][0], arch["layer 1"][0]) < "block 5") for arch in archs]
    return CodeLatency(SPACE, MlpRegressor(relative=True, epochs=100)).fit(archs, ms)


@cache
def encoded() -> npt.NDArray[np.uint8]:
    return np.concatenate([one_hot(SPACE, codes).astype(np.uint8) for codes in np.array_split(CODES, 100)])


@cache
def rows_to_fit() -> tuple[Floats, Floats]:
    """20,000 operators with 40 features."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20_000, 40))
    return x, np.exp(x[:, 0] + 0.3 * np.tanh(x[:, 1] * x[:, 2]) + 0.05 * rng.standard_normal(len(x)))


def fitting(regressor: Regressor) -> Callable[[], float]:
    return lambda: seconds(lambda: regressor.fit(*rows_to_fit()))


def fit_default() -> float:
    """20,000 different operators, and 60 networks of 60 of them."""
    rng = np.random.default_rng(0)
    blocks = (block(*sizes) for sizes in itertools.product(range(7, 63, 7), range(8, 808, 8), range(14)))
    specs = list(itertools.islice(dict.fromkeys(itertools.chain.from_iterable(blocks)), 20_000))
    ms = {spec: (0.01 + spec.macs / 1e7) * float(np.exp(0.05 * rng.standard_normal())) for spec in specs}
    networks = [tuple(specs[i] for i in rng.integers(0, len(specs), 60)) for _ in range(60)]
    rows = [Row((spec,), ms[spec]) for spec in specs] + [Row(net, 1.05 * sum(ms[s] for s in net)) for net in networks]
    return seconds(lambda: default_model(0).fit(rows))


def one_by_one() -> float:
    archs = [SPACE.sample(np.random.default_rng(i)) for i in range(500)]
    return len(archs) / seconds(lambda: [table().predict([arch]) for arch in archs])


SPEEDS = [
    Speed("table, option numbers", lambda: archs_per_second(lambda: table().predict_codes(CODES)), "archs/s", "1,000,000"),
    Speed("table, 0/1 weights", lambda: archs_per_second(lambda: table().predict_encoded(encoded())), "archs/s", "1,000,000"),
    Speed("table, one Arch at a time", one_by_one, "archs/s"),
    Speed("MLP, option numbers", lambda: archs_per_second(lambda: code_model().predict_codes(CODES)), "archs/s", "200,000"),
    Speed("MLP, 0/1 weights", lambda: archs_per_second(lambda: code_model().predict_encoded(encoded())), "archs/s", "200,000"),
    Speed("fit default_model, 20,000 operators, 60 networks", fit_default, "s", "< 60"),
    Speed("fit LinearRegressor, 20,000 rows x 40", fitting(LinearRegressor(relative=True)), "s", "< 60"),
    Speed("fit TreesRegressor, 20,000 rows x 40", fitting(TreesRegressor(relative=True)), "s", "< 60"),
    Speed("fit MlpRegressor, 20,000 rows x 40", fitting(MlpRegressor(relative=True)), "s", "< 60"),
    Speed("fit HybridRegressor, 20,000 rows x 40", fitting(HybridRegressor(relative=True)), "s", "< 60"),
]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    shown = Table("what", "figure", "unit", "wanted")
    for speed in SPEEDS:
        figure = speed.measure()
        shown.add_row(speed.name, f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}", speed.unit, speed.aim)
    Console().print(shown)


if __name__ == "__main__":
    main()
