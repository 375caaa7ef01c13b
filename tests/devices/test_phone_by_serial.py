"""A phone of yours: PACELINE_PHONE=SERIAL PACELINE_BENCHMARK_MODEL=PROGRAM pytest tests/devices/test_phone_by_serial.py"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from paceline.devices.composed import ComposedDevice
from paceline.devices.kinds.adb import open_adb
from paceline.devices.testing import DeviceTestSuite
from paceline.exporters.operator_models import write_operator
from paceline.measurement import Artifact, Bench

from samples import conv

pytestmark = pytest.mark.skipif(
    not {"PACELINE_PHONE", "PACELINE_BENCHMARK_MODEL"} <= set(os.environ), reason="PACELINE_PHONE names no phone"
)


@pytest.fixture(scope="module")
def phone() -> Iterator[ComposedDevice]:
    with open_adb("phone", os.environ["PACELINE_PHONE"], Path(os.environ["PACELINE_BENCHMARK_MODEL"])) as device:
        yield device


class TestPhone(DeviceTestSuite):
    @pytest.fixture
    def device(self, phone: ComposedDevice) -> ComposedDevice:
        return phone

    @pytest.fixture(params=["xnnpack", "builtin"])
    def bench(self, request: pytest.FixtureRequest, phone: ComposedDevice) -> Bench:
        return replace(phone.default_bench(request.param), batches=3, min_invokes=20)

    @pytest.fixture(scope="module")
    def models(self, tmp_path_factory: pytest.TempPathFactory) -> Sequence[Artifact]:
        folder = tmp_path_factory.mktemp("phone")
        return [write_operator(conv(48, 32, cout, 3), folder) for cout in (32, 256)]
