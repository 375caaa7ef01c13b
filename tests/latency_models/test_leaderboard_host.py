"""The protocol `host` on this machine, with small networks of its own instead of timm's."""

from pathlib import Path

import pytest
import torch
from torch import nn

from paceline.latency_models.collection.building import Budget, Table
from paceline.latency_models.leaderboard.host import Host
from paceline.measurement import silent
from paceline.store import Store


def load(name: str, seed: int) -> tuple[nn.Module, tuple[int, int, int]]:
    """Some convolutions whose width and number the name tells."""
    width, depth = map(int, name.split("x"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 2, 1), nn.ReLU6()]
        for _ in range(depth):
            layers += [nn.Conv2d(width, width, 3, 1, 1, groups=width), nn.Conv2d(width, width, 1), nn.ReLU6()]
        return nn.Sequential(*layers).eval(), (3, 8, 8)


def attempts(folder: Path, table: Table) -> int:
    with Store(folder / "store.sqlite") as store:
        return len(store.events(table.measurements[0].device))


def test_builds_a_table_and_judges_it_on_networks_it_never_saw(tmp_path: Path) -> None:
    names = [f"{width}x{depth}" for width in (8, 16, 24, 32) for depth in (1, 2, 3)]
    host = Host(tmp_path, tests=["12x2", "20x3", "28x1"], others=names, load=load, size=16, budget=Budget(rows=30))
    table, tests, device = host.measured(silent)
    assert len(table.rows) == 30
    assert not {"12x2", "20x3", "28x1"} & {m.subject.removesuffix("-0") for m in table.measurements}
    measured = attempts(tmp_path, table)
    assert measured >= len({m.artifact for m in table.measurements}) + 2 * 3
    results = host.results(tmp_path, 2, (), silent)
    assert attempts(tmp_path, table) == measured  # the second call measured nothing
    assert {r.device for r in results} == {device}
    assert [r.model for r in results if r.is_default]
    assert {"macs only", "table"} <= {r.model for r in results}
    assert all(r.noise_floor == pytest.approx(tests.noise.mean()) and r.seeds == 2 for r in results)
    assert all(r.covered is not None and 0 <= r.covered <= 1 for r in results if r.is_default)
