"""`paceline bench` and `paceline devices` as a user calls them."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from paceline.measurement import Artifact

from test_cli import paceline

_DEVICES = """
[[device]]
id = "mid"
kind = "simulated"
profile = "simulated-mid"
seed = 1
labels = ["rack=1"]

[[device]]
id = "wide"
kind = "simulated"
profile = "simulated-wide"
seed = 2
labels = ["rack=1"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "devices.toml").write_text(_DEVICES)
    return tmp_path


def test_bench_as_json_has_the_same_keys_for_every_device(models: Sequence[Artifact], folder: Path) -> None:
    model = str(models[-1].path)
    here = json.loads(paceline("bench", model, "--ops", "--json", folder=folder).stdout)
    phone = json.loads(paceline("bench", model, "--ops", "--json", "--device", "mid", folder=folder).stdout)
    wanted = [
        "p10_ms",
        "median_ms",
        "samples",
        "noise",
        "delegation",
        "partitions",
        "ops",
        "device",
        "runtime",
        "simulated",
        "condition",
        "error",
    ]
    assert set(wanted) <= set(here) == set(phone)
    for found, name, simulated in ((here, "local", False), (phone, "mid", True)):
        assert (found["device"], found["simulated"], found["error"]) == (name, simulated, None)
        assert 0 < found["p10_ms"] <= found["median_ms"]
        assert (found["delegation"], found["partitions"]) == ("full", 1)
        assert found["ops"][0]["delegated"] is True
        assert len(found["samples"]) >= 3
        assert any(key.endswith("_before") for key in found["condition"])
    assert here["runtime"].startswith("litert 2.")


def test_bench_on_several_devices(models: Sequence[Artifact], folder: Path) -> None:
    done = paceline(
        "bench", *(str(m.path) for m in models), "--device", "all of rack=1", "--delegate", "gpu", "--json", folder=folder
    )
    found = json.loads(done.stdout)
    assert [(row["device"], row["model"]) for row in found] == [(d, m.path.name) for d in ("mid", "wide") for m in models]
    assert {row["delegate"] for row in found} == {"gpu"}
    shown = paceline("bench", str(models[0].path), "--device", "all of rack=1", folder=folder, columns=60)
    assert shown.stdout.count("│ sim.") == 2
    assert "sim.: simulated (mid, wide), a figure of no real phone" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 60


def test_a_device_that_fails_does_not_cost_the_figures_of_the_others(models: Sequence[Artifact], folder: Path) -> None:
    with (folder / "devices.toml").open("a") as file:
        file.write("faults = { full_disk = 1.0 }\n")
    done = paceline("bench", str(models[0].path), "--device", "all of rack=1", "--json", folder=folder)
    assert done.returncode == 7
    assert "wide" in done.stderr
    assert "space" in done.stderr
    assert json.loads(done.stdout)["device"] == "mid"


def test_compare_says_which_is_slower(models: Sequence[Artifact], folder: Path) -> None:
    pair = (str(models[0].path), "--compare", str(models[-1].path), "--device", "wide")
    found = json.loads(paceline("bench", *pair, "--json", folder=folder).stdout)
    assert found["verdict"] == "slower"
    assert 1 < found["low"] <= found["ratio"] <= found["high"]
    assert f"{found['ratio']:.4f}" in paceline("bench", *pair, folder=folder).stdout
    same = json.loads(paceline("bench", pair[0], "--compare", pair[0], "--device", "wide", "--json", folder=folder).stdout)
    assert same["verdict"] == "no difference"


def test_the_operators_of_a_narrow_terminal(models: Sequence[Artifact], folder: Path) -> None:
    narrow = paceline("bench", str(models[-1].path), "--delegate", "builtin", "--ops", columns=50, folder=folder)
    assert narrow.returncode == 0
    assert "CONV_2D" in narrow.stdout


def test_what_was_measured_is_kept_and_logged(models: Sequence[Artifact], folder: Path) -> None:
    (folder / "broken.tflite").write_bytes(b"no model" * 20)
    paceline("bench", str(models[0].path), "--device", "mid", folder=folder)
    broken = paceline("bench", "broken.tflite", "--json", folder=folder)
    assert broken.returncode == 7
    assert json.loads(broken.stdout)["p10_ms"] is None
    assert json.loads(broken.stdout)["error"]
    events = json.loads(paceline("devices", "log", "--json", folder=folder).stdout)
    assert [(e["name"], e["kind"]) for e in events] == [("mid", "measured"), ("local", "failed")]
    assert [e["name"] for e in json.loads(paceline("devices", "log", "mid", "--json", folder=folder).stdout)] == ["mid"]
    assert "no store at" in paceline("devices", "log", "--store", "other.sqlite", folder=folder).stderr


def test_devices_are_listed_and_explained(folder: Path) -> None:
    found = json.loads(paceline("devices", "--json", folder=folder).stdout)
    assert [(d["name"], d["simulated"]) for d in found] == [("local", False), ("mid", True), ("wide", True)]
    assert "xnnpack" in found[0]["delegates"]
    (wide,) = json.loads(paceline("devices", "inspect", "wide", "--json", folder=folder).stdout)
    assert wide["facts"]["simulated"] == "yes"
    assert wide["condition"]["battery_percent"]
    assert "reached" in paceline("devices", "doctor", "mid", folder=folder).stdout
    listed = paceline("devices", columns=60, folder=folder).stdout
    assert max(map(len, listed.splitlines())) <= 60


def test_a_device_that_cannot_be_opened_is_a_row_and_not_the_end(folder: Path) -> None:
    with (folder / "devices.toml").open("a") as file:
        file.write('[[device]]\nid = "odd"\nkind = "toaster"\n')
    *others, odd = json.loads(paceline("devices", "doctor", "--json", folder=folder).stdout)
    assert {d["name"] for d in others} == {"local", "mid", "wide"}
    assert (odd["name"], odd["ready"]) == ("odd", False)
    assert "unknown kind 'toaster'" in odd["advice"][0]


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("--device", "pixel"), 7, "no device is 'pixel'"),
        (("--device", "any 3 of rack=1"), 7, "needs 3 devices, there are 2"),
        (("--device", "rack="), 2, "has no value"),
        (("--delegate", "warp"), 7, "delegate 'warp' isn't available on device 'local'; available: xnnpack, builtin"),
        (("--threads", "999"), 7, "999 threads"),
        (("--compare", "other.tflite"), 7, "no file other.tflite"),
        (("--devices", "none.toml"), 2, "can't read the devices in none.toml"),
    ],
)
def test_mistakes_are_messages(
    models: Sequence[Artifact], folder: Path, arguments: tuple[str, ...], code: int, reason: str
) -> None:
    done = paceline("bench", str(models[0].path), *arguments, folder=folder)
    assert (done.returncode, reason in done.stderr, "Traceback" in done.stderr) == (code, True, False), done.stderr
