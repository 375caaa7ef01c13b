"""The store on SQLite and on a real PostgreSQL: what is kept comes back, counts once, and is logged."""

from dataclasses import replace

import pytest

from paceline.measurement import Bench, Delegation, DeviceInfo, Failure, Measurement, Summary, TransientFailure
from paceline.store import Store

pytest_plugins = "test_store_databases"

BENCH = Bench()
FOUND = Measurement(
    "RELU 1x1 -> 1x1",
    "a" * 64,
    "device",
    BENCH.key,
    ((1.25, 1.5), (1.0, 2.0, 0.1 + 0.2)),
    (1.0, 0.5),
    (0.5, 0.1 + 0.7),
    None,
    {"load": "0.1"},
    (),
    Delegation("xnnpack", 1, 1, ()),
)
NONE = replace(FOUND, samples_ms=(), cpu_share=(), reference_ms=())


def test_a_measurement_comes_back_bit_for_bit(place: str) -> None:
    with Store(place) as store:
        store.add([FOUND])
    with Store(place) as store:
        assert store.find(["a" * 64, "b" * 64], "device", BENCH) == {"a" * 64: FOUND}
        assert store.find(["a" * 64], "another", BENCH) == {}
        assert store.find(["a" * 64], "device", replace(BENCH, threads=2)) == {}
        assert store.find(["a" * 64], "device", replace(BENCH, options=(("accelerator", "dsp"),))) == {}
        assert store.find(["a" * 64], "device", replace(BENCH, max_invokes=100)) == {}
        (row,) = store.rows()
        assert (row["subject"], row["ms"]) == (FOUND.subject, FOUND.ms)


@pytest.mark.parametrize(
    "kept",
    [
        replace(NONE, summaries=(Summary(50, 0.1 + 0.2, 1.5, 2.0, 0.1), Summary(60, 1.0, 1.5, 2.0, 0.1, 1.1, 1.4, 1.9))),
        replace(NONE, summaries=(Summary(50, 1.0, 1.5, 2.0, 0.1),), delegation=None),
        replace(FOUND, delegation=Delegation("gpu", 2, None, None)),
        replace(FOUND, delegation=Delegation("gpu", 2, 7, ("CUSTOM", "SOFTMAX"))),
        replace(FOUND, samples_ms=((1.0,),), cpu_share=(), reference_ms=(), context={}),
        replace(NONE, failure=Failure("läuft nicht 🙁")),
    ],
)
def test_all_kinds_of_measurements_come_back(kept: Measurement, place: str) -> None:
    with Store(place) as store:
        store.add([kept])
        assert store.find([kept.artifact], "device", BENCH) == {kept.artifact: kept}
        assert [row["ms"] for row in store.rows()] == [None if kept.failure else kept.ms]


def test_what_devices_print_is_kept_with_every_database(place: str) -> None:
    with Store(place) as store:
        store.add([replace(NONE, failure=Failure("broken \0 and \udcff"))])
        store.log("serial", "offline", "said \0\udcff")
        (found,) = store.find([FOUND.artifact], "device", BENCH).values()
        assert found.failure == Failure("broken \ufffd and ?")
        assert store.events("serial")[0].text == "said \ufffd?"


def test_permanent_failures_are_kept_and_transient_ones_measured_again(place: str) -> None:
    with Store(place) as store:
        refused = replace(NONE, failure=Failure("no such operator"))
        store.add([refused, replace(NONE, artifact="b" * 64, failure=TransientFailure("lost"))])
        found = store.find(["a" * 64, "b" * 64], "device", BENCH)
        assert found.keys() == {"a" * 64}
        assert found["a" * 64].failure == Failure("no such operator")
        store.add([replace(FOUND, artifact="b" * 64)])
        assert store.find(["b" * 64], "device", BENCH)["b" * 64].failure is None


def test_a_measurement_counts_once_and_the_latest_result_counts(place: str) -> None:
    later = replace(FOUND, samples_ms=((3.0, 3.0),), reference_ms=(), cpu_share=())
    with Store(place) as store:
        store.add([FOUND, FOUND])
        store.add([FOUND])
        assert len(store.rows()) == 1
        store.add([later])
        assert store.find([FOUND.artifact], "device", BENCH) == {FOUND.artifact: later}
        assert [row["ms"] for row in store.rows()] == [3.0]


def test_a_job_that_was_lost_after_its_result_arrived_changes_nothing(place: str) -> None:
    with Store(place) as store:
        store.add([FOUND])
        store.add([replace(NONE, failure=TransientFailure("agent lost"))])
        assert store.find([FOUND.artifact], "device", BENCH) == {FOUND.artifact: FOUND}
        assert [event.kind for event in store.events("device")] == ["measured", "transient"]


def test_the_log_keeps_every_attempt(place: str) -> None:
    hot = replace(FOUND, samples_ms=((9.0, 9.0),), reference_ms=(), cpu_share=(), context={"thermal": "3"})
    with Store(place) as store:
        store.add([hot], by="agent 1")
        store.log("other", "quarantined", "three unstable rows")
        store.add([replace(NONE, failure=Failure("refused"))], by="agent 2")
        store.log("device", "settings restored", "stay_on=0")
    with Store(place) as store:
        first, second, third = store.events("device")
        assert (first.kind, first.by, first.ms, first.spread, first.context) == (
            "measured",
            "agent 1",
            9.0,
            0.0,
            {"thermal": "3"},
        )
        assert (first.artifact, first.bench) == (FOUND.artifact, BENCH.key)
        assert (second.kind, second.by, second.ms, second.text) == ("failed", "agent 2", None, f"{FOUND.subject}: refused")
        assert (third.kind, third.text, third.artifact, third.context) == ("settings restored", "stay_on=0", None, {})
        assert third.by
        assert first.at <= second.at <= third.at
        assert [event.kind for event in store.events(limit=2)] == ["failed", "settings restored"]
        assert len(store.events()) == 4


def test_a_group_is_kept_whole_or_not_at_all(place: str) -> None:
    with Store(place) as store:
        with pytest.raises(AttributeError):
            store.add([FOUND, None])  # type: ignore[list-item]
        assert (store.rows(), store.events()) == ([], [])
        store.add([])


def test_more_artifacts_than_a_query_takes(place: str) -> None:
    names = [f"{i:064d}" for i in range(1203)]
    with Store(place) as store:
        store.add([replace(FOUND, artifact=name) for name in names])
        assert store.find(names, "device", BENCH).keys() == set(names)
        assert len(store.events(limit=5000)) == len(names)


def test_results_are_there_at_once(place: str) -> None:
    with Store(place) as store, Store(place) as another:
        results = store.results("run", "search")
        results["x"] = {"accuracy": 0.1 + 0.2}
        results["x"] = {"accuracy": 0.3}
        results["y"] = [1, None, "two"]
        del results["y"]
        assert dict(another.results("run", "search")) == {"x": {"accuracy": 0.3}}
        assert len(store.results("run", "other")) == 0
        with pytest.raises(KeyError):
            del results["z"]


def test_devices_are_remembered_once(place: str) -> None:
    info = DeviceInfo("b", "simulated", {"cores": "2"}, True, ("gpu", "xnnpack"))
    with Store(place) as store:
        store.add_device(replace(info, name="a", delegates=()))
        store.add_device(info)
        assert store.devices() == {info.fingerprint: info}


def test_a_claim_has_one_owner(place: str) -> None:
    with Store(place) as store, Store(place) as another:
        assert store.claim("phone", "agent 1", 60)
        assert not another.claim("phone", "agent 2", 60)
        assert another.claim("tablet", "agent 2", 60)
        assert store.holders() == {"phone": "agent 1", "tablet": "agent 2"}
        assert store.claim("phone", "agent 1", 60), "the same owner may ask twice"
        assert another.renew("tablet", "agent 2", 60)
        assert not another.renew("phone", "agent 2", 60)
        assert not another.release("phone", "agent 2")
        assert store.holders()["phone"] == "agent 1"
        assert store.release("phone", "agent 1")
        assert not store.release("phone", "agent 1")
        assert not store.renew("phone", "agent 1", 60)
        assert another.claim("phone", "agent 2", 60)


def test_an_expired_claim_is_free(place: str) -> None:
    with Store(place) as store:
        assert store.claim("phone", "agent 1", 0.0)
        assert store.holders() == {}
        assert store.renew("phone", "agent 1", -1.0), "late, but nobody took it"
        assert store.claim("phone", "agent 2", 60)
        assert not store.renew("phone", "agent 1", 60), "taken by another"
        assert not store.release("phone", "agent 1")
        assert store.holders() == {"phone": "agent 2"}
        assert store.claim("phone", "agent 2", -1.0), "asked for again, its time is counted anew"
        assert store.claim("phone", "agent 3", 60)
