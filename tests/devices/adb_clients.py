"""A fixture: servers of the versions of adb that are here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from paceline.devices.testing.adb_daemon import AdbServer, adbutils_adb

pytest.register_assert_rewrite("adb_target", "adb_contract", "adb_contract_files")


@pytest.fixture(scope="session", params=["apt", "adbutils"])
def adb(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbServer]:
    """By who brings it: Debian's is 29, that of adbutils 36."""
    path = shutil.which("adb") if request.param == "apt" else adbutils_adb()
    if path is None:
        pytest.skip("no adb: " + ("apt-get install adb" if request.param == "apt" else "pip install adbutils"))
    with AdbServer(path, tmp_path_factory.mktemp("home")) as server:
        yield server
