"""Arithmetic and activation functions: torch against LiteRT on both kinds of kernels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from paceline.exporters.torch_graph import UnsupportedOperator, graph_of

from torch_reference import TOLERANCE, Function, difference, image, kinds

SHAPE = (2, 6, 5, 4)
Unary = Callable[[Tensor], Tensor]
Binary = Callable[[Tensor, Tensor], Tensor]
PER_CHANNEL = torch.tensor([0.5, 3.0, -2.0, 4.0, 1.0, -0.7]).reshape(6, 1, 1)
MASK = torch.rand(5, 4, generator=torch.Generator().manual_seed(0)) > 0.5

UNARY: dict[str, Unary] = {
    **{name: getattr(torch, name) for name in ("exp", "exp2", "abs", "sign", "sgn", "floor", "ceil", "round", "trunc", "frac")},
    **{name: getattr(torch, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "square", "neg", "expm1")},
    **{f"functional.{name}": getattr(F, name) for name in ("mish", "softplus", "elu", "selu", "celu", "softsign", "tanhshrink")},
    **{f"functional.{name}": getattr(F, name) for name in ("logsigmoid", "silu", "hardswish", "hardsigmoid", "softshrink")},
    "gelu": F.gelu,
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "softplus with beta": lambda x: F.softplus(x, beta=2.0, threshold=30),
    "elu with alpha": lambda x: F.elu(x, 0.3),
    "celu with alpha": lambda x: F.celu(x, 0.7),
    "softshrink of nothing": lambda x: F.softshrink(x, 0.0),
    "threshold at its value": lambda x: F.threshold(x, 0.3, 0.3),
    "glu over channels": lambda x: F.glu(x, 1),
    "glu over the width": lambda x: F.glu(x, -1),
    "prelu": lambda x: F.prelu(x, PER_CHANNEL.flatten()),
    "round half to even": lambda x: torch.round(torch.floor(4 * x) / 2),
    "round to decimals": lambda x: torch.round(x, decimals=1),
    "round to tens": lambda x: torch.round(100 * x, decimals=-1),
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "clamp the wrong way round": lambda x: x.clamp(1.0, -1.0),
    "clamp by channel": lambda x: torch.clamp(x, -PER_CHANNEL.abs() / 9, PER_CHANNEL.abs() / 9),
    "cube": lambda x: x**3,
    "ninth power": lambda x: x**9,
    "base 0.3": lambda x: torch.pow(0.3, x),
    "base 2": lambda x: 2**x,
    "division by channel": lambda x: x / PER_CHANNEL,
    "floor division": lambda x: x // 0.7,
    "floor division by channel": lambda x: x // PER_CHANNEL,
    "floor division by two": lambda x: (9 * x) // 2,
    "division truncated": lambda x: torch.div(9 * x, -1.5, rounding_mode="trunc"),
    "remainder": lambda x: x % 0.7,
    "remainder of negative": lambda x: torch.remainder(x, -1.5),
    "remainder by channel": lambda x: torch.remainder(x, PER_CHANNEL),
    "fmod": lambda x: torch.fmod(9 * x, -1.5),
    "fmod by channel": lambda x: torch.fmod(9 * x, PER_CHANNEL),
    "logit within eps": lambda x: torch.logit(torch.sigmoid(9 * x), 1e-3),
    "where with a zero": lambda x: torch.where(MASK, x, 0.0),
    "masked_fill": lambda x: x.masked_fill(MASK, -3.0),
    "masked softmax": lambda x: x.masked_fill(MASK & ~torch.eye(5, 4, dtype=torch.bool), float("-inf")).softmax(2),
    "rsub": lambda x: torch.rsub(x, 2.0, alpha=3.0),
    "permuted glu": lambda x: F.glu(x.permute(0, 2, 3, 1), -1).permute(0, 3, 1, 2),
}
POSITIVE: dict[str, Unary] = {
    **{name: getattr(torch, name) for name in ("log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal")},
    **{f"power {e}": (lambda x, e=e: x**e) for e in (0, 0.25, 0.5, 1.5, 2.5, 1.7, 1 / 3, -0.5, -1, -1.5, -2)},
    "power by channel": lambda x: x**PER_CHANNEL,
    "1.5 / x": lambda x: 1.5 / x,
    "remainder of a number": lambda x: torch.remainder(2.5, x),
    "number divided and truncated": lambda x: torch.div(torch.tensor(5.0), x, rounding_mode="trunc"),
    "generalised mean": lambda x: F.avg_pool2d(x.pow(3.0), (5, 4)).pow(1 / 3),
}
BINARY: dict[str, Binary] = {
    "div": lambda x, y: x / y,
    "add with alpha": lambda x, y: torch.add(x, y, alpha=0.3),
    "floor division": lambda x, y: x // y,
    "remainder": torch.remainder,
    "fmod": torch.fmod,
    "power": lambda x, y: x.abs() ** y,
    "maximum": torch.maximum,
    "fmin": torch.fmin,
    "logaddexp": torch.logaddexp,
    "logaddexp with broadcasting": lambda x, y: torch.logaddexp(x, y.mean(1, keepdim=True)),
    "addcmul": lambda x, y: torch.addcmul(x, x, y, value=0.3),
    "addcdiv": lambda x, y: torch.addcdiv(x, x, y, value=0.3),
    "lerp": lambda x, y: torch.lerp(x, y, torch.sigmoid(x)),
    "clamp": lambda x, y: x.clamp(y - 1, y + 0.1),
    "where": lambda x, y: torch.where(MASK, x, y),
}


@pytest.mark.parametrize("name", UNARY)
def test_unary(name: str) -> None:
    assert difference(Function(UNARY[name]), 2 * image(*SHAPE))[0] <= TOLERANCE


@pytest.mark.parametrize("name", POSITIVE)
def test_unary_on_positive_numbers(name: str) -> None:
    assert difference(Function(POSITIVE[name]), image(*SHAPE).abs() + 0.1)[0] <= TOLERANCE


@pytest.mark.parametrize("name", BINARY)
def test_binary(name: str) -> None:
    y = image(*SHAPE, seed=1)
    assert difference(Function(BINARY[name]), image(*SHAPE), torch.where(y < 0, y - 0.3, y + 0.3))[0] <= TOLERANCE


@pytest.mark.parametrize("name", ["softplus", "mish", "gelu", "silu", "elu", "selu", "logsigmoid", "softsign", "tanhshrink"])
@pytest.mark.parametrize("scale", [60.0, 1000.0])
def test_activations_of_large_numbers(name: str, scale: float) -> None:
    assert difference(Function(lambda x: getattr(F, name)(scale * x)), image(*SHAPE))[0] <= TOLERANCE


@pytest.mark.parametrize("shape", [(7,), (3, 8), (2, 3, 4), (1, 2, 3, 4, 5)])
def test_ranks(shape: tuple[int, ...]) -> None:
    assert difference(Function(lambda x: torch.log1p(torch.trunc(9 * x).abs()) + F.gelu(x)), image(*shape))[0] <= TOLERANCE


@pytest.mark.parametrize("function", [torch.log1p, torch.expm1, F.elu, torch.sinh])
def test_what_goes_through_zero_is_as_exact_near_it(function: Unary) -> None:
    assert difference(Function(function), 1e-5 * image(1, 3, 4, 5))[0] <= TOLERANCE


def test_logarithm_of_one_plus_minus_one_is_infinite() -> None:
    worst, graph = difference(Function(lambda x: torch.exp(torch.log1p(torch.clamp(x, min=-1.0)))), 3 * image(1, 3, 4, 5))
    assert worst <= TOLERANCE
    assert kinds(graph)[-1] == "EXP"


@pytest.mark.parametrize("divisor", [0.1, -0.1, 0.3, 7.0])
def test_floor_division_of_multiples_rounds_as_torch_does(divisor: float) -> None:
    whole = torch.arange(-12.0, 12.0).reshape(1, 2, 3, 4)
    assert difference(Function(lambda x: x // divisor), whole)[0] == 0
    assert difference(Function(lambda x: x // divisor), whole * divisor)[0] == 0


def test_forms_that_delegates_take() -> None:
    """Kinds without a kernel in XNNPACK split the graph."""
    assert kinds(graph_of(Function(lambda x: x**1.5), image(1, 3, 4, 5))) == ["SQRT", "MUL"]
    assert kinds(graph_of(Function(lambda x: x // 4), image(1, 3, 4, 5))) == ["MUL", "FLOOR"]
    assert kinds(graph_of(Function(torch.trunc), image(1, 3, 4, 5))) == ["MINIMUM", "CEIL", "RELU", "FLOOR", "ADD"]
    assert kinds(graph_of(Function(F.gelu), image(1, 3, 4, 5))) == ["GELU"]
    assert kinds(graph_of(Function(lambda x: F.threshold(x, 0.0, 0.0)), image(1, 3, 4, 5))) == ["RELU"]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: F.softplus(x, 2, 5), "cut off at the threshold 5.*use threshold=20"),
        (lambda x: F.threshold(x, 0.3, -1.0), "jumps from -1 to 0.3"),
        (torch.erf, "no exact form.*gelu"),
        (lambda x: torch.linalg.vector_norm(x, 0), "norm of order 0"),
        (lambda x: torch.pow(-2.0, x), "raises -2 to a power"),
    ],
)
def test_refusals(function: Unary, words: str) -> None:
    with pytest.raises(UnsupportedOperator, match=words):
        graph_of(Function(function), image(1, 3, 4, 5))
