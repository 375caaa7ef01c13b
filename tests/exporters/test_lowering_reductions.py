"""Reductions, normalisation and norms: torch against LiteRT on both kinds of kernels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from paceline.devices.kinds.local import open_local
from paceline.exporters import tflite
from paceline.exporters.torch_graph import UnsupportedOperator, graph_of
from paceline.measurement import Artifact, Bench

from torch_reference import TOLERANCE, Function, difference, image, kinds, randomised

SHAPE = (2, 6, 5, 4)
DIMS: tuple[Any, ...] = (1, -1, (2, 3), (1, 2), (0, 2), (1, 2, 3))

CASES: dict[str, Callable[[Tensor], Any]] = {
    **{f"{n} of all": getattr(torch, n) for n in ("mean", "prod", "amax", "amin", "max", "min", "var", "std", "norm")},
    "variance and mean": lambda x: torch.var_mean(x, 1, keepdim=True),
    "deviation and mean": lambda x: torch.std_mean(x, (2, 3), correction=0),
    "largest and where": lambda x: x.max(1).values,
    "smallest and where": lambda x: x.min(2, keepdim=True)[0],
    "both ends": lambda x: tuple(torch.aminmax(x, dim=1)),
    "both ends of all": lambda x: tuple(torch.aminmax(x)),
    **{
        f"norm of order {p}": (lambda x, p=p: torch.linalg.vector_norm(x, p, dim=1))
        for p in (1, 2, 3, 0.5, torch.inf, -torch.inf)
    },
    "norm of maps": lambda x: torch.linalg.vector_norm(x, 3, (1, 2), keepdim=True),
    "norm of matrices": torch.linalg.matrix_norm,
    "normalize": lambda x: F.normalize(x, dim=1),
    "pairwise distance": lambda x: F.pairwise_distance(x, x.flip(3), p=3.0),
    "cosine similarity": lambda x: F.cosine_similarity(x, x.flip(3), dim=1),
    "cosine similarity to a constant": lambda x: F.cosine_similarity(x, torch.arange(1.0, 7).reshape(6, 1, 1), dim=1),
    "cosine similarity of ranks": lambda x: F.cosine_similarity(x, x[0], dim=1),
    "cosine similarity of pairs": lambda x: F.cosine_similarity(x[0, :, None], x[1, None], dim=-1),
    "logsumexp": lambda x: torch.logsumexp(30 * x, (1, 2), keepdim=True),
    "logsumexp of the outer": lambda x: torch.logsumexp(x, (-1, 0)),
    **{f"{n} {d}": (lambda x, n=n, d=d: getattr(F, n)(3 * x, d)) for n in ("softmax", "log_softmax") for d in range(4)},
    **{f"cumsum {d}": (lambda x, d=d: torch.cumsum(x, d)) for d in range(-1, 3)},
    "sum over repeated": lambda x: x.mean(1, keepdim=True).expand(2, 6, 5, 4).sum(1),
    "cumsum over repeated": lambda x: x.mean(1, keepdim=True).expand(2, 6, 5, 4).cumsum(1),
    "largest over repeated": lambda x: x.mean(3, keepdim=True).expand(2, 6, 5, 4).amax((1, 3)),
    "global response": lambda x: x / (x.norm(p=2, dim=(2, 3), keepdim=True).mean(1, keepdim=True) + 1e-6),
    "layer norm by hand": lambda x: (x - x.mean(1, keepdim=True)) * torch.rsqrt(x.var(1, correction=0, keepdim=True) + 1e-6),
    "layer norm over channels": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (6,)).permute(0, 3, 1, 2),
    "layer norm of all channels": lambda x: F.layer_norm(x, (6, 5, 4)),
    "layer norm far off": lambda x: F.layer_norm(2 * x + 50, (4,)),
    "layer norm over repeated": lambda x: F.layer_norm(x.mean(1, keepdim=True).expand(2, 6, 5, 4), (4,)),
    "rms norm over channels": lambda x: F.rms_norm(x.permute(0, 2, 3, 1), (6,), torch.arange(6.0), 1e-5).permute(0, 3, 1, 2),
    "group norm far off": lambda x: F.group_norm(x + 20, 2),
    "group norm behind a shuffle": lambda x: F.group_norm(x.repeat_interleave(2, 1), 4),
}
MODULES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "layer norm": (nn.LayerNorm(12), (2, 7, 12)),
    "layer norm over two": (nn.LayerNorm((7, 12)), (2, 7, 12)),
    "layer norm without offset": (nn.LayerNorm(12, bias=False), (3, 12)),
    "rms norm": (nn.RMSNorm(12), (2, 7, 12)),
    "group norm": (nn.GroupNorm(3, 6), SHAPE),
    "group norm of one": (nn.GroupNorm(1, 6), SHAPE),
    "group norm of each": (nn.GroupNorm(6, 6), SHAPE),
    "group norm of sequences": (nn.GroupNorm(3, 6), (2, 6, 9)),
    "group norm of volumes": (nn.GroupNorm(2, 4), (1, 4, 2, 3, 4)),
    "instance norm": (nn.InstanceNorm2d(6, affine=True), SHAPE),
    "instance norm of sequences": (nn.InstanceNorm1d(6), (2, 6, 9)),
    "instance norm that tracks": (nn.InstanceNorm2d(6, track_running_stats=True), SHAPE),
    "batch norm of volumes": (nn.BatchNorm3d(4), (1, 4, 2, 3, 4)),
    "batch norm of sequences": (nn.BatchNorm1d(6), (2, 6, 9)),
    "softmin": (nn.Softmin(1), SHAPE),
}


@pytest.mark.parametrize("name", CASES)
def test_functions(name: str) -> None:
    assert difference(Function(CASES[name]), image(*SHAPE))[0] <= TOLERANCE


@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str) -> None:
    module, shape = MODULES[name]
    assert difference(randomised(module), image(*shape))[0] <= TOLERANCE


@pytest.mark.parametrize("name", ["mean", "sum", "amax", "amin"])
@pytest.mark.parametrize("keepdim", [False, True])
def test_reductions_over_any_dimensions(name: str, keepdim: bool) -> None:
    def reduced(x: Tensor) -> list[Tensor]:
        return [getattr(torch, name)(x, dims, keepdim=keepdim) for dims in DIMS]

    assert difference(Function(reduced), image(*SHAPE))[0] <= TOLERANCE


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("correction", [0, 1, 2])
def test_variance_over_any_dimensions(correction: int, keepdim: bool) -> None:
    def variances(x: Tensor) -> list[Tensor]:
        return [torch.var(x, dims, correction=correction, keepdim=keepdim) for dims in DIMS if dims != 0]

    assert difference(Function(variances), image(*SHAPE))[0] <= TOLERANCE


def test_reductions_of_rank_five() -> None:
    def reduced(x: Tensor) -> list[Tensor]:
        return [x.sum((1, 3)), x.mean((0, 2, 4), keepdim=True), x.var((2, 3)), x.softmax(2), x.cumsum(3), F.layer_norm(x, (4, 5))]

    assert difference(Function(reduced), image(2, 2, 3, 4, 5))[0] <= TOLERANCE


def test_normalisation_has_no_needless_operators() -> None:
    x = image(1, 6, 5, 4)
    standardised = ["MEAN", "SUB", "SQUARE", "MEAN", "ADD", "RSQRT", "MUL"]
    assert kinds(graph_of(Function(CASES["layer norm over channels"]), x)) == standardised
    assert kinds(graph_of(randomised(nn.GroupNorm(1, 6)), x)) == [*standardised, "MUL", "ADD"]
    assert kinds(graph_of(randomised(nn.RMSNorm(4)), image(1, 5, 4))) == ["SQUARE", "MEAN", "ADD", "RSQRT", "MUL", "MUL"]
    assert kinds(graph_of(Function(lambda t: t.var(1, correction=0)), x)) == ["MEAN", "SQUARED_DIFFERENCE", "MEAN"]


def test_xnnpack_takes_normalisation_and_activations_wholly(tmp_path: Path) -> None:
    """What it does not take runs on TFLite's own kernels and cuts the network into parts."""
    functions: list[Callable[[Tensor], Tensor]] = [
        CASES["layer norm over channels"],
        CASES["rms norm over channels"],
        CASES["normalize"],
        CASES["global response"],
        lambda x: F.group_norm(x, 3),
        lambda x: F.instance_norm(x),
        lambda x: x.std(1),
        lambda x: torch.logsumexp(x, 1),
        lambda x: F.gelu(x) + F.gelu(x, approximate="tanh") + F.mish(x) + F.softplus(x) + F.elu(x, 0.3) + F.logsigmoid(x),
        lambda x: torch.log1p(x.abs()) + torch.expm1(x) + torch.trunc(x) + torch.tan(x) + x.abs() ** 1.5 + F.softshrink(x),
        lambda x: F.interpolate(x, scale_factor=1.7, mode="bicubic", antialias=True),
        lambda x: F.adaptive_avg_pool2d(x, (3, 3)) + F.adaptive_max_pool2d(x, (3, 3)),
        lambda x: F.conv_transpose2d(x, torch.ones(6, 1, 4, 4), stride=2, padding=1, groups=6),
    ]
    with open_local() as device:
        for i, function in enumerate(functions):
            path = tmp_path / f"{i}.tflite"
            path.write_bytes(tflite.write(graph_of(Function(function), image(1, 6, 5, 4))))
            (m,) = device.measure([Artifact(path, str(i))], Bench(batches=1, min_invokes=1, batch_ms=0, warmup_ms=0))
            assert m.delegation is not None
            assert m.delegation.left == (), i


def test_refusals() -> None:
    with pytest.raises(UnsupportedOperator, match="the 'nuc' norm of a matrix"):
        graph_of(Function(lambda x: torch.linalg.matrix_norm(x, "nuc")), image(*SHAPE))
    with pytest.raises(UnsupportedOperator, match="variance of 1 numbers with correction 1"):
        graph_of(Function(lambda x: x[:, :1].var(1)), image(*SHAPE))
