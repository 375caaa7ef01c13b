"""How a device executes networks, as a table keeps it: what runs as one, and what a model costs besides its operators."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paceline.devices.device import Device
from paceline.errors import DataError
from paceline.graph import OpSpec
from paceline.latency_models.fusion.executed import executed
from paceline.latency_models.fusion.figures import Estimate
from paceline.latency_models.fusion.find import find_fusions, precise
from paceline.latency_models.fusion.fusions import Fusions
from paceline.latency_models.fusion.measured_overheads import find_overheads
from paceline.latency_models.fusion.overheads import Overheads
from paceline.latency_models.fusion.pairs import common_pairs, pairs_in
from paceline.latency_models.model import Network, Row
from paceline.measurement import Bench, Progress, silent
from paceline.store import Store


@dataclass(frozen=True)
class Execution:
    """`fusions` cut networks into the units that have rows; `overheads` is what a row of a single unit holds besides it."""

    fusions: Fusions
    overheads: Overheads

    def units(self, network: Network) -> tuple[OpSpec, ...]:
        return tuple(executed(network, self.fusions))

    def learned_from(self, rows: Sequence[Row]) -> list[Row]:
        """Rows for `LatencyModel.fit`: single units without the launch that measuring them took, networks as they are."""
        return [self.overheads.own(row) if len(row.operators) == 1 else row for row in rows]

    def to_json(self) -> dict[str, Any]:
        return {"fusions": json.loads(self.fusions.to_json()), "overheads": asdict(self.overheads)}

    @classmethod
    def from_json(cls, values: Any) -> Execution:
        """Raises DataError for anything that `to_json` did not return."""
        try:
            overheads: dict[str, Any] = {k: Estimate(**v) if isinstance(v, dict) else v for k, v in values["overheads"].items()}
            return cls(Fusions.from_json(json.dumps(values["fusions"])), Overheads(**overheads))
        except (TypeError, KeyError, AttributeError) as e:
            raise DataError(f"the table's fusions are damaged ({type(e).__name__}: {e}); build it again") from e


def find_execution(
    device: Device, bench: Bench, store: Store, folder: Path, networks: Sequence[Network], progress: Progress = silent
) -> Execution:
    """Measured for the pairs of operators in `networks` and the common ones; resumes from the store.

    Raises as `find_fusions` and `find_overheads` do.
    """
    overheads = find_overheads(device, precise(bench), store, folder)
    pairs = list(dict.fromkeys([*pairs_in(networks), *common_pairs()]))
    return Execution(find_fusions(device, bench, store, folder, pairs, progress, overheads), overheads)
