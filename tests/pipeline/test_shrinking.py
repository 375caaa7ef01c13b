from __future__ import annotations

import io
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_net
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from paceline.arch import Arch, Choice, Space
from paceline.errors import ConfigError, SpaceError
from paceline.pipeline import training
from paceline.pipeline.supernet import (
    OneShot,
    Shrinker,
    Shrinking,
    StrictFair,
    Uniform,
    Width,
    elastic,
    path,
    restricted,
    space_of,
    train_supernet,
)
from paceline.pipeline.supernet.shrinking import Advantage, advantages, worst
from paceline.pipeline.tasks import Task, digits
from paceline.pipeline.testing import check_policy

SPACE = Space(tuple(Choice(f"layer{i}", ("good", "fair", "poor", "noise")) for i in range(5)))
VALUE = {"good": 0.02, "fair": 0.0, "poor": -0.02, "noise": -0.15}
SCHEDULE = Shrinking(warmup=1, every=1, share=0.25, target=0.5, samples=60)


def score(arch: Arch) -> float:
    """Additive but for an error that is a function of the architecture."""
    error = np.random.default_rng(int(arch.key, 16)).normal(scale=0.01)
    return 0.8 + sum(VALUE[o] for _, options in arch.picks for o in options) + error


def shrunk(schedule: Shrinking = SCHEDULE, epochs: int = 4, seed: int = 0, **settings) -> Shrinker:
    shrinker = Shrinker(schedule, StrictFair(), SPACE, settings.pop("score", score), seed=seed, **settings)
    for done in range(1, epochs + 1):
        shrinker.after_epoch(done)
    return shrinker


spaces = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 3)), min_size=1, max_size=4).map(
    lambda sizes: Space(tuple(Choice(f"c{i}", tuple("abcdef"[:n]), 1, min(m, n)) for i, (n, m) in enumerate(sizes)))
)


@given(spaces, st.integers(0, 2**32), st.integers(0, 30))
def test_a_restricted_space_is_a_part_of_the_whole(space: Space, seed: int, rounds: int) -> None:
    rng = np.random.default_rng(seed)
    alive = {c.name: tuple(o for o in c.options if rng.random() < 0.7) or c.options[-1:] for c in space.choices}
    part = restricted(space, alive)
    assert part.width == sum(len(options) for options in alive.values())
    assert part.size <= space.size
    for _ in range(5):
        arch = part.sample(rng)
        space.check(arch)
        assert all(o in alive[name] for name, options in arch.picks for o in options)
    assert restricted(space, {c.name: c.options for c in space.choices}) == space


def test_what_a_space_can_not_be_restricted_to() -> None:
    space = Space((Choice("c", ("a", "b", "d"), 2, 3),))
    for wrong in (("a",), (), ("a", "z")):
        with pytest.raises(SpaceError, match="can't be restricted"):
            restricted(space, {"c": wrong})


def test_advantages_are_those_of_additive_scores_and_their_errors_are_honest() -> None:
    space = Space((*SPACE.choices[:3], Choice("two", ("p", "q", "r"), 1, 2)))
    rng = np.random.default_rng(0)
    true = rng.normal(size=space.width)
    distances = []
    for _ in range(40):
        archs = [space.sample(rng) for _ in range(80)]
        found = advantages(space, archs, [float(space.encode(a) @ true) + rng.normal(scale=0.5) for a in archs])
        for choice, part in space.slices():
            for o, value in zip(choice.options, true[part] - true[part].mean(), strict=True):
                distances.append((found[choice.name, o].mean - value) / found[choice.name, o].error)
    assert abs(np.mean(distances)) < 0.1
    assert 0.85 < np.std(distances) < 1.15  # in units of their standard error


def test_the_planted_bad_option_goes_first_in_every_layer() -> None:
    shrinker = shrunk(epochs=1)
    assert set(shrinker.rounds[0].removed) == {(c.name, "noise") for c in SPACE.choices}
    again = shrunk(epochs=2)
    assert all(options == ("good", "fair") for options in again.alive.values())
    by_chance = shrunk(epochs=1, score=lambda arch: np.random.default_rng(int(arch.key, 16)).random())
    assert set(by_chance.rounds[0].removed) != set(shrinker.rounds[0].removed)


def test_alive_sets_only_shrink_keep_the_floor_and_stop_at_the_target() -> None:
    for floor, target, left in ((2, 0.1, 10), (1, 0.1, 5), (2, 0.72, 15), (3, 0.5, 15)):
        shrinker = Shrinker(
            Shrinking(warmup=2, every=2, share=0.2, floor=floor, target=target, samples=40), Uniform(), SPACE, score, seed=1
        )
        before = shrinker.alive
        for done in range(1, 20):
            shrinker.after_epoch(done)
            now = shrinker.alive
            assert all(set(now[name]) <= set(before[name]) and len(now[name]) >= floor for name in now)
            assert (now != before) <= (done in (2, 4, 6, 8, 10))
            before = now
        assert shrinker.space.width == left


def test_only_living_options_are_trained_and_each_equally() -> None:
    shrinker = shrunk(epochs=1)
    check_policy(shrinker, SPACE)
    for seed in range(5):
        paths = shrinker.paths(SPACE, np.random.default_rng(seed))
        assert len(paths) == 3
        for c in SPACE.choices:
            assert torch.stack([p[c.name] for p in paths]).sum(0).tolist() == [1.0, 1.0, 1.0, 0.0]


def test_confidence_keeps_what_may_be_chance() -> None:
    def noise(arch: Arch) -> float:
        return np.random.default_rng(int(arch.key, 16)).normal()

    sure = Shrinking(warmup=1, every=1, share=0.25, target=0.5, samples=60, confidence=0.999)
    assert shrunk(sure, score=noise).alive == {c.name: c.options for c in SPACE.choices}
    assert set(shrunk(sure, epochs=1).rounds[0].removed) == {(c.name, "noise") for c in SPACE.choices}
    found = {("c", "a"): Advantage(0.1, 0.05), ("c", "b"): Advantage(-0.1, 0.05)}
    space = Space((Choice("c", ("a", "b")),))
    bounds = [Shrinking(warmup=1, every=1, floor=1, confidence=c) for c in (0.9, 0.99)]  # 1.64 and 2.58 standard errors
    assert [worst(space, found, 1, schedule) for schedule in bounds] == [(("c", "b"),), ()]


def test_equal_scores_remove_nothing() -> None:
    assert shrunk(score=lambda arch: 0.5).alive == {c.name: c.options for c in SPACE.choices}


def test_cost_counts_as_much_as_it_is_said_to() -> None:
    def cost(choice: str, option: str) -> float:
        return 3.0 if option == "good" else 1.0

    with pytest.raises(ConfigError, match="give `cost`"):
        shrunk(Shrinking(warmup=1, every=1, cost_weight=0.1))
    for weight, gone in ((0.001, "noise"), (1.0, "good")):
        schedule = Shrinking(warmup=1, every=1, share=0.25, samples=60, cost_weight=weight)
        assert {o for _, o in shrunk(schedule, epochs=1, cost=cost).rounds[0].removed} == {gone}


def test_several_options_at_once_and_choices_that_can_not_lose_one() -> None:
    space = Space((Choice("many", ("a", "b", "c", "d"), 2, 4), Choice("one", ("x", "y"))))

    def value(arch: Arch) -> float:
        return sum(
            {"a": 3.0, "b": 2.0, "c": -1.0, "d": -4.0, "x": 0.1, "y": 0.0}[o] for _, options in arch.picks for o in options
        )

    shrinker = Shrinker(Shrinking(warmup=1, every=1, share=0.2, floor=1, target=0.1, samples=80), Uniform(), space, value, seed=0)
    for done in range(1, 9):
        shrinker.after_epoch(done)
    assert shrinker.space == Space((Choice("many", ("a", "b"), 2, 2), Choice("one", ("x",))))


def test_widths_are_choices_like_all_others() -> None:
    width = Width("width", {"narrow": 2, "middle": 4, "wide": 6})
    net = nn.Sequential(elastic(lambda c: nn.Conv2d(3, c, 1), width), elastic(lambda c: nn.Conv2d(c, 5, 1), width))
    shrinker = Shrinker(
        Shrinking(warmup=1, every=1, share=0.3, floor=1, target=0.3),
        Uniform(),
        space_of(net),
        lambda arch: {"narrow": 0.7, "middle": 0.9, "wide": 0.6}[arch["width"][0]],
        seed=0,
    )
    left = []
    for done in (1, 2):
        shrinker.after_epoch(done)
        left.append(shrinker.alive["width"])
        (weights,) = shrinker.paths(space_of(net), np.random.default_rng(done))
        with path(net, weights):
            assert net(torch.zeros(1, 3, 2, 2)).shape == (1, 5, 2, 2)
    assert left == [("narrow", "middle"), ("middle",)]


def test_state_comes_back_through_plain_data() -> None:
    one = shrunk()
    other = Shrinker(SCHEDULE, StrictFair(), SPACE, score, seed=0)
    other.load_state_dict(torch.load(_saved(one.state_dict()), weights_only=True))
    assert other.rounds == one.rounds
    assert other.space == one.space


def _saved(state: dict) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    "wrong", [{"every": 0}, {"share": 0.0}, {"share": 1.0}, {"target": 0.0}, {"floor": 0}, {"samples": 1}, {"confidence": 1.0}]
)
def test_senseless_schedules_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match="needs warmup"):
        Shrinking(**{"warmup": 1, "every": 1, **wrong})


def train_shrinking(task: Task, checkpoint: Path | None = None, kill_at: int | None = None) -> tuple[Shrinker, list[float], dict]:
    net = small_net()
    quality = OneShot(net, task, seed=5, calibration=1)
    schedule = Shrinking(warmup=1, every=1, share=0.25, samples=4, floor=2)
    shrinker = Shrinker(schedule, Uniform(2), space_of(net), quality.accuracy, seed=4)

    def progress(done: int, total: int, note: str = "") -> None:
        if done == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    settings = {"epochs": 3, "batch": 512, "lr": 0.1, "seed": 2}
    losses = train_supernet(net, shrinker, task, **settings, checkpoint=checkpoint, progress=progress)
    return shrinker, losses, net.state_dict()


def test_killed_with_signal_9_and_resumed_it_ends_bit_for_bit_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = digits(0, size=8)
    monkeypatch.setitem(training.optimise.__kwdefaults__, "checkpoint_s", 0.0)  # after every step
    undisturbed, losses, weights = train_shrinking(task)
    assert [r.epochs for r in undisturbed.rounds] == [1, 2]
    assert undisturbed.rounds[0].removed
    for step in (3, 4):  # the first of the second epoch, on a shrunken space; in its midst
        checkpoint = tmp_path / f"{step}.pt"
        pid = os.fork()
        if pid == 0:  # the process that dies
            try:
                train_shrinking(task, checkpoint, kill_at=step)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        assert checkpoint.exists()
        resumed, again, same = train_shrinking(task, checkpoint)
        assert again == losses
        assert resumed.rounds == undisturbed.rounds
        assert resumed.space == undisturbed.space
        assert all(torch.equal(weights[k], same[k]) for k in weights)
    finished, _, _ = train_shrinking(task, checkpoint)  # nothing to train, and still it knows what is left
    assert finished.space == undisturbed.space
