"""`Bundle`: one file, suffix .paceline, that another host can learn from, compare with, or check.

A zip file: `manifest.json` (schema, SHA-256 of every other member), `about.json` (device, Bench, versions, licence, origin),
`operators.json` (keys), `rows.jsonl` and `failures.jsonl` (a line each, operators by number), `samples.npy` (all samples of all
rows after one another), and where they are there `fusion.json` and a fitted model under `model/`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from paceline import __version__
from paceline.errors import DataError
from paceline.files import write_atomically
from paceline.graph import OpSpec
from paceline.latency_models.archive import array_bytes, array_of, packed, unpacked
from paceline.latency_models.bundle.rows import (
    OUTLIER,
    FailedRow,
    MeasuredRow,
    bench_of,
    failure_json,
    failure_of,
    row_json,
    row_of,
    samples_in,
)
from paceline.latency_models.bundle.stored import stored_rows
from paceline.latency_models.model import Row
from paceline.latency_models.saving import members_of, model_of
from paceline.measurement import Bench, DeviceInfo
from paceline.store import Store

FORMAT, SCHEMA = "paceline bundle", 1
SUFFIX = ".paceline"
_MODEL = "model/"


@dataclass(frozen=True)
class Bundle:
    """What was measured on one device under one Bench.

    `usual_ms` is what each reference takes at the device's usual pace, by its SHA-256 (the kind of row where only that is known;
    see `stored.paced`). `versions` are those of
    Paceline and of the runtime; `licence` and `origin` say what may be done with the rows and where they come from. `fusion` is
    plain JSON, see `paceline.latency_models.fusion`; `saved` are the members of a fitted model, see `saving.members_of`.
    """

    device: DeviceInfo
    bench: Bench
    measured: tuple[MeasuredRow, ...]
    failed: tuple[FailedRow, ...] = ()
    usual_ms: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    licence: str = ""
    origin: str = ""
    fusion: Any = None
    saved: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def from_store(
        cls,
        store: Store,
        device: DeviceInfo,
        bench: Bench,
        networks: Mapping[str, Sequence[OpSpec]] | None = None,
        licence: str = "",
        origin: str = "",
    ) -> Bundle:
        """All that the store holds of a device under a Bench. Operators are recognised by their keys.

        `networks` gives the operators of whole networks, by the name or the SHA-256 of what was measured; a network that isn't
        there is kept without operators.
        """
        (rows, usual), failed = stored_rows(store, device, bench, networks or {})
        return cls(device, bench, rows, failed, usual, versions_of(device, bench), licence, origin)

    @classmethod
    def load(cls, path: Path) -> Bundle:
        """Raises DataError where the file isn't there, is damaged, or is newer than this program."""
        try:
            content = path.read_bytes()
        except OSError as e:
            raise DataError(f"can't read the bundle {path}: {e.strerror}. `paceline table build` makes one.") from e
        try:
            return _bundle_of(_checked(unpacked(content)))
        except Exception as e:  # whatever a damaged or hostile file makes of itself
            reason = f"it has no {e}" if isinstance(e, KeyError) else str(e) or type(e).__name__
            raise DataError(f"can't read the bundle {path}: {reason[:300]}. Bring back a copy of it, or make it again.") from e

    def save(self, path: Path) -> None:
        """Writes the file, whole or not at all, with the same bytes for the same content. Raises DataError and StoreError."""
        if path.suffix != SUFFIX:
            raise DataError(f"can't write the bundle {path}: its name has to end with {SUFFIX}")
        try:
            members = _members(self)
        except ValueError as e:
            raise DataError(f"can't write the bundle {path}: {e}. Leave that figure out.") from e
        write_atomically(path, packed(members))

    def rows(self, kinds: Collection[str] = ("operator", "network"), without: Collection[str] = (OUTLIER,)) -> list[Row]:
        """For `LatencyModel.fit`: rows of these kinds whose operators are known, `without` those that have one of these flags."""
        usable = (row for row in self.measured if row.operators and row.kind in kinds and not set(without) & set(row.flags))
        return [Row(row.operators, row.ms) for row in usable]

    def with_model(self, model: object) -> Bundle:
        """The same with a fitted model. Raises LatencyModelError where it can't be saved."""
        return replace(self, saved=members_of(model))

    @property
    def model(self) -> Any:
        """The fitted model, None where there is none. Raises LatencyModelError where it can't be read."""
        return model_of(self.saved) if self.saved else None


def versions_of(device: DeviceInfo, bench: Bench) -> dict[str, str]:
    """Of Paceline, and of the runtime where the device tells."""
    runtime = device.facts.get(bench.runtime)
    return {"paceline": __version__} | ({bench.runtime: runtime} if runtime else {})


def _members(bundle: Bundle) -> dict[str, bytes]:
    rows: list[MeasuredRow | FailedRow] = [*bundle.measured, *bundle.failed]
    specs = dict.fromkeys(spec for row in rows for spec in row.operators)
    numbers = {spec: i for i, spec in enumerate(sorted(specs, key=lambda spec: spec.key))}
    about = {
        "fingerprint": bundle.device.fingerprint,
        "device": asdict(bundle.device),
        "bench": asdict(bundle.bench),
        "usual_ms": dict(bundle.usual_ms),
        "versions": dict(bundle.versions),
        "licence": bundle.licence,
        "origin": bundle.origin,
    }
    samples = [ms for row in bundle.measured if row.measurement for batch in row.measurement.samples_ms for ms in batch]
    members = {
        "about.json": _json(about),
        "operators.json": _json([spec.key for spec in numbers]),
        "rows.jsonl": b"".join(_json(row_json(row, numbers)) + b"\n" for row in bundle.measured),
        "failures.jsonl": b"".join(_json(failure_json(row, numbers)) + b"\n" for row in bundle.failed),
        "samples.npy": array_bytes(np.asarray(samples, "<f8")),
    }
    if bundle.fusion is not None:
        members["fusion.json"] = _json(bundle.fusion)
    members |= {_MODEL + name: content for name, content in bundle.saved.items()}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    return members | {"manifest.json": _json({"format": FORMAT, "schema": SCHEMA, "sha256": sums})}


def _checked(members: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """The members that the manifest names, as it says they are. Raises ValueError."""
    manifest = json.loads(members["manifest.json"])
    if manifest["format"] != FORMAT or type(manifest["schema"]) is not int:
        raise ValueError("its manifest is of another format")
    if manifest["schema"] > SCHEMA:
        raise ValueError(f"its schema is {manifest['schema']}, this program knows {SCHEMA}: update Paceline to read it")
    found = {name: hashlib.sha256(content).hexdigest() for name, content in members.items() if name != "manifest.json"}
    wrong = [name for name, _ in found.items() ^ manifest["sha256"].items()]
    if wrong:
        raise ValueError(f"{min(wrong)} isn't what the manifest says; the file was damaged or changed")
    return members


def _bundle_of(members: Mapping[str, bytes]) -> Bundle:
    about = json.loads(members["about.json"])
    device, bench = _device(about["device"]), bench_of(about["bench"])
    if device.fingerprint != about["fingerprint"]:
        raise ValueError("the device's fingerprint isn't that of its facts")
    operators = [OpSpec.parse(key) for key in json.loads(members["operators.json"])]
    samples = array_of(members["samples.npy"]).astype(np.float64)
    measured, at = [], 0
    for line in members["rows.jsonl"].splitlines():
        values = json.loads(line)
        end = at + samples_in(values)
        measured.append(row_of(values, operators, samples[at:end], device.fingerprint, bench.key))
        at = end
    if at != len(samples):
        raise ValueError(f"{len(samples)} samples for rows of {at}")
    return Bundle(
        device,
        bench,
        tuple(measured),
        tuple(failure_of(json.loads(line), operators) for line in members["failures.jsonl"].splitlines()),
        about["usual_ms"],
        about["versions"],
        about["licence"],
        about["origin"],
        json.loads(members["fusion.json"]) if "fusion.json" in members else None,
        {name.removeprefix(_MODEL): content for name, content in members.items() if name.startswith(_MODEL)},
    )


def _device(values: Mapping[str, Any]) -> DeviceInfo:
    return DeviceInfo(**{**values, "delegates": tuple(values["delegates"])})


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":")).encode()
