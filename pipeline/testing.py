"""What every searcher, policy and space must do, as checks to run on one's own: each raises AssertionError with what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from paceline.arch import Arch, Choice, Space
from paceline.pipeline.objectives import Objective
from paceline.pipeline.search import Archive, Searcher, search
from paceline.pipeline.supernet import Policy, derive, hard, path, space_of

MakeSearcher = Callable[[Space, Sequence[Objective], int], Searcher]
"""(space, objectives, seed) -> searcher."""


def check_searcher(make: MakeSearcher) -> None:
    """Proposals are valid, distinct, the same for the same seed; no global generator is used; a used-up space ends it."""
    space = Space((*(Choice(f"c{i}", ("a", "b", "c", "d")) for i in range(4)), Choice("many", ("p", "q", "r"), 1, 2)))
    objectives = (
        Objective("cost", lambda a: float(space.encode(a).cumsum().sum()), at_most=130.0, cheap=True),
        Objective("gain", lambda a: float(space.encode(a) @ np.sin(np.arange(space.width))), "max"),
    )

    def proposals(seed: int) -> Archive:
        return search(make(space, objectives, seed), objectives, generations=5, cache={})

    before = repr(np.random.get_state()), torch.get_rng_state()
    one, again, other = proposals(1), proposals(1), proposals(2)
    assert before[0] == repr(np.random.get_state()), "it used numpy's global generator"
    assert torch.equal(before[1], torch.get_rng_state()), "it used torch's global generator"
    keys = [m.arch.key for m in one.members]
    assert keys, "it proposes nothing"
    for m in one.members:
        space.check(m.arch)
    assert len(set(keys)) == len(keys), "it proposes an architecture twice"
    assert keys == [m.arch.key for m in again.members], "the same seed proposes something else"
    assert keys != [m.arch.key for m in other.members], "another seed proposes the same"
    tiny = Space((Choice("only", ("a", "b", "c")),))
    goal = (Objective("index", lambda a: float("abc".index(a["only"][0]))),)
    all_of_it = search(make(tiny, goal, 1), goal, generations=20, cache={})
    assert len(all_of_it.members) <= 3, "it proposes more than there is"


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
