"""The parity check: it passes what is equal, and says what is wrong with the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from paceline.errors import ExportError
from paceline.exporters import parity, tflite
from paceline.exporters.parity import Parity, ParityError
from paceline.exporters.torch_graph import graph_of
from paceline.measurement import Artifact

from torch_reference import Function, conv_bn, image, randomised


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return randomised(nn.Sequential(conv_bn(3, 4, 3, 2), nn.Conv2d(4, 5, 1)))


@pytest.fixture(scope="module")
def artifact(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    path = tmp_path_factory.mktemp("parity") / "network.tflite"
    tflite.save(graph_of(network, image(1, 3, 8, 9)), path)
    return Artifact(path, "network")


@pytest.mark.parametrize("kernels", ["xnnpack", "builtin"])
def test_equal_networks_pass(network: nn.Module, artifact: Artifact, kernels: parity.Kernels) -> None:
    found = parity.check(network, [image(1, 3, 8, 9, seed=3)], artifact, tolerance=1e-5, kernels=kernels)
    assert 0 <= found.max_rel_error <= 1e-5


def test_other_weights_fail_with_figures(artifact: Artifact) -> None:
    other = randomised(nn.Sequential(conv_bn(3, 4, 3, 2), nn.Conv2d(4, 5, 1)), seed=1)
    with pytest.raises(ParityError, match=r"differs from Sequential by \d.*tolerance 1e-05"):
        parity.check(other, [image(1, 3, 8, 9)], artifact, tolerance=1e-5)


def test_other_shapes_fail(artifact: Artifact) -> None:
    with pytest.raises(ParityError, match="expected"):
        parity.check(randomised(conv_bn(3, 4, 3, 2)), [image(1, 3, 8, 9)], artifact)


@pytest.mark.parametrize("format", ["tflite", "onnx"])
def test_a_broken_file_is_a_parity_error(network: nn.Module, tmp_path: Path, format: str) -> None:
    path = tmp_path / "broken"
    path.write_bytes(b"nothing that runs")
    with pytest.raises(ParityError, match="broken"):
        parity.check(network, [image(1, 3, 8, 9)], Artifact(path, "broken", format))  # type: ignore[arg-type]


def test_a_time_out_is_a_parity_error(network: nn.Module, artifact: Artifact) -> None:
    with pytest.raises(ParityError, match=r"did not finish in 0\.01 s"):
        parity.check(network, [image(1, 3, 8, 9)], artifact, timeout_s=0.01)


def test_training_mode_is_refused(artifact: Artifact) -> None:
    with pytest.raises(ExportError, match="eval"):
        parity.check(nn.BatchNorm2d(3), [image(1, 3, 8, 9)], artifact)


@pytest.mark.parametrize(
    ("expected", "computed", "parity_"),
    [
        ([0.0, 4.0], [0.0, 3.0], Parity(1.0, 0.25)),
        ([2.0], [1.5], Parity(0.5, 0.25)),
        ([2.0], [2.0], Parity(0.0, 0.0)),
        ([1.0, 2.0], [1.0, float("nan")], Parity(float("inf"), float("inf"))),
    ],
)
def test_errors_are_relative_to_the_range(expected: list[float], computed: list[float], parity_: Parity) -> None:
    assert Parity(*parity._errors(np.asarray(expected), np.asarray(computed))) == parity_


def test_several_inputs_arrive_in_order(tmp_path: Path) -> None:
    net = Function(lambda a, b: torch.cat([a, b * 2], 1)).eval()
    inputs = [image(1, 3, 4, 4), image(1, 2, 4, 4)]
    tflite.save(graph_of(net, tuple(inputs)), tmp_path / "two.tflite")
    assert parity.check(net, inputs, Artifact(tmp_path / "two.tflite", "two")) == Parity(0.0, 0.0)
