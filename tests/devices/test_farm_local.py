"""Jobs on the devices of one host: shared out, kept together, handed on. No server."""

import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from paceline.devices.farm.dispatch import Patience, measure_on
from paceline.devices.farm.farm import Member
from paceline.devices.farm.held import HeldDevices
from paceline.devices.farm.job import Job, Result, plan
from paceline.devices.farm.local import LocalFarm
from paceline.devices.state import DeviceState
from paceline.errors import DeviceError, TransientDeviceError
from paceline.measurement import Artifact, Bench, Failure, Measurement, TransientFailure
from paceline.store import Store

from fake_kind import FakeDevice, open_fake

BENCH = Bench("fake", "cpu")
SHORT = Patience(attempts=2, wait_s=0.3)


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACELINE_STATE", str(tmp_path / "state"))
    monkeypatch.setattr("paceline.devices.farm.dispatch._LOOK_S", 0.1)
    monkeypatch.setattr("paceline.devices.farm.dispatch._FIRST_REST_S", 0.1)


class Jobs:
    """Makes artifacts of which each has its own content."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._made = folder, 0

    def __call__(self, text: str = "", group: str = "", bench: Bench = BENCH) -> Job:
        self._made += 1
        path = self._folder / f"{self._made}.tflite"
        path.write_text(text or f"{self._made}.5")
        return Job((Artifact(path, f"model {self._made}"),), bench, group=group)


@pytest.fixture
def job(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path)


def farm_of(*names: str, **settings: Any) -> LocalFarm:
    return LocalFarm({name: open_fake(name, **settings) for name in names})


def test_every_job_is_done_once(job: Jobs) -> None:
    jobs = [job() for _ in range(30)]
    told: list[tuple[int, int]] = []
    with farm_of("a", "b", "c", job_s=0.002) as farm:
        results = list(measure_on(farm, "any", jobs, lambda done, total, note="": told.append((done, total))))
    assert Counter(id(result.job) for result in results) == Counter(map(id, jobs))
    assert {result.device for result in results} == {"a", "b", "c"}
    for result in results:
        assert result.failure is None
        assert result.info is not None
        assert result.info.name == result.device
        (measurement,) = result.measurements
        assert measurement.artifact == result.job.artifacts[0].sha256
        assert measurement.ms == float(result.job.artifacts[0].path.read_text())
        assert measurement.context["farm_device"] == result.device
    assert told == [(done, 30) for done in range(31)]


def test_a_device_does_one_job_at_a_time(job: Jobs, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with farm_of("a", "b", job_s=0.001, log=log) as farm:
        assert len(list(measure_on(farm, "any", [job() for _ in range(20)]))) == 20
    for name in "ab":
        notes = [line.split()[1] for line in log.read_text().splitlines() if line.startswith(name)]
        assert notes == ["start", "end"] * (len(notes) // 2)


def test_all_means_every_device(job: Jobs) -> None:
    jobs = [job() for _ in range(4)]
    with farm_of("a", "b", "c") as farm:
        results = list(measure_on(farm, "all", jobs))
    assert Counter(result.device for result in results) == {"a": 4, "b": 4, "c": 4}


def test_any_three_are_three_different_ones(job: Jobs) -> None:
    jobs = [job() for _ in range(8)]
    with farm_of(*"abcde", job_s=0.001) as farm:
        results = list(measure_on(farm, "any 3", jobs))
    for one in jobs:
        assert len({result.device for result in results if result.job is one}) == 3
    assert len(results) == 24


def test_a_group_stays_on_one_device(job: Jobs) -> None:
    jobs = [job(group=f"pair {i % 4}") for i in range(24)]
    with farm_of("a", "b", "c", job_s=0.001) as farm:
        results = list(measure_on(farm, "any", jobs))
        twice = list(measure_on(farm, "any 2", jobs))
    for group in {one.group for one in jobs}:
        assert len({result.device for result in results if result.job.group == group}) == 1
        assert len({result.device for result in twice if result.job.group == group}) == 2
    assert len({result.device for result in results}) > 1


def test_the_selector_must_fit(job: Jobs) -> None:
    with farm_of("a") as farm, pytest.raises(DeviceError, match="no device is 'b'"):
        list(measure_on(farm, "b", [job()]))


def test_no_jobs() -> None:
    with farm_of("a") as farm:
        assert list(measure_on(farm, "any", [])) == []


def test_a_broken_model_is_its_own_result(job: Jobs) -> None:
    with farm_of("a") as farm:
        good, broken = sorted(measure_on(farm, "a", [job(), job("broken")]), key=lambda r: r.job.artifacts[0].subject)
    assert good.measurements[0].failure is None
    assert broken.measurements[0].failure == Failure("this is no model")


def test_a_model_that_crashes_is_tried_again_and_then_told(job: Jobs, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with farm_of("a", log=log) as farm:
        (result,) = measure_on(farm, "a", [job("crash")], patience=SHORT)
    assert result.measurements[0].failure == TransientFailure("the worker crashed")
    assert log.read_text().count("start") == 2


def test_a_bug_of_a_device_is_a_reason(job: Jobs) -> None:
    with farm_of("a") as farm:
        (result,) = measure_on(farm, "a", [job("bug")])
    assert result.failure == Failure("a: ZeroDivisionError: a bug of the device")
    assert result.measurements == ()


def test_a_device_that_fails_hands_its_jobs_to_another(job: Jobs, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    devices = {"bad": open_fake("bad", broken=broken), "good": open_fake("good", job_s=0.001)}
    with LocalFarm(devices) as farm:
        results = list(measure_on(farm, "any", [job() for _ in range(10)]))
    assert {(result.device, result.failure) for result in results} == {("good", None)}


def test_jobs_for_a_device_that_fails_wait_for_it(job: Jobs, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    with LocalFarm({"bad": open_fake("bad", broken=broken)}) as farm:
        threading.Timer(0.5, broken.unlink).start()
        results = list(measure_on(farm, "bad", [job(), job()]))
    assert [result.failure for result in results] == [None, None]


def test_jobs_that_only_a_failing_device_may_do_are_given_up(job: Jobs, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    devices = {"bad": open_fake("bad", broken=broken), "good": open_fake("good")}
    with LocalFarm(devices) as farm:
        results = list(measure_on(farm, "all", [job()], patience=SHORT))
    good, bad = sorted(results, key=lambda r: r.failure is not None)
    assert good.failure is None
    assert isinstance(bad.failure, TransientFailure)
    assert re.fullmatch("handed back [234] times, at last by bad: device 'bad' is offline", bad.failure.reason)


def test_what_one_device_cannot_do_another_does(job: Jobs) -> None:
    gpu = Bench("fake", "gpu")
    devices = {"a": open_fake("a"), "b": open_fake("b", delegates=("cpu", "gpu"))}
    with LocalFarm(devices) as farm:
        results = list(measure_on(farm, "any", [job(bench=gpu) for _ in range(6)]))
        (refused,) = measure_on(farm, "a", [job(bench=gpu)])
    assert {(result.device, result.failure) for result in results} == {("b", None)}
    assert refused.failure == Failure("a: delegate 'gpu' isn't available on device 'a'")


def test_a_device_in_quarantine_is_left_alone(job: Jobs) -> None:
    DeviceState("fake:a").trust(False, "no figure was stable", limit=1)
    with farm_of("a", "b") as farm:
        results = list(measure_on(farm, "any", [job() for _ in range(5)]))
        (given_up,) = measure_on(farm, "a", [job()], patience=SHORT)
    assert {result.device for result in results} == {"b"}
    assert given_up.failure is not None
    assert "a: in quarantine: no figure was stable" in given_up.failure.reason


def test_a_device_that_is_not_there_yet(job: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paceline.devices.farm.held._RETRY_S", 0.05)
    absent = tmp_path / "absent"
    absent.touch()
    held = HeldDevices({"late": lambda: open_fake("late", absent=absent)}, {})
    with LocalFarm(held) as farm:
        (member,) = farm.members()
        assert (member.info, member.trouble) == (None, "device 'late' is unplugged")
        with pytest.raises(TransientDeviceError, match="device 'late' can't be used now: device 'late' is unplugged"):
            farm.on("late").submit(FakeDevice.health).result()
        threading.Timer(0.2, absent.unlink).start()
        (result,) = measure_on(farm, "late", [job()])
        assert result.failure is None


class Vanishing:
    """A farm whose device `a` is lost while it does its `after`th job; the calls that it had end with that."""

    def __init__(self, farm: LocalFarm, after: int) -> None:
        self._farm, self._left, self._gone = farm, after, False

    def members(self) -> Sequence[Member]:
        return [member for member in self._farm.members() if not (self._gone and member.id == "a")]

    def on(self, device: str) -> Any:
        return self if device == "a" else self._farm.on(device)

    def submit(self, fn: Callable[..., Any], *args: Any) -> Future[Any]:
        self._left -= 1
        if self._left <= 0:
            self._gone = True
            lost: Future[Any] = Future()
            lost.set_exception(TransientDeviceError("device 'a' is lost: its agent is gone"))
            return lost
        return self._farm.on("a").submit(fn, *args)

    def close(self) -> None: ...


def test_jobs_of_a_lost_device_are_done_elsewhere(job: Jobs) -> None:
    jobs = [job() for _ in range(12)]
    with farm_of("a", "b", job_s=0.001) as farm:
        results = list(measure_on(Vanishing(farm, after=3), "any", jobs))
    assert Counter(id(result.job) for result in results) == Counter(map(id, jobs))
    assert [result.failure for result in results] == [None] * 12


def test_jobs_for_a_lost_device_alone_are_reported(job: Jobs) -> None:
    jobs = [job() for _ in range(5)]
    with farm_of("a", "b") as farm:
        results = list(measure_on(Vanishing(farm, after=3), "a", jobs, patience=SHORT))
    assert Counter(id(result.job) for result in results) == Counter(map(id, jobs))
    reasons = [result.failure.reason for result in results if result.failure]
    assert len(reasons) >= 3
    assert all("its agent is gone" in reason for reason in reasons)


def test_a_comparison_is_never_split(job: Jobs) -> None:
    """What is left of a group whose device is lost after it measured some of it is reported, not measured elsewhere."""
    jobs = [job(group="pair") for _ in range(6)]
    with LocalFarm({"a": open_fake("a", job_s=0.001)}) as alone, farm_of("a", "b") as both:
        vanishing = Vanishing(alone, after=4)
        vanishing._farm = both
        results = list(measure_on(vanishing, "id=a", jobs, patience=SHORT))
    assert {result.device for result in results if result.failure is None} <= {"a"}
    assert len(results) == 6


def test_a_group_that_nothing_was_measured_of_moves_as_a_whole(job: Jobs) -> None:
    jobs = [job(group="pair") for _ in range(6)]
    with farm_of("a", "b") as farm:
        results = list(measure_on(Vanishing(farm, after=1), "any", jobs))
    assert {(result.device, result.failure) for result in results} == {("b", None)}


def test_a_job_without_an_answer_ends(job: Jobs) -> None:
    with farm_of("a", job_s=1.0) as farm:
        (result,) = measure_on(farm, "a", [job()], patience=Patience(job_s=0.1))
    assert result.failure == TransientFailure("no answer from a within 0.1 s")


def test_a_caller_that_stops_leaves_nothing_waiting(job: Jobs, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with farm_of("a", job_s=0.01, log=log) as farm:
        results = measure_on(farm, "a", [job() for _ in range(50)])
        next(results)
        results.close()  # type: ignore[attr-defined]
    assert log.read_text().count("start") < 6


def test_an_executor_calls_with_the_device_first() -> None:
    with farm_of("a") as farm:
        assert farm.on("a").submit(FakeDevice.health).result().ready
        with pytest.raises(TransientDeviceError, match="no device 'b' here; there are: a"):
            farm.on("b")


# ---- what is missing


def known(store: Store, results: Sequence[Result]) -> None:
    store.add([m for result in results for m in result.measurements])


def test_only_what_is_missing_is_planned(job: Jobs, tmp_path: Path) -> None:
    jobs = [job() for _ in range(5)]
    both = Job(jobs[0].artifacts + jobs[4].artifacts, BENCH)
    with farm_of("a", "b") as farm, Store(tmp_path / "store.sqlite") as store:
        prints = [member.info.fingerprint for member in farm.members() if member.info]
        assert plan(store, jobs, prints) == jobs
        known(store, list(measure_on(farm, "a", jobs[:3])))
        assert plan(store, jobs, prints) == jobs[3:]
        assert plan(store, [both], prints) == [Job(jobs[4].artifacts, BENCH)]
        assert plan(store, jobs, prints, count=2) == jobs
        assert plan(store, jobs, prints[:1]) == jobs[3:]
        assert plan(store, jobs, prints[1:]) == jobs
        known(store, list(measure_on(farm, "b", jobs)))
        assert plan(store, jobs, prints, count=2) == jobs[3:]
        assert plan(store, jobs, prints) == []


def test_what_failed_for_the_moment_is_planned_again(job: Jobs, tmp_path: Path) -> None:
    crash, broken = job("crash"), job("broken")
    with farm_of("a") as farm, Store(tmp_path / "store.sqlite") as store:
        known(store, list(measure_on(farm, "a", [crash, broken], patience=Patience(attempts=1))))
        (member,) = farm.members()
        assert member.info is not None
        assert plan(store, [crash, broken], [member.info.fingerprint]) == [crash]


def test_a_job_done_twice_is_kept_once(job: Jobs, tmp_path: Path) -> None:
    one = job()
    with farm_of("a") as farm, Store(tmp_path / "store.sqlite") as store:
        known(store, list(measure_on(farm, "a", [one, one])))
        (member,) = farm.members()
        assert member.info is not None
        found: dict[str, Measurement] = store.find([one.artifacts[0].sha256], member.info.fingerprint, BENCH)
        assert len(found) == 1
