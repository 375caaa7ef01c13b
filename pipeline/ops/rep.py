"""Blocks that train with several linear branches and ship one convolution, and the types of branches that there are.

RepVGG (Ding et al. 2021, arXiv 2101.03697), ACNet (Ding et al. 2019, 1908.03930), Diverse Branch Block (Ding et al. 2021,
2103.13425), MobileOne (Vasu et al. 2023, 2206.04040), RepNAS (Zhang et al. 2021, 2109.03508). What a branch is as kernel and bias
is found by `paceline.exporters.merge.merged` alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor, nn

from paceline.errors import SpaceError
from paceline.pipeline.ops.conv import Activation, same_shape


@dataclass(frozen=True)
class Place:
    """The convolution that a block ships: x (N, c_in, H, W) -> (N, c_out, ceil(H / stride), ceil(W / stride)).

    Raises SpaceError for a kernel that is even, and for groups that do not divide the channels.
    """

    c_in: int
    c_out: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    groups: int = 1

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0:
            raise SpaceError(f"a kernel of {self.kernel} has no centred padding; take an odd one")
        if self.c_in % self.groups or self.c_out % self.groups:
            raise SpaceError(f"{self.groups} groups do not divide {self.c_in} and {self.c_out} channels; take a divisor of both")

    @property
    def depthwise(self) -> bool:
        return self.groups == self.c_in > 1

    @property
    def padding(self) -> int:
        """On every side, such that stride 1 keeps height and width."""
        return self.dilation * (self.kernel // 2)


@dataclass(frozen=True)
class BranchType:
    """A kind of branch. `refusal`: why it can't exist at a place, None where it can. `make`: the module, BatchNorm included."""

    name: str
    refusal: Callable[[Place], str | None]
    make: Callable[[Place], nn.Module]

    def build(self, place: Place) -> nn.Module:
        """The module. Raises SpaceError with the reason where there can be none."""
        reason = self.refusal(place)
        if reason is not None:
            raise SpaceError(f"branch {self.name!r} can't exist at {place}: {reason}; leave it out there")
        return self.make(place)


class PointFirst(nn.Sequential):
    """A 1x1 convolution with BatchNorm, then `last` without padding, then BatchNorm (DBB's 1x1-kxk and 1x1-average).

    The 1x1 convolution pads: zeros, which its BatchNorm turns into its shift. Behind it the border so has the value that a merged
    kernel needs there; DBB's code fills it in explicitly, with the running statistics. Both are one function in evaluation;
    in training the border here counts in the statistics of the batch. `starts_as_identity`: see `initialise`.
    """

    def __init__(self, place: Place, width: int, last: nn.Module, *, starts_as_identity: bool) -> None:
        self.starts_as_identity = starts_as_identity
        point = nn.Conv2d(place.c_in, width, 1, padding=place.padding, groups=place.groups, bias=False)
        parts = OrderedDict[str, nn.Module](point=point, inner=nn.BatchNorm2d(width), last=last, bn=nn.BatchNorm2d(place.c_out))
        super().__init__(parts)


class RepBlock(nn.Module):
    """The sum of linear branches, then `act`. `merged` makes one convolution of it, whatever the branches are.

    x (N, c_in, H, W) -> (N, c_out, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, branches: Mapping[str, nn.Module], act: Activation | None = nn.ReLU) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(branches)
        self.act = nn.Identity() if act is None else act()

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = self.branches.values()
        y: Tensor = first(x)
        for branch in rest:
            y = y + branch(x)
        out: Tensor = self.act(y)
        return out


def rep_block(place: Place, names: Sequence[str], act: Activation | None = nn.ReLU) -> RepBlock:
    """A block of these types of branches, see BRANCHES; a name may stand there several times.

    Raises SpaceError, with the reason, where one can't exist at `place`.
    """
    return RepBlock({f"{i}_{name}": branch_type(name).build(place) for i, name in enumerate(names)}, act)


def branch_type(name: str) -> BranchType:
    """The type of this name. Raises SpaceError where there is none."""
    if name not in BRANCHES:
        raise SpaceError(f"no type of branch is called {name!r}; there are {', '.join(BRANCHES)}")
    return BRANCHES[name]


def fitting(place: Place, names: Sequence[str]) -> tuple[str, ...]:
    """Those of `names` that can exist at a place."""
    return tuple(name for name in names if branch_type(name).refusal(place) is None)


def _conv(place: Place, height: int, width: int) -> nn.Module:
    padding = place.dilation * (height // 2), place.dilation * (width // 2)
    size = height, width
    conv = nn.Conv2d(place.c_in, place.c_out, size, place.stride, padding, place.dilation, place.groups, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(place.c_out)))


def _point_dense(place: Place) -> nn.Module:
    """Inside it has as many channels as it reads, twice as many where it is depthwise (DBB's code)."""
    width = place.c_in * 2 if place.depthwise else place.c_in
    last = nn.Conv2d(width, place.c_out, place.kernel, place.stride, 0, place.dilation, place.groups, bias=False)
    return PointFirst(place, width, last, starts_as_identity=not place.depthwise)


def _average(place: Place) -> nn.Module:
    """Depthwise it has no 1x1 convolution, which would only scale (DBB's code)."""
    if place.depthwise:
        pool = nn.AvgPool2d(place.kernel, place.stride, place.padding)
        return nn.Sequential(OrderedDict(pool=pool, bn=nn.BatchNorm2d(place.c_out)))
    return PointFirst(place, place.c_out, nn.AvgPool2d(place.kernel, place.stride), starts_as_identity=False)


def _any(place: Place) -> str | None:
    return None


def _wide(place: Place) -> str | None:
    return "a kernel of 1 has only itself" if place.kernel == 1 else None


def _pooled(place: Place) -> str | None:
    if place.dilation > 1:
        return "average pooling has no dilation"
    if place.depthwise and place.c_in != place.c_out:
        return f"pooling alone does not go from {place.c_in} to {place.c_out} channels"
    return _wide(place)


def _same(place: Place) -> str | None:
    if same_shape(place.c_in, place.c_out, place.stride):
        return None
    return f"an identity does not go from {place.c_in} to {place.c_out} channels with stride {place.stride}"


_TYPES = (
    BranchType("1x1", _wide, lambda place: _conv(place, 1, 1)),
    BranchType("1x1_avg", _pooled, _average),
    BranchType("kxk", _any, lambda place: _conv(place, place.kernel, place.kernel)),
    BranchType("1x1_kxk", _wide, _point_dense),
    BranchType("1xk", _wide, lambda place: _conv(place, 1, place.kernel)),
    BranchType("kx1", _wide, lambda place: _conv(place, place.kernel, 1)),
    BranchType("identity", _same, lambda place: nn.BatchNorm2d(place.c_in)),
)

BRANCHES: Mapping[str, BranchType] = MappingProxyType({kind.name: kind for kind in _TYPES})
"""Every type of branch by name; the first six in the order of RepNAS."""

REPVGG = ("kxk", "1x1", "identity")
ACNET = ("kxk", "1xk", "kx1")
DBB = ("1x1", "1x1_kxk", "1x1_avg", "kxk")
ODBB = ("1x1", "1x1_avg", "kxk", "1x1_kxk", "1xk", "kx1")
"""The branches among which RepNAS chooses; an identity always stands beside them where it can exist."""


def mobileone(copies: int) -> tuple[str, ...]:
    """MobileOne's block: so many copies of the convolution, a 1x1 convolution where that is another, an identity."""
    return (*("kxk",) * copies, "1x1", "identity")
