"""What the parser makes of each format of benchmark_model's operator profile."""

from __future__ import annotations

from pathlib import Path

import pytest

from paceline.devices.benchmark_model.output import parse

SAMPLES = Path(__file__).parent / "benchmark_model_samples"


def text_of(name: str) -> str:
    return (SAMPLES / f"{name}.txt").read_text(encoding="utf-8")


def test_operators_of_the_classic_table() -> None:
    output = parse(text_of("classic_table"))
    assert output.operators_complete
    assert [(o.kind, o.name, o.index, o.avg_ms, o.times_called, o.delegated) for o in output.operators] == [
        ("CONV_2D", "net/stem/Relu6;net/stem/bias", 0, 60.957, 1, False),
        ("DEPTHWISE_CONV_2D", "net/a, net/b", 1, 49.87, 1, False),
        ("WHILE", "net/loop:0", 2, 3.25, 4, False),
        ("SOFTMAX", "Identity", 3, 0.233, 1, False),
    ]
    assert [(o.start_ms, o.first_ms) for o in output.operators[:2]] == [(0.066, 87.754), (61.033, 53.628)]
    assert output.operators[2].run_ms == 13.0
    assert [(o.kind, o.name, o.avg_ms) for o in output.initialization] == [("AllocateTensors", "AllocateTensors/0", 0.204)]


def test_operators_of_csv_with_commas_in_names() -> None:
    output = parse(text_of("csv"))
    assert output.operators_complete
    assert [(o.kind, o.name, o.index, o.avg_ms, o.delegated) for o in output.operators] == [
        ("CONV_2D", "net/a, net/b;net/c", 0, 0.0930388, False),
        ("TfLiteXNNPackDelegate", "net/d,net/e", 7, 3.40312e-05, True),
        ("SOFTMAX", "Identity", 2, 0.000342312, False),
    ]
    assert [(o.kind, o.name, o.avg_ms, o.delegated) for o in output.internal] == [
        ("Convolution (NHWC, F32) IGEMM", "Convolution (NHWC, F32) IGEMM", 2.1e-05, True),
        ("Softmax (NC, F32)", "Softmax (NC, F32)", 1.25e-05, True),
    ]


def test_operators_of_several_subgraphs() -> None:
    output = parse(text_of("subgraphs"))
    assert output.operators_complete
    assert [(o.subgraph, o.kind, o.name, o.times_called) for o in output.operators] == [
        (0, "TfLiteXNNPackDelegate", "x", 1),
        (0, "WHILE", "y", 1),
        (1, "TfLiteXNNPackDelegate", "body/x", 5),
    ]


def test_operators_of_the_first_table() -> None:
    output = parse(text_of("old_table"))
    assert output.operators_complete
    assert [(o.name, o.index, o.avg_ms, o.times_called, o.run_ms) for o in output.operators] == [
        ("net/Conv2d_0/Relu6", None, 4.269, 0, 4.269),
        ("net/Reshape", None, 0.002, 0, 0.002),
    ]


def test_operators_of_litert() -> None:
    output = parse(text_of("litert_profile"))
    assert output.operators_complete
    assert [(o.kind, o.name, o.index, o.avg_ms, o.times_called, o.run_ms, o.delegated) for o in output.operators] == [
        ("Convolution (NHWC, QC8) IGEMM", "Convolution (NHWC, QC8) IGEMM", 0, 0.006, 3, 0.006, True),
        ("Add (ND)", "Add (ND)", 1, 0.002, 3, 0.002, True),
        ("AVERAGE_POOL_2D", "AVERAGE_POOL_2D", 12, 0.003, 3, 0.003, False),
        ("Fully Connected (NC, QS8, QC8W) GEMM", "Fully Connected (NC, QS8, QC8W) GEMM", 0, 0.001, 3, 0.001, True),
        ("SOFTMAX", "SOFTMAX", 15, 0.001, 3, 0.001, False),
    ]


@pytest.mark.parametrize("lost", ["DEPTHWISE_CONV_2D", "4 nodes observed", "Operator-wise"])
def test_an_operator_table_with_something_missing_is_not_complete(lost: str) -> None:
    text = "".join(line for line in text_of("classic_table").splitlines(keepends=True) if lost not in line)
    assert not parse(text).operators_complete
