"""The results of a run's steps, as a mapping."""

from __future__ import annotations

import json
from collections.abc import Iterator, MutableMapping
from typing import Any

import sqlalchemy as sa

from paceline.store.database import Database
from paceline.store.tables import results


class Results(MutableMapping[str, Any]):
    """A step's results, in memory and in the store."""

    def __init__(self, database: Database, run: str, step: str) -> None:
        self._database, self._run, self._step = database, run, step
        query = sa.select(results.c.key, results.c.value).where(results.c.run == run, results.c.step == step)
        with database.reading() as db:
            self._known = {row.key: json.loads(row.value) for row in db.execute(query)}

    def __getitem__(self, key: str) -> Any:
        return self._known[key]

    def __setitem__(self, key: str, value: Any) -> None:
        text = json.dumps(value)
        with self._database.writing() as db:
            put = self._database.upsert(results, ("run", "step", "key"))
            db.execute(put, [{"run": self._run, "step": self._step, "key": key, "value": text}])
        self._known[key] = json.loads(text)

    def __delitem__(self, key: str) -> None:
        if key not in self._known:
            raise KeyError(key)
        here = (results.c.run == self._run) & (results.c.step == self._step) & (results.c.key == key)
        with self._database.writing() as db:
            db.execute(results.delete().where(here))
        del self._known[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)
