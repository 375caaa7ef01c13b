"""Tables under a budget, on simulated phones: they get better, beat random picks, stop, continue, and report what failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paceline.devices.composed import ComposedDevice
from paceline.devices.simulated.device import simulated_device
from paceline.devices.simulated.faults import Faults
from paceline.devices.simulated.phone import SimulatedPhone
from paceline.devices.simulated.profile import load_profile
from paceline.errors import ConfigError, TransientDeviceError
from paceline.latency_models.collection.building import Budget, Table, TableBuilder, held_out_error, known_networks
from paceline.latency_models.collection.candidates import Corpus, block_corpus
from paceline.latency_models.collection.collect import SECOND, Collector
from paceline.latency_models.collection.planner import Planner, RandomPlanner
from paceline.latency_models.defaults import default_model, macs_model, table_model
from paceline.latency_models.model import Row, single, whole
from paceline.measurement import Artifact, Bench, Measurement
from paceline.store import Store

CORPUS = block_corpus(1, networks=24)
FEW = block_corpus(2, networks=12)


class Phone:
    """A simulated phone with a store of its own."""

    def __init__(self, folder: Path, name: str, profile: str = "simulated-wide", seed: int = 1) -> None:
        self.folder, self.phone = folder, SimulatedPhone(f"{folder.name}-{name}", load_profile(profile), seed)
        self.device = simulated_device(self.phone)
        self.bench = self.device.default_bench("xnnpack")
        self.store = Store(folder / f"{name}.sqlite")

    def builder(self, corpus: Corpus, planner: Planner | None = None, device: ComposedDevice | None = None) -> TableBuilder:
        collector = Collector(device or self.device, self.bench, self.store, self.folder / "models", "a table")
        return TableBuilder(collector, corpus, macs_model(folds=0), planner)

    def error(self, table: Table, corpus: Corpus) -> float:
        """Of whole networks that were never measured, as the default model predicts them, against the phone's truth."""
        kinds = {row.operators[0].kind for row in single(table.rows)}
        networks = [c for c in corpus.networks if all(spec.kind in kinds for spec in c.operators)]
        true = [self.phone.true_ms(c.write(self.folder / "models"), self.bench) for c in networks]
        model = default_model(0).fit([*single(table.rows), *known_networks(table.rows)])
        return float(np.mean(np.abs(model.predict([c.operators for c in networks]).ms / np.array(true) - 1)))


@pytest.fixture
def phone(tmp_path: Path) -> Iterator[Phone]:
    made = Phone(tmp_path, "phone")
    yield made
    made.store.close()


def test_the_error_falls_with_the_budget_and_beats_random_picks(tmp_path: Path) -> None:
    corpus, unseen = block_corpus(0, networks=60), block_corpus(1000, networks=30)
    planned, picked = Phone(tmp_path, "planned", "simulated-mid"), Phone(tmp_path, "picked", "simulated-mid")
    builder = planned.builder(corpus)
    errors = [planned.error(builder.build(Budget(minutes=15.0, rows=rows)), unseen) for rows in (40, 120)]
    random = picked.builder(corpus, RandomPlanner(np.random.default_rng(0))).build(Budget(minutes=15.0, rows=120))
    assert errors[1] < 0.03
    assert errors[1] < 0.7 * errors[0]
    assert errors[1] < 0.7 * picked.error(random, unseen)
    planned.store.close()
    picked.store.close()


def test_it_stops_when_the_minutes_of_the_device_are_over(phone: Phone) -> None:
    for minutes in (0.2, 0.4):
        table = phone.builder(CORPUS).build(Budget(minutes=minutes))
        assert 0.85 * minutes <= table.spent_s / 60 <= minutes + 2 / 60  # as expected within a batch
        assert whole(table.rows)
        assert table.stopped == "the budget is spent"


def test_it_stops_when_all_is_measured(phone: Phone) -> None:
    corpus = replace(FEW, operators=FEW.operators[:9], networks=FEW.networks[:2])
    table = phone.builder(corpus).build(Budget(rows=1000))
    assert (len(table.rows), table.stopped) == (11, "all there is was measured")


def test_all_the_time_of_the_device_is_counted(phone: Phone) -> None:
    before = phone.phone.clock.monotonic()
    table = phone.builder(FEW).build(Budget(rows=20))
    assert len(table.rows) == 20
    assert table.stopped == "the budget is spent"
    assert table.spent_s == pytest.approx(phone.phone.clock.monotonic() - before, rel=0.02)


class Killed(BaseException):
    pass


class Mortal:
    """A device whose process is killed in its third group, before that is stored; counts what is measured."""

    def __init__(self, device: ComposedDevice, groups: int) -> None:
        self._device, self._groups = device, groups
        self.measured: list[str] = []
        self.info, self.address, self.clock = device.info, device.address, device.clock
        self.default_bench, self.health, self.profile, self.close = (
            device.default_bench,
            device.health,
            device.profile,
            device.close,
        )

    def measure(self, artifacts: Sequence[Artifact], bench: Bench, reference: Artifact | None = None) -> list[Measurement]:
        if self._groups == 0:
            raise Killed
        self._groups -= 1
        self.measured += [artifact.sha256 for artifact in artifacts]
        return self._device.measure(artifacts, bench, reference)


def test_a_killed_build_continues_and_measures_nothing_twice(phone: Phone) -> None:
    first, second = Mortal(phone.device, 3), Mortal(phone.device, 99)
    with pytest.raises(Killed):
        collector(phone, first).build(Budget(rows=90))
    table = collector(phone, second).build(Budget(rows=90))
    assert first.measured
    assert not set(first.measured) & set(second.measured)
    assert len(table.rows) == len(set(first.measured + second.measured)) == 90
    third = Mortal(phone.device, 99)
    again = collector(phone, third).build(Budget(rows=90))
    assert third.measured == []
    assert (again.rows, again.spent_s) == (table.rows, table.spent_s)


def collector(phone: Phone, device: Mortal) -> TableBuilder:
    made = Collector(device, phone.bench, phone.store, phone.folder / "models", "a table")
    return TableBuilder(made, FEW, macs_model(folds=0))


def test_what_fails_is_reported_and_not_tried_for_ever(tmp_path: Path) -> None:
    phone = Phone(tmp_path, "gpu", "simulated-mid")
    phone.bench = phone.device.default_bench("gpu")  # which has no GELU
    gelu = [c for c in CORPUS.operators if c.operators[0].kind == "GELU"]
    assert len(gelu) > 10
    table = phone.builder(CORPUS).build(Budget(rows=70))
    failed = dict(table.failures)
    assert len(table.rows) == 70
    assert 1 <= sum(c.name in failed for c in gelu) <= 32  # of one group at most, then never again
    assert all("took no operator" in failed[c.name] for c in gelu if c.name in failed)
    networks = [c for c in CORPUS.networks if any(spec.kind == "GELU" for spec in c.operators)]
    told = [failed[c.name] for c in networks if c.name in failed]
    assert set(told) <= {"the delegate left operators to the CPU: GELU"}
    assert all(spec.kind != "GELU" for row in table.rows for spec in row.operators)
    phone.store.close()


def test_a_lost_device_ends_the_build_and_keeps_what_was_measured(phone: Phone) -> None:
    phone.builder(FEW).build(Budget(rows=10))
    phone.phone.faults = Faults(offline=1.0, offline_s=1e6)
    with pytest.raises(TransientDeviceError):
        phone.builder(FEW).build(Budget(rows=50))
    phone.phone.faults = Faults()
    phone.phone.clock.sleep(2e6)
    assert len(phone.builder(FEW).build(Budget(rows=12)).rows) == 12


def test_minutes_that_are_left_go_into_a_second_session_of_the_networks(phone: Phone) -> None:
    once = phone.builder(FEW).build(Budget(rows=1000))
    twice = phone.builder(FEW).build(Budget(minutes=10.0))
    assert [m.artifact for m in once.measurements] == [m.artifact for m in twice.measurements]
    for before, after, row in zip(once.measurements, twice.measurements, twice.rows, strict=True):
        again = len(row.operators) > 1
        assert (len(after.samples_ms) > len(before.samples_ms)) == again
        assert (SECOND in after.context) == again
        assert after.samples_ms[: len(before.samples_ms)] == before.samples_ms
    assert once.spent_s < twice.spent_s < 600
    assert phone.builder(FEW).build(Budget(minutes=10.0)).spent_s == twice.spent_s


def test_it_stops_at_the_target_error(phone: Phone) -> None:
    made = Collector(phone.device, phone.bench, phone.store, phone.folder / "models", "a table")
    table = TableBuilder(made, block_corpus(1, networks=40), table_model()).build(Budget(rows=400, target_error=0.9))
    assert table.stopped == "the target error is met"
    assert table.error is not None
    assert table.error <= 0.9
    assert 12 < len(table.rows) < 400


def test_a_budget_says_when_to_stop() -> None:
    for values in ({}, {"minutes": 0.0}, {"rows": -1}, {"target_error": 0.0}):
        with pytest.raises(ConfigError, match="a table needs a budget above 0"):
            Budget(**values)  # type: ignore[arg-type]


def test_the_held_out_error_is_that_of_networks_and_operators_never_seen() -> None:
    """A table that has every operator exactly is not judged by these."""
    networks = [c.operators for c in CORPUS.networks]
    alone = [Row((spec,), 0.01 + spec.macs / 1e7) for spec in dict.fromkeys(s for n in networks for s in n)]
    rows = alone + [Row(n, sum(0.01 + s.macs / 1e7 for s in n)) for n in networks]
    exact = held_out_error(table_model(strict=False), rows)
    odd = [replace(row, ms=row.ms * (1 + 0.8 * (i % 2))) for i, row in enumerate(alone)]  # no operator tells of another
    sums = {row.operators[0]: row.ms for row in odd}
    wild = held_out_error(table_model(), odd + [Row(n, sum(sums[s] for s in n)) for n in networks])
    assert exact < 0.02
    assert wild > 0.05
