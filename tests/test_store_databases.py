"""Places for stores, one of each kind: `place` is a new SQLite file, then a new database of a real PostgreSQL server.

A plugin for test modules: `pytest_plugins = "test_store_databases"`.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from paceline.store.testing import PostgresServer, postgres_programs, postgres_server


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    pytest.importorskip("psycopg", reason="the driver of PostgreSQL isn't installed (pip install 'psycopg[binary]')")
    if postgres_programs() is None:
        pytest.skip("PostgreSQL isn't installed (apt install postgresql)")
    with postgres_server() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "deep" / "s.sqlite")
    running: PostgresServer = request.getfixturevalue("server")
    return running.new_place()


def test_a_server_of_our_own_leaves_nothing_behind(server: PostgresServer) -> None:
    with postgres_server() as another:
        assert another.folder != server.folder
        assert another.process.poll() is None
    assert another.process.poll() is not None
    assert not another.folder.exists()
    assert os.path.exists(server.folder)
