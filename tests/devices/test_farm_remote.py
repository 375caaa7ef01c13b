"""A farm of several agents, each a process of its own, on loopback: what is lost is noticed and done elsewhere."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="pip install 'paceline[farm]'")

from paceline.devices.farm.dispatch import Patience, measure_on
from paceline.devices.farm.remote import DaskFarm
from paceline.errors import DeviceError, TransientDeviceError
from paceline.measurement import Bench

from fake_kind import FakeDevice
from farm_hosts import BENCH, Host, jobs, said, until


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    made = Host(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for setting in ("dispatch._LOOK_S", "dispatch._FIRST_REST_S", "remote._LOOK_S"):
        monkeypatch.setattr(f"paceline.devices.farm.{setting}", 0.2)
    yield made
    made.end()


def test_jobs_travel_to_agents_and_results_back(host: Host, tmp_path: Path) -> None:
    _, address = host.scheduler()
    log = tmp_path / "log"
    shared = f'log = "{log}"\njob_s = 0.01'
    host.agent(address, f'id = "a"\nlabels = ["desk"]\n{shared}', f'id = "b"\nsoc = "s2"\n{shared}', name="left")
    host.agent(address, f'id = "c"\nsoc = "s2"\n{shared}', name="right")
    wanted = jobs(tmp_path, 20)
    with DaskFarm(address) as farm:
        until(lambda: len(farm.members()) == 3)
        results = list(measure_on(farm, "any", wanted))
        only = list(measure_on(farm, "all of soc=s2", wanted[:3]))
        assert [member.agent for member in farm.members()] == ["left", "left", "right"]
        assert farm.on("a").submit(FakeDevice.health).result(10).ready
        assert farm.on("b").submit(FakeDevice.profile, wanted[3].artifacts[0], BENCH).result(10)[0].ms == 3.5
        with pytest.raises(DeviceError, match="delegate 'gpu' isn't available on device 'a'"):
            farm.on("a").submit(FakeDevice.measure, [], Bench("fake", "gpu")).result(10)
        with pytest.raises(TransientDeviceError, match=r"no device 'z' in the farm tcp://.* now; there are: a, b, c"):
            farm.on("z")
    assert Counter(id(result.job) for result in results) == Counter(map(id, wanted))
    for result in results:
        assert result.failure is None
        assert result.info is not None
        assert result.info.simulated
        assert result.measurements[0].ms == float(result.job.artifacts[0].path.read_text())
    assert Counter(result.device for result in only) == {"b": 3, "c": 3}
    for name in "abc":
        notes = [line.split()[1] for line in log.read_text().splitlines() if line.startswith(name)]
        assert notes == ["start", "end"] * (len(notes) // 2)
    cached = list((tmp_path / "cache" / "paceline" / "artifacts").iterdir())
    assert len(cached) == 20  # both agents use the same folder here


def test_an_artifact_is_sent_once_to_an_agent(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, address = host.scheduler()
    host.agent(address, 'id = "a"', 'id = "b"')
    (job, other) = jobs(tmp_path, 2)
    read: list[Path] = []
    original = Path.read_bytes
    with DaskFarm(address) as farm:
        until(lambda: len(farm.members()) == 2)
        for artifact in (*job.artifacts, *other.artifacts):
            assert artifact.sha256
        monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or original(path))
        assert len(list(measure_on(farm, "all", [job] * 5))) == 10
        assert read == [job.artifacts[0].path]
    with DaskFarm(address) as farm:  # a new client asks what is there
        assert len(list(measure_on(farm, "all", [job, other]))) == 4
        assert read == [job.artifacts[0].path, other.artifacts[0].path]
        for copy in (tmp_path / "cache" / "paceline" / "artifacts").iterdir():
            copy.unlink()  # and one whose copies were removed gets them again
        assert {result.failure for result in measure_on(farm, "all", [job, other])} == {None}
        assert len(read) == 4


def test_jobs_of_a_killed_agent_run_elsewhere(host: Host, tmp_path: Path) -> None:
    _, address = host.scheduler()
    left = host.agent(address, 'id = "a"\njob_s = 0.05', 'id = "b"\njob_s = 0.05')
    host.agent(address, 'id = "c"\njob_s = 0.05')
    wanted = jobs(tmp_path, 40)
    results = []
    with DaskFarm(address) as farm:
        until(lambda: len(farm.members()) == 3)
        for result in measure_on(farm, "any", wanted):
            results.append(result)
            if len(results) == 5:
                left.kill()
                killed = time.monotonic()
        assert time.monotonic() - killed < 15
    assert Counter(id(result.job) for result in results) == Counter(map(id, wanted))
    assert {result.failure for result in results} == {None}
    assert {result.device for result in results[-10:]} == {"c"}


def test_jobs_that_only_a_killed_agent_could_do_are_reported(host: Host, tmp_path: Path) -> None:
    _, address = host.scheduler()
    left = host.agent(address, 'id = "a"\njob_s = 0.05')
    host.agent(address, 'id = "c"')
    results = []
    with DaskFarm(address) as farm:
        until(lambda: len(farm.members()) == 2)
        for result in measure_on(farm, "a", jobs(tmp_path, 10), patience=Patience(wait_s=1.0)):
            results.append(result)
            if len(results) == 3:
                left.kill()
    assert len(results) == 10
    reasons = [result.failure.reason for result in results if result.failure]
    assert len(reasons) >= 5
    assert all("device 'a' is lost" in reason or "agent is gone" in reason for reason in reasons)


def test_an_agent_that_fell_silent_is_gone_until_it_speaks_again(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut network closes no connection; a stopped process stands for it."""
    monkeypatch.setattr("paceline.devices.farm.dask.SILENCE_S", 2.0)
    _, address = host.scheduler()
    left = host.agent(address, 'id = "a"\njob_s = 0.05')
    host.agent(address, 'id = "c"\njob_s = 0.05')
    results = []
    with DaskFarm(address) as farm:
        until(lambda: len(farm.members()) == 2)
        for result in measure_on(farm, "any", jobs(tmp_path, 30)):
            results.append(result)
            if len(results) == 5:
                left.send_signal(signal.SIGSTOP)
        assert len(results) == 30
        assert {result.failure for result in results} == {None}
        assert [member.id for member in farm.members()] == ["c"]
        left.send_signal(signal.SIGCONT)
        until(lambda: len(farm.members()) == 2)


def test_a_farm_that_starts_again_has_its_agents_and_callers_back(host: Host, tmp_path: Path) -> None:
    scheduler, address = host.scheduler()
    agent = host.agent(address, 'id = "a"\njob_s = 0.02')
    port = int(address.rpartition(":")[2])
    results = []
    with DaskFarm(address) as farm:
        for result in measure_on(farm, "a", jobs(tmp_path, 20)):
            results.append(result)
            if len(results) == 5:
                scheduler.kill()
                scheduler.wait()
                host.scheduler(port=port)
    assert {result.failure for result in results} == {None}
    assert len(results) == 20
    said(agent, "joining again")


def test_two_agents_that_claim_one_device(host: Host, tmp_path: Path) -> None:
    _, address = host.scheduler()
    first = host.agent(address, 'id = "a"')
    second = host.agent(address, 'id = "b"', 'id = "a"', wait="")
    text = said(second, "taken by another agent.*")
    assert second.wait(20) == 1
    assert f"process {first.pid}" in text
    first.kill()
    first.wait()
    host.agent(address, 'id = "a"')  # a killed agent holds nothing


def test_two_hosts_with_one_id(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, address = host.scheduler()
    host.agent(address, 'id = "a"', name="left")
    elsewhere = Host(tmp_path / "elsewhere")
    try:
        second = elsewhere.agent(address, 'id = "a"', name="right", wait="")
        said(second, r"device 'a' is in the farm already, held by agent left at tcp://")
        assert second.wait(20) == 1
    finally:
        elsewhere.end()


def test_an_unplugged_device_joins_when_it_is_there(host: Host, tmp_path: Path) -> None:
    _, address = host.scheduler()
    absent = tmp_path / "absent"
    absent.touch()
    host.agent(address, f'id = "late"\nabsent = "{absent}"', 'id = "b"', wait="device late: device 'late' is unplugged")
    with DaskFarm(address) as farm:
        until(lambda: len(farm.members()) == 2)
        assert {member.id: member.trouble for member in farm.members()} == {"late": "device 'late' is unplugged", "b": ""}
        absent.unlink()
        until(lambda: not any(member.trouble for member in farm.members()))


def test_nobody_answers() -> None:
    with pytest.raises(TransientDeviceError, match=r"no farm answers at tcp://127.0.0.1:9: .*paceline farm serve"):
        DaskFarm("127.0.0.1:9", timeout_s=1.0)


def test_an_agent_ends_in_good_order(host: Host) -> None:
    _, address = host.scheduler()
    agent = host.agent(address, 'id = "a"')
    agent.terminate()
    assert agent.wait(20) == 0


def test_a_call_that_is_given_up_while_it_waits_is_not_made(host: Host, tmp_path: Path) -> None:
    _, address = host.scheduler()
    log = tmp_path / "log"
    host.agent(address, f'id = "a"\njob_s = 0.5\nlog = "{log}"', f'id = "b"\nlog = "{log}"')
    with DaskFarm(address) as farm:
        until(lambda: len(farm.members()) == 2)
        first, second, third = (farm.on("a").submit(FakeDevice.measure, [], BENCH) for _ in range(3))
        until(log.exists)
        assert second.cancel()
        assert farm.on("b").submit(FakeDevice.measure, [], BENCH).result(10) == []  # meanwhile, a queue of its own
        assert not first.done()
        assert third.result(10) == []
        assert first.result(0) == []
    assert Counter(line.split()[0] for line in log.read_text().splitlines()) == {"a": 4, "b": 2}
