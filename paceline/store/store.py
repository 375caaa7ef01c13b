"""The store's front: what can be kept and asked for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from socket import gethostname
from types import TracebackType
from typing import Any

import sqlalchemy as sa

from paceline.measurement import Bench, DeviceInfo, Measurement
from paceline.store import export
from paceline.store.database import Database
from paceline.store.migrations import prepare
from paceline.store.results import Results
from paceline.store.rows import Event, attempt_of, device_of, device_row, event_of, event_row, measurement_of, measurement_row
from paceline.store.tables import claims, devices, log, measurements

_PER_QUERY = 500  # SQLite's limit on bound variables is 999 in old builds
_KEY = ("artifact", "device", "bench")


class Store:
    """An open database. `place` is a file (SQLite) or a URL (`postgresql+psycopg://…`).

    `timeout_s` is how long a method waits for others that write. Raises StoreError where the database can't be opened, read or
    written; then nothing of that call is kept, and everything of the earlier ones.
    """

    def __init__(self, place: str | Path, timeout_s: float = 30.0) -> None:
        self._database = Database(place, timeout_s)
        self.place = self._database.place
        try:
            prepare(self._database)
        except BaseException:
            self.close()
            raise

    def add_device(self, info: DeviceInfo) -> None:
        """Remembers what a fingerprint stands for."""
        with self._database.writing() as db:
            db.execute(self._database.upsert(devices, ("fingerprint",)), [device_row(info)])

    def devices(self) -> dict[str, DeviceInfo]:
        """The devices that were measured, by fingerprint."""
        with self._database.reading() as db:
            return {row.fingerprint: device_of(row) for row in db.execute(sa.select(devices).order_by("name"))}

    def add(self, new: Sequence[Measurement], by: str = "") -> None:
        """Keeps measurements, all or none, taken `by` an agent or host (this one). Each is logged.

        One of the same artifact, device and Bench replaces the earlier one; a transient failure replaces no result.
        """
        rows = sorted((measurement_row(m) for m in new), key=lambda row: [row[name] for name in _KEY])  # no two writers deadlock
        put = self._database.upsert(measurements, _KEY, lambda row: sa.not_(row.transient) | measurements.c.transient)
        with self._database.writing() as db:
            if rows:
                db.execute(put, rows)
                db.execute(log.insert(), [event_row(attempt_of(row, by or gethostname())) for row in rows])

    def find(self, artifacts: Sequence[str], device: str, bench: Bench) -> dict[str, Measurement]:
        """What is known of `artifacts` (sha256), by artifact. Transient failures count as unknown."""
        found: dict[str, Measurement] = {}
        with self._database.reading() as db:
            for at in range(0, len(artifacts), _PER_QUERY):
                query = sa.select(measurements).where(
                    measurements.c.artifact.in_(artifacts[at : at + _PER_QUERY]),
                    measurements.c.device == device,
                    measurements.c.bench == bench.key,
                    sa.not_(measurements.c.transient),
                )
                found |= {row.artifact: measurement_of(row) for row in db.execute(query)}
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Every measured operator with its figure, by device and Bench, without its samples."""
        columns = [measurements.c[name] for name in ("subject", "ms", "spread", "device", "bench", "failure", "measured_at")]
        operators = sa.select(*columns).where(measurements.c.subject.like("% -> %"))
        with self._database.reading() as db:
            return [dict(row) for row in db.execute(operators.order_by("device", "bench", "subject")).mappings()]

    def export(self, path: Path, samples: bool | None = None) -> int:
        """Writes every measurement to a `.csv` or `.parquet` file and returns how many there were.

        The file is there whole or not at all. `samples` says whether with every invoke: yes in Parquet, no in CSV if not said.
        """
        with self._database.reading() as db:
            return export.write(db, path, samples)

    def log(self, device: str, kind: str, text: str, by: str = "") -> None:
        """Notes what happened to a device (fingerprint or address): a word for it, such as "quarantined", and the story."""
        event = Event(time.time(), by or gethostname(), device, kind, text)
        with self._database.writing() as db:
            db.execute(log.insert(), [event_row(event)])

    def events(self, device: str | None = None, limit: int = 100) -> list[Event]:
        """The last `limit` events of one device, or of all, oldest first."""
        query = sa.select(log).order_by(log.c.id.desc()).limit(limit)
        if device is not None:
            query = query.where(log.c.device == device)
        with self._database.reading() as db:
            return [event_of(row) for row in db.execute(query).mappings()][::-1]

    def claim(self, name: str, owner: str, ttl_s: float) -> bool:
        """Whether `name`, a device's address, now belongs to `owner`, for `ttl_s` seconds. At most one owner has it at a time.

        It was free, or claimed longer ago than its time, or `owner`'s already: owners must be told apart by their names.
        """
        with self._database.writing() as db:
            now = self._database.now()
            take = self._database.upsert(claims, ("name",), lambda new: (claims.c.owner == new.owner) | (claims.c.until <= now))
            db.execute(take.values(name=name, owner=owner, until=now + ttl_s))
            return db.scalar(sa.select(claims.c.owner).where(claims.c.name == name)) == owner

    def renew(self, name: str, owner: str, ttl_s: float) -> bool:
        """Keeps a claim for `ttl_s` seconds from now. False where it was released, or it expired and another took it."""
        held = (claims.c.name == name) & (claims.c.owner == owner)
        with self._database.writing() as db:
            return db.execute(claims.update().where(held).values(until=self._database.now() + ttl_s)).rowcount == 1

    def release(self, name: str, owner: str) -> bool:
        """Gives a claim back. False, and nothing changes, where `owner` doesn't hold it."""
        held = (claims.c.name == name) & (claims.c.owner == owner)
        with self._database.writing() as db:
            return db.execute(claims.delete().where(held)).rowcount == 1

    def holders(self) -> dict[str, str]:
        """Who holds what at this moment: the owners of valid claims, by name."""
        with self._database.reading() as db:
            valid = sa.select(claims.c.name, claims.c.owner).where(claims.c.until > self._database.now())
            return {row.name: row.owner for row in db.execute(valid.order_by("name"))}

    def results(self, run: str, step: str) -> Results:
        """The results of one step of a run: a mapping from text keys to JSON values, written through at once."""
        return Results(self._database, run, step)

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
