"""Bundles: what was measured comes back from one file, the same everywhere, and a changed file is refused."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.errors import DataError, LatencyModelError
from paceline.latency_models.archive import packed, unpacked
from paceline.latency_models.bundle.bundle import Bundle
from paceline.latency_models.bundle.rows import FailedRow, MeasuredRow
from paceline.latency_models.model import Row
from paceline.latency_models.regressors.linear import LinearRegressor
from paceline.measurement import Bench, Delegation, DeviceInfo, Failure, Measurement, Summary, TransientFailure
from paceline.store import Store

from samples import conv

PHONE = DeviceInfo("a phone", "adb", {"soc": "X1", "litert": "2.1"}, delegates=("xnnpack", "gpu"))
BENCH = Bench(affinity=(1, 2), options=(("accelerator", "dsp"),))
SMALL, LARGE = conv(8, 3, 4, 3), conv(28, 32, 64, 1)


def measured(subject: str, ms: float, reference: float = 1.0, bench: Bench = BENCH, device: DeviceInfo = PHONE) -> Measurement:
    batches = tuple((ms * f, ms * f, 2 * ms) for f in (1.0, 1.01, 0.99))
    artifact = hashlib.sha256(subject.encode()).hexdigest()
    reference_ms = (reference, reference * 1.01, reference * 0.99)
    return Measurement(subject, artifact, device.fingerprint, bench.key, batches, (1.0, 0.9, 1.0), reference_ms)


def filled(path: Path) -> Store:
    store = Store(path)
    store.add_device(PHONE)
    torn = replace(measured("net b", 9.0), samples_ms=((9.0,), (18.0,), (27.0,)), reference_ms=())
    told = replace(
        measured("net c", 1.0), samples_ms=(), reference_ms=(), cpu_share=(), summaries=(Summary(50, 1.0, 1.5, 2.0, 0.1),)
    )
    told = replace(told, delegation=Delegation("gpu", 2, 3, ("CUSTOM", "SOFTMAX")), context={"load": "0.1"})
    failed = replace(measured("net d", 1.0), samples_ms=(), reference_ms=(), cpu_share=(), failure=Failure("refused: 🙁"))
    store.add([measured(SMALL.key, 0.25), measured(LARGE.key, 0.5, reference=1.25), measured("net a", 4.0, reference=3.0)])
    store.add([torn, told, failed, replace(failed, artifact="e" * 64, failure=TransientFailure("lost"))])
    store.add([measured(SMALL.key, 0.7, bench=Bench(threads=4))])
    return store


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    with filled(tmp_path / "store.sqlite") as store:
        networks = {"net a": [SMALL, LARGE, LARGE], measured("net b", 1.0).artifact: [LARGE, SMALL]}
        return Bundle.from_store(store, PHONE, BENCH, networks, licence="CC0", origin="a test")


def test_a_bundle_holds_what_the_store_holds(bundle: Bundle) -> None:
    rows = {row.subject: row for row in bundle.measured}
    assert set(rows) == {SMALL.key, LARGE.key, "net a", "net b", "net c"}
    assert (rows[SMALL.key].operators, rows[SMALL.key].kind) == ((SMALL,), "operator")
    assert (rows["net a"].operators, rows["net a"].kind) == ((SMALL, LARGE, LARGE), "network")
    assert rows["net b"].operators == (LARGE, SMALL)
    assert rows["net c"].operators == ()
    assert [name for name, row in rows.items() if "unstable" in row.flags] == ["net b"]
    assert [(row.subject, row.reason) for row in bundle.failed] == [("net d", "refused: 🙁")]
    assert bundle.versions["litert"] == "2.1"
    assert all(row.measured_at is not None and row.measured_at > 1e9 for row in (*bundle.measured, *bundle.failed))


def test_figures_are_at_the_usual_pace_of_their_kind(bundle: Bundle) -> None:
    rows = {row.subject: row for row in bundle.measured}
    usual = np.median([1.0, 1.01, 0.99, 1.25, 1.25 * 1.01, 1.25 * 0.99])
    assert bundle.usual_ms == {"operator": pytest.approx(usual), "network": pytest.approx(3.0)}
    assert rows[SMALL.key].ms == pytest.approx(0.25 * usual)
    assert rows[LARGE.key].ms == pytest.approx(0.5 / 1.25 * usual)
    assert rows["net a"].ms == pytest.approx(4.0)
    assert rows["net b"].ms == 18.0  # no reference: the clock's figure


def test_every_reference_has_its_own_usual_pace(tmp_path: Path) -> None:
    """The reference of the second row is another, ten times as slow."""
    one = replace(measured("a", 4.0, reference=1.0), context={"reference": "1"})
    two = replace(measured("b", 8.0, reference=10.0), context={"reference": "2"})
    with Store(tmp_path / "store.sqlite") as store:
        store.add([one, two, replace(measured("c", 8.0, reference=2.0), context={"reference": "1"})])
        bundle = Bundle.from_store(store, PHONE, BENCH)
    assert bundle.usual_ms == {"1": pytest.approx(1.5, rel=0.02), "2": 10.0}
    assert [row.ms for row in bundle.measured] == pytest.approx([4.0 * 1.5, 8.0, 8.0 / 2 * 1.5], rel=0.02)


def test_references_that_nobody_named_and_that_differ_too_much_say_nothing(tmp_path: Path) -> None:
    with Store(tmp_path / "store.sqlite") as store:
        store.add([measured("a", 4.0, reference=1.0), measured("b", 8.0, reference=10.0)])
        bundle = Bundle.from_store(store, PHONE, BENCH)
    assert bundle.usual_ms == {}
    assert [row.ms for row in bundle.measured] == [4.0, 8.0]


def test_rows_for_models_leave_out_what_no_model_can_learn(bundle: Bundle) -> None:
    rows = {row.subject: row for row in bundle.measured}
    assert bundle.rows() == [Row(rows[name].operators, rows[name].ms) for name in (LARGE.key, SMALL.key, "net a", "net b")]
    assert bundle.rows(without=("unstable",), kinds=("network",)) == [Row((SMALL, LARGE, LARGE), rows["net a"].ms)]


def test_all_of_it_comes_back_from_the_file(bundle: Bundle, tmp_path: Path) -> None:
    full = replace(bundle, fusion={"rules": [["CONV_2D", "ADD"]]}).with_model(LinearRegressor().fit([[1.0], [2.0]], [1.0, 2.5]))
    full.save(tmp_path / "new" / "a.paceline")
    found = Bundle.load(tmp_path / "new" / "a.paceline")
    assert found == full
    assert found.device.fingerprint == PHONE.fingerprint
    assert found.model.predict([[3.0]]) == full.model.predict([[3.0]])
    assert bundle.model is None


def test_equal_content_is_equal_bytes(bundle: Bundle, tmp_path: Path) -> None:
    first, second = tmp_path / "a.paceline", tmp_path / "b.paceline"
    bundle.save(first)
    Bundle.load(first).save(second)
    assert first.read_bytes() == second.read_bytes()
    replace(bundle, measured=bundle.measured[1:]).save(second)
    assert first.read_bytes() != second.read_bytes()


def test_simulated_rows_say_so(tmp_path: Path) -> None:
    imitation = replace(PHONE, simulated=True)
    with Store(tmp_path / "store.sqlite") as store:
        store.add([measured("net", 1.0, device=imitation)])
        (row,) = Bundle.from_store(store, imitation, BENCH).measured
    assert row.flags == ("simulated",)


@pytest.mark.parametrize("ms", [0.0, -1.0, float("nan"), float("inf")])
def test_a_figure_that_is_no_latency_is_refused_and_named(ms: float) -> None:
    with pytest.raises(DataError, match=r"CONV_2D 1x8.* is no latency\. "):
        MeasuredRow(SMALL.key, ms, (SMALL,))


# files


def changed(path: Path, name: str, content: bytes | None) -> None:
    """The file with another member, and its manifest as it was."""
    members = unpacked(path.read_bytes())
    if content is None:
        del members[name]
    else:
        members[name] = content
    path.write_bytes(packed(members))


def resealed(path: Path, name: str, content: bytes) -> None:
    """The file with another member, and a manifest that fits."""
    changed(path, name, content)
    members = unpacked(path.read_bytes())
    manifest = json.loads(members["manifest.json"])
    manifest["sha256"][name] = hashlib.sha256(content).hexdigest()
    changed(path, "manifest.json", json.dumps(manifest).encode())


@pytest.fixture
def saved(bundle: Bundle, tmp_path: Path) -> Path:
    bundle.save(tmp_path / "a.paceline")
    return tmp_path / "a.paceline"


CHANGES = [("rows.jsonl", b""), ("rows.jsonl", None), ("extra.json", b"1"), ("samples.npy", b"")]


@pytest.mark.parametrize(("name", "content"), CHANGES)
def test_a_changed_member_is_named(saved: Path, name: str, content: bytes | None) -> None:
    changed(saved, name, content)
    with pytest.raises(DataError, match=rf"a\.paceline: {name} isn't what the manifest says"):
        Bundle.load(saved)


def test_a_newer_schema_says_what_to_do(saved: Path) -> None:
    changed(saved, "manifest.json", json.dumps({"format": "paceline bundle", "schema": 2}).encode())
    with pytest.raises(DataError, match="its schema is 2, this program knows 1: update Paceline"):
        Bundle.load(saved)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("rows.jsonl", b'{"subject":"x","ms":1,"kind":"spell","operators":[],"flags":[]}', "unknown kind"),
        ("rows.jsonl", b'{"subject":"x","ms":-1,"kind":"network","operators":[],"flags":[]}', "x: -1 ms is no latency"),
        ("rows.jsonl", b'{"subject":"x","ms":1,"kind":"network","operators":[99],"flags":[]}', "out of range"),
        ("rows.jsonl", b'{"subject":"x","ms":1,"kind":"network","operators":[],"flags":[]}', "samples for rows of 0"),
        ("rows.jsonl", b"[1]", "read the bundle"),
        ("about.json", b"{}", "it has no"),
        ("operators.json", b'["nonsense"]', "not an operator key"),
    ],
)
def test_a_hostile_member_is_one_clear_error(saved: Path, name: str, content: bytes, reason: str) -> None:
    resealed(saved, name, content)
    with pytest.raises(DataError, match=f"{reason}.*make it again"):
        Bundle.load(saved)


def test_a_model_that_was_changed_is_refused_when_it_is_asked_for(bundle: Bundle) -> None:
    odd = replace(bundle, saved={"model.json": b"{}"})
    with pytest.raises(LatencyModelError, match="it has no"):
        _ = odd.model


def test_missing_files_and_wrong_names_are_clear_errors(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="paceline table build"):
        Bundle.load(tmp_path / "none.paceline")
    with pytest.raises(DataError, match=r"has to end with \.paceline"):
        bundle.save(tmp_path / "a.zip")
    with pytest.raises(DataError, match="can't write the bundle"):
        replace(bundle, usual_ms={"operator": float("nan")}).save(tmp_path / "a.paceline")
    assert not list(tmp_path.glob("*.paceline"))


def test_a_bundle_is_an_ordinary_zip_file(saved: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        about = json.loads(archive.read("about.json"))
    assert (about["device"]["name"], about["fingerprint"], about["licence"]) == ("a phone", PHONE.fingerprint, "CC0")


MEASURED = st.builds(
    MeasuredRow,
    st.text(max_size=20),
    st.floats(1e-6, 1e6),
    st.lists(st.sampled_from([SMALL, LARGE]), max_size=3).map(tuple),
    st.sampled_from(["operator", "network", "block"]),
    measured_at=st.none() | st.floats(0, 2e9),
    flags=st.lists(st.sampled_from(["unstable", "imported"]), max_size=2).map(tuple),
    count=st.none() | st.integers(1, 1000),
    std_ms=st.none() | st.floats(0, 1),
)
FAILED = st.builds(FailedRow, st.text(max_size=20), st.text(max_size=20), st.just((SMALL,)))


@settings(max_examples=40, deadline=None)
@given(st.lists(MEASURED, max_size=5), st.lists(FAILED, max_size=2))
def test_any_rows_come_back(tmp_path_factory: pytest.TempPathFactory, rows: list[MeasuredRow], failed: list[FailedRow]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.paceline"
    bundle = Bundle(PHONE, BENCH, tuple(rows), tuple(failed))
    bundle.save(path)
    assert Bundle.load(path) == bundle


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_bundle_is_one_clear_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.paceline"
    bundle = Bundle(PHONE, BENCH, (MeasuredRow(SMALL.key, 1.0, (SMALL,)),))
    bundle.save(path)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert Bundle.load(path) == bundle  # what changed may be a date that nobody reads
    except DataError as e:
        assert "make it again" in str(e)  # noqa: PT017
