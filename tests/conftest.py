"""Models and devices that several tests use."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from paceline.devices.local import LocalDevice
from paceline.exporters.operator_models import write_operator
from paceline.measurement import Artifact

from samples import conv

torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other
pytest.register_assert_rewrite("paceline.devices.testing", "paceline.latency_models.testing", "paceline.pipeline.testing")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Artifact]:
    """Three convolutions, the last the slowest by far."""
    folder: Path = tmp_path_factory.mktemp("models")
    return [
        write_operator(spec, folder) for spec in (conv(16, 8, 8, 1), conv(16, 16, 16, 3, depthwise=True), conv(32, 32, 64, 3))
    ]


@pytest.fixture(scope="session")
def local() -> Iterator[LocalDevice]:
    with LocalDevice() as device:
        yield device
