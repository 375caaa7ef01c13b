"""Fixtures: servers of the versions of adb that are here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from paceline.devices.testing.adb_daemon import AdbServer, adbutils_adb

pytest.register_assert_rewrite("adb_target", "adb_contract", "adb_contract_files")


CLIENTS = {"apt": shutil.which("adb"), "adbutils": adbutils_adb()}  # Debian's is 29, that of adbutils 36


@pytest.fixture(scope="session", params=CLIENTS)
def adb(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbServer]:
    """Every adb, one after the other."""
    path = CLIENTS[request.param]
    if path is None:
        pytest.skip("no adb: " + ("apt-get install adb" if request.param == "apt" else "pip install adbutils"))
    with AdbServer(path, tmp_path_factory.mktemp("home")) as server:
        yield server


@pytest.fixture(scope="session")
def any_adb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbServer]:
    path = CLIENTS["apt"] or CLIENTS["adbutils"]
    if path is None:
        pytest.skip("no adb: apt-get install adb, or pip install adbutils")
    with AdbServer(path, tmp_path_factory.mktemp("home")) as server:
        yield server
