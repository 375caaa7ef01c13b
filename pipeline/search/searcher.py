"""What every search algorithm is to the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from paceline.arch import Arch


class Searcher(Protocol):
    """Asks for candidates, is told what they scored. `paceline.pipeline.testing.check_searcher` is what it must pass."""

    def ask(self) -> list[Arch]:
        """The next candidates, each asked for only once; none when the space is used up."""
        ...

    def tell(self, archs: Sequence[Arch], scores: Sequence[Mapping[str, float]]) -> None:
        """The values of the candidates just asked for, by objective; missing where a broken limit made them needless.

        Raises SpaceError for other candidates than those, or another order.
        """
        ...
