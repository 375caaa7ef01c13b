"""What can go wrong with a store: every time one clear error, and nothing that was kept is lost."""

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paceline.errors import StoreError
from paceline.files import write_atomically
from paceline.measurement import Bench, Measurement
from paceline.store import Store
from paceline.store.testing import PostgresServer, postgres_server

pytest_plugins = "test_store_databases"

BENCH = Bench()
FOUND = Measurement("A -> B", "a" * 64, "device", BENCH.key, ((1.25, 1.5),), (1.0,), (0.5,))


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[None]:
    """A file system of that size, where the machine lets us make one."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("can't mount a small file system here (root only)")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("/proc/nowhere/s.sqlite", "can't create the folder .* Choose another place"),
        ("nosuchdb://x", r"nosuchdb isn't supported\. Name a file, or postgresql"),
        ("mysql://u:secret@h/x", r"store mysql://u:\*\*\*@h/x: mysql isn't supported"),
        ("postgresql+psycopg2://h/x", r"psycopg2 isn't supported"),
        ("{tmp}/garbage", "not a database. Bring back a copy"),
        ("{tmp}", "unable to open database file. Make the file and its folder writable"),
    ],
)
def test_a_store_that_cannot_be_opened(place: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "garbage").write_bytes(b"garbage" * 1000)
    with pytest.raises(StoreError, match=reason):
        Store(place.format(tmp=tmp_path))
    assert (tmp_path / "garbage").read_bytes() == b"garbage" * 1000


@pytest.mark.parametrize("name", ["100 % sure?.sqlite", "a#b&c=d.sqlite", "läuft.sqlite"])
def test_any_file_name_is_a_place(name: str, tmp_path: Path) -> None:
    with Store(tmp_path / name) as store:
        store.add([FOUND])
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError, match=r"u:\*\*\*@.*connection.*Check that the server runs") as told:
        Store(f"postgresql://u:secret@/x?host={tmp_path}", timeout_s=2)
    assert "secret" not in str(told.value)


def test_a_driver_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"needs PostgreSQL's driver .* pip install 'paceline\[postgres\]'"):
        Store("postgresql+psycopg://h/x")


def test_a_server_that_dies(server: PostgresServer) -> None:
    with postgres_server() as another, Store(another.new_place(), timeout_s=2) as store:
        store.add([FOUND])
        another.process.kill()
        another.process.wait(30)
        with pytest.raises(StoreError, match="Check that the server runs"):
            store.add([replace(FOUND, artifact="b" * 64)])


def test_a_damaged_file(tmp_path: Path) -> None:
    place = tmp_path / "s.sqlite"
    with Store(place) as store:
        store.add([replace(FOUND, artifact=f"{i:064d}") for i in range(200)])
    content = bytearray(place.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    place.write_bytes(content)
    with pytest.raises(StoreError, match=r"malformed\. Bring back a copy"), Store(place) as store:
        store.find([f"{i:064d}" for i in range(200)], "device", BENCH)


def test_damaged_samples(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        store.add([FOUND])
        with sqlite3.connect(tmp_path / "s.sqlite") as db:
            db.execute("UPDATE measurements SET samples = X'789c00'")
        db.close()
        with pytest.raises(StoreError, match="samples are damaged"):
            store.find([FOUND.artifact], "device", BENCH)


def test_a_store_that_another_process_keeps_locked(tmp_path: Path) -> None:
    place = tmp_path / "s.sqlite"
    Store(place).close()
    code = f"""
import sqlite3, sys
db = sqlite3.connect({str(place)!r}, isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.readline()
db.execute("ROLLBACK")
print("free", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdin
        assert other.stdout.readline() == "locked\n"
        with Store(place, timeout_s=0.2) as store:
            with pytest.raises(StoreError, match=r"s\.sqlite: database is locked\. Another process .* wait for it or end it"):
                store.add([FOUND])
            with pytest.raises(StoreError, match="locked"):
                store.claim("phone", "agent", 60)
            assert store.rows() == [], "reading goes on"
            other.stdin.write("\n")
            other.stdin.flush()
            assert other.stdout.readline() == "free\n"
            store.add([FOUND])
            assert store.find([FOUND.artifact], "device", BENCH) == {FOUND.artifact: FOUND}


def test_a_new_file_that_another_process_is_just_making(tmp_path: Path) -> None:
    """SQLite doesn't wait by itself for a writer when it changes a file to WAL."""
    place = tmp_path / "s.sqlite"
    other = sqlite3.connect(place, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        Store(place, timeout_s=0.1)
    end = threading.Timer(0.3, other.rollback)
    end.start()
    with Store(place) as store:
        assert store.rows() == []
    end.join()
    other.close()


def test_a_table_that_another_client_keeps_locked(server: PostgresServer) -> None:
    import psycopg

    place = server.new_place()
    with Store(place, timeout_s=0.3) as store:
        with psycopg.connect(place.replace("+psycopg", "")) as other:
            other.execute("LOCK TABLE measurements")
            with pytest.raises(StoreError, match=r"lock timeout\. Another process"):
                store.add([FOUND])
        store.add([FOUND])
        assert len(store.rows()) == 1


def fill(store: Store, kept: list[Measurement]) -> None:
    """Pairs of measurements that can't be compressed; `kept` are those that were added without an error."""
    for i in range(2000):
        samples = tuple(float(x) for x in np.frombuffer(os.urandom(4000), np.uint64))
        new = [replace(FOUND, artifact=f"{i:063d}{j}", samples_ms=(samples,)) for j in range(2)]
        store.add(new)
        kept += new


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path, 512):
        (tmp_path / "ballast").write_bytes(b"x" * 200_000)
        kept: list[Measurement] = []
        with Store(tmp_path / "s.sqlite") as store:
            with pytest.raises(StoreError, match=r"full\. Free some space and run the command again"):
                fill(store, kept)
            assert len(kept) > 10
        with Store(tmp_path / "s.sqlite") as store:
            assert len(store.rows()) == len(kept)
            assert list(store.find([m.artifact for m in kept], "device", BENCH).values()) == kept
            (tmp_path / "ballast").unlink()
            store.add([FOUND])
            assert len(store.rows()) == len(kept) + 1


def test_a_full_disk_of_results_and_files(tmp_path: Path) -> None:
    with small_disk(tmp_path, 256):
        with Store(tmp_path / "s.sqlite") as store:
            results = store.results("run", "step")
            with pytest.raises(StoreError, match="full"):
                results.update((str(i), os.urandom(500).hex()) for i in range(2000))
            assert dict(store.results("run", "step")) == dict(results)
        with pytest.raises(StoreError, match="No space left"):
            write_atomically(tmp_path / "model.tflite", b"x" * 1_000_000)
        assert not [p.name for p in tmp_path.iterdir() if "model" in p.name]


def test_a_disk_that_is_full_from_the_start(tmp_path: Path) -> None:
    with small_disk(tmp_path, 64):
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "ballast").write_bytes(b"x" * 100_000)
        with pytest.raises(StoreError, match=r"s\.sqlite: .*(full|disk I/O).* Free some space"):
            Store(tmp_path / "s.sqlite")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    reason = r"s\.sqlite: (unable to open|attempt to write a readonly).* Make the file and its folder writable"
    with small_disk(tmp_path, 1024):
        with Store(tmp_path / "s.sqlite") as store:
            store.add([FOUND])
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        for name in ("s.sqlite", "s.sqlite", "new_s.sqlite"):
            with pytest.raises(StoreError, match=reason), Store(tmp_path / name) as store:
                store.add([FOUND])
        subprocess.run(["mount", "-o", "remount,rw", str(tmp_path)], check=True)
        with Store(tmp_path / "s.sqlite") as store:
            assert store.find([FOUND.artifact], "device", BENCH) == {FOUND.artifact: FOUND}
