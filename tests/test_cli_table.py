"""`paceline table` as a user calls it: what is in a file, what changed, one of several, foreign files, flat files."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from paceline.cli_table import table
from paceline.errors import PacelineError
from paceline.exporters import tflite
from paceline.exporters.operator_models import operator_graph
from paceline.latency_models.bundle.bundle import Bundle
from paceline.latency_models.bundle.rows import FailedRow, MeasuredRow
from paceline.latency_models.bundle.stored import paced
from paceline.measurement import Artifact, Bench, DeviceInfo, Measurement
from paceline.store import Store

from samples import conv

PHONE = DeviceInfo("a phone", "adb", {"soc": "X1", "litert": "2.1"})
BENCH = Bench()
SPECS = [conv(56, 8 * i, 16 * i, 3) for i in range(1, 31)]


def bundle(seed: int, slow: int = -1, at: float = 1.0) -> Bundle:
    rng = np.random.default_rng(seed)
    rows = []
    for i, spec in enumerate(SPECS):
        ms = (1 + i) * (1.5 if i == slow else 1.0) * np.exp(0.01 * rng.standard_normal(5))
        samples = tuple((float(x),) * 3 for x in ms)
        m = Measurement(spec.key, f"{i:064x}", PHONE.fingerprint, BENCH.key, samples, (), (1.0,) * 5)
        rows.append(MeasuredRow(spec.key, m.ms, (spec,), measurement=m, measured_at=at))
    kept, usual = paced(rows)
    failed = (FailedRow(conv(8, 8, 8, 7).key, "refused by the delegate", (conv(8, 8, 8, 7),)),)
    return Bundle(PHONE, BENCH, kept, failed, usual, {"litert": "2.1"}, "CC0", "a test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bundle(1).save(tmp_path / "old.paceline")
    bundle(2, slow=3, at=2.0).save(tmp_path / "new.paceline")
    return tmp_path


def run(*arguments: object, columns: int = 80) -> Result:
    environment = {"COLUMNS": str(columns), "NO_COLOR": "1"}
    return CliRunner().invoke(table, [str(a) for a in arguments], env=environment, catch_exceptions=True)


def shown(*arguments: object, columns: int = 80) -> str:
    done = run(*arguments, columns=columns)
    assert done.exit_code == 0, done.output + repr(done.exception)
    return done.stdout


def printed(*arguments: object) -> dict[str, object]:
    found = json.loads(shown(*arguments, "--json"))
    assert isinstance(found, dict)
    return found


def test_show_says_what_it_is_within_80_columns(folder: Path) -> None:
    text = shown("show", folder / "old.paceline", "--limit", 3)
    for part in ("a phone", PHONE.fingerprint, "litert 2.1, xnnpack, 1 thread, fp32", "30 operators", "CC0", "CONV_2D 3x3"):
        assert part in text, text
    assert "no figure for CONV_2D 7x7 1x8x8x8 → 1x8x8x8 RELU6: refused by the delegate" in text
    tables = [line for line in text.splitlines() if line[:1] in "┏┡└│┃"]
    assert tables
    assert max(map(len, tables)) <= 80
    assert text.count("CONV_2D 3x3") == 3


def test_show_as_json_has_everything(folder: Path) -> None:
    found = printed("show", folder / "old.paceline")
    assert (found["device"], found["fingerprint"], found["model"]) == ("a phone", PHONE.fingerprint, False)
    rows = found["rows"]
    assert isinstance(rows, list)
    assert rows[0]["operators"] == [rows[0]["subject"]]
    assert found["failed"] == [{"subject": conv(8, 8, 8, 7).key, "reason": "refused by the delegate", "measured_at": None}]


def test_diff_names_what_became_slower(folder: Path) -> None:
    text = shown("diff", folder / "old.paceline", folder / "new.paceline", columns=90)
    assert "1 of 30 rows changed" in text
    assert re.search(r"CONV_2D 3x3.*slower", text)
    assert "its reference (operator) takes 1.000 times as long" in text
    found = printed("diff", folder / "old.paceline", folder / "new.paceline")
    changes = found["changes"]
    assert isinstance(changes, list)
    assert changes[0]["subject"] == SPECS[3].key
    assert changes[0]["low"] < 1.5 < changes[0]["high"]
    assert len(changes) == 30
    assert "no difference shown in 30 rows" in shown("diff", folder / "old.paceline", folder / "old.paceline")
    assert "1.000" in shown("diff", folder / "old.paceline", folder / "old.paceline", "--all")


def test_merge_writes_one_file_and_names_contradictions(folder: Path) -> None:
    text = shown("merge", folder / "old.paceline", folder / "new.paceline", "-o", folder / "all.paceline")
    assert "contradiction on CONV_2D 3x3" in text
    assert "30 rows in" in text
    rows = {row.subject: row for row in Bundle.load(folder / "all.paceline").measured}
    assert {row.measured_at for row in rows.values()} == {2.0}
    found = printed("merge", folder / "old.paceline", folder / "new.paceline", "-o", folder / "all.paceline")
    assert [c["subject"] for c in found["contradictions"]] == [SPECS[3].key]  # type: ignore[attr-defined]


def test_import_and_export(folder: Path) -> None:
    (folder / "pixel.yaml").write_text("Conv-input:8x8x3-output:4x4x4: {mean: 2.5, count: 3, var: 1.0}\n")
    text = shown("import", folder / "pixel.yaml", "--device", "Pixel 1", "-o", folder / "p.paceline", "--licence", "MIT")
    assert "1 rows, 1 of them with their operators" in text
    found = Bundle.load(folder / "p.paceline")
    assert (found.device.name, found.device.kind, found.licence, found.origin) == ("Pixel 1", "imported", "MIT", "pixel.yaml")
    assert printed("export", folder / "p.paceline", "-o", folder / "p.csv")["rows"] == 1
    with (folder / "p.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (float(row["ms"]), row["flags"], row["device_name"]) == (2.5, '["imported"]', "Pixel 1")


def test_import_with_the_model(folder: Path) -> None:
    tflite.save(operator_graph(SPECS[0]), folder / "m.tflite")
    (folder / "log.txt").write_text(
        "Graph: [m.tflite]\ncount=50 first=101 curr=99 min=97 max=130 avg=101.5 std=8\n"
        "Inference timings in us: Init: 1500, First inference: 150, Warmup (avg): 150, Inference (avg): 101.5\n"
    )
    shown("import", folder / "log.txt", "--device", "x", "--model", folder / "m.tflite", "-o", folder / "l.paceline")
    (row,) = Bundle.load(folder / "l.paceline").measured
    assert (row.operators, row.ms, len(row.artifact)) == ((SPECS[0],), 0.097, 64)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_export_has_every_row_and_its_samples(folder: Path, suffix: str) -> None:
    out = folder / f"rows{suffix}"
    assert "31 rows in" in shown("export", folder / "old.paceline", "-o", out, "--samples")
    if suffix == ".parquet":
        pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow isn't installed")
        rows = pq.read_table(out).to_pylist()
    elif suffix == ".jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        with out.open(newline="") as file:
            rows = list(csv.DictReader(file))
    assert len(rows) == 31
    samples = rows[0]["samples_ms"] if suffix == ".jsonl" else json.loads(rows[0]["samples_ms"])
    first = bundle(1).measured[0]
    assert first.measurement is not None
    assert samples == [list(batch) for batch in first.measurement.samples_ms]
    assert rows[-1]["failure"] == "refused by the delegate"
    assert {name for row in rows for name in row} == set(rows[0])


def test_without_a_command_it_shows_the_store(tmp_path: Path) -> None:
    place = tmp_path / "store.sqlite"
    with Store(place) as store:
        store.add([row.measurement for row in bundle(1).measured[:1] if row.measurement])
    rows = json.loads(shown("--store", place, "--json"))
    assert [row["subject"] for row in rows] == [bundle(1).measured[0].subject]
    assert json.loads(shown("show", "--store", place, "--json")) == rows
    assert "CONV_2D 3x3" in shown("--store", place)


def test_export_from_the_store(tmp_path: Path) -> None:
    place, net = tmp_path / "store.sqlite", tmp_path / "net.tflite"
    tflite.save(operator_graph(SPECS[0]), net)
    rows = [row.measurement for row in bundle(1).measured if row.measurement]
    with Store(place) as store:
        for info in (PHONE, replace(PHONE, name="another")):
            store.add_device(info)
        store.add(rows)
        store.add([replace(rows[0], subject="net", artifact=Artifact(net, "net").sha256)])
        store.add([replace(rows[0], bench=Bench(delegate="gpu").key)])
    done = run("export", "--store", place, "-o", tmp_path / "x.paceline")
    assert "2 tables in the store" in str(done.exception)
    shown("export", "--store", place, "--delegate", "xnnpack", "--model", net, "-o", tmp_path / "x.paceline")
    found = Bundle.load(tmp_path / "x.paceline")
    assert (len(found.measured), found.origin) == (31, "the store store.sqlite")
    assert [row.operators for row in found.measured if row.kind == "network"] == [(SPECS[0],)]


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("show", "none.paceline"), 3, "paceline table build"),
        (("diff", "none.paceline", "none.paceline"), 3, "none.paceline"),
        (("merge", "none.paceline", "-o", "x.paceline"), 3, "none.paceline"),
        (("import", "none.txt", "--device", "x", "-o", "x.paceline"), 3, "can't read none.txt"),
        (("import", "none.txt", "--device", "x", "-o", "x.paceline", "--unit", "h"), 2, "no unit 'h'"),
        (("import", "none.txt", "--device", "x", "-o", "x.paceline", "--model", "m.onnx"), 2, "no .tflite file"),
        (("export", "none.paceline", "-o", "x.csv"), 3, "none.paceline"),
        (("show", "--store", "none.sqlite"), 9, "no store at none.sqlite"),
    ],
)
def test_mistakes_are_one_clear_message(arguments: tuple[str, ...], code: int, reason: str) -> None:
    done = run(*arguments)
    assert isinstance(done.exception, PacelineError), done.output
    assert done.exception.exit_code == code
    assert reason in str(done.exception)


def test_wrong_targets_are_named(folder: Path) -> None:
    done = run("export", folder / "old.paceline", "-o", folder / "x.xlsx")
    assert "one of .csv, .parquet, .jsonl" in str(done.exception)
    done = run("merge", folder / "old.paceline", "-o", folder / "x.zip")
    assert "has to end with .paceline" in str(done.exception)


@pytest.mark.parametrize("command", ["", "build", "show", "diff", "merge", "import", "export"])
def test_help_fits_narrow_terminals(command: str) -> None:
    text = click.unstyle(shown(*command.split(), "--help", columns=60))
    assert max(map(len, text.splitlines())) <= 60
