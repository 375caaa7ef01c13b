"""Where everything costly goes the moment it exists: measurements, devices, and the results of a run's steps.

SQLite in a file by default, any database by SQLAlchemy URL. A measurement is kept once per artifact, device and Bench.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import sqlalchemy as sa

from paceline.errors import StoreError
from paceline.measurement import Bench, DeviceInfo, Failure, Measurement, TransientFailure

_SCHEMA = 1
_metadata = sa.MetaData()
_devices = sa.Table(
    "devices",
    _metadata,
    sa.Column("fingerprint", sa.String(16), primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("simulated", sa.Boolean, nullable=False),
    sa.Column("facts", sa.Text, nullable=False),
)
_measurements = sa.Table(
    "measurements",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("artifact", sa.String(64), nullable=False),
    sa.Column("device", sa.String(16), nullable=False),
    sa.Column("bench", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("ms", sa.Float),
    sa.Column("spread", sa.Float),
    sa.Column("samples", sa.LargeBinary, nullable=False),
    sa.Column("batches", sa.Text, nullable=False),
    sa.Column("cpu_share", sa.Text, nullable=False),
    sa.Column("reference", sa.Text, nullable=False),
    sa.Column("failure", sa.Text),
    sa.Column("transient", sa.Boolean, nullable=False),
    sa.Column("context", sa.Text, nullable=False),
    sa.Column("measured_at", sa.Float, nullable=False),
    sa.UniqueConstraint("artifact", "device", "bench"),
)
_results = sa.Table(
    "results",
    _metadata,
    sa.Column("run", sa.String(64), primary_key=True),
    sa.Column("step", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
_about = sa.Table("about", _metadata, sa.Column("schema", sa.Integer, primary_key=True))
_PER_QUERY = 500  # SQLite's limit on bound variables is 999 in old builds


class Store:
    """An open database. `place` is a file path or an SQLAlchemy URL. Raises StoreError where it can't be opened."""

    def __init__(self, place: str | Path) -> None:
        self.place = str(place)
        url = self.place if "://" in self.place else f"sqlite:///{self.place}"
        if url.startswith("sqlite:///"):
            self._make_folder(Path(url.removeprefix("sqlite:///")))
        with self._errors():
            self._engine = sa.create_engine(url)
            if self._engine.dialect.name == "sqlite":
                sa.event.listen(self._engine, "connect", _configure_sqlite)
            _metadata.create_all(self._engine)
            with self._engine.begin() as db:
                schema = db.scalar(sa.select(_about.c.schema))
                if schema is None:
                    db.execute(_about.insert().values(schema=_SCHEMA))
        if schema not in (None, _SCHEMA):
            raise StoreError(f"store {self.place} has schema {schema}, this version reads {_SCHEMA}. Use another store file.")

    def add_device(self, info: DeviceInfo) -> None:
        """Remembers what a fingerprint stands for."""
        row = {"name": info.name, "kind": info.kind, "simulated": info.simulated, "facts": json.dumps(dict(info.facts))}
        with self._errors(), self._engine.begin() as db:
            known = _devices.c.fingerprint == info.fingerprint
            if not db.execute(sa.update(_devices).where(known).values(row)).rowcount:
                db.execute(_devices.insert().values(fingerprint=info.fingerprint, **row))

    def add(self, measurements: Sequence[Measurement]) -> None:
        """Keeps measurements, all or none. One of the same artifact, device and Bench replaces the earlier one."""
        with self._errors(), self._engine.begin() as db:
            for m in measurements:
                same = (_measurements.c.artifact == m.artifact) & (_measurements.c.device == m.device)
                db.execute(_measurements.delete().where(same & (_measurements.c.bench == m.bench)))
                db.execute(_measurements.insert().values(_row(m)))

    def find(self, artifacts: Sequence[str], device: str, bench: Bench) -> dict[str, Measurement]:
        """What is known of `artifacts` (sha256), by artifact. Transient failures count as unknown."""
        found: dict[str, Measurement] = {}
        for at in range(0, len(artifacts), _PER_QUERY):
            wanted = _measurements.c.artifact.in_(artifacts[at : at + _PER_QUERY])
            query = sa.select(_measurements).where(
                wanted,
                _measurements.c.device == device,
                _measurements.c.bench == bench.key,
                sa.not_(_measurements.c.transient),
            )
            with self._errors(), self._engine.connect() as db:
                found |= {row.artifact: _measurement(row) for row in db.execute(query)}
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Every measured operator with its figure, by device and Bench, without its samples."""
        columns = [_measurements.c[name] for name in ("subject", "ms", "spread", "device", "bench", "failure", "measured_at")]
        operators = sa.select(*columns).where(_measurements.c.subject.like("% -> %"))
        with self._errors(), self._engine.connect() as db:
            return [dict(row) for row in db.execute(operators.order_by("device", "bench", "subject")).mappings()]

    def results(self, run: str, step: str) -> Results:
        """The results of one step of a run: a mapping from text keys to JSON values, written through at once."""
        return Results(self, run, step)

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _make_folder(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise StoreError(f"can't create the folder of store {self.place}: {e.strerror}. Choose another place.") from e

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sa.exc.DBAPIError, sa.exc.ArgumentError, sa.exc.NoSuchModuleError) as e:
            reason = str(getattr(e, "orig", None) or e)
            remedy = "Free some space." if "full" in reason else "Check the place, or choose another one with --store."
            raise StoreError(f"store {self.place}: {reason}. {remedy}") from e


class Results(MutableMapping[str, Any]):
    """A step's results, in memory and in the store."""

    def __init__(self, store: Store, run: str, step: str) -> None:
        self._store, self._run, self._step = store, run, step
        query = sa.select(_results.c.key, _results.c.value).where(_results.c.run == run, _results.c.step == step)
        with store._errors(), store._engine.connect() as db:
            self._known = {row.key: json.loads(row.value) for row in db.execute(query)}

    def __getitem__(self, key: str) -> Any:
        return self._known[key]

    def __setitem__(self, key: str, value: Any) -> None:
        text = json.dumps(value)
        with self._store._errors(), self._store._engine.begin() as db:
            db.execute(_results.delete().where(self._at(key)))
            db.execute(_results.insert().values(run=self._run, step=self._step, key=key, value=text))
        self._known[key] = json.loads(text)

    def __delitem__(self, key: str) -> None:
        del self._known[key]
        with self._store._errors(), self._store._engine.begin() as db:
            db.execute(_results.delete().where(self._at(key)))

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def _at(self, key: str) -> sa.ColumnElement[bool]:
        return (_results.c.run == self._run) & (_results.c.step == self._step) & (_results.c.key == key)


def _configure_sqlite(connection: Any, record: Any) -> None:
    """Readers beside one writer; what was committed outlives a killed process."""
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}")


def _row(m: Measurement) -> dict[str, Any]:
    samples = np.asarray([ms for batch in m.samples_ms for ms in batch], np.float64)
    return {
        "artifact": m.artifact,
        "device": m.device,
        "bench": m.bench,
        "subject": m.subject,
        "ms": m.ms if m.samples_ms else None,
        "spread": m.spread if m.samples_ms else None,
        "samples": zlib.compress(samples.tobytes(), 1),
        "batches": json.dumps([len(batch) for batch in m.samples_ms]),
        "cpu_share": json.dumps(m.cpu_share),
        "reference": json.dumps(m.reference_ms),
        "failure": m.failure.reason if m.failure else None,
        "transient": isinstance(m.failure, TransientFailure),
        "context": json.dumps(dict(m.context)),
        "measured_at": time.time(),
    }


def _measurement(row: Any) -> Measurement:
    samples = np.frombuffer(zlib.decompress(row.samples), np.float64)
    ends = np.cumsum(json.loads(row.batches))
    kind = TransientFailure if row.transient else Failure
    return Measurement(
        subject=row.subject,
        artifact=row.artifact,
        device=row.device,
        bench=row.bench,
        samples_ms=tuple(tuple(batch.tolist()) for batch in np.split(samples, ends)[:-1]),
        cpu_share=tuple(json.loads(row.cpu_share)),
        reference_ms=tuple(json.loads(row.reference)),
        failure=kind(row.failure) if row.failure is not None else None,
        context=json.loads(row.context),
    )
