"""The protocol phones: what the delegate's lines are translated to, and who predicts whom."""

from __future__ import annotations

import csv
import gzip
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paceline.errors import DataError
from paceline.graph import macs_of, params_of
from paceline.latency_models.leaderboard import phones
from paceline.latency_models.leaderboard.phones import (
    FOLDS,
    MEASURED,
    PROTOCOL,
    family_of,
    family_share,
    predicted,
    transferred,
)
from paceline.latency_models.leaderboard.phones_data import FOLDER, Kernel, PhoneNetwork, devices_of, read_networks
from paceline.measurement import silent

DATA = os.environ.get("PACELINE_DATA")
with_data = pytest.mark.skipif(DATA is None, reason="PACELINE_DATA doesn't name the folder of public latency data")

Line = tuple[str, str, str]
"""Operation, sizes (input, channels, output, stride, kernel, filters, groups) and kernel name."""


def _line(operation: str, sizes: str, kernel: str, ms: float = 0.1) -> dict[str, str]:
    fields = ("Input_shape", "Input_channel", "Output_shape", "Stride", "Kernel", "Filter", "Group")
    feature: dict[str, object] = dict(zip(fields, sizes.split(), strict=True))
    return {
        "operation": operation,
        "feature": repr(feature),
        **{f"{d}|gpu|float": str(ms * 1000 * f) for d, f in (("a", 1), ("b", 2))},
        "a|gpu|kernel": kernel,
        "b|gpu|kernel": kernel,
    }


def _write(data: Path, networks: Sequence[tuple[str, Sequence[dict[str, str]], float]]) -> None:
    (data / FOLDER).mkdir()
    totals = [
        {
            "model": name,
            **{f"{d}|gpu|float|{what}": str(value) for d in "ab" for what, value in (("mean", ms * 1e3), ("std", 20))},
        }
        for name, _, ms in networks
    ]
    lines = [{"model": name, **line} for name, lines, _ in networks for line in lines]
    for file, rows in (("tflite_cnn_e2e", totals), ("tflite_cnn_ops_gpu", lines)):
        with gzip.open(data / FOLDER / f"{file}.csv.gz", "wt", newline="") as out:
            writer = csv.DictWriter(out, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def _keys(network: PhoneNetwork) -> list[str]:
    return [spec.key for spec in network.operators]


def _one(data: Path, lines: Sequence[dict[str, str]]) -> PhoneNetwork:
    _write(data, [("net", lines, 5.0)])
    return read_networks(data)[0]


def test_a_kernel_is_one_operator_with_what_it_computes_besides() -> None:
    kernel = Kernel.read(_line("CONV_2D", "56 64 28 2 3 128 1", "convolution_2d_7_linked_:_add_8_linked_:_relu_9"))
    spec = kernel.spec()
    assert spec.key == (
        "CONV_2D 1x56x56x64 @128x3x3x64 @128 1x28x28x128 -> 1x28x28x128 activation=RELU padding=SAME stride=(2,2)"
    )
    assert (kernel.first_node, kernel.last_node) == (7, 9)
    assert spec.macs == 28 * 28 * 128 * 9 * 64


@pytest.mark.parametrize(
    ("operation", "sizes", "kernel", "key"),
    [
        (
            "CONV_2D_GROUP",
            "14 152 14 1 3 152 19",
            "convolution_2d_grouped_3",
            "CONV_2D 1x14x14x152 @152x3x3x8 @152 -> 1x14x14x152 activation=NONE padding=SAME stride=(1,1)",
        ),
        (
            "DEPTHWISE_CONV_2D",
            "58 48 28 2 3 1 1",
            "depthwise_convolution_8_linked_:_hard_swish_9",
            "DEPTHWISE_CONV_2D 1x58x58x48 @1x3x3x48 @48 -> 1x28x28x48 activation=HARD_SWISH padding=VALID stride=(2,2)",
        ),
        (
            "FULLY_CONNECTED",
            "- 512 - - - 1000 -",
            "fully_connected_9",
            "FULLY_CONNECTED 1x512 @1000x512 @1000 -> 1x1000 activation=NONE",
        ),
        ("MEAN", "7 96 96 - 0 - -", "mean_9", "MEAN 1x7x7x96 -> 1x1x1x96 activation=NONE axes=(1,2)"),
        (
            "CONCATENATION",
            "28 64 28 - 3 128 -",
            "concat_9",
            "CONCATENATION 1x28x28x64 1x28x28x32 1x28x28x32 -> 1x28x28x128 activation=NONE axis=3",
        ),
        (
            "MAX_POOL_2D",
            "112 64 56 2 3 - -",
            "pooling_2d_2",
            "MAX_POOL_2D 1x112x112x64 -> 1x56x56x64 activation=NONE filter=(3,3) padding=SAME stride=(2,2)",
        ),
    ],
)
def test_every_kind_of_line_is_translated(operation: str, sizes: str, kernel: str, key: str) -> None:
    assert Kernel.read(_line(operation, sizes, kernel)).spec().key == key


def test_a_gap_before_a_window_that_reads_more_is_a_pad(tmp_path: Path) -> None:
    network = _one(
        tmp_path,
        [
            _line("CONV_2D", "225 3 112 2 3 16 1", "convolution_2d_1_linked_:_relu_2"),
            _line("DEPTHWISE_CONV_2D", "114 16 112 1 3 1 1", "depthwise_convolution_4"),
        ],
    )
    assert _keys(network)[0] == "PAD 1x224x224x3 -> 1x225x225x3 paddings=(0,0,0,1,0,1,0,0)"
    assert _keys(network)[2] == "PAD 1x112x112x16 -> 1x114x114x16 paddings=(0,0,1,1,1,1,0,0)"
    assert network.measured == (1, 3)
    assert [row.operators[0].kind for row in network.rows("b")] == ["CONV_2D", "DEPTHWISE_CONV_2D"]
    assert [row.ms for row in network.rows("b")] == pytest.approx([0.2, 0.2])


def test_a_gap_after_a_gate_is_a_product_and_with_more_nodes_an_addition(tmp_path: Path) -> None:
    network = _one(
        tmp_path,
        [
            _line("CONV_2D", "56 64 56 1 3 64 1", "convolution_2d_0"),
            _line("CONV_2D", "1 4 1 1 1 64 1", "fully_connected_9_linked_:_sigmoid_10"),
            _line("CONV_2D", "56 64 28 2 3 128 1", "convolution_2d_14"),
        ],
    )
    assert _keys(network)[3] == "MUL 1x56x56x64 1x1x1x64 1x56x56x64 -> 1x56x56x64 activation=RELU"
    assert network.measured == (0, 2, 4)


def test_a_gap_without_a_gate_is_an_addition_or_a_normalisation(tmp_path: Path) -> None:
    network = _one(
        tmp_path,
        [
            _line("CONCATENATION", "28 64 28 - 2 96 -", "concat_0"),
            _line("CONV_2D", "28 96 28 1 1 32 1", "convolution_2d_4"),
            _line("CONV_2D", "28 32 28 1 1 32 1", "convolution_2d_6"),
        ],
    )
    assert _keys(network)[1] == "MUL 1x28x28x96 @1x1x1x96 @1x1x1x96 -> 1x28x28x96 activation=RELU"
    assert _keys(network)[3] == "ADD 1x28x28x32 1x28x28x32 -> 1x28x28x32 activation=NONE"


def test_whole_networks_come_with_their_noise(tmp_path: Path) -> None:
    network = _one(tmp_path, [_line("MEAN", "7 96 96 - 0 - -", "mean_0")])
    assert network.row("a").ms == 5.0
    assert network.noise["b"] == pytest.approx(20 / 5000)


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="tflite_cnn_e2e"):
        read_networks(tmp_path)
    with pytest.raises(DataError, match="RESHAPE"):
        Kernel.read(_line("RESHAPE", "7 96 96 - 0 - -", "reshape_0")).spec()
    with pytest.raises(DataError, match="not understood"):
        Kernel.read({**_line("MEAN", "7 96 96 - 0 - -", "mean_0"), "feature": "__import__('os').getcwd()"})
    with pytest.raises(DataError, match="network net of the phones has a latency that is no positive number"):
        _one(tmp_path, [_line("MEAN", "7 96 96 - 0 - -", "mean_0", ms=-1.0)])


def _made_up(count: int) -> list[tuple[str, list[dict[str, str]], float]]:
    """Networks whose operators cost what their MACs say, and that take a base besides."""
    rng = np.random.default_rng(0)
    networks = []
    for i in range(count):
        lines, total = [], 1.0
        for node in range(int(rng.integers(3, 8))):
            size, channels = int(rng.choice([7, 14, 28])), int(rng.choice([16, 24, 32, 64]))
            ms = 0.02 + size**2 * channels**2 / 1e6
            lines.append(_line("CONV_2D", f"{size} {channels} {size} 1 1 {channels} 1", f"convolution_2d_{node}", ms))
            total += ms
        networks.append((f"net{i}", lines, total))
    return networks


def test_the_protocol_compares_all_models_in_both_tests(tmp_path: Path) -> None:
    _write(tmp_path, _made_up(24))
    results = PROTOCOL.results(tmp_path, seeds=1, devices=("b",), progress=silent)
    assert {r.device for r in results} == {"b"}
    by_test = {test: [r for r in results if r.test == test] for test in ("networks", "device")}
    assert {r.model for r in by_test["networks"]} == {"macs only", "fitted table", "trees", "mlp", "hybrid"}
    assert {r.model for r in by_test["device"]} == {"macs only", "fitted table", "transfer"}
    assert [[r.model for r in rows if r.is_default] for rows in by_test.values()] == [["hybrid"], ["transfer"]]
    assert {r.k for r in by_test["networks"]} == {24 * 9 // 10}
    assert {r.k for r in by_test["device"]} == {MEASURED}
    assert all(r.noise_floor is not None and 0 < r.noise_floor < 0.02 for r in results)
    default = next(r for r in by_test["networks"] if r.is_default)
    assert default.mape < 0.03
    assert default.mape < next(r for r in by_test["networks"] if r.model == "macs only").mape


def test_too_few_networks_are_refused(tmp_path: Path) -> None:
    _write(tmp_path, _made_up(5))
    with pytest.raises(DataError, match=str(2 * FOLDS)):
        PROTOCOL.results(tmp_path, seeds=1, devices=(), progress=silent)


def test_families_are_names_without_sizes() -> None:
    families = ["mobilenetv2_w3d4", "mobilenetv2_w1", "resnet18_wd4", "resnet10", "regnetx002", "resnext26_32x4d", "densenet121"]
    assert [family_of(name) for name in families] == [
        "mobilenetv2",
        "mobilenetv2",
        "resnet",
        "resnet",
        "regnetx",
        "resnext",
        "densenet",
    ]


@with_data
def test_translated_networks_have_the_macs_and_weights_of_the_real_ones() -> None:
    assert DATA is not None
    networks = read_networks(Path(DATA))
    assert len(networks) == 102
    assert devices_of(networks) == ["pixel4", "s10", "mi8se", "iphone7"]
    with gzip.open(Path(DATA) / FOLDER / "tflite_cnn_e2e.csv.gz", "rt", newline="") as file:
        totals = {line["model"]: line for line in csv.DictReader(file)}
    for network in networks:
        assert 2 * macs_of(network.operators) == pytest.approx(float(totals[network.name]["FLOPS"]), rel=0.04)
        assert 4 * params_of(network.operators) == pytest.approx(float(totals[network.name]["size"]), rel=0.02)
    assert 0.85 < family_share(networks, seed=0) < 0.95


@with_data
def test_a_new_phone_is_predicted_better_from_the_others_than_from_macs() -> None:
    assert DATA is not None
    networks = read_networks(Path(DATA))
    found, real = transferred(networks, "mi8se", seed=0)
    error = {name: float(np.mean(np.abs(ms / real - 1))) for name, ms in found.items()}
    assert error["transfer"] < 0.1 < error["macs only"]


@with_data
def test_no_network_is_predicted_by_a_model_that_saw_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network whose latency is made up is predicted as if it were not."""
    assert DATA is not None
    networks = read_networks(Path(DATA))[:24]
    fast = ("macs only", "fitted table")
    all_models = phones.models
    monkeypatch.setattr(phones, "models", lambda seed: {name: all_models(seed)[name] for name in fast})
    slower = [*networks[:3], replace(networks[3], ms={"s10": 1e3}), *networks[4:]]
    before, after = predicted(networks, "s10", seed=0), predicted(slower, "s10", seed=0)
    for name in fast:
        assert np.array_equal(after[name][:, 3], before[name][:, 3])
        assert not np.array_equal(after[name], before[name])
