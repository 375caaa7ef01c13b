"""Profiles beside operators."""

from paceline.graph import OpSpec, TensorSpec
from paceline.measurement import OpTime
from paceline.pipeline.profile import align

from samples import conv

MEAN = OpSpec("MEAN", (TensorSpec((1, 4, 4, 8)),), (TensorSpec((1, 8)),))
DENSE = OpSpec("FULLY_CONNECTED", (TensorSpec((1, 8)),), (TensorSpec((1, 10)),))
OPERATORS = [conv(4, 8, 8, 1), conv(4, 8, 8, 3, depthwise=True), MEAN, DENSE]


def events(*named: tuple[str, float]) -> list[OpTime]:
    return [OpTime(name, ms, True) for name, ms in named]


def test_what_the_runtime_adds_counts_for_its_neighbour() -> None:
    xnnpack = events(
        ("Fully Connected (NC, F32) GEMM", 1.0),
        ("Convolution (NHWC, F32) DWConv", 2.0),
        ("Mean (ND) Reduce2", 3.0),
        ("Static Reshape (NC)", 0.5),
        ("Fully Connected (NC, F32) GEMM", 4.0),
    )
    assert align(OPERATORS, xnnpack) == [1.0, 2.0, 3.5, 4.0]
    builtin = events(
        ("PAD", 0.25), ("CONV_2D", 1.0), ("PAD", 0.5), ("DEPTHWISE_CONV_2D", 2.0), ("MEAN", 3.0), ("FULLY_CONNECTED", 4.0)
    )
    assert align(OPERATORS, builtin) == [1.25, 2.5, 3.0, 4.0]
    fused = events(("PAD+CONV_2D", 1.0), ("DEPTHWISE_CONV_2D", 2.0), ("MEAN", 3.0), ("FULLY_CONNECTED", 4.0))
    assert align(OPERATORS, fused) == [1.0, 2.0, 3.0, 4.0]


def test_another_program_is_no_profile_of_these_operators() -> None:
    assert align(OPERATORS, events(("CONV_2D", 1.0), ("MEAN", 3.0))) is None
    assert align(OPERATORS, []) is None
