"""Stores of the first schema, made by raw SQL as its program made them, open with everything that was in them."""

import json
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from paceline.errors import StoreError
from paceline.measurement import Bench, Delegation, DeviceInfo, Failure, Measurement
from paceline.store import Store, migrations
from paceline.store.migrations import SCHEMA

pytest_plugins = "test_store_databases"

OLD_BENCH = {
    "affinity": [1],
    "agreement": 0.01,
    "batch_ms": 8.0,
    "batches": 5,
    "delegate": "xnnpack",
    "min_invokes": 50,
    "precision": "fp32",
    "repeats": 2,
    "runtime": "litert",
    "threads": 1,
    "timeout_s": 60.0,
    "tolerance": 0.05,
    "warmup_ms": 2.0,
}
BENCH = Bench(affinity=(1,), max_batch_ms=400.0, max_invokes=500, options=())
TABLES = """
CREATE TABLE devices (fingerprint VARCHAR(16) NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL, simulated BOOLEAN NOT NULL,
    facts TEXT NOT NULL, PRIMARY KEY (fingerprint));
CREATE TABLE measurements (id {serial} NOT NULL, artifact VARCHAR(64) NOT NULL, device VARCHAR(16) NOT NULL, bench TEXT NOT NULL,
    subject TEXT NOT NULL, ms FLOAT, spread FLOAT, samples {blob} NOT NULL, batches TEXT NOT NULL, cpu_share TEXT NOT NULL,
    reference TEXT NOT NULL, failure TEXT, transient BOOLEAN NOT NULL, context TEXT NOT NULL, measured_at FLOAT NOT NULL,
    PRIMARY KEY (id), UNIQUE (artifact, device, bench));
CREATE TABLE results (run VARCHAR(64) NOT NULL, step VARCHAR(64) NOT NULL, key VARCHAR(255) NOT NULL, value TEXT NOT NULL,
    PRIMARY KEY (run, step, key));
CREATE TABLE about (schema {serial} NOT NULL, PRIMARY KEY (schema))
"""
INFO = DeviceInfo("this machine", "local", {"cores": "2"})


def engine_of(place: str) -> sa.Engine:
    if "://" in place:
        return sa.create_engine(place)
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    return sa.create_engine(f"sqlite:///{place}")


def old_row(artifact: str, context: dict[str, str], batches: list[list[float]], failure: str | None = None) -> dict[str, Any]:
    samples = np.asarray([ms for batch in batches for ms in batch])
    return {
        "artifact": artifact,
        "device": INFO.fingerprint,
        "bench": json.dumps(OLD_BENCH, sort_keys=True),
        "subject": "RELU 1x1 -> 1x1",
        "ms": 1.5 if batches else None,
        "spread": 0.0 if batches else None,
        "samples": zlib.compress(samples.tobytes(), 1),
        "batches": json.dumps([len(batch) for batch in batches]),
        "cpu_share": json.dumps([1.0] * len(batches)),
        "reference": json.dumps([0.5] * len(batches)),
        "failure": failure,
        "transient": False,
        "context": json.dumps(context),
        "measured_at": 1.7e9,
    }


def make_old(place: str, rows: int = 1) -> None:
    """What a program of schema 1 left: a measurement (or more), one with operators left over, and a failure."""
    engine = engine_of(place)
    postgresql = engine.dialect.name == "postgresql"
    kinds = {"serial": "SERIAL", "blob": "BYTEA"} if postgresql else {"serial": "INTEGER", "blob": "BLOB"}
    full = {"load_before": "0.1", "partitions": "1", "delegated": "1", "left": ""}
    some = {"load_before": "0.2", "partitions": "2", "delegated": "3", "left": "CUSTOM, CONV_2D"}
    measured = [old_row(f"{i:064d}", full, [[1.5, 1.75], [1.5, 0.1 + 0.2]]) for i in range(rows)]
    measured += [old_row("b" * 64, some, [[1.0]]), old_row("c" * 64, {"load_before": "0.3"}, [], "no such operator")]
    with engine.begin() as db:
        for table in TABLES.format(**kinds).split(";"):
            db.exec_driver_sql(table)
        db.execute(sa.text("INSERT INTO about (schema) VALUES (1)"))
        names = ("fingerprint", "name", "kind", "simulated", "facts")
        device = (INFO.fingerprint, INFO.name, INFO.kind, False, json.dumps(dict(INFO.facts)))
        insert(db, "devices", [dict(zip(names, device, strict=True))])
        insert(db, "measurements", measured)
        insert(db, "results", [{"run": "run", "step": "search", "key": "x", "value": '{"accuracy": 0.5}'}])
    engine.dispose()


def insert(db: sa.Connection, table: str, rows: list[dict[str, Any]]) -> None:
    names = ", ".join(rows[0])
    db.execute(sa.text(f"INSERT INTO {table} ({names}) VALUES ({', '.join(':' + name for name in rows[0])})"), rows)


def measured(artifact: str, batches: tuple[tuple[float, ...], ...], load: str, delegation: Delegation | None) -> Measurement:
    shares, references = (1.0,) * len(batches), (0.5,) * len(batches)
    context = {"load_before": load}
    return Measurement(
        "RELU 1x1 -> 1x1", artifact, INFO.fingerprint, BENCH.key, batches, shares, references, None, context, (), delegation
    )


def test_what_an_old_store_knows_is_found_again(place: str) -> None:
    make_old(place)
    with Store(place) as store:
        found = store.find(["0" * 64, "b" * 64, "c" * 64], INFO.fingerprint, BENCH)
        full, partial = Delegation("xnnpack", 1, 1, ()), Delegation("xnnpack", 2, 3, ("CUSTOM", "CONV_2D"))
        assert found["0" * 64] == measured("0" * 64, ((1.5, 1.75), (1.5, 0.1 + 0.2)), "0.1", full)
        assert found["b" * 64] == measured("b" * 64, ((1.0,),), "0.2", partial)
        assert found["c" * 64].failure == Failure("no such operator")
        assert (found["c" * 64].delegation, found["c" * 64].context) == (None, {"load_before": "0.3"})
        assert len(store.rows()) == 3
        assert dict(store.results("run", "search")) == {"x": {"accuracy": 0.5}}
        assert store.devices() == {INFO.fingerprint: INFO}
        assert store.events() == []
        store.add(list(found.values()))
        assert len(store.rows()) == 3, "a measurement of an old store is the same one in the new"
        assert len(store.events()) == 3
        assert store.claim("phone", "agent", 60)
    with Store(place) as store:
        assert len(store.rows()) == 3, "opened again, nothing is migrated twice"


def test_a_migrated_store_is_like_a_new_one(place: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    make_old(place)
    new = request.getfixturevalue("server").new_place() if "://" in place else str(tmp_path / "new.sqlite")
    for where in (place, new):
        Store(where).close()
    assert structure(place) == structure(new)
    assert structure(new)["measurements"]["unique"] == [{"artifact", "bench", "device"}]


def structure(place: str) -> dict[str, Any]:
    engine = engine_of(place)
    found = sa.inspect(engine)
    tables = {
        table: {
            "columns": {c["name"]: (str(c["type"]), c["nullable"], c["default"]) for c in found.get_columns(table)},
            "primary": found.get_pk_constraint(table)["constrained_columns"],
            "unique": [set(u["column_names"]) for u in found.get_unique_constraints(table)],
            "indexes": sorted(str(i["name"]) for i in found.get_indexes(table) if not i["unique"]),
        }
        for table in found.get_table_names()
    }
    engine.dispose()
    return tables


def test_a_store_whose_maker_was_killed_before_it_wrote_its_number(place: str) -> None:
    make_old(place)
    execute(place, "DELETE FROM about")
    with Store(place) as store:
        assert len(store.rows()) == 3
    assert numbers(place) == [SCHEMA]


def test_a_store_of_a_newer_version_is_left_alone(place: str) -> None:
    Store(place).close()
    execute(place, "UPDATE about SET schema = 99")
    with pytest.raises(StoreError, match=r"schema 99, this version reads 2 and older\. Update Paceline"):
        Store(place)
    assert numbers(place) == [99]


def test_a_migration_that_fails_changes_nothing(place: str) -> None:
    make_old(place)
    execute(place, "UPDATE measurements SET context = 'garbage' WHERE failure IS NOT NULL")
    before = structure(place)
    with pytest.raises(StoreError, match=r"isn't of schema 1 .* stays as it is"):
        Store(place)
    assert structure(place) == before
    assert numbers(place) == [1]
    execute(place, "UPDATE measurements SET context = '{}' WHERE failure IS NOT NULL")
    with Store(place) as store:
        assert len(store.rows()) == 3


def test_other_tables_of_the_same_names_are_not_touched(place: str) -> None:
    engine = engine_of(place)
    with engine.begin() as db:
        db.exec_driver_sql("CREATE TABLE devices (owner TEXT)")
    engine.dispose()
    with pytest.raises(StoreError, match="already exists"):
        Store(place)
    assert list(structure(place)) == ["devices"]


@pytest.mark.parametrize("old", [True, False])
def test_processes_that_open_a_store_at_once(place: str, old: bool) -> None:
    if old:
        make_old(place, rows=2000)
    code = f"""
import sys
from paceline.measurement import Bench
from paceline.store import Store, migrations
print("ready", flush=True)
sys.stdin.readline()
with Store({place!r}) as store:
    print(len(store.find(["{0:064d}"], {INFO.fingerprint!r}, Bench(affinity=(1,)))), len(store.rows()))
"""
    pipe = subprocess.PIPE
    running = [subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) for _ in range(3)]
    for process in running:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate(timeout=60)[0] for process in running] == ["1 2002\n" if old else "0 0\n"] * 3
    assert numbers(place) == [SCHEMA]


def test_one_migrates_and_the_other_waits(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_old(place)
    began: list[str] = []
    within = threading.Event()
    (step,) = migrations._STEPS

    def slow(db: sa.Connection) -> None:
        began.append(threading.current_thread().name)
        within.set()
        time.sleep(0.5)  # the other one opens the store meanwhile
        step(db)

    monkeypatch.setattr(migrations, "_STEPS", [slow])
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(Store, place)
        assert within.wait(30)
        second = threads.submit(Store, place)
        for opened in (first, second):
            with opened.result() as store:
                assert len(store.rows()) == 3
    assert len(began) == 1


def execute(place: str, command: str) -> None:
    engine = engine_of(place)
    with engine.begin() as db:
        db.exec_driver_sql(command)
    engine.dispose()


def numbers(place: str) -> list[int]:
    engine = engine_of(place)
    with engine.connect() as db:
        found = list(db.execute(sa.text("SELECT schema FROM about")).scalars())
    engine.dispose()
    return found
