"""Selectors: text, and what it means."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.devices.selection import Condition, Selector, parse_selector
from paceline.errors import ConfigError, DeviceError
from paceline.measurement import DeviceInfo


@dataclass(frozen=True)
class Listed:
    id: str
    labels: tuple[str, ...] = ()
    info: DeviceInfo | None = None


def phone(name: str, model: str, soc: str, *delegates: str) -> DeviceInfo:
    return DeviceInfo(name, "adb", {"model": model, "soc": soc}, False, delegates)


PIXEL = Listed("pixel-1", ("desk", "rack=2"), phone("pixel-1", "Pixel 8 Pro", "zuma", "xnnpack", "gpu"))
TWIN = Listed("pixel-2", ("rack=3",), phone("pixel-2", "Pixel 8 Pro", "zuma", "xnnpack", "gpu"))
OTHER = Listed("reno", (), phone("reno", "Reno", "sm8650", "xnnpack", "nnapi"))
SIMULATED = Listed("sim", (), DeviceInfo("sim", "simulated", {"model": "Mid"}, True, ("xnnpack",)))
ABSENT = Listed("absent", ("rack=2",))
ALL = [PIXEL, TWIN, OTHER, SIMULATED, ABSENT]


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ("any", 1, "pixel-1 pixel-2 reno sim absent"),
        ("all", None, "pixel-1 pixel-2 reno sim absent"),
        ("ALL of kind=adb", None, "pixel-1 pixel-2 reno"),
        ("pixel-1", 1, "pixel-1"),
        ("id=pixel-?", 1, "pixel-1 pixel-2"),
        ("desk", 1, "pixel-1"),
        ("rack=2", 1, "pixel-1 absent"),
        ("model=pixel 8 pro", 1, "pixel-1 pixel-2"),
        ("model=Pixel*, rack=3", 1, "pixel-2"),
        ("soc=*8650", 1, "reno"),
        ("delegate=gpu", 1, "pixel-1 pixel-2"),
        ("delegate=xnnpack, simulated=no", 1, "pixel-1 pixel-2 reno"),
        ("simulated=yes", 1, "sim"),
        ("any 2 of delegate=xnnpack", 2, "pixel-1 pixel-2 reno sim"),
        ("any 3", 3, "pixel-1 pixel-2 reno sim absent"),
        ("any of soc=zuma", 1, "pixel-1 pixel-2"),
    ],
)
def test_selects(text: str, count: int | None, expected: str) -> None:
    selector = parse_selector(text)
    assert selector.count == count
    assert [device.id for device in selector.of(ALL)] == expected.split()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty"),
        ("any 0", "'any 0' selects nothing"),
        ("any 3 of", "nothing follows 'of'"),
        ("all 3 of soc=x", "did you mean 'any 3'"),
        ("model=", "'model=' has no value"),
        ("model=a,,soc=b", "a condition is empty"),
        ("=x", "'' is no name of a fact"),
        ("any three of soc=x", "is no name of a fact"),
        ("pixel one", "'pixel one' is neither an id nor name=value"),
    ],
)
def test_what_is_no_selector(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        parse_selector(text)
    assert 'write for example "pixel-1"' in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mdoel=x", "none has a fact named 'mdoel'; did you mean 'model'?"),
        ("colour=red", "none has a fact named 'colour'; known: delegate, id, kind, model, rack, simulated, soc"),
        ("soc=zuna", r"no device is 'soc=zuna'; none has 'soc=zuna'. There are 5: pixel-1, pixel-2, reno, sim, absent"),
        ("soc=zuma, model=Reno", "none has all of it"),
        ("any 3 of soc=zuma", "'any 3 of soc=zuma' needs 3 devices, there are 2: pixel-1, pixel-2"),
    ],
)
def test_what_no_device_is(text: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        parse_selector(text).of(ALL)


def test_no_device_at_all() -> None:
    with pytest.raises(DeviceError, match="There are 0: none"):
        parse_selector("pixel-1").of([])


words = st.from_regex(r"[a-z][a-z0-9_.-]{0,8}", fullmatch=True).filter(lambda w: w not in ("any", "all"))
values = st.from_regex(r"[a-zA-Z0-9*][a-zA-Z0-9 ._*-]{0,8}[a-zA-Z0-9*]", fullmatch=True)
conditions = st.builds(Condition, words, values) | words.map(lambda w: Condition("", w))


@given(st.none() | st.integers(1, 99), st.lists(conditions, max_size=3))
def test_a_selector_as_text_is_itself(count: int | None, found: list[Condition]) -> None:
    selector = Selector(count, tuple(found))
    assert parse_selector(str(selector)) == selector


@given(st.text(max_size=40))
def test_any_text_is_a_selector_or_a_clear_error(text: str) -> None:
    try:
        selector = parse_selector(text)
    except ConfigError as e:
        found: object = str(e)
    else:
        found = parse_selector(str(selector))
        assert found == selector
    assert isinstance(found, Selector) or repr(text) in str(found)


@given(st.lists(conditions, max_size=3), st.lists(conditions, max_size=3))
def test_a_comma_means_and(one: list[Condition], two: list[Condition]) -> None:
    for device in ALL:
        both = Selector(1, tuple(one + two)).matches(device)
        assert both == (Selector(1, tuple(one)).matches(device) and Selector(1, tuple(two)).matches(device))
