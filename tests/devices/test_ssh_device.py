"""A Linux board, reached by ssh: a real sshd on loopback, a real worker behind it."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from paceline.devices.device import Device
from paceline.devices.kinds import DeviceEntry, open_device
from paceline.devices.testing import DeviceTestSuite
from paceline.devices.testing.sshd import Sshd, why_not
from paceline.errors import TransientDeviceError
from paceline.measurement import Artifact, Bench

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"no ssh server: {why_not()}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with Sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(scope="module")
def board(server: Sshd) -> Iterator[Device]:
    settings = {"host": server.host, "user": server.user, "port": server.port, "identity": server.identity}
    settings |= {"known_hosts": server.known_hosts, "python": sys.executable, "wait_s": 0.0, "refuse": False}
    device = open_device(DeviceEntry.model_validate({"id": "board", "kind": "ssh", **settings}))
    yield device
    device.close()


@pytest.fixture
def bench(board: Device) -> Bench:
    quick = {"batches": 2, "min_invokes": 10, "batch_ms": 1.0, "warmup_ms": 0.5, "repeats": 1}
    return replace(board.default_bench(), **quick)


class TestSshDevice(DeviceTestSuite):
    @pytest.fixture
    def device(self, board: Device) -> Device:
        return board

    @pytest.fixture
    def bench(self, bench: Bench) -> Bench:
        return bench

    @pytest.fixture
    def models(self, models: Sequence[Artifact]) -> Sequence[Artifact]:
        return models


def test_it_is_named_after_its_address(board: Device, server: Sshd) -> None:
    assert board.address == f"ssh:{server.user}@{server.host}:{server.port}"
    assert board.info.facts["litert"]


def test_a_board_that_is_away_is_an_error_until_it_is_back(
    board: Device, server: Sshd, bench: Bench, models: Sequence[Artifact]
) -> None:
    assert board.measure(models[:1], bench)[0].failure is None
    server.stop()
    server.cut()
    try:
        health = board.health()
        assert not health.ready
        assert str(server.port) in health.advice[-1]
        with pytest.raises(TransientDeviceError, match=str(server.port)):
            board.measure(models[:1], bench)
    finally:
        server.start()
    assert board.measure(models[:1], bench)[0].failure is None
