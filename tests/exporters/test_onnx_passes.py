"""What is left in an `.onnx` after simplification, and that it computes the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx as onnx_format
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from paceline.exporters import onnx, parity
from paceline.measurement import Artifact

from torch_reference import Function, image, randomised

Forward = Callable[[nn.ModuleDict, Tensor], Tensor]


class Parts(nn.Module):
    """`forward` written down beside the layers that it uses."""

    def __init__(self, forward: Forward, **layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self.call = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.layers, x)


def operators(module: nn.Module, *inputs: Tensor, path: Path) -> Counter[str]:
    """What the written file consists of; it computes the same as `module`."""
    onnx.write(module, inputs, path)
    parity.check(module, inputs, Artifact(path, "network", "onnx"), tolerance=1e-5)
    return Counter(node.op_type for node in onnx_format.load(path).graph.node)


def conv(inputs: int, outputs: int, kernel: int = 1, padding: int = 0, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=padding, groups=groups, bias=bias)


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels)


class Scale(nn.Module):
    """Multiplies each channel by a parameter."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.linspace(-1, 2, channels).reshape(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


FOLDS: dict[str, tuple[nn.Module, dict[str, int]]] = {
    "norm behind a convolution": (nn.Sequential(conv(4, 6, 3, 1), norm(6), nn.ReLU()), {"Conv": 1, "Relu": 1}),
    "norm behind a concatenation": (
        Parts(
            lambda m, x: m["norm"](torch.cat([m["a"](x[:, :2]), m["b"](x[:, 2:])], 1)).relu(),
            a=conv(2, 3, 3, 1), b=conv(2, 5, 1, bias=True), norm=norm(8),
        ),
        {"Slice": 2, "Conv": 2, "Concat": 1, "Relu": 1},
    ),
    "norm in front of convolutions that do not pad": (
        Parts(
            lambda m, x: m["a"](m["norm"](x.relu())) + m["b"](m["norm"](x.relu())),
            norm=norm(4), a=conv(4, 6, groups=2), b=conv(4, 6, bias=True),
        ),
        {"Relu": 1, "Conv": 2, "Add": 1},
    ),
    "scale behind a convolution": (nn.Sequential(conv(4, 6, 3, 1, groups=2), Scale(6), nn.ReLU()), {"Conv": 1, "Relu": 1}),
    "scale in front of a convolution that pads": (nn.Sequential(nn.ReLU(), Scale(4), conv(4, 6, 3, 1)), {"Relu": 1, "Conv": 1}),
}  # fmt: skip

STAYS: dict[str, tuple[nn.Module, str]] = {
    "norm in front of a convolution that pads": (nn.Sequential(nn.ReLU(), norm(4), conv(4, 6, 3, 1)), "BatchNormalization"),
    "norm behind a convolution that is read elsewhere": (
        Parts(lambda m, x: (y := m["conv"](x)) + m["norm"](y).relu(), conv=conv(4, 6), norm=norm(6)),
        "BatchNormalization",
    ),
    "scale of rows": (nn.Sequential(conv(4, 4), Function(lambda x: (x * torch.arange(5.0).reshape(5, 1)).relu())), "Mul"),
    "norm of one of several readers": (
        Parts(lambda m, x: m["conv"](y := m["norm"](x.relu())) + y.sigmoid(), norm=norm(4), conv=conv(4, 4)),
        "BatchNormalization",
    ),
}


@pytest.mark.parametrize("case", FOLDS)
def test_what_is_folded(case: str, tmp_path: Path) -> None:
    module, expected = FOLDS[case]
    assert operators(randomised(module), image(1, 4, 5, 5), path=tmp_path / "a.onnx") == expected


@pytest.mark.parametrize("case", STAYS)
def test_what_is_not_folded_for_it_would_change_the_result(case: str, tmp_path: Path) -> None:
    module, kind = STAYS[case]
    assert operators(randomised(module), image(1, 4, 5, 5), path=tmp_path / "a.onnx")[kind] == 1


def test_a_layer_used_twice_is_folded_once_for_each_use(tmp_path: Path) -> None:
    """The convolution's weights are shared by two places, only one of which has a norm behind it."""
    module = Parts(lambda m, x: m["norm"](m["conv"](x)).relu() + m["conv"](x.relu()), conv=conv(4, 4), norm=norm(4))
    found = operators(randomised(module), image(1, 4, 5, 5), path=tmp_path / "a.onnx")
    assert found["Conv"] == 2
    assert found["BatchNormalization"] == 0
    model = onnx_format.load(tmp_path / "a.onnx")
    assert {i.name for i in model.graph.initializer} == {"layers.conv.weight", "layers.conv.weight_1", "layers.conv.bias"}


def test_constants_are_folded_and_shared_and_nothing_is_unused(tmp_path: Path) -> None:
    class Constants(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.twin = nn.Linear(200, 200), nn.Linear(200, 200)
            self.twin.load_state_dict(self.linear.state_dict())
            self.drop = nn.Dropout()

        def forward(self, x: Tensor) -> Tensor:
            x = self.drop(self.linear(x)).reshape(1, 2, 200) * torch.arange(200.0).mul(0.01).sin()
            return self.twin(x).transpose(1, 2).transpose(1, 2) + 0

    path = tmp_path / "a.onnx"
    found = operators(Constants().eval(), image(2, 200), path=path)
    assert set(found) <= {"Gemm", "MatMul", "Add", "Mul", "Reshape"}
    graph = onnx_format.load(path).graph
    values = [(tuple(i.dims), onnx_format.numpy_helper.to_array(i).tobytes()) for i in graph.initializer]
    assert len(set(values)) == len(values)
    assert {i.name for i in graph.initializer} <= {name for node in graph.node for name in node.input}


def test_spatial_means_are_pools_and_other_means_are_not(tmp_path: Path) -> None:
    x, path = image(1, 4, 5, 5), tmp_path / "a.onnx"
    assert operators(Function(lambda x: x.mean((2, 3), keepdim=True)).eval(), x, path=path) == {"GlobalAveragePool": 1}
    assert operators(Function(lambda x: x.mean((-1, -2), keepdim=True).relu()).eval(), x, path=path)["GlobalAveragePool"] == 1
    for dims in ((1, 2), (3,), (1, 2, 3)):
        assert operators(Function(lambda x, d=dims: x.mean(d, keepdim=True)).eval(), x, path=path)["ReduceMean"] == 1


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), depth=st.integers(1, 5))
def test_random_networks_compute_the_same(seed: int, depth: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    module = randomised(_random_network(seed, depth), seed)
    path = tmp_path_factory.mktemp("random") / "a.onnx"
    onnx.write(module, image(1, 4, 6, 6), path)
    parity.check(module, [image(1, 4, 6, 6, seed=seed % 97)], Artifact(path, "random", "onnx"), tolerance=1e-4)


def _random_network(seed: int, depth: int) -> nn.Module:
    """Convolutions, norms, scales, sums and concatenations in random order, 4 channels between them."""
    generator = torch.Generator().manual_seed(seed)

    def one_of(*options: nn.Module) -> nn.Module:
        return options[int(torch.randint(len(options), (1,), generator=generator))]

    def block() -> nn.Module:
        return one_of(
            conv(4, 4, 3, 1), conv(4, 4, groups=2, bias=True), norm(4), Scale(4), nn.ReLU(),
            Parts(lambda m, x: m["a"](x) + x, a=one_of(norm(4), conv(4, 4), Scale(4))),
            Parts(lambda m, x: torch.cat([m["a"](x), m["b"](x)], 1), a=one_of(conv(4, 2), conv(4, 2, 3, 1)), b=conv(4, 2)),
        )  # fmt: skip

    return nn.Sequential(*(block() for _ in range(depth)), conv(4, 4), norm(4))
