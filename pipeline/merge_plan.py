"""What the merge planner found: each decision, the forms of the whole network, and the merges that are made."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from paceline.exporters.merge_forms import OptionalMerge
from paceline.pipeline.merge_costs import Source


@dataclass(frozen=True)
class Alternative:
    """One form of a segment: the merges that are made, and what it is predicted to take, by measured or by predicted operators.

    `measured_ms` is its own figure, as a network by itself (None: it was no finalist).
    """

    made: tuple[str, ...]
    predicted_ms: float
    operators: int
    source: Source
    measured_ms: float | None = None


@dataclass(frozen=True)
class Decision:
    """A segment: its optional merges, its different forms, the fastest predicted first, and which of the merges the plan makes.

    About `unasked` ones there are too many forms to ask: they are made if they cost neither work nor weights.
    """

    segment: str
    merges: tuple[OptionalMerge, ...]
    unasked: tuple[str, ...]
    alternatives: tuple[Alternative, ...]
    made: tuple[str, ...]


@dataclass(frozen=True)
class WholeForm:
    """A form of the whole network. `roles` say why it was looked at; `failure` why it has no measured figure."""

    made: tuple[str, ...]
    roles: tuple[str, ...]
    predicted_ms: float
    operators: int
    measured_ms: float | None = None
    failure: str = ""


@dataclass(frozen=True)
class MergePlan:
    """The merges of a network for one device. `forms` are sorted by what is known of them, the fastest first.

    `made` are those of the winner: of the measured forms the fastest, or one of fewer operators that is within `noise` of it; of
    the predicted ones the fastest where nothing was measured (then `noise` is None).
    """

    device: str
    simulated: bool
    bench: str
    decisions: tuple[Decision, ...]
    forms: tuple[WholeForm, ...]
    made: tuple[str, ...]
    noise: float | None

    @property
    def winner(self) -> WholeForm:
        return next(form for form in self.forms if form.made == self.made)

    def form(self, role: str) -> WholeForm:
        """The form of that role: "all", "none", "free" (what costs neither work nor weights), "predicted 1", …"""
        return next(form for form in self.forms if role in form.roles)

    def choices(self) -> dict[str, bool]:
        """What `paceline.exporters.merge.merged` is told."""
        names = [name for d in self.decisions for name in (*(m.name for m in d.merges), *d.unasked)]
        return {name: name in self.made for name in names}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
