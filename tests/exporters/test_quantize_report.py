"""The precision report: figures that can be recomputed, and the operator that went wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from paceline.errors import ExportError
from paceline.exporters import tflite
from paceline.exporters.precision.calibration import Calibration
from paceline.exporters.precision.quantize import input_specs, quantised
from paceline.exporters.precision.report import EXACT_DB, OperatorPrecision, compare, first_wrong
from paceline.exporters.run_tflite import run
from paceline.exporters.torch_graph import graph_of

from torch_reference import conv_bn, randomised

pytest.importorskip("ai_edge_quantizer")


def network() -> nn.Sequential:
    """Two blocks, a pointwise and a dense convolution, and pooling to a vector."""
    net = nn.Sequential(
        conv_bn(3, 8, 3),
        conv_bn(8, 8, 3),
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return randomised(net)


def written(net: nn.Module) -> bytes:
    return tflite.write(graph_of(net, torch.zeros(1, 3, 16, 16)))


def drawn(model: bytes, seed: int = 0) -> Calibration:
    return Calibration.random(input_specs(model), 6, np.random.default_rng(seed))


def test_the_figures_are_those_of_the_outputs() -> None:
    model = written(network())
    small = quantised(model, "dynamic")
    data = drawn(model)
    (output,) = compare(model, small, data).outputs
    exact, computed = (np.stack([run(m, list(s), "xnnpack")[0] for s in data.samples]).astype(np.float64) for m in (model, small))
    error = computed - exact
    assert output.max_abs_error == pytest.approx(np.abs(error).max())
    assert output.mean_abs_error == pytest.approx(np.abs(error).mean())
    assert output.snr_db == pytest.approx(10 * np.log10((exact**2).sum() / (error**2).sum()))
    varying = exact - exact.mean(0)
    assert output.varying_snr_db == pytest.approx(10 * np.log10((varying**2).sum() / (error**2).sum()))
    assert output.top1_agreement == (exact.argmax(-1) == computed.argmax(-1)).mean()


def test_a_model_equals_itself() -> None:
    model = written(network())
    report = compare(model, model, drawn(model))
    (output,) = report.outputs
    assert (output.max_abs_error, output.mean_abs_error, output.snr_db, output.top1_agreement) == (0, 0, EXACT_DB, 1)
    assert (report.samples, report.source, report.conversions, report.in_float) == (6, "random numbers", 0, ())
    assert {op.snr_after_db for op in report.operators} == {EXACT_DB}


def test_the_layer_with_one_loud_channel_goes_wrong_first() -> None:
    net = network()
    with torch.no_grad():
        net[2].weight[3] *= 1000
        net[2].bias[3] = 0
        net[3].weight[:, 3] /= 1e6  # the next layer hardly reads it
    model = written(net)
    report = compare(model, quantised(model, "int8", drawn(model)), drawn(model, 1))
    wrong = report.first_wrong
    assert wrong is not None
    assert wrong.kind == "CONV_2D"
    assert wrong.tensor.startswith("3/")  # there the quiet channels are missed: the loud one hides their loss in tensor 2
    assert wrong.snr_before_db > 30 > 15 > wrong.snr_after_db
    assert report.outputs[0].snr_db < 15
    ordinary = written(network())
    assert compare(ordinary, quantised(ordinary, "int8", drawn(ordinary)), drawn(ordinary, 1)).outputs[0].snr_db > 25


def test_first_wrong_ignores_the_first_step_and_masked_noise() -> None:
    def step(kind: str, before: float, after: float, lasting: float) -> OperatorPrecision:
        return OperatorPrecision(kind, kind.lower(), before, after, lasting)

    entry = step("QUANTIZE", EXACT_DB, 45, 45)
    gate = step("LOGISTIC", 40, 5, 40)
    fair = step("CONV_2D", 45, 40, 40)
    bad = step("ADD", 40, 20, 20)
    assert first_wrong((entry, gate, fair, bad)) is bad
    assert first_wrong((entry, gate, fair)) is fair
    assert first_wrong((entry, step("MEAN", 45, 60, 60), fair)) is fair  # averaging is no measure of what is possible
    assert first_wrong(()) is None
    assert first_wrong((step("CONV_2D", EXACT_DB, 10, 10), step("ADD", 10, 5, 5))) == step("CONV_2D", EXACT_DB, 10, 10)


def test_a_model_that_does_not_run_is_an_error() -> None:
    model = written(network())
    other = written(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Flatten(1)).eval())
    with pytest.raises(ExportError, match="comparing the quantised model with the float one failed"):
        compare(model, other, drawn(model))
    small = Calibration(((np.zeros((1, 4, 4, 3), np.float32),),), "small images")
    with pytest.raises(ExportError, match="sample 0 of small images"):
        compare(model, model, small)
