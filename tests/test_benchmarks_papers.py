"""The ablations of the papers' claims: each runs through and goes on where it was, and its intervals are what they say."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from scipy.stats import kendalltau

from paceline.errors import DataError

SCRIPTS = Path(__file__).parent.parent / "benchmarks" / "papers"


@pytest.fixture(scope="module")
def script() -> Iterator[Callable[[str], ModuleType]]:
    """Imports one of the scripts or what they share, as running it from its folder does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield importlib.import_module


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as that of CIFAR-10, with few images; brightness tells the class."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split, count in (("train", 160), ("test", 40)):
        labels = np.arange(count) % 10
        files = [_jpeg(rng.integers(0, 60, (16, 16, 3)) + 19 * label) for label in labels]
        arrays[f"{split}_blob"] = np.frombuffer(b"".join(files), np.uint8)
        arrays[f"{split}_off"] = np.cumsum([0, *map(len, files)])
        arrays[f"{split}_y"] = labels
    folder = tmp_path_factory.mktemp("cifar")
    np.savez(folder / "cifar10_jpeg.npz", **arrays)
    return folder


def _jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def run(script: Callable[[str], ModuleType], data: Path, tmp_path: Path) -> Callable[[str], dict]:
    """Runs a script with one seed and gives the figures that it wrote; what it keeps is in tmp_path / "results"."""

    def call(name: str) -> dict:
        file = tmp_path / "figures.json"
        kept = ("--results", str(tmp_path / "results"), "--json", str(file))
        script(name).main(["--budget", "tiny", "--seeds", "1", "--data", str(data), "--processes", "1", *kept])
        found: dict = json.loads(file.read_text())
        return found

    return call


@pytest.mark.parametrize("name", ["shadow_bn", "shrinking"])
def test_runs_through(name: str, run: Callable[[str], dict], capsys: pytest.CaptureFixture[str]) -> None:
    found = run(name)
    printed = capsys.readouterr().out
    assert all(f"- {sentence}" in printed for sentence in found["sentences"])
    assert (found["facts"]["seeds"], found["facts"]["budget"]) == (1, "tiny")
    assert found["rows"]


def test_strict_fairness_has_no_spread(run: Callable[[str], dict]) -> None:
    rows = run("fairness")["rows"]
    spread = {name: row["updates, sd over options"] for name, row in rows.items()}
    assert spread.pop("strict") == 0
    assert min(spread.values()) > 0


def test_folding_is_exact_and_a_second_call_goes_on_where_the_first_was(run: Callable[[str], dict], tmp_path: Path) -> None:
    first = run("stabiliser")
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "results").iterdir()}
    (folded,) = (r["folded"] for r in (json.loads(file.read_text()) for file in kept) if r.get("folded"))
    assert folded["folds"] == 6
    assert folded["error"] <= 1e-10
    lost = min(kept)
    lost.unlink()
    assert run("stabiliser")["rows"] == first["rows"]
    assert {file for file, at in kept.items() if file.stat().st_mtime_ns != at} == {lost}


def test_two_targets(run: Callable[[str], dict], script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("moga_devices")
    whole = module.chain_for  # to measure the options of all layers takes longer than a test may
    monkeypatch.setattr(module, "chain_for", lambda task: replace(whole(task), slots=whole(task).slots[:2]))
    found = run("moga_devices")
    assert len(found["rows"]) == 2
    assert all(name.endswith("(simulated)") for name in found["rows"])


def test_digits_have_one_held_out_set(script: Callable[[str], ModuleType]) -> None:
    task = script("common").load("")
    assert task.val is task.test
    assert len(task.val.labels) + len(task.train.labels) == 1797
    assert task.image_size == 8


def test_missing_data_is_named(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cifar10_jpeg\.npz"):
        script("common").load(str(tmp_path))


def test_rankings(script: Callable[[str], ModuleType]) -> None:
    reporting = script("reporting")
    rng = np.random.default_rng(1)
    truth = rng.normal(size=12)
    found = truth + rng.normal(size=(3, 12))
    rankings = reporting.Rankings(found, truth)
    tau = rankings.tau()
    assert tau.value == pytest.approx(np.mean([kendalltau(row, truth).statistic for row in found]))
    assert tau.low < tau.value < tau.high
    same = rankings.minus(reporting.Rankings(2 * found, truth))
    assert (same.value, same.low, same.high) == (0, 0, 0)
    worse = rankings.minus(reporting.Rankings(-found, truth))
    assert worse.value == pytest.approx(2 * tau.value)
    assert reporting.Rankings(np.zeros((2, 12)), truth).tau().value == 0


def test_interval_of_a_mean_covers(script: Callable[[str], ModuleType]) -> None:
    mean = script("reporting").mean
    rng = np.random.default_rng(2)
    covered = [m.low <= 1.0 <= m.high for m in (mean(rng.normal(1.0, 2.0, size=4)) for _ in range(400))]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.03)
    assert np.isnan(mean([0.5]).low)


@pytest.mark.parametrize(
    ("interval", "said"),
    [((1.0, 0.5, 1.5), "the claimed sign, beyond"), ((-1.0, -1.5, -0.5), "AGAINST"), ((1.0, -0.5, 2.5), "inside the noise")],
)
def test_verdict(interval: tuple[float, float, float], said: str, script: Callable[[str], ModuleType]) -> None:
    reporting = script("reporting")
    assert said in reporting.verdict("figure", reporting.Estimate(*interval), +1)
