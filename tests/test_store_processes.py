"""Several processes on one store, SQLite's and PostgreSQL's: nothing lost, nothing twice, one owner at a time."""

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import sqlalchemy as sa

from paceline.measurement import Bench, Measurement
from paceline.store import Store
from paceline.store.testing import PostgresServer

pytest_plugins = "test_store_databases"

BENCH = Bench()
PROCESSES = 3
HEAD = """
import sys, time
from paceline.measurement import Bench, Measurement
from paceline.store import Store
place, me = sys.argv[1], int(sys.argv[2])
def measurement(artifact):
    return Measurement("A -> B", artifact, "device", Bench().key, ((1.0, 2.0),), (1.0,), ())
store = Store(place)
print("ready", flush=True)
sys.stdin.readline()
"""


def start(place: str, code: str, processes: int = PROCESSES) -> list[subprocess.Popen[str]]:
    """Processes that know `store`, `measurement(artifact)` and `me`, their number, and that all begin when all are ready."""
    command = [sys.executable, "-c", HEAD + code, place]
    pipe = subprocess.PIPE
    running = [subprocess.Popen([*command, str(i)], stdin=pipe, stdout=pipe, stderr=pipe, text=True) for i in range(processes)]
    for process in running:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    return running


def outputs(running: Sequence[subprocess.Popen[str]]) -> list[list[str]]:
    ended = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0] * len(running), [err[-2000:] for _, err in ended]
    return [out.split() for out, _ in ended]


def test_four_processes_that_add(place: str) -> None:
    """Half of the artifacts are each process's own, half are measured by all of them."""
    Store(place).close()
    code = """
for i in range(200):
    store.add([measurement(f"{i:064d}" if i % 2 else f"{i:063d}{me}")], by=f"agent {me}")
"""
    outputs(start(place, code, processes=4))
    with Store(place) as store:
        own = [f"{i:063d}{p}" for i in range(0, 200, 2) for p in range(4)]
        shared = [f"{i:064d}" for i in range(1, 200, 2)]
        assert store.find([*own, *shared], "device", BENCH).keys() == {*own, *shared}
        assert len(store.rows()) == len({*own, *shared})
        events = store.events("device", limit=10_000)
        assert [sum(e.by == f"agent {p}" for e in events) for p in range(4)] == [200] * 4


def test_groups_in_any_order_do_not_wait_for_each_other_forever(place: str) -> None:
    Store(place).close()
    code = """
group = [measurement(f"{i:064d}") for i in range(100)]
for _ in range(10):
    store.add(group if me % 2 else group[::-1])
"""
    outputs(start(place, code))
    with Store(place) as store:
        assert len(store.rows()) == 100


def test_what_a_killed_process_had_added_is_there(place: str) -> None:
    code = """
for i in range(10**6):
    store.add([measurement(f"{i:064d}")])
    print(i, flush=True)
"""
    (process,) = start(place, code, processes=1)
    assert process.stdout
    for _ in range(50):
        process.stdout.readline()
    process.kill()
    out, _ = process.communicate(timeout=30)
    last = max([49, *(int(line) for line in out.split("\n")[:-1])])
    with Store(place) as store:
        added = len(store.rows())
        assert last + 1 <= added <= last + 2, "the one it was about to tell may be there too"
        assert len(store.events(limit=10**6)) == added
        store.add(list(store.find(["0" * 64], "device", BENCH).values()))


def test_every_name_is_claimed_by_one_of_many(place: str) -> None:
    code = """
for i in range(100):
    if store.claim(f"phone {i}", f"agent {me}", 60):
        print(i)
"""
    won = outputs(start(place, code))
    assert sorted(int(name) for names in won for name in names) == list(range(100))


def test_one_holder_at_a_time(place: str, tmp_path: Path) -> None:
    """Each process comes and goes 20 times; what they write while they hold the claim never interleaves."""
    diary = tmp_path / "diary"
    code = f"""
for _ in range(20):
    while not store.claim("phone", f"agent {{me}}", 60):
        time.sleep(0.002)
    for word in ("in", "out"):
        with open({str(diary)!r}, "a") as file:
            file.write(f"{{me}} {{word}}\\n")
    assert store.release("phone", f"agent {{me}}")
"""
    outputs(start(place, code))
    lines = diary.read_text().splitlines()
    assert len(lines) == 2 * 20 * PROCESSES
    for entered, left in list(pairwise(lines))[::2]:
        assert (entered.split()[1], left) == ("in", f"{entered.split()[0]} out")


def test_the_claim_of_a_killed_process_expires(place: str) -> None:
    (process,) = start(place, "store.claim('phone', 'dead', 1.0)\nprint('mine', flush=True)\ntime.sleep(60)", processes=1)
    assert process.stdout
    assert process.stdout.readline() == "mine\n"
    process.kill()
    process.communicate(timeout=30)
    with Store(place) as store:
        while not store.claim("phone", "living", 60):
            assert store.holders() in ({"phone": "dead"}, {})
        assert store.holders() == {"phone": "living"}


def test_readers_see_whole_groups_beside_a_writer(place: str) -> None:
    code = """
if me == 0:
    for i in range(30):
        store.add([measurement(f"{i:032d}{j:032d}") for j in range(20)])
else:
    for _ in range(60):
        print(len(store.rows()) % 20)
"""
    seen = outputs(start(place, code, processes=3))
    assert {*seen[1], *seen[2]} == {"0"}


def test_threads_of_one_store(place: str) -> None:
    found = Measurement("A -> B", "", "device", BENCH.key, ((1.0, 2.0),), (1.0,), ())
    with Store(place) as store, ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda i: store.add([replace(found, artifact=f"{i:064d}")]), range(200)))
        assert len(store.rows()) == len(store.events(limit=1000)) == 200
        won = list(threads.map(lambda i: store.claim("phone", f"agent {i}", 60), range(50)))
        assert sum(won) == 1


def test_a_connection_that_was_cut_is_made_again(server: PostgresServer) -> None:
    place = server.new_place()
    with Store(place) as store:
        store.log("device", "before", "")
        engine = sa.create_engine(place)
        here = "pid <> pg_backend_pid() AND datname = current_database()"
        with engine.connect() as db:
            cut = db.execute(sa.text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {here}")).all()
        engine.dispose()
        assert len(cut) > 0
        store.log("device", "after", "")
        assert [event.kind for event in store.events()] == ["before", "after"]
