"""Who may join a farm, and what its programs say."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="pip install 'paceline[farm]'")

from paceline.devices.farm.dispatch import measure_on
from paceline.devices.farm.remote import DaskFarm
from paceline.devices.farm.tls import Tls, check_address, make_certificates
from paceline.errors import ConfigError, DeviceError, TransientDeviceError

from farm_hosts import Host, jobs, said


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    made = Host(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for setting in ("dispatch._LOOK_S", "dispatch._FIRST_REST_S", "remote._LOOK_S"):
        monkeypatch.setattr(f"paceline.devices.farm.{setting}", 0.2)
    yield made
    made.end()


@pytest.mark.parametrize("address", ["tcp://10.0.0.7:8786", "0.0.0.0:8786", "farm.example:8786", "tcp://[::]:8786"])
def test_no_address_but_loopback_without_tls(address: str) -> None:
    with pytest.raises(DeviceError, match=r"without TLS anybody .* make certificates \(paceline farm certificates FOLDER\)"):
        check_address(address, None)


def test_addresses(tmp_path: Path) -> None:
    tls = make_certificates(tmp_path)
    assert check_address("localhost:1", None) == "tcp://localhost:1"
    assert check_address("tcp://[::1]:1", None) == "tcp://[::1]:1"
    assert check_address("farm.example:8786", tls) == "tls://farm.example:8786"
    for wrong in ("farm.example", "http://farm.example:1", "tls://:1", "tls://farm:port"):
        with pytest.raises(ConfigError, match="is no address of a farm"):
            check_address(wrong, tls)
    with pytest.raises(ConfigError, match="write tls:// instead"):
        check_address("tcp://farm.example:1", tls)
    with pytest.raises(DeviceError, match="needs certificates; make certificates"):
        check_address("tls://localhost:1", None)


def test_the_scheduler_refuses_to_listen_in_public(host: Host) -> None:
    started = host.start("farm", "serve", "--host", "0.0.0.0", "--port", "0")
    said(started, "without TLS anybody")
    assert started.wait(20) == 1


def test_certificates(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    first = make_certificates(folder)
    authority, node = first.authority.read_bytes(), first.certificate.read_bytes()
    for name in ("ca-key.pem", "node-key.pem"):
        assert (folder / name).stat().st_mode & 0o077 == 0
    again = make_certificates(folder)
    assert again.authority.read_bytes() == authority
    assert again.certificate.read_bytes() != node
    verified = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-CAfile", first.authority, first.certificate], capture_output=True
    )
    assert verified.returncode == 0, verified.stderr
    (folder / "ca-key.pem").unlink()
    with pytest.raises(ConfigError, match=r"has a ca.pem without its ca-key.pem"):
        make_certificates(folder)
    first.key.unlink()
    with pytest.raises(ConfigError, match=r"no node-key.pem in .*; make certificates"):
        Tls(folder)


def test_a_farm_with_tls_takes_only_its_own(host: Host, tmp_path: Path) -> None:
    keys, foreign = tmp_path / "keys", tmp_path / "foreign"
    tls, stranger = make_certificates(keys), make_certificates(foreign)
    scheduler, address = host.scheduler("--tls", str(keys))
    assert address.startswith("tls://")
    agent = host.agent(address, 'id = "a"', arguments=("--tls", str(keys)))
    with DaskFarm(address, tls) as farm:
        assert {result.failure for result in measure_on(farm, "a", jobs(tmp_path, 3))} == {None}
    with pytest.raises(TransientDeviceError, match="no farm answers"):
        DaskFarm(address, stranger, timeout_s=2.0)
    with pytest.raises(TransientDeviceError, match="no farm answers"):
        DaskFarm(address.replace("tls", "tcp"), timeout_s=2.0)
    assert agent.poll() is None
    assert scheduler.poll() is None


def test_nothing_listens_beyond_loopback_without_tls(host: Host) -> None:
    psutil = pytest.importorskip("psutil")
    scheduler, address = host.scheduler()
    agent = host.agent(address, 'id = "a"')
    for started in (scheduler, agent):
        listening = [c.laddr.ip for c in psutil.Process(started.pid).net_connections() if c.status == psutil.CONN_LISTEN]
        assert listening
        assert set(listening) == {"127.0.0.1"}


def test_the_command_line_shows_who_is_there(host: Host, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    text = host.output("farm", "certificates", str(keys))
    assert f"copy ca.pem, node.pem, node-key.pem from {keys}" in text
    _, address = host.scheduler("--tls", str(keys))
    host.agent(address, 'id = "a"\nlabels = ["desk"]', 'id = "b"', name="left", arguments=("--tls", str(keys)))
    (row,) = json.loads(host.output("farm", "devices", "--farm", address, "--tls", str(keys), "--json", "desk"))
    assert row | {"fingerprint": ""} == {
        "id": "a",
        "kind": "fake",
        "simulated": True,
        "fingerprint": "",
        "facts": {"soc": "s1", "serial": "a"},
        "delegates": ["cpu"],
        "labels": ["desk"],
        "agent": "left",
        "trouble": "",
    }
    assert "ready" in host.output("farm", "devices", "--farm", address, "--tls", str(keys))
    assert "no device is 'colour=red'" in host.output("farm", "devices", "--farm", address, "--tls", str(keys), "colour=red")
