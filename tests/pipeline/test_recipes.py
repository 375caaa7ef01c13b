"""Recipes: what each must do, the list of them, and what a user can get wrong."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn
from typer.testing import CliRunner

from paceline.cli import app
from paceline.cli_recipes import print_front
from paceline.errors import ConfigError, SpaceError
from paceline.pipeline.config import Config, Search, SpaceChoice, load_config
from paceline.pipeline.operators import space_operators
from paceline.pipeline.recipes import RECIPES, Goal, Paper, Recipe, find_recipe
from paceline.pipeline.recipes.mobile import MOBILE
from paceline.pipeline.recipes.searchers import nsga2
from paceline.pipeline.report import write_report
from paceline.pipeline.stages import operators_stage
from paceline.pipeline.summary import report_of
from paceline.pipeline.supernet import Uniform
from paceline.pipeline.tasks import Task
from paceline.pipeline.testing_recipes import Finished, RecipeTestSuite
from paceline.store import Store

OWN = """
from paceline.pipeline.config import Config, SpaceChoice
from paceline.pipeline.recipes import Goal, Paper, Recipe, recipe
from paceline.pipeline.operators import space_operators
from paceline.pipeline.report import write_report
from paceline.pipeline.stages import operators_stage
from paceline.pipeline.summary import report_of
from paceline.pipeline.supernet import Uniform
from paceline.pipeline.tasks import Task
from paceline.store import Store

@recipe
def {name}():
    return Recipe(
        name="{name}", title="t", paper=Paper("p", "v", "2001.00001"), status="faithful", policy=Uniform(),
        full=Config(space=SpaceChoice(name="fairnas")), reduced=Config(space=SpaceChoice(name="fairnas_small")),
        goals=(Goal("accuracy", "max"),),
    )
"""

FIVE = {"fairnas", "scarlet", "moga", "mixpath", "bsnas"}


class TestPublished(RecipeTestSuite):
    @pytest.fixture(scope="class", params=sorted(RECIPES))
    @classmethod
    def source(cls, request: pytest.FixtureRequest) -> str:
        name: str = request.param
        return name

    def test_the_front_is_printed_and_reported(
        self, recipe: Recipe, finished: Finished, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "200")
        print_front(finished.summary)
        printed = capsys.readouterr().out
        for row in finished.summary["front"]:
            assert f"{row['accuracy']:.2%}" in printed
            assert f"{row['macs'] / 1e6:.2f} M" in printed
        write_report(report_of(finished.outcome), finished.folder / "report.html")
        html = (finished.folder / "report.html").read_text()
        assert recipe.name in html
        assert bool(finished.summary["turned_off"]) == (recipe.shrinking is not None or recipe.branches is not None)
        assert ("front.json the whole front" in html) == (recipe.name not in ("bsnas", "repnas"))


def test_all_are_listed() -> None:
    listed = json.loads(CliRunner().invoke(app, ["recipes", "--json"]).stdout)
    assert {row["name"] for row in listed} == set(RECIPES) >= FIVE
    for row in listed:
        assert row["paper"].keys() == {"title", "venue", "arxiv"}
        assert row["status"] in ("faithful", "reconstruction")
        assert (row["status"] == "reconstruction") == bool(row["reconstructed"])
    table = CliRunner().invoke(app, ["recipes"], env={"COLUMNS": "200"}).stdout
    assert "not in the paper: Networks keep a latency limit" in table


def test_a_recipe_of_ones_own_is_found_in_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = dict(RECIPES)
    try:
        (tmp_path / "mine.py").write_text(OWN.format(name="own_one"))
        for _ in range(2):  # the second time it is the same file, not a second recipe of that name
            assert find_recipe(f"{tmp_path}/mine.py:own_one").title == "t"
        (tmp_path / "other.py").write_text(OWN.format(name="own_one"))
        with pytest.raises(ConfigError, match=r"other\.py defines the recipe 'own_one', which .*mine\.py has defined"):
            find_recipe(f"{tmp_path}/other.py:own_one")
        with pytest.raises(ConfigError, match=r"mine\.py defines no recipe 'fairnas'; there are: own_one"):
            find_recipe(f"{tmp_path}/mine.py:fairnas")
    finally:
        RECIPES.clear()
        RECIPES.update(known)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("mogga", "no recipe has the name 'mogga'; did you mean 'moga'"),
        ("xyzzy", "there are: bsnas, fairnas, "),
        ("none.py:mine", r"no file none\.py"),
    ],
)
def test_what_is_no_recipe_is_named(source: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        find_recipe(source)


def test_a_file_that_fails_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("1 / 0")
    with pytest.raises(ConfigError, match=r"bad\.py fails when it is loaded: ZeroDivisionError"):
        find_recipe(f"{tmp_path}/bad.py:mine")


def test_a_reconstruction_says_what_is_reconstructed() -> None:
    paper, goals = Paper("p", "v", "2001.00001"), (Goal("accuracy", "max"),)
    for status, sentences in (("reconstruction", ()), ("faithful", ("Something.",))):
        with pytest.raises(ConfigError, match="has status"):
            Recipe("r", "t", paper, status, Config(), Config(), Uniform(), goals, reconstructed=sentences)  # type: ignore[arg-type]


def test_what_decides_a_run_is_described() -> None:
    bsnas = RECIPES["bsnas"]
    assert bsnas.described(10) == bsnas.described(10) != bsnas.described(20)
    others = [replace(bsnas, policy=Uniform()), replace(bsnas, searcher=nsga2), replace(bsnas, recalibrate=False)]
    assert len({recipe.described(10) for recipe in (bsnas, *others)}) == 4
    assert " at 0x" not in bsnas.described(10)


def test_settings_are_those_of_the_space_that_the_config_names(tmp_path: Path) -> None:
    moga = RECIPES["moga"]
    assert load_config(None, moga.settings) == moga.reduced
    path = tmp_path / "full.toml"
    path.write_text('[space]\nname = "moga"\n[search]\npopulation = 8\n')
    full = load_config(path, moga.settings, seed=4)
    assert full.supernet == moga.full.supernet
    assert full.search == Search(population=8, generations=moga.full.search.generations)
    assert (full.seed, full.data.size) == (4, 224)
    path.write_text('[space]\nname = "fairnas_small"\n')
    assert load_config(path, moga.settings) == moga.reduced.model_copy(update={"space": SpaceChoice(name="fairnas_small")})
    assert load_config(None, MOBILE.settings) == Config()


def test_sections_from_the_command_line_are_merged(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('[device]\nid = "a"\nthreads = 2\n')
    assert load_config(path, device={"id": None, "file": None}).device.id == "a"
    found = load_config(path, device={"id": "b", "file": "/devices.toml"}).device
    assert (found.id, found.file, found.threads) == ("b", Path("/devices.toml"), 2)


def test_operators_are_exported_once(net: nn.Module, task: Task, tmp_path: Path) -> None:
    with Store(str(tmp_path / "store.sqlite")) as store:
        first = operators_stage(net, task, store.results("run", "operators"))
    with Store(str(tmp_path / "store.sqlite")) as store:
        shown: list[int] = []
        again = operators_stage(net, task, store.results("run", "operators"), lambda done, total, note="": shown.append(done))
    assert first == again == space_operators(net, task.example())
    assert shown == []


def test_examples_of_the_documentation(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
    code, _ = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    several, toml = sorted(re.findall(r"```toml\n(.*?)```", text, re.DOTALL), key=lambda told: "[space]" in told)
    (tmp_path / "narrow.py").write_text(code)
    (tmp_path / "full.toml").write_text(toml)
    known = dict(RECIPES)
    try:
        narrow = find_recipe(f"{tmp_path}/narrow.py:narrow")
    finally:
        RECIPES.clear()
        RECIPES.update(known)
    assert narrow.reduced.supernet.epochs == 20
    (tmp_path / "several.toml").write_text(several)
    also = load_config(tmp_path / "several.toml").also
    assert [(other.id, other.limit_ms, other.delegate) for other in also] == [
        ("old-phone", 30, None),
        ("desk-phone", None, "xnnpack"),
    ]
    assert load_config(tmp_path / "full.toml", RECIPES["moga"].settings).search == RECIPES["moga"].full.search
    listed = {row.split("`")[1] for row in text.splitlines() if row.startswith("| `")}
    assert FIVE <= listed <= set(RECIPES)


def test_resume_needs_something_to_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["search", "fairnas", "--resume", "--store", "new.sqlite"])
    assert isinstance(done.exception, ConfigError)
    assert "--resume: new.sqlite knows nothing of this search" in str(done.exception)


def test_a_space_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text('[space]\nname = "mogga_small"\n')
    done = CliRunner().invoke(app, ["search", "moga", "--config", "run.toml"])
    assert isinstance(done.exception, SpaceError)
    assert "did you mean 'moga_small'" in str(done.exception)
