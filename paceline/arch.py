"""What can be chosen (Choice, Space) and what was chosen (Arch)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from paceline.errors import SpaceError


@dataclass(frozen=True)
class Choice:
    """One decision: between `at_least` and `at_most` of the options are taken."""

    name: str
    options: tuple[str, ...]
    at_least: int = 1
    at_most: int = 1

    def __post_init__(self) -> None:
        if len(set(self.options)) != len(self.options) or not self.options:
            raise SpaceError(f"choice {self.name!r} needs one or more different options, got {self.options}")
        if not 0 <= self.at_least <= self.at_most <= len(self.options) or self.at_most == 0:
            raise SpaceError(
                f"choice {self.name!r}: at_least={self.at_least}, at_most={self.at_most} do not fit {len(self.options)} options"
            )

    @property
    def size(self) -> int:
        """How many different decisions there are."""
        return sum(math.comb(len(self.options), n) for n in range(self.at_least, self.at_most + 1))


@dataclass(frozen=True)
class Arch:
    """A decision for every choice, in the order of its space; hashable."""

    picks: tuple[tuple[str, tuple[str, ...]], ...]

    @cached_property
    def _by_name(self) -> dict[str, tuple[str, ...]]:
        return dict(self.picks)

    def __getitem__(self, choice: str) -> tuple[str, ...]:
        return self._by_name[choice]

    def to_json(self) -> str:
        return json.dumps({name: list(options) for name, options in self.picks})

    @classmethod
    def from_json(cls, text: str) -> Arch:
        return cls(tuple((name, tuple(options)) for name, options in json.loads(text).items()))

    @cached_property
    def key(self) -> str:
        """A short stable name, the same in every process."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Space:
    """All choices in order, and the one encoding that search, supernet and regressor share."""

    choices: tuple[Choice, ...]

    def __post_init__(self) -> None:
        names = [c.name for c in self.choices]
        if len(set(names)) != len(names):
            raise SpaceError(f"choices of a space need different names, got {names}")

    @property
    def size(self) -> int:
        """The number of architectures (beyond what len() can return in real spaces)."""
        return math.prod(c.size for c in self.choices)

    @property
    def width(self) -> int:
        """The length of an encoded architecture: one entry per option."""
        return sum(len(c.options) for c in self.choices)

    def slices(self) -> Iterator[tuple[Choice, slice]]:
        """Each choice with its part of the encoded vector."""
        at = 0
        for choice in self.choices:
            yield choice, slice(at, at + len(choice.options))
            at += len(choice.options)

    def sample(self, rng: np.random.Generator) -> Arch:
        """A random architecture: the number of options uniform in its bounds, then the options uniform."""
        picks = []
        for c in self.choices:
            n = int(rng.integers(c.at_least, c.at_most + 1))
            chosen = sorted(rng.choice(len(c.options), size=n, replace=False).tolist())
            picks.append((c.name, tuple(c.options[i] for i in chosen)))
        return Arch(tuple(picks))

    def check(self, arch: Arch) -> None:
        """Raises SpaceError where `arch` is not an architecture of this space."""
        if tuple(name for name, _ in arch.picks) != tuple(c.name for c in self.choices):
            decided = [name for name, _ in arch.picks]
            raise SpaceError(f"architecture decides {decided}, the space asks {[c.name for c in self.choices]}")
        for c in self.choices:
            taken = arch[c.name]
            unknown = sorted(set(taken) - set(c.options))
            if unknown:
                raise SpaceError(f"choice {c.name!r} has no option {unknown[0]!r}; it has {', '.join(c.options)}")
            if not c.at_least <= len(taken) <= c.at_most or len(set(taken)) != len(taken):
                raise SpaceError(f"choice {c.name!r} takes {c.at_least} to {c.at_most} different options, got {taken}")

    def encode(self, arch: Arch) -> npt.NDArray[np.float32]:
        """0/1 weights, one per option, shape (width,)."""
        self.check(arch)
        return np.array([float(o in arch[c.name]) for c in self.choices for o in c.options], np.float32)

    def decode(self, weights: Sequence[float] | npt.NDArray[np.floating]) -> Arch:
        """The architecture that the weights name: the weights above 0.5, clipped to `at_least`…`at_most` of the largest."""
        if len(weights) != self.width:
            raise SpaceError(f"{len(weights)} weights do not fit a space of {self.width} options")
        picks = []
        for c, part in self.slices():
            row = [float(w) for w in weights[part]]
            order = sorted(range(len(row)), key=lambda i: -row[i])
            n = min(max(sum(w > 0.5 for w in row), c.at_least), c.at_most)
            picks.append((c.name, tuple(c.options[i] for i in sorted(order[:n]))))
        return Arch(tuple(picks))
