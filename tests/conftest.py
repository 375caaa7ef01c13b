"""Models and devices that several tests use."""

import os
import tempfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from paceline.devices.composed import ComposedDevice
from paceline.devices.kinds.local import open_local
from paceline.exporters.operator_models import write_operator
from paceline.measurement import Artifact

from samples import conv

os.environ["PACELINE_STATE"] = tempfile.mkdtemp(prefix="paceline-state-")  # for the processes that tests start, too
torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other
pytest.register_assert_rewrite(
    *("paceline.devices.testing", "paceline.latency_models.testing"),
    *("paceline.pipeline.testing", "paceline.pipeline.testing_recipes"),
)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Artifact]:
    """Three convolutions, the last the slowest by far."""
    folder: Path = tmp_path_factory.mktemp("models")
    return [
        write_operator(spec, folder) for spec in (conv(16, 8, 8, 1), conv(16, 16, 16, 3, depthwise=True), conv(32, 32, 64, 3))
    ]


@pytest.fixture(scope="session")
def local() -> Iterator[ComposedDevice]:
    with open_local() as device:
        yield device


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With PACELINE_PEERS=all every peer (adb, sshd, PostgreSQL, …) is installed, and its tests must not be skipped."""
    report = yield
    of_peers = "devices" in item.path.parts or item.path.name.startswith("test_store")
    needs_no_peer = any(
        name in str(report.longrepr) for name in ("PACELINE_SAMPLES", "PACELINE_AARCH64_PYTHON", "PACELINE_PHONE")
    )
    if report.skipped and of_peers and not needs_no_peer and os.environ.get("PACELINE_PEERS") == "all":
        report.outcome = "failed"
    return report
