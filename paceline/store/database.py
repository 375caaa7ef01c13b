"""A database with short transactions, whose troubles are StoreErrors."""

from __future__ import annotations

import re
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from paceline.errors import StoreError

_LOCK = 0x70616365
"""PostgreSQL's advisory lock under which tables are made and migrated: any number that others don't use."""
_POSTGRESQL = ("postgres", "postgresql", "postgresql+psycopg")
_REMEDIES = (
    (("disk is full", "no space left"), "Free some space and run the command again: what was kept before is still there."),
    (
        ("is locked", "lock timeout"),
        "Another process has been writing to it all the while: wait for it or end it, and run the command again.",
    ),
    (
        ("not a database", "malformed", "damaged"),
        "Bring back a copy of the file, or move it away so that a new one is made, or choose another place with --store.",
    ),
    (
        ("readonly", "read-only", "unable to open", "permission denied"),
        "Make the file and its folder writable, or choose another place with --store.",
    ),
    (("connection", "server"), "Check that the server runs and that the URL is right, and run the command again."),
)
_OTHER_REMEDY = "Check the place, or choose another one with --store."


class Database:
    """SQLite in a file, or PostgreSQL by URL. `place` is shown in messages, without the password.

    `timeout_s` is how long to wait for others that write. Raises StoreError, from every method.
    """

    def __init__(self, place: str | Path, timeout_s: float) -> None:
        self.place = re.sub(r"://([^:/@]*):.*@", r"://\1:***@", str(place))
        self._timeout_s = timeout_s
        with self.errors():
            url = sa.make_url(str(place)) if "://" in str(place) else sa.URL.create("sqlite", database=str(place))
            if url.drivername in _POSTGRESQL:
                url = url.set(drivername="postgresql+psycopg")
            elif url.drivername != "sqlite":
                raise StoreError(f"store {self.place}: {url.drivername} isn't supported. Name a file, or postgresql+psycopg://….")
            self._sqlite = url.drivername == "sqlite"
            if self._sqlite:
                self._make_folder(Path(url.database or ""))
            self._engine = self._create(url)
            if self._sqlite:
                sa.event.listen(self._engine, "connect", self._on_sqlite_connect)
                sa.event.listen(self._engine, "begin", _begin_sqlite)
            else:
                sa.event.listen(self._engine, "connect", self._on_postgresql_connect)
            self._writer = self._engine.execution_options(writing=True)

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """What others committed; each statement sees one moment."""
        with self.errors(), self._engine.connect() as db:
            yield db

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """All of it or nothing."""
        with self.errors(), self._writer.begin() as db:
            yield db

    def hold_others(self, db: sa.Connection) -> None:
        """Within this transaction, whoever else calls this waits until its end. (SQLite has one writer at a time anyway.)"""
        if not self._sqlite:
            db.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))

    def upsert(
        self,
        table: sa.Table,
        key: Sequence[str],
        where: Callable[[Any], sa.ColumnElement[bool]] | None = None,
    ) -> sqlite.Insert | postgresql.Insert:
        """An insert that replaces the row of the same key (`where` allows it, given the new row's columns)."""
        insert = sqlite.insert(table) if self._sqlite else postgresql.insert(table)
        new = insert.excluded
        values = {c.name: new[c.name] for c in table.columns if c.name not in (*key, "id")}
        return insert.on_conflict_do_update(index_elements=key, set_=values, where=where(new) if where else None)

    def now(self) -> sa.ColumnElement[float]:
        """Seconds since 1970 by the one clock that all users of this database share: the server's, or this host's."""
        if self._sqlite:
            return sa.literal(time.time())
        return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Float)

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def errors(self) -> Iterator[None]:
        try:
            yield
        except (sa.exc.DBAPIError, sa.exc.ArgumentError, sa.exc.NoSuchModuleError, sa.exc.TimeoutError, sqlite3.Error) as e:
            raise self._error(str(getattr(e, "orig", None) or e)) from e
        except zlib.error as e:
            raise self._error(f"its samples are damaged ({e})") from e

    def _error(self, reason: str) -> StoreError:
        reason = " ".join(reason.split("\nLINE ")[0].split()).rstrip(".")  # PostgreSQL goes on with the statement
        known = (remedy for words, remedy in _REMEDIES if any(word in reason.lower() for word in words))
        return StoreError(f"store {self.place}: {reason}. {next(known, _OTHER_REMEDY)}")

    def _create(self, url: sa.URL) -> sa.Engine:
        if self._sqlite:
            return sa.create_engine(url, connect_args={"timeout": self._timeout_s})
        try:
            return sa.create_engine(url, connect_args={"connect_timeout": max(2, round(self._timeout_s))}, pool_pre_ping=True)
        except ImportError as e:
            raise StoreError(f"store {self.place} needs PostgreSQL's driver ({e}): pip install 'paceline[postgres]'") from e

    def _make_folder(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise StoreError(f"can't create the folder of store {self.place}: {e.strerror}. Choose another place.") from e

    def _on_sqlite_connect(self, connection: sqlite3.Connection, record: object) -> None:
        """Readers beside one writer; what was committed outlives a killed process. We begin transactions ourselves."""
        connection.isolation_level = None
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                break
            except sqlite3.OperationalError as e:  # SQLite doesn't wait for others here
                if "locked" not in str(e) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        connection.execute("PRAGMA synchronous=NORMAL")

    def _on_postgresql_connect(self, connection: Any, record: object) -> None:
        connection.execute(f"SET lock_timeout = {round(self._timeout_s * 1000)}")
        connection.commit()


def _begin_sqlite(connection: sa.Connection) -> None:
    """A writer takes its lock at once: one that begins to read could not go on to write beside another."""
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writing") else "BEGIN")
