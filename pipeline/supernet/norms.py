"""Normalisation that depends on the path."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from paceline.arch import Arch, Choice
from paceline.errors import SpaceError
from paceline.pipeline.supernet.mixed import OnPath, Path, weights_of


class ShadowBatchNorm(OnPath):
    """One BatchNorm for each number of options that a choice may take (shadow batch normalisation of MixPath, Chu et al. 2023).

    The sum of n similar feature maps has n times the mean and n to n^2 times the variance of one, so one BatchNorm can't know
    the statistics of all sums; here only the one of the path's n is used and learns. x (N, channels, H, W) -> the same shape.
    A derived network holds an ordinary BatchNorm2d. `choice` is that of a `Mixed` in the same network.

    `take` raises SpaceError for a relaxed path: between whole numbers of options there are no statistics.
    """

    taken: str | None = None

    def __init__(self, channels: int, choice: Choice) -> None:
        super().__init__()
        self.choice = choice
        self.norms = nn.ModuleDict({str(n): nn.BatchNorm2d(channels) for n in range(choice.at_least, choice.at_most + 1)})

    def take(self, weights: Path) -> None:
        values = weights_of(self.choice, weights).detach().tolist()
        active = str(values.count(1.0))
        if any(value not in (0.0, 1.0) for value in values) or active not in self.norms:
            raise SpaceError(
                f"the shadow BatchNorm of choice {self.choice.name!r} is for {' or '.join(self.norms)} options of weight 1, the "
                f"path has the weights {[round(v, 3) for v in values]}; take a hard path or another normalisation"
            )
        self.taken = active

    def computing(self) -> Iterable[nn.Module]:
        return self.norms.values() if self.taken is None else [self.norms[self.taken]]

    def chosen(self, arch: Arch) -> nn.Module:
        return self.norms[str(len(arch[self.choice.name]))]

    def forward(self, x: Tensor) -> Tensor:
        if self.taken is None:
            raise SpaceError(f"choice {self.choice.name!r} has no weights; run the supernet inside `with path(net, weights):`")
        y: Tensor = self.norms[self.taken](x)
        return y
