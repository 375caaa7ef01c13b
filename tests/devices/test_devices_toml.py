"""devices.toml and the kinds of devices."""

import re
from pathlib import Path

import pytest

from paceline.devices.kinds import DeviceEntry, kinds, load_devices, open_device
from paceline.errors import ConfigError, TransientDeviceError

from fake_kind import install


@pytest.fixture(autouse=True)
def _fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(install(tmp_path / "site")))


def load(tmp_path: Path, text: str) -> tuple[DeviceEntry, ...]:
    path = tmp_path / "devices.toml"
    path.write_text(text)
    return load_devices(path)


def test_without_a_file_this_machine_is_the_device() -> None:
    (entry,) = load_devices(None)
    assert (entry.id, entry.kind, entry.labels, dict(entry.settings)) == ("local", "local", (), {})


def test_devices_with_settings_of_their_kind(tmp_path: Path) -> None:
    one, two = load(
        tmp_path,
        """
        [[device]]
        id = "one"
        kind = "fake"
        labels = ["desk", "rack=2"]
        soc = "s7"
        job_s = 1

        [[device]]
        id = "two"
        kind = "fake"
        """,
    )
    assert one.labels == ("desk", "rack=2")
    device = open_device(one)
    assert device.info.name == "one"
    assert device.info.facts["soc"] == "s7"
    assert open_device(two).info.facts["soc"] == "s1"


def test_kinds_are_entry_points_of_any_package() -> None:
    assert "fake" in kinds()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no device"),
        ("devices = 3", "unknown section 'devices'; a device starts with the line"),
        ("[device]\nid = 'a'", "names no device"),
        ("[[device]]\nid = 'a'", "device 1: kind is missing"),
        ("[[device]]\nid = 'a b'\nkind = 'fake'", "device 1: id = 'a b'"),
        ("[[device]]\nid = 'a'\nkind = 'fake'\nlabels = 'x'", "device 1: labels = 'x'"),
        ("[[device]]\nid = 'a'\nkind = 'fake'\n[[device]]\nid = 'a'\nkind = 'fake'", "two devices have the id 'a'"),
        ("[[device", "is not TOML"),
    ],
)
def test_a_file_that_makes_no_sense(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"can't read the devices in .*none.toml: No such file"):
        load_devices(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "fakee"}, "device 'a': unknown kind 'fakee'; did you mean 'fake'?"),
        ({"kind": "teleport"}, "unknown kind 'teleport'; known kinds: .*fake"),
        ({"kind": "fake", "sox": "s2"}, "device 'a' of kind 'fake': unknown setting 'sox'; did you mean 'soc'?"),
        ({"kind": "fake", "colour": "s2"}, "unknown setting 'colour'; known settings: soc, job_s"),
        ({"kind": "fake", "job_s": "long"}, "device 'a' of kind 'fake': job_s = 'long': .*number"),
    ],
)
def test_a_device_that_makes_no_sense(entry: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_device(DeviceEntry.model_validate({"id": "a"} | entry))


def test_a_kind_that_is_installed_badly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = tmp_path / "more" / "bad_kind-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-kind\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[paceline.devices]\nbad = fake_kind:open_nothing\n")
    monkeypatch.syspath_prepend(str(tmp_path / "more"))
    with pytest.raises(ConfigError, match=r"kind 'bad' \(fake_kind:open_nothing\) can't be loaded"):
        open_device(DeviceEntry(id="a", kind="bad"))


def test_what_the_device_says_is_not_changed(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    absent.touch()
    with pytest.raises(TransientDeviceError, match="unplugged"):
        open_device(DeviceEntry.model_validate({"id": "a", "kind": "fake", "absent": str(absent)}))


@pytest.mark.parametrize("page", ["devices.md", "farm.md", "simulated.md"])
def test_examples_in_the_documentation_are_read(page: str, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert blocks
    for i, block in enumerate(blocks):
        path = tmp_path / f"{i}.toml"
        path.write_text(block, encoding="utf-8")
        if "[[device]]" in block:
            assert {entry.kind for entry in load_devices(path)} <= set(kinds())
