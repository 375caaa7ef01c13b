"""Which operators a network becomes, what they count, and what is refused with which words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from paceline.errors import ExportError
from paceline.exporters.torch_graph import UnsupportedOperator, graph_of

from torch_reference import (
    TOLERANCE,
    ChannelShuffleByHand,
    Function,
    InvertedResidual,
    RepVGG,
    SqueezeExcite,
    SuperResolution,
    conv_bn,
    difference,
    image,
    kinds,
    randomised,
)


def test_inverted_residual_is_three_convolutions_and_an_addition() -> None:
    graph = graph_of(InvertedResidual(16, 16).eval(), image(1, 16, 8, 8))
    assert kinds(graph) == ["CONV_2D+RELU6", "DEPTHWISE_CONV_2D+RELU6", "CONV_2D", "ADD"]
    assert [op.source for op in graph.ops] == ["expand.0", "depthwise.0", "project.0", ""]
    assert [op.attr("padding") for op in graph.ops[:3]] == ["VALID", "SAME", "VALID"]
    assert graph.macs() == 64 * (16 * 96 + 96 * 9 + 96 * 16)
    assert graph.params() == (16 * 96 + 96) + (96 * 9 + 96) + (96 * 16 + 16)


def test_stride_two_on_an_even_size_pads_as_torch_does() -> None:
    graph = graph_of(InvertedResidual(16, 24, 2).eval(), image(1, 16, 8, 8))
    assert kinds(graph) == ["CONV_2D+RELU6", "PAD", "DEPTHWISE_CONV_2D+RELU6", "CONV_2D"]
    assert [spec.attr("pad") for spec in graph.operators()] == [None, (1, 1, 1, 1), None]


def test_squeeze_excitation_keeps_pooled_tensors_as_one_pixel() -> None:
    graph = graph_of(SqueezeExcite(16).eval(), image(1, 16, 8, 8))
    assert kinds(graph) == ["MEAN", "CONV_2D+RELU", "CONV_2D+RELU6", "MUL", "MUL"]  # the 3 of hard-sigmoid is in the bias
    assert graph.tensors[graph.ops[0].outputs[0]].shape == (1, 1, 1, 16)


def test_classifier_head_is_mean_and_fully_connected() -> None:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(8, 3))
    graph = graph_of(head.eval(), image(1, 8, 5, 5))
    assert kinds(graph) == ["MEAN", "FULLY_CONNECTED"]
    assert (graph.macs(), graph.params()) == (24, 27)


def test_flattened_map_needs_no_transpose() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(96, 7))
    assert kinds(graph_of(net.eval(), image(1, 3, 5, 6))) == ["CONV_2D", "RESHAPE", "FULLY_CONNECTED"]


def test_unmerged_repvgg_keeps_its_branches() -> None:
    graph = graph_of(randomised(RepVGG(8)), image(1, 8, 6, 6))
    assert kinds(graph) == ["CONV_2D", "CONV_2D", "ADD", "MUL", "ADD", "ADD+RELU"]
    assert graph.macs() == 36 * 8 * 8 * (9 + 1)


def test_max_pool_behind_relu_pads_with_zeros() -> None:
    stem = nn.Sequential(conv_bn(3, 8, 7, 2, act=nn.ReLU), nn.MaxPool2d(3, 2, 1))
    worst, graph = difference(randomised(stem), image(1, 3, 32, 32))
    assert worst <= TOLERANCE
    assert kinds(graph) == ["PAD", "CONV_2D+RELU", "PAD", "MAX_POOL_2D"]
    assert kinds(graph_of(nn.MaxPool2d(3, 2, 1).eval(), image(1, 3, 8, 8))) == ["PADV2", "MAX_POOL_2D"]


def test_activations_in_a_row_are_one() -> None:
    def clipped(x: Tensor) -> list[Tensor]:
        return [F.relu(F.relu6(x)), F.relu6(F.relu(x + 1)), F.max_pool2d(F.relu(F.relu(x * 2)), 1)]

    worst, graph = difference(Function(clipped).eval(), image(1, 3, 5, 5) * 5)
    assert worst <= TOLERANCE
    assert kinds(graph) == ["RELU6", "ADD+RELU6", "MUL+RELU"]


def test_what_nothing_reads_is_not_lowered() -> None:
    def wasteful(x: Tensor) -> Tensor:
        F.gelu(x)
        x.sigmoid() * 2
        return x.max(1)[0]

    assert kinds(graph_of(Function(wasteful).eval(), image(1, 3, 5, 5))) == ["REDUCE_MAX"]


def test_pixel_shuffle_costs_nothing_behind_a_convolution() -> None:
    graph = graph_of(SuperResolution(3).eval(), image(1, 3, 5, 6))
    assert kinds(graph) == ["CONV_2D", "CONCATENATION", "ADD", "DEPTH_TO_SPACE"]
    assert graph.tensors[graph.outputs[0]].shape == (1, 15, 18, 3)


def test_pixel_shuffle_leaves_a_convolution_alone_that_others_read() -> None:
    class TwoReaders(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 12, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.conv(x)
            return F.pixel_shuffle(y, 2), y

    worst, graph = difference(randomised(TwoReaders()), image(1, 3, 5, 6))
    assert worst <= TOLERANCE
    assert kinds(graph) == ["CONV_2D", "RESHAPE", "TRANSPOSE", "RESHAPE", "DEPTH_TO_SPACE"]
    assert max(len(t.shape) for t in graph.tensors.values()) == 4


def test_channel_shuffle_stays_within_rank_four() -> None:
    graph = graph_of(ChannelShuffleByHand(3).eval(), image(1, 12, 5, 6))
    assert kinds(graph) == ["RESHAPE", "TRANSPOSE", "RESHAPE"]
    assert max(len(t.shape) for t in graph.tensors.values()) == 4


def test_transposed_convolution_counts_what_torch_computes() -> None:
    graph = graph_of(nn.ConvTranspose2d(12, 5, 3, 2, 1, 1).eval(), image(1, 12, 5, 6))
    assert kinds(graph) == ["TRANSPOSE_CONV", "SLICE"]
    assert (graph.macs(), graph.params()) == (30 * 12 * 9 * 5, 12 * 9 * 5 + 5)


def test_a_layer_used_twice_is_stored_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x))

    graph = graph_of(randomised(Twice()), image(1, 3, 5, 5))
    assert len(graph.ops) == 2
    assert set(graph.weights) == {"conv.weight", "conv.bias"}


def test_batch_norm_is_folded_in_double_precision() -> None:
    net = randomised(conv_bn(3, 4, 1, act=None))
    conv, norm = net[0], net[1]  # type: ignore[index]
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    expected = (conv.weight.double() * scale[:, None, None, None]).permute(0, 2, 3, 1).detach().numpy()
    assert np.array_equal(graph_of(net, image(1, 3, 5, 5)).weights["0.weight"], expected.astype(np.float32))


def test_the_module_is_left_as_it_was() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("offset", torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            self.offset.add_(1)
            return x + self.offset

    net = Counter().eval()
    graph = graph_of(net, image(1, 3, 5, 5))
    assert net.offset.item() == 1
    assert [w.item() for w in graph.weights.values()] == [2]


def test_graphs_are_reproducible() -> None:
    net, x = randomised(nn.Sequential(conv_bn(3, 8, 3), SqueezeExcite(8))), image(1, 3, 9, 9)
    first, second = graph_of(net, x), graph_of(net, x)
    assert (first.ops, first.tensors, first.inputs, first.outputs) == (second.ops, second.tensors, second.inputs, second.outputs)
    assert all(np.array_equal(first.weights[name], second.weights[name]) for name in first.weights | second.weights)


def test_in_place_operators_compute_what_torch_computes() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            kept = x
            y = self.relu(x)
            y += 1
            return kept * 2

    worst, graph = difference(randomised(InPlace()), image(1, 3, 5, 5))
    assert worst <= TOLERANCE
    assert kinds(graph) == ["CONV_2D+RELU", "ADD", "MUL"]


def test_no_grad_inside_forward() -> None:
    def scaled(x: Tensor) -> Tensor:
        with torch.no_grad():
            factor = x.mean() + torch.tensor([1.0, 2.0]).sum()
        return x * factor

    assert difference(Function(scaled).eval(), image(1, 3, 5, 5))[0] <= TOLERANCE


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (torch.erfinv, ["aten.erfinv.default", "no lowering"]),
        (lambda x: x + torch.rand(6), ["aten.rand.default", "random"]),
        (lambda x: x.max(1)[1], ["getitem", "indices"]),
        (lambda x: x * (x > 0), ["aten.gt", "torch.bool"]),
        (lambda x: x[:, :, torch.eye(6) > 0], ["aten.index", "not masks"]),
        (lambda x: x.var(0), ["aten.var", "correction=0"]),
        (lambda x: torch.einsum("nchw,nchw,nchw->nc", x, x, x), ["aten.einsum", "two operands"]),
        (lambda x: F.conv2d(x, x[:, :, :3, :3]), ["aten.conv2d", "buffer"]),
        (lambda x: x.double() * 2, ["float64", "float32"]),
    ],
)
def test_unsupported(function: Any, words: list[str]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Function(function)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    with pytest.raises(UnsupportedOperator) as caught:
        graph_of(Net().eval(), image(1, 3, 6, 6))
    for word in [*words, "inner", ".py:", "Remedy"]:
        assert word in str(caught.value)


def test_source_line_is_that_of_the_callers_code() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.erf(x)

    line = Net.forward.__code__.co_firstlineno + 1
    with pytest.raises(UnsupportedOperator, match=rf"test_torch_graph\.py:{line} "):
        graph_of(Net().eval(), image(1, 3, 6, 6))


@pytest.mark.parametrize("module", [nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), nn.Dropout()])
def test_training_mode_is_refused(module: nn.Module) -> None:
    with pytest.raises(ExportError, match="eval"):
        graph_of(module, image(1, 3, 6, 6))


def test_what_torch_can_not_trace_is_an_export_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExportError, match="can't trace Function"):
        graph_of(Function(lambda x: x if x.sum() > 0 else -x).eval(), image(1, 3, 6, 6))
    with pytest.raises(ExportError, match="can't trace Conv2d"):
        graph_of(nn.Conv2d(4, 3, 1).eval(), image(1, 3, 6, 6))
    with pytest.raises(ExportError, match="float64"):
        graph_of(nn.Conv2d(3, 3, 1).eval(), image(1, 3, 6, 6).double())
    assert capfd.readouterr() == ("", "")


def test_a_result_without_inputs_is_refused() -> None:
    with pytest.raises(ExportError, match="does not depend on its inputs"):
        graph_of(Function(lambda x: torch.ones(3)).eval(), image(1, 3, 6, 6))
