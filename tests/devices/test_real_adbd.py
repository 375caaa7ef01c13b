"""AOSP's own adbd, under the same contract as ours."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from paceline.devices.testing.adb_daemon import AdbServer, RealAdbd

from adb_clients import adb as adb  # the fixture
from adb_contract import CHECKS
from adb_target import Target

BUILD = Path(__file__).with_name("build_adbd.sh")
CANNOT_BUILD = 3


@pytest.fixture(scope="session")
def adbd_binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of the environment variable PACELINE_ADBD, or built now."""
    if given := os.environ.get("PACELINE_ADBD"):
        return Path(given)
    folder = tmp_path_factory.mktemp("adbd")
    done = subprocess.run(["bash", BUILD, folder], capture_output=True, text=True, timeout=600, check=False)
    if done.returncode == CANNOT_BUILD:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "adbd"


@pytest.fixture(scope="module")
def target(adb: AdbServer, adbd_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with RealAdbd(adbd_binary, tmp_path_factory.mktemp("phone")) as adbd:
        adb.connect(adbd.address)
        yield Target(adb, adbd.address, adbd.base, tmp_path_factory.mktemp("host"), adbd.hangs_up)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(target: Target, check: Callable[[Target], None]) -> None:
    check(target)
