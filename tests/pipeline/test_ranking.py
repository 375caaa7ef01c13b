"""A supernet's ranking against training alone: the figures, and that nothing is trained twice."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau
from typer.testing import CliRunner

from paceline.arch import Arch, Choice, Space
from paceline.cli import app
from paceline.errors import ConfigError
from paceline.pipeline import rank_recipe
from paceline.pipeline.ranking import Ranked, Ranking, rank, ranking_of, spread_over, taus
from paceline.pipeline.ranking_plot import write_ranking
from paceline.pipeline.spaces import Chain, MBConvOp, Stage, Stem, Tail, find_space, slots_of
from paceline.store import Store

SPACE = Space(tuple(Choice(f"c{i}", ("a", "b", "c")) for i in range(5)))
ARCHS = spread_over(SPACE, 30, lambda arch: float(SPACE.encode(arch) @ np.arange(15.0)), np.random.default_rng(0))


def macs(arch: Arch) -> float:
    return float(SPACE.encode(arch) @ np.arange(15.0))


def merit(arch: Arch) -> float:
    return float(SPACE.encode(arch) @ np.cos(7 * np.arange(15.0)))


def noisy(arch: Arch, seed: int, scale: float = 0.1) -> float:
    return merit(arch) + scale * float(np.random.default_rng([int(arch.key, 16), seed]).standard_normal())


def ranked(**options: Any) -> Ranking:
    usual: dict[str, Any] = {"macs": macs, "seeds": (0, 1), "rng": np.random.default_rng(0), "known": {}}
    return rank(options.pop("archs", ARCHS), merit, options.pop("train_alone", noisy), **(usual | options))


def test_taus_are_those_of_the_means_over_the_seeds() -> None:
    found = ranked()
    truth = [(noisy(arch, 0) + noisy(arch, 1)) / 2 for arch in ARCHS]
    assert [n.arch for n in found.networks] == ARCHS
    assert [n.truth for n in found.networks] == pytest.approx(truth)
    assert found.supernet.value == pytest.approx(kendalltau([merit(a) for a in ARCHS], truth).statistic)
    assert found.macs.value == pytest.approx(kendalltau([macs(a) for a in ARCHS], truth).statistic)
    assert found.advantage.value == pytest.approx(found.supernet.value - found.macs.value)
    assert found.ceiling is not None
    assert found.ceiling.value == pytest.approx(kendalltau(*zip(*(n.alone for n in found.networks), strict=True)).statistic)
    for estimate in (found.supernet, found.macs, found.advantage, found.ceiling):
        assert estimate.low <= estimate.value <= estimate.high
        assert 0 < estimate.high - estimate.low < 0.8
    assert found.advantage.low > 0  # the supernet knows, the MACs do not
    assert found.seed_noise == pytest.approx(0.1, rel=0.4)
    assert found.spread > 3 * found.seed_noise


@given(pairs=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=12), seed=st.integers(0, 99))
def test_taus_of_samples_are_scipys_with_ties_and_copies(pairs: list[tuple[int, int]], seed: int) -> None:
    a, b = np.array(pairs, float).T
    samples = np.random.default_rng(seed).integers(len(pairs), size=(3, len(pairs)))
    times = np.array([np.bincount(sample, minlength=len(pairs)) for sample in samples], float)
    wanted = [kendalltau(a[sample], b[sample]).statistic for sample in samples]
    assert taus(a, b, times) == pytest.approx(np.array(wanted), nan_ok=True)


def test_the_order_of_nothing_but_chance() -> None:
    n = len(ARCHS)
    rng = np.random.default_rng(1)
    random_taus = [kendalltau(rng.random(n), rng.random(n)).statistic for _ in range(400)]
    assert ranked().chance == pytest.approx(np.std(random_taus), rel=0.15)
    lost = ranked(train_alone=lambda arch, seed: noisy(arch, seed, 100.0))
    assert lost.supernet.low < 0 < lost.supernet.high
    assert lost.ceiling is not None
    assert lost.ceiling.low < 0 < lost.ceiling.high


def test_the_interval_covers_what_many_more_architectures_say() -> None:
    rng = np.random.default_rng(2)

    def drawn(n: int) -> Ranking:
        x = rng.standard_normal(n)
        y = x + rng.standard_normal(n)
        return ranking_of([Ranked(Arch(()), 0.0, a, (b,)) for a, b in zip(x, y, strict=True)], rng)

    def tau_of(n: int) -> float:
        x = rng.standard_normal(n)
        return float(kendalltau(x, x + rng.standard_normal(n)).statistic)

    truth = tau_of(20000)
    assert truth == pytest.approx(0.5, abs=0.02)
    inside = [found.supernet.low <= truth <= found.supernet.high for found in (drawn(24) for _ in range(40))]
    assert sum(inside) >= 34


def test_the_same_seed_gives_the_same_intervals() -> None:
    assert ranked() == ranked()
    assert ranked().supernet != ranked(rng=np.random.default_rng(1)).supernet


def test_one_seed_has_no_ceiling_and_ties_have_no_tau() -> None:
    alone = ranked(seeds=(3,))
    assert alone.ceiling is None
    assert math.isnan(alone.seed_noise)
    flat = rank(ARCHS, lambda arch: 0.5, noisy, macs=macs, seeds=(0,), rng=np.random.default_rng(0), known={})
    assert math.isnan(flat.supernet.value)
    assert math.isnan(flat.supernet.low)
    assert math.isfinite(flat.macs.value)
    three = ranked(seeds=(0, 1, 2)).ceiling
    assert three is not None
    assert three.value > 0.5


def test_the_lower_end_counts() -> None:
    """MixPath's script drops the worst of those that it ranks, which here would make a good supernet of a bad one."""
    upper = {arch: merit(arch) for arch in sorted(ARCHS, key=merit)[10:]}
    found = rank(
        *(ARCHS, lambda arch: upper.get(arch, 10.0), noisy), macs=macs, seeds=(0,), rng=np.random.default_rng(0), known={}
    )
    assert len(found.networks) == len(ARCHS)
    assert found.supernet.value < 0.4


def test_what_was_trained_is_kept_at_once_and_never_trained_again(tmp_path: Path) -> None:
    trained = Counter[tuple[str, int]]()

    def dies(arch: Arch, seed: int) -> float:
        if len(trained) == 7:
            raise KeyboardInterrupt
        trained[arch.key, seed] += 1
        return noisy(arch, seed)

    def lives(arch: Arch, seed: int) -> float:
        trained[arch.key, seed] += 1
        return noisy(arch, seed)

    with Store(tmp_path / "store.sqlite") as store, pytest.raises(KeyboardInterrupt):
        ranked(train_alone=dies, known=store.results("truth", "alone"))
    with Store(tmp_path / "store.sqlite") as store:
        found = ranked(train_alone=lives, known=store.results("truth", "alone"))
        assert len(trained) == 2 * len(ARCHS)
        assert max(trained.values()) == 1
        assert found == ranked()
        more = ranked(train_alone=lives, seeds=(0, 1, 2), known=store.results("truth", "alone"))
    assert max(trained.values()) == 1
    assert [n.alone[:2] for n in more.networks] == [n.alone for n in found.networks]


def test_an_executor_trains_and_progress_tells() -> None:
    seen: list[tuple[int, int]] = []
    with ThreadPoolExecutor(2) as pool:
        found = ranked(executor=pool, progress=lambda done, total, note="": seen.append((done, total)))
    assert found == ranked()
    assert seen == [(i, len(ARCHS)) for i in range(1, len(ARCHS) + 1)]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"archs": ARCHS[:3]}, "4 or more different architectures, got 3"),
        ({"archs": [*ARCHS, ARCHS[0]]}, "got 30 in 31"),
        ({"seeds": ()}, "one or more different seeds"),
        ({"seeds": (1, 1)}, "one or more different seeds"),
    ],
)
def test_what_can_not_be_ranked_is_said_before_anything_is_trained(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ranked(train_alone=lambda arch, seed: pytest.fail("trained"), **wrong)


def test_architectures_spread_over_the_macs() -> None:
    assert len(set(ARCHS)) == 30
    rng = np.random.default_rng(0)
    uniform = [macs(SPACE.sample(rng)) for _ in range(300)]
    spread = [macs(arch) for arch in ARCHS]
    assert np.std(spread) > 1.3 * np.std(uniform)
    counts = np.histogram(spread, 5, (min(spread), max(spread)))[0]
    assert counts.min() >= 4
    tiny = Space((Choice("only", ("a", "b")),))
    assert len(spread_over(tiny, 5, lambda arch: 1.0, rng)) == 2


def test_the_plot_shows_every_network_and_both_taus(tmp_path: Path) -> None:
    found = ranked()
    write_ranking(found, "A <title>", "30 architectures", tmp_path / "ranking.html")
    html = (tmp_path / "ranking.html").read_text()
    assert html.count("<circle") == 2 * len(ARCHS)
    assert "A &lt;title&gt;" in html
    assert str(found.supernet) in html
    assert str(found.ceiling) in html
    assert not re.search(r"https?://(?!www\.w3\.org)", html)  # nothing is loaded from anywhere
    write_ranking(ranked(seeds=(0,)), "One seed", "", tmp_path / "one.html")
    assert "nan" not in (tmp_path / "one.html").read_text().lower().replace("–", "")


def test_the_command_ranks_a_recipe_and_repeats_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ranking(policy: str, *more: str) -> dict[str, Any]:
        config = tmp_path / f"{policy}.toml"
        config.write_text(f'[data]\nsize = 8\n[supernet]\npolicy = "{policy}"\nepochs = 1\nbatch = 256')
        fixed = ["--n", "4", "--seeds", "1", "--epochs", "1", "--store", str(tmp_path / "store.sqlite"), "--json"]
        command = ["rank", "moga", "--config", str(config), *fixed, "--out", str(tmp_path / policy), *more]
        done = CliRunner().invoke(app, command, catch_exceptions=False)
        assert done.exit_code == 0
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    options = {"k3e1": MBConvOp(3, 1), "k3e2": MBConvOp(3, 2)}
    small = Chain("small", Stem(8), slots_of(8, (Stage(8, 3, 1),), lambda stage: options), Tail(16))
    monkeypatch.setattr(rank_recipe, "find_space", lambda name: replace(find_space(name), chain=small))
    first = ranking("strict_fair")
    assert (first["n"], first["seeds"], first["ceiling"]) == (4, 1, None)
    assert len({json.dumps(n["architecture"]) for n in first["networks"]}) == 4
    assert all(0 <= n["supernet"] <= 1 and 0 < n["alone"][0] <= 1 and n["macs"] > 0 for n in first["networks"])
    assert json.loads((tmp_path / "strict_fair" / "ranking.json").read_text()) == first
    assert (tmp_path / "strict_fair" / "ranking.html").exists()
    assert not list((tmp_path / "strict_fair").glob("checkpoints/alone-*/*"))

    # What was trained alone is known to every supernet of the space.
    monkeypatch.setattr(rank_recipe, "retrain_stage", lambda *args, **options: pytest.fail("trained again"))
    other = ranking("uniform")
    assert [(n["architecture"], n["alone"]) for n in other["networks"]] == [
        (n["architecture"], n["alone"]) for n in first["networks"]
    ]
    assert [n["supernet"] for n in other["networks"]] != [n["supernet"] for n in first["networks"]]
