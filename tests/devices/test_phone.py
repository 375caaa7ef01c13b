"""The imitated phone by itself, and the keys of its hosts."""

from __future__ import annotations

import base64
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.devices.testing.adb_daemon import Cluster, Phone
from paceline.devices.testing.adb_daemon.auth import PublicKey


@given(load=st.floats(0, 4), parts=st.lists(st.floats(0.01, 300), min_size=1, max_size=5))
def test_time_may_pass_in_parts(load: float, parts: list[float]) -> None:
    whole, divided = Phone(), Phone()
    whole.advance(sum(parts), load * sum(parts))
    for seconds in parts:
        divided.advance(seconds, load * seconds)
    assert divided.celsius == pytest.approx(whole.celsius)
    assert divided.battery == pytest.approx(whole.battery)
    assert whole.celsius >= whole.ambient_c


def test_hot_phone_throttles_and_time_in_state_tells() -> None:
    phone = Phone(heat_c_per_cpu_s=5.0, clusters=[Cluster("all", (0,), 0xD46, 1024, (500, 800, 900, 1000))])
    file = "/sys/devices/system/cpu/cpu0/cpufreq/{}".format
    assert phone.files()[file("scaling_cur_freq")] == "500\n"
    phone.advance(0.5, 0.5)
    assert phone.files()[file("scaling_cur_freq")] == "1000\n"
    phone.advance(3.5, 3.5)
    assert (phone.thermal_status, phone.files()[file("scaling_cur_freq")]) == (2, "800\n")
    assert phone.files()[file("stats/time_in_state")] == "500 50\n800 0\n900 0\n1000 350\n"
    phone.advance(1000)
    assert (phone.thermal_status, phone.files()[file("scaling_cur_freq")]) == (0, "500\n")
    phone.fixed_performance = True
    assert phone.files()[file("scaling_cur_freq")] == "500\n"


@given(key=st.integers(1 << 2047, 1 << 2048), exponent=st.sampled_from([3, 65537]), name=st.sampled_from([b"", b" a@b"]))
def test_public_keys_are_read(key: int, exponent: int, name: bytes) -> None:
    raw = struct.pack("<II", 64, 0) + (key - 1).to_bytes(256, "little") + bytes(256) + struct.pack("<I", exponent)
    assert PublicKey.parse(base64.b64encode(raw) + name + b"\0") == PublicKey(key - 1, exponent)


@given(st.binary(max_size=700))
def test_what_is_no_public_key_is_refused(garbage: bytes) -> None:
    try:
        key = PublicKey.parse(garbage)
    except ValueError:
        return
    assert not key.signed(bytes(20), bytes(256))
