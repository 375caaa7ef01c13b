"""Each fault of a simulated phone, as it comes out of the transport, the runner and the whole device."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ConfigDict, ValidationError, validate_call

from paceline.devices.composed import ComposedDevice
from paceline.devices.kinds.simulated import open_simulated
from paceline.devices.simulated.device import GATE, simulated_device
from paceline.devices.simulated.faults import KINDS, Faults, Kind
from paceline.devices.simulated.phone import FIXED, SimulatedPhone
from paceline.devices.simulated.profile import load_profile
from paceline.devices.simulated.runner import SimulatedRunner
from paceline.devices.simulated.transport import SimulatedTransport
from paceline.devices.testing.transports import TransportTestSuite
from paceline.devices.transports.local import LocalTransport
from paceline.devices.transports.transport import CommandTimeoutError, Transport
from paceline.errors import ConfigError, DeviceError, TransientDeviceError
from paceline.measurement import Artifact, Bench, Failure, Measurement, TransientFailure

MID = load_profile("simulated-mid")
BENCH = Bench(runtime="simulated", batches=3, repeats=1, timeout_s=20.0)


@pytest.fixture
def phone(request: pytest.FixtureRequest) -> SimulatedPhone:
    return SimulatedPhone(request.node.name, MID, 5)


@pytest.fixture
def transport(phone: SimulatedPhone, tmp_path: Path) -> SimulatedTransport:
    return SimulatedTransport(phone, LocalTransport(tmp_path / "phone"))


@pytest.fixture
def device(phone: SimulatedPhone) -> ComposedDevice:
    return simulated_device(phone)


class TestSimulatedTransport(TransportTestSuite):
    @pytest.fixture
    def transport(self, phone: SimulatedPhone, tmp_path: Path) -> Transport:
        return SimulatedTransport(phone, LocalTransport(tmp_path / "phone"))

    def test_a_lost_link_is_transient(  # the link is lost by command, so nothing is left running
        self, transport: Transport, cut: Callable[[], None], scratch: str, phone: SimulatedPhone
    ) -> None:
        cut()
        with pytest.raises(TransientDeviceError, match="was lost"):
            transport.run("echo 12.5", 30.0)
        assert transport.run("echo 12.5", 30.0).text == "12.5"

    @pytest.fixture
    def cut(self, phone: SimulatedPhone) -> Callable[[], None]:
        def lose() -> None:
            phone.faults = Faults.next("disconnect_run")

        return lose


def test_a_push_that_is_cut_leaves_nothing(phone: SimulatedPhone, transport: SimulatedTransport, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"m" * 3_000_000)
    phone.faults = Faults.next("disconnect_push")
    whole = 3e6 / (MID.link_mb_s * 1e6)
    with pytest.raises(TransientDeviceError, match="lost during the push of model"):
        transport.push(tmp_path / "model")
    assert phone.clock.monotonic() == pytest.approx(whole / 2)
    assert phone.files == {}
    assert not list((tmp_path / "phone").glob("*"))
    before = phone.clock.monotonic()
    assert transport.pull(transport.push(tmp_path / "model"), 10.0) == b"m" * 3_000_000
    assert phone.clock.monotonic() - before > 2 * whole


def test_a_damaged_push_is_noticed(phone: SimulatedPhone, transport: SimulatedTransport, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"model")
    phone.faults = Faults.next("corrupt_push")
    with pytest.raises(TransientDeviceError, match=r"model arrived .* wrong hash"):
        transport.push(tmp_path / "model")
    assert phone.files == {}
    transport.push(tmp_path / "model")
    assert list(phone.files.values()) == [5]


def test_a_full_disk_names_the_space(transport: SimulatedTransport, tmp_path: Path) -> None:
    small = SimulatedPhone("small", replace(MID, disk_mb=0.001), 1)
    (tmp_path / "model").write_bytes(b"m" * 1001)
    with pytest.raises(
        DeviceError, match="no space left on device simulated:small: model takes 1001 bytes, 1000 are free"
    ) as full:
        SimulatedTransport(small, LocalTransport(tmp_path)).push(tmp_path / "model")
    assert not isinstance(full.value, TransientDeviceError)
    transport.phone.faults = Faults.next("full_disk")
    with pytest.raises(DeviceError, match="0 are free"):
        transport.push(tmp_path / "model")


@pytest.mark.parametrize(
    ("kind", "reason", "seconds"), [("offline", "offline; check", 30), ("unauthorised", "accept the dialog", 60)]
)
def test_a_phone_that_is_away_comes_back(
    phone: SimulatedPhone, transport: SimulatedTransport, kind: Kind, reason: str, seconds: float
) -> None:
    phone.faults = Faults.next(kind)
    told: list[str] = []
    while True:
        try:
            transport.run("true", 5.0)
            break
        except TransientDeviceError as e:
            told.append(str(e))
    assert seconds - 2 <= len(told) <= seconds + 1
    assert all(reason in text for text in told)
    assert seconds <= phone.clock.monotonic() < seconds + 2


def test_every_operation_fails_while_it_is_away(transport: SimulatedTransport, models: Sequence[Artifact]) -> None:
    transport.phone.faults = Faults(offline=1.0)
    session = SimulatedRunner(transport.phone).session(BENCH)
    for operation in (
        lambda: transport.run("true", 1.0),
        lambda: transport.push(models[0].path),
        lambda: transport.pull("x", 1.0),
        lambda: transport.start("true"),
        lambda: session.batch(models[0]),
    ):
        with pytest.raises(TransientDeviceError, match="offline"):
            operation()


def test_a_hang_ends_at_the_deadline(phone: SimulatedPhone, transport: SimulatedTransport, models: Sequence[Artifact]) -> None:
    phone.faults = Faults.next("hang", "hang")
    with pytest.raises(CommandTimeoutError, match="within 7 s"):
        transport.run("true", 7.0)
    assert 7.0 <= phone.clock.monotonic() < 7.1
    (m,) = simulated_device(phone).measure(models[:1], BENCH)
    assert isinstance(m.failure, TransientFailure)
    assert "no answer within 20 s" in m.failure.reason
    assert phone.clock.monotonic() > 27.0


def test_a_model_that_takes_too_long_hits_the_deadline(device: ComposedDevice, models: Sequence[Artifact]) -> None:
    (m,) = device.measure(models[-1:], replace(BENCH, timeout_s=0.001))
    assert isinstance(m.failure, TransientFailure)


def test_garbage_is_never_a_figure(phone: SimulatedPhone, transport: SimulatedTransport, models: Sequence[Artifact]) -> None:
    phone.faults = Faults.next("corrupt_result")
    assert b"garbage" in transport.run("echo 12.5", 5.0).out
    phone.faults = Faults.next("corrupt_result")
    with pytest.raises(TransientDeviceError, match="wrong hash"):
        transport.pull(transport.push(models[0].path), 5.0)
    phone.faults = Faults.next("corrupt_result")
    first, second = simulated_device(phone).measure(models[:2], BENCH)
    assert isinstance(first.failure, TransientFailure)
    assert "makes no sense" in first.failure.reason
    assert first.samples_ms == ()
    assert second.failure is None


def test_one_model_that_crashes_fails_alone_and_always(
    phone: SimulatedPhone, device: ComposedDevice, models: Sequence[Artifact]
) -> None:
    phone.faults = Faults.next("crash")
    for _ in range(2):
        first, second = device.measure(models[:2], BENCH)
        assert first.failure == Failure("the runtime was ended by SIGSEGV while it ran the model")
        assert second.failure is None
    assert phone.crashing == {models[0].sha256}


def test_chance_chooses_the_models_that_crash_once_and_for_all(models: Sequence[Artifact]) -> None:
    def crashed(seed: int) -> list[bool]:
        phone = SimulatedPhone("chosen", MID, seed, Faults(crash=0.5))
        assert [phone.crashes(f"{i}") for i in range(100)] == [phone.crashes(f"{i}") for i in range(100)]
        return [phone.crashes(f"{i}") for i in range(100)]

    assert crashed(1) != crashed(2)
    assert 30 < sum(crashed(1)) < 70


def test_a_silent_fallback_is_told_by_the_delegation_alone(phone: SimulatedPhone, models: Sequence[Artifact]) -> None:
    gpu = replace(BENCH, delegate="gpu")
    phone.faults = Faults.next("fallback")
    session = SimulatedRunner(phone).session(gpu)
    assert not isinstance(session.batch(models[0]), Failure)
    delegation = session.delegation(models[0])
    assert delegation is not None
    assert (delegation.state, delegation.partitions, delegation.left) == ("none", 0, ("CONV_2D",))
    assert session.delegation(models[1]) is None
    phone.faults = Faults.next("fallback")
    first, second = simulated_device(phone).measure(models[:2], gpu)
    assert first.failure is not None
    assert "silent fallback" in first.failure.reason
    assert second.failure is None
    assert second.delegation is not None
    assert second.delegation.state == "full"


def test_the_cpu_has_nothing_to_fall_back_from(phone: SimulatedPhone, models: Sequence[Artifact]) -> None:
    phone.faults = Faults(fallback=1.0)
    (m,) = simulated_device(phone).measure(models[:1], BENCH)
    assert m.failure is None
    assert m.delegation is not None
    assert m.delegation.state == "full"


def test_throttling_shows_in_figures_and_condition_and_passes(phone: SimulatedPhone, models: Sequence[Artifact]) -> None:
    patient, blind = simulated_device(phone), simulated_device(phone, replace(GATE, wait_s=0.0, refuse=False, throughout=False))
    true = phone.true_ms(models[0], BENCH)
    phone.faults = Faults.next("throttle")
    (slow,) = blind.measure(models[:1], BENCH)
    assert slow.ms == pytest.approx(true / MID.heat.steps[1].clock, rel=0.05)
    assert slow.context["thermal_status_after"] == "2"
    assert not patient.health().ready
    (waited,) = patient.measure(models[:1], BENCH)
    assert float(waited.context["waited_s"]) >= 100
    assert waited.ms == pytest.approx(true, rel=0.05)
    phone.faults = Faults.next("throttle")
    (repeated,) = patient.measure(models[:1], replace(BENCH, repeats=4))
    assert repeated.context["restless_rounds"] == "1"
    assert repeated.ms == pytest.approx(true, rel=0.05)


def test_a_reboot_loses_settings_and_the_measurement_says_so(
    phone: SimulatedPhone, device: ComposedDevice, models: Sequence[Artifact]
) -> None:
    phone.settings["own"] = "1"
    phone.faults = Faults(schedule=((0.2, "reboot"),))
    found = device.measure(models, replace(BENCH, batches=20, agreement=0.0))
    assert phone.boots == 2
    assert phone.settings == {}
    for m in found:
        assert isinstance(m.failure, TransientFailure)
        assert "lost its settings" in m.failure.reason
    (again,) = device.measure(models[:1], BENCH)
    assert again.failure is None
    assert float(again.context["uptime_s_before"]) < phone.clock.monotonic() - 40


def test_a_link_lost_in_a_batch_is_forgiven_once(
    phone: SimulatedPhone, device: ComposedDevice, models: Sequence[Artifact]
) -> None:
    phone.faults = Faults.next("disconnect_run", "disconnect_push")
    assert [m.failure for m in device.measure(models, BENCH)] == [None] * len(models)
    phone.faults = Faults(disconnect_run=1.0)
    for m in device.measure(models, BENCH):
        assert isinstance(m.failure, TransientFailure)
        assert "was lost during a batch" in m.failure.reason
    assert FIXED not in phone.settings


def test_schedules_strike_once_and_when_they_are_due(phone: SimulatedPhone, transport: SimulatedTransport) -> None:
    phone.faults = Faults(schedule=((100.0, "disconnect_run"),))
    assert transport.run("echo 1", 5.0).text == "1"
    phone.clock.sleep(100.0)
    with pytest.raises(TransientDeviceError):
        transport.run("echo 1", 5.0)
    assert transport.run("echo 1", 5.0).text == "1"


def test_chance_strikes_as_often_as_told_and_the_same_way_again(models: Sequence[Artifact]) -> None:
    def found(seed: int) -> list[str]:
        phone = SimulatedPhone("chance", MID, seed, Faults(corrupt_result=0.2, hang=0.1))
        session = SimulatedRunner(phone).session(BENCH)
        answers = [session.batch(models[0]) for _ in range(400)]
        return [a.reason if isinstance(a, Failure) else "" for a in answers]

    first = found(1)
    assert first == found(1) != found(2)
    assert 20 < sum("no answer" in reason for reason in first) < 65
    assert 40 < sum("no sense" in reason for reason in first) < 110


def test_whatever_strikes_every_artifact_has_a_result_or_a_reason(models: Sequence[Artifact]) -> None:
    often = Faults(**dict.fromkeys(KINDS, 0.02), schedule=((5.0, "reboot"),))
    device = simulated_device(SimulatedPhone("storm", MID, 9, often), replace(GATE, quarantine_after=None))
    ends: list[Measurement | DeviceError] = []
    for _ in range(60):
        try:
            ends += device.measure(models, replace(BENCH, delegate="gpu"))
        except DeviceError as e:
            ends.append(e)
    results = [end for end in ends if isinstance(end, Measurement)]
    assert any(m.failure is None for m in results)
    assert any(m.failure is not None for m in results)
    assert all(bool(m.failure) != bool(m.samples_ms) for m in results)
    assert all(m.failure.reason for m in results if m.failure)


def test_faults_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"fault hang = 1\.5 is no probability"):
        Faults(hang=1.5)
    with pytest.raises(ConfigError, match="unknown fault 'explode'"):
        Faults(schedule=((0.0, "explode"),))  # type: ignore[arg-type]


def test_faults_come_from_a_table_of_devices_toml(models: Sequence[Artifact]) -> None:
    opened = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(open_simulated)  # as paceline.devices.kinds does
    table = tomllib.loads(
        'name = "table"\nprofile = "simulated-wide"\nseed = 1\nfaults = { hang = 1, schedule = [[5, "reboot"]] }'
    )
    device = opened(**table)
    assert isinstance(device.measure(models[:1], device.default_bench())[0].failure, TransientFailure)
    for wrong in ({"hung": 0.1}, {"schedule": [[5, "explode"]]}, {"hang": "often"}):
        with pytest.raises(ValidationError):
            opened(**{**table, "faults": wrong})
