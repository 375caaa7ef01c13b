"""From a store of any earlier schema to the present one: a list of steps, all of them in one transaction.

A step is written for the tables as they were then, so it uses nothing of `tables.py` and no default of `Bench`.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import sqlalchemy as sa

from paceline.errors import StoreError
from paceline.store import tables
from paceline.store.database import Database

SCHEMA = 2


def prepare(database: Database) -> None:
    """Makes the tables of an empty database, or brings those of an older schema up to date.

    Whoever opens the store at the same time waits. Raises StoreError where the store is newer than this program.
    """
    with database.reading() as db:
        if _schema(db) == SCHEMA:
            return
    with database.writing() as db:
        database.hold_others(db)
        schema = _schema(db)
        if schema == SCHEMA:  # another process was faster
            return
        if schema is None:
            tables.metadata.create_all(db, checkfirst=False)
        elif schema > SCHEMA:
            raise StoreError(
                f"store {database.place} has schema {schema}, this version reads {SCHEMA} and older. "
                "Update Paceline, or use another store."
            )
        else:
            _migrate(db, schema, database.place)
        db.execute(tables.about.delete())
        db.execute(tables.about.insert().values(schema=SCHEMA))


def _migrate(db: sa.Connection, schema: int, place: str) -> None:
    for number, step in enumerate(_STEPS[schema - 1 :], schema):
        try:
            step(db)
        except (ValueError, KeyError) as e:
            raise StoreError(
                f"store {place}: what it holds isn't of schema {number} ({e!r}), so it stays as it is. "
                "Bring back a copy, or use another store."
            ) from e


def _schema(db: sa.Connection) -> int | None:
    """None in an empty database."""
    if not sa.inspect(db).has_table("about"):
        return None
    return db.scalar(sa.select(tables.about.c.schema)) or 1  # schema 1 wrote its number in a second transaction


def _one_to_two(db: sa.Connection) -> None:
    """Summaries, delegation, log and claims. What a batch may take became part of the Bench: it was the same for all."""
    for addition in (
        "devices ADD COLUMN delegates TEXT NOT NULL DEFAULT '[]'",
        "measurements ADD COLUMN summaries TEXT NOT NULL DEFAULT '[]'",
        "measurements ADD COLUMN delegation TEXT",
    ):
        db.exec_driver_sql(f"ALTER TABLE {addition}")
    new = sa.MetaData()
    sa.Table(
        "log",
        new,
        sa.Column("id", sa.Integer, primary_key=True),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("by", "device", "kind", "text")),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("artifact", sa.String(64)),
        *(sa.Column(name, sa.Text) for name in ("bench", "context")),
        *(sa.Column(name, sa.Float) for name in ("ms", "spread")),
        sa.Index("log_device", "device", "id"),
    )
    sa.Table(
        "claims",
        new,
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("until", sa.Float, nullable=False),
    )
    new.create_all(db, checkfirst=False)
    added = {"max_batch_ms": 400.0, "max_invokes": 500, "options": []}
    updates = []
    for row in db.execute(sa.text("SELECT id, bench, context FROM measurements")):
        bench, context = json.loads(row.bench), json.loads(row.context)
        delegation = None
        if "partitions" in context:
            left = context.pop("left")
            delegation = {
                "delegate": bench["delegate"],
                "partitions": int(context.pop("partitions")),
                "delegated": int(context.pop("delegated")),
                "left": left.split(", ") if left else [],
            }
        updates.append(
            {
                "id": row.id,
                "bench": json.dumps({**added, **bench}, sort_keys=True),
                "context": json.dumps(context),
                "delegation": None if delegation is None else json.dumps(delegation),
            }
        )
    if updates:
        db.execute(
            sa.text("UPDATE measurements SET bench = :bench, context = :context, delegation = :delegation WHERE id = :id"),
            updates,
        )


_STEPS: list[Callable[[sa.Connection], None]] = [_one_to_two]
"""Step n leads from schema n to n + 1."""
