"""Exports: what other tools read is what was measured."""

import csv
import json
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from paceline.errors import StoreError
from paceline.measurement import Bench, Delegation, DeviceInfo, Failure, Measurement, Summary
from paceline.store import Store

pytest_plugins = "test_store_databases"

PHONE = DeviceInfo("a phone", "simulated", {"soc": "X1", "build": "17"}, True)
BOARD = DeviceInfo('a "board"', "ssh", {"soc": "Y, 2"})
BENCH = Bench(affinity=(1, 2), options=(("accelerator", "dsp"),))
CALM = Measurement(
    "CONV_2D 1x8 -> 1x8",
    "a" * 64,
    PHONE.fingerprint,
    BENCH.key,
    ((1.25, 1.5), (1.0, 2.0, 0.1 + 0.2)),
    (1.0, 0.5),
    (0.5, 0.1 + 0.7),
    None,
    {"load": "0.1", "left": "over"},
    (),
    Delegation("gpu", 2, 3, ("CUSTOM", "SOFTMAX")),
)
TOLD = replace(
    CALM, device=BOARD.fingerprint, subject="net,\nwork", samples_ms=(), cpu_share=(), reference_ms=(), delegation=None
)
TOLD = replace(TOLD, summaries=(Summary(50, 1.0, 1.5, 2.0, 0.1),))
FAILED = replace(TOLD, artifact="b" * 64, device="unknown", summaries=(), failure=Failure("refused: 🙁"))


def exported(place: str, path: Path, samples: bool | None = None) -> int:
    with Store(place) as store:
        store.add_device(PHONE)
        store.add_device(BOARD)
        store.add([CALM, TOLD, FAILED])
        return store.export(path, samples)


def by_subject(rows: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    def find(subject: str, artifact: str) -> dict[str, Any]:
        (row,) = [r for r in rows if (r["subject"], r["artifact"]) == (subject, artifact)]
        return row

    return find(CALM.subject, "a" * 64), find(TOLD.subject, "a" * 64), find(TOLD.subject, "b" * 64)


def test_parquet_holds_everything(place: str, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow isn't installed")
    path = tmp_path / "out" / "all.parquet"
    assert exported(place, path) == 3
    rows = pq.read_table(path).to_pylist()
    assert len(rows) == 3
    calm, told, failed = by_subject(rows)
    assert tuple(tuple(batch) for batch in calm["samples_ms"]) == CALM.samples_ms
    assert (tuple(calm["cpu_share"]), tuple(calm["reference_ms"])) == (CALM.cpu_share, CALM.reference_ms)
    assert (calm["ms"], calm["median_ms"], calm["spread"]) == (CALM.ms, CALM.median_ms, CALM.spread)
    assert (calm["delegation"], calm["partitions"], calm["delegated"], calm["left"]) == ("partial", 2, 3, "CUSTOM, SOFTMAX")
    assert (calm["device"], calm["device_name"], calm["device_kind"]) == (PHONE.fingerprint, "a phone", "simulated")
    assert (calm["simulated"], calm["fact_soc"], calm["fact_build"]) == (True, "X1", "17")
    assert json.loads(calm["context"]) == CALM.context
    key = json.loads(BENCH.key)
    for field in fields(Bench):
        value = calm[f"bench_{field.name}"]
        assert (json.loads(value) if isinstance(field.default, tuple) else value) == key[field.name]
    assert (told["simulated"], told["fact_soc"], told["fact_build"], told["delegation"]) == (False, "Y, 2", None, None)
    assert (told["ms"], told["samples_ms"]) == (1.0, [])
    assert [Summary(**s) for s in json.loads(told["summaries"])] == list(TOLD.summaries)
    assert (failed["ms"], failed["failure"], failed["transient"], failed["simulated"]) == (None, "refused: 🙁", False, None)


def test_csv_holds_the_figures(place: str, tmp_path: Path) -> None:
    assert exported(place, tmp_path / "all.csv") == 3
    with (tmp_path / "all.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    calm, told, failed = by_subject(rows)
    assert "samples_ms" not in calm
    assert (float(calm["ms"]), float(calm["spread"])) == (CALM.ms, CALM.spread)
    assert (calm["simulated"], told["simulated"], failed["simulated"]) == ("True", "False", "")
    assert (calm["bench_threads"], json.loads(calm["bench_affinity"])) == ("1", [1, 2])
    assert (told["device_name"], told["fact_soc"], told["subject"]) == ('a "board"', "Y, 2", "net,\nwork")
    assert (failed["ms"], failed["failure"]) == ("", "refused: 🙁")


def test_csv_with_samples_if_asked(place: str, tmp_path: Path) -> None:
    exported(place, tmp_path / "all.csv", samples=True)
    with (tmp_path / "all.csv").open(newline="", encoding="utf-8") as file:
        calm, told, _ = by_subject(list(csv.DictReader(file)))
    assert tuple(tuple(batch) for batch in json.loads(calm["samples_ms"])) == CALM.samples_ms
    assert json.loads(told["samples_ms"]) == []


def test_formats_have_the_same_columns(place: str, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow isn't installed")
    exported(place, tmp_path / "all.csv", samples=True)
    exported(place, tmp_path / "all.parquet")
    exported(place, tmp_path / "few.parquet", samples=False)
    with (tmp_path / "all.csv").open(newline="", encoding="utf-8") as file:
        names = next(csv.reader(file))
    assert pq.read_schema(tmp_path / "all.parquet").names == names
    assert [n for n in names if n not in pq.read_schema(tmp_path / "few.parquet").names] == [
        "samples_ms",
        "summaries",
        "cpu_share",
        "reference_ms",
    ]


def test_more_rows_than_a_group(place: str, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow isn't installed")
    with Store(place) as store:
        store.add([replace(CALM, artifact=f"{i:064d}") for i in range(1201)])
        assert store.export(tmp_path / "all.parquet") == 1201
        assert store.export(tmp_path / "all.csv") == 1201
    assert sorted(pq.read_table(tmp_path / "all.parquet")["artifact"].to_pylist()) == [f"{i:064d}" for i in range(1201)]
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 1202


@pytest.mark.parametrize("name", ["empty.csv", "EMPTY.PARQUET"])
def test_an_empty_store_gives_an_empty_table(name: str, place: str, tmp_path: Path) -> None:
    with Store(place) as store:
        assert store.export(tmp_path / name) == 0
    assert b"subject" in (tmp_path / name).read_bytes()


def test_a_failed_export_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = str(tmp_path / "s.sqlite")
    (tmp_path / "all.parquet").write_text("old")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(StoreError, match=r"all\.parquet: Parquet needs pyarrow: pip install 'paceline\[parquet\]'"):
        exported(place, tmp_path / "all.parquet")
    assert (tmp_path / "all.parquet").read_text() == "old"
    with pytest.raises(StoreError, match=r"all\.json: the suffix .* \.csv, \.parquet"):
        exported(place, tmp_path / "all.json")
    with pytest.raises(StoreError, match="can't write"):
        exported(place, tmp_path / "s.sqlite" / "all.csv")
    assert {p.name for p in tmp_path.iterdir()} == {"s.sqlite", "all.parquet"}
