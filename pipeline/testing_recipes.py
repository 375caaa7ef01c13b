"""What every recipe must do, as tests: subclass `RecipeTestSuite` and name a recipe."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from paceline.measurement import silent
from paceline.pipeline.config import load_config
from paceline.pipeline.front import rows_of
from paceline.pipeline.recipes import RECIPES, Recipe, file_of, find_recipe
from paceline.pipeline.run import Outcome, Run
from paceline.pipeline.spaces import find_space
from paceline.pipeline.summary import summary_of
from paceline.store import Store

LONGEST = 80
"""Lines of a recipe's module: it is data."""

_IMAGES = 360
_PATIENCE_S = 240.0
_DEVICE = '[[device]]\nid = "wide"\nkind = "simulated"\nprofile = "simulated-wide"\nseed = 1\n'
_CONFIG = """
seed = 3
limit_quantile = 0.6
shortlist = 1
[data]
kind = "npz"
path = "digits.npz"
size = 8
[device]
id = "wide"
file = "devices.toml"
[supernet]
epochs = 2
batch = 32
[search]
population = 8
generations = 4
[retrain]
epochs = 1
batch = 32
[predictor]
fit_networks = 6
test_networks = 5
"""


@dataclass(frozen=True)
class Finished:
    """A search that nothing disturbed, in the folder that has its config, data, device, results and store."""

    folder: Path
    outcome: Outcome
    summary: dict[str, Any]


class RecipeTestSuite:
    """Override the fixture `source`: what `paceline search` is given, a name or `path/to/file.py:name`.

    The tests of a recipe share one search of its reduced space with a tiny budget: 360 digits of 8x8 pixels, 2 epochs, 32
    networks, latencies of a simulated phone. Nothing in it depends on how busy the machine is.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls) -> str:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def recipe(cls, source: str) -> Recipe:
        return find_recipe(source)

    @pytest.fixture(scope="class")
    @classmethod
    def finished(cls, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
        folder = tmp_path_factory.mktemp(recipe.name)
        prepare(folder)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # so many as the process that is killed has: sums of other parts round otherwise
        with Store(str(folder / "store.sqlite")) as store:
            outcome = _run(recipe, folder, "out", store).execute()
        yield Finished(folder, outcome, summary_of(outcome))
        torch.set_num_threads(threads)

    def test_says_where_it_is_from(self, recipe: Recipe) -> None:
        assert recipe.paper.title
        assert recipe.paper.venue
        assert re.fullmatch(r"\d{4}\.\d{4,5}", recipe.paper.arxiv)
        assert recipe.title
        assert all(sentence.endswith(".") for sentence in (*recipe.reconstructed, *recipe.additions))
        assert find_space(recipe.full.space.name) is not find_space(recipe.reduced.space.name)

    def test_is_a_page_of_data_that_needs_no_other_recipe(self, recipe: Recipe) -> None:
        file = file_of(recipe)
        text = file.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= LONGEST
        others = {file_of(known).stem for known in RECIPES.values()} - {file.stem}
        assert {part for name in _imports(text) for part in name.split(".")} & others == set()

    def test_the_loss_falls(self, finished: Finished) -> None:
        first, *_, last = finished.summary["supernet_losses"]
        assert last < first

    def test_every_member_of_the_front_keeps_the_limit(self, recipe: Recipe, finished: Finished) -> None:
        front, summary = finished.summary["front"], finished.summary
        assert front
        assert all(row["predicted_ms"] <= summary["limit_ms"] for row in front)
        assert all(row["limit_chance"] >= summary["limit_confidence"] - 1e-9 for row in front)
        signs = [(g.figure, -1.0 if g.direction == "max" else 1.0) for g in recipe.goals if g.figure != "latency"]
        points = np.array([[sign * row[figure] for figure, sign in signs] for row in front])
        if len(signs) == len(recipe.goals):
            assert not any(((points <= p).all(axis=1) & (points < p).any(axis=1)).any() for p in points)

    def test_the_best_is_exported_and_measured(self, finished: Finished) -> None:
        summary, model = finished.summary, finished.folder / "out" / "model.tflite"
        assert model.stat().st_size > 0
        assert 0 < summary["measured_ms"] <= summary["limit_ms"]
        assert summary["parity_max_abs_error"] < 1e-4
        assert finished.outcome.chosen.key in {m.arch.key for m in finished.outcome.searched.archive.feasible()}
        assert summary["device"]["simulated"]

    def test_killed_in_mid_search_it_ends_with_the_same_front(self, source: str, recipe: Recipe, finished: Finished) -> None:
        """Another process with the same measurements and no results: killed for good, then continued here."""
        folder = finished.folder
        _without_results(folder / "store.sqlite", folder / "killed.sqlite")
        shutil.copytree(folder / "out" / "scratch", folder / "killed" / "scratch")
        command = ("search", source, "--config", "search.toml", "--out", "killed", "--store", "killed.sqlite", "--json")
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with subprocess.Popen([sys.executable, "-m", "paceline", *command], cwd=folder, env=environment) as process:
            deadline = time.monotonic() + _PATIENCE_S
            while _evaluated(folder / "killed.sqlite") < 3 and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        whole = finished.outcome.searched
        evaluated = _evaluated(folder / "killed.sqlite")
        assert 0 < evaluated < len(whole.archive.members)
        with Store(str(folder / "killed.sqlite")) as store:
            run = _run(recipe, folder, "killed", store)
            assert run.begun()
            with closing(run):
                resumed = run.search()
        assert rows_of(resumed) == rows_of(whole)
        assert resumed.trained == whole.trained
        assert resumed.archive.to_json() == whole.archive.to_json()


def prepare(folder: Path) -> None:
    """Writes `search.toml`, its `devices.toml` and its data: a search of seconds, on a simulated phone."""
    digits = load_digits()
    np.savez(folder / "digits.npz", x=digits.images[:_IMAGES].astype(np.float32), y=digits.target[:_IMAGES])
    (folder / "devices.toml").write_text(_DEVICE)
    (folder / "search.toml").write_text(_CONFIG)


def _run(recipe: Recipe, folder: Path, out: str, store: Store) -> Run:
    config = load_config(folder / "search.toml", recipe.settings)
    return Run(recipe, config, folder / out, store, lambda title: nullcontext(silent), lambda line: None)


def _without_results(store: Path, copy: Path) -> None:
    with closing(sqlite3.connect(store)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        target.execute("DELETE FROM results WHERE step <> 'operators'")
        target.commit()


def _evaluated(store: Path) -> int:
    """How many architectures the search has the values of."""
    with closing(sqlite3.connect(store, timeout=30.0)) as db:
        rows: list[tuple[int]] = db.execute("SELECT count(*) FROM results WHERE step LIKE 'search %'").fetchall()
    return rows[0][0]


def _imports(text: str) -> set[str]:
    """The modules that a module imports, and the names that it imports from them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found
