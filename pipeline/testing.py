"""What every searcher, policy and space must do, as checks to run on one's own: each raises AssertionError with what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn

from paceline.arch import Arch, Choice, Space
from paceline.errors import LimitError, SpaceError
from paceline.pipeline.objectives import Objective
from paceline.pipeline.search import Archive, Cache, Searcher, front, search
from paceline.pipeline.supernet import Policy, derive, hard, path, space_of

MakeSearcher = Callable[[Space, Sequence[Objective], int], Searcher]
"""(space, objectives, seed) -> searcher."""


def check_searcher(make: MakeSearcher) -> None:
    """Proposals are valid, distinct, the same for the same seed and for any number of workers; limits are kept by what is found,
    also by none at all; a killed search resumes; `tell` refuses other architectures; no global generator is used; a used-up
    space ends it. The space has choices of exactly one, of several and of no option at all."""
    several = (Choice("pair", ("p", "q", "r"), 2, 2), Choice("many", ("p", "q", "r"), 1, 2), Choice("any", ("p", "q"), 0, 2))
    space = Space((*(Choice(f"c{i}", ("a", "b", "c", "d")) for i in range(4)), *several, Choice("fixed", ("a",))))
    gains = np.sin(np.arange(space.width))

    def cost(at_most: float) -> Objective:
        return Objective("cost", lambda a: float(space.encode(a) @ np.arange(space.width)), at_most=at_most, cheap=True)

    objectives = (Objective("gain", lambda a: float(space.encode(a) @ gains), "max"), cost(130.0))

    def proposals(seed: int, cache: Cache | None = None, executor: Executor | None = None) -> Archive:
        searcher = make(space, objectives, seed)
        return search(searcher, objectives, evaluations=60, cache={} if cache is None else cache, executor=executor)

    before = repr(np.random.get_state()), torch.get_rng_state()
    full: dict[str, Mapping[str, float]] = {}
    one, again, other = proposals(1, full), proposals(1), proposals(2)
    assert before[0] == repr(np.random.get_state()), "it used numpy's global generator"
    assert torch.equal(before[1], torch.get_rng_state()), "it used torch's global generator"
    keys = [m.arch.key for m in one.members]
    assert len(keys) == 60, f"it ends after {len(keys)} proposals of a large space"
    for m in one.members:
        space.check(m.arch)
    assert len(set(keys)) == len(keys), "it proposes an architecture twice"
    assert keys == [m.arch.key for m in again.members], "the same seed proposes something else"
    assert keys != [m.arch.key for m in other.members], "another seed proposes the same"
    found = front(one)
    assert found, "it finds nothing that keeps an easy limit"
    assert all(m.values["cost"] <= 130.0 for m in found), "what it found breaks the limit"

    half = dict(list(full.items())[: len(full) // 2])
    assert proposals(1, half).members == one.members, "a resumed search finds something else"
    with ThreadPoolExecutor(3) as workers:
        assert proposals(1, executor=workers).members == one.members, "with several workers it finds something else"

    impossible = (objectives[0], cost(-1.0))
    try:
        kept = search(make(space, impossible, 1), impossible, evaluations=30, cache={}).feasible()
    except LimitError:  # one that rejects unproposed says that it finds none
        kept = []
    assert not kept, "it found what can't be"

    searcher = make(space, objectives, 1)
    asked = searcher.ask()
    try:
        searcher.tell(asked[1:], [{"gain": 0.0, "cost": 0.0}] * (len(asked) - 1))
    except SpaceError:
        pass
    else:
        raise AssertionError("it lets itself be told about other architectures than it asked for")

    small = Space((Choice("one", ("a", "b", "c", "d")), Choice("two", ("a", "b", "c"), 0, 2), Choice("three", ("a", "b", "c"))))
    goal = (Objective("index", lambda a: float(small.encode(a) @ np.arange(small.width))),)
    whole = search(make(small, goal, 1), goal, evaluations=small.size + 1, cache={})
    assert len(whole.members) <= small.size, "it proposes more than there is"
    assert len(whole.members) == small.size, f"it ends after {len(whole.members)} of a space of {small.size}"


def check_policy(policy: Policy, space: Space, seed: int = 0) -> None:
    """Every path has one finite weight per option, in every choice one that is not zero; the same rng gives the same paths."""
    paths, again = (policy.paths(space, np.random.default_rng(seed)) for _ in range(2))
    assert paths, "a step without a path"
    for one, other in zip(paths, again, strict=True):
        assert set(one) == {c.name for c in space.choices}, f"a path over {sorted(one)}"
        for c in space.choices:
            assert one[c.name].shape == (len(c.options),), f"{c.name} has weights of shape {tuple(one[c.name].shape)}"
            assert bool(one[c.name].isfinite().all() and one[c.name].any()), f"{c.name} has weights {one[c.name].tolist()}"
            assert torch.equal(one[c.name], other[c.name]), f"{c.name}: the same rng gives other weights"


@torch.no_grad()
def check_supernet(net: nn.Module, example: Tensor, seed: int = 0, archs: int = 5) -> None:
    """Every option gives its place's one shape; a derived network computes what the supernet computes along its path."""
    net.eval()
    space = space_of(net)
    rng = np.random.default_rng(seed)
    base = space.sample(rng)
    shapes = Counter()  # type: Counter[tuple[int, ...]]
    for c in space.choices:
        for option in c.options if c.at_least == 1 else ():
            arch = Arch(tuple((name, (option,) if name == c.name else taken) for name, taken in base.picks))
            with path(net, hard(space, arch)):
                shapes[tuple(net(example).shape)] += 1
    assert len(shapes) <= 1, f"the options lead to different shapes: {dict(shapes)}"
    for _ in range(archs):
        arch = space.sample(rng)
        with path(net, hard(space, arch)):
            along = net(example)
        alone = derive(net, arch)(example)
        torch.testing.assert_close(alone, along)
