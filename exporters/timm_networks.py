"""timm's networks by name, also where torchvision's compiled part does not fit the installed torch."""

from __future__ import annotations

import contextlib
import difflib
import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paceline.errors import ExportError
from paceline.exporters.tracing import quiet

_BACKWARD = ("roi_align", "qroi_align", "ps_roi_align", "roi_pool", "ps_roi_pool", "deform_conv2d")
_VISION = ("nms", "qnms", *_BACKWARD, *(f"_{name}_backward" for name in _BACKWARD))
_declared: list[torch.library.Library] = []


def timm_network(name: str, weights: Path | None = None, seed: int = 0) -> tuple[nn.Module, tuple[int, int, int]]:
    """The timm network `name` in inference and its input (C, H, W); with random weights unless `weights` names a state dict.

    The random weights follow from `seed` alone; torch's global generator is left as it was. Raises ExportError without timm, for
    an unknown name (with near ones) and for weights that do not fit.
    """
    timm = _timm()
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=5)
        raise ExportError(
            f"timm has no network {name!r}; " + (f"near ones: {', '.join(near)}" if near else "see timm.list_models()")
        )
    if weights is not None and not weights.is_file():
        raise ExportError(f"no file {weights} with weights for {name}; give a .safetensors or .pth file")
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module: nn.Module = timm.create_model(name, pretrained=False)
    if weights is not None:
        _load(timm, module, name, weights)
    return module.eval(), tuple(module.pretrained_cfg["input_size"])  # type: ignore[index]


def _load(timm: Any, module: nn.Module, name: str, weights: Path) -> None:
    try:
        with quiet():
            timm.models.load_checkpoint(module, str(weights), weights_only=True)
    except Exception as e:
        lines = str(e).strip().splitlines() or ["no message"]
        raise ExportError(f"the weights in {weights} do not fit timm's {name} ({type(e).__name__}: {' '.join(lines[:2])})") from e


def _timm() -> Any:
    try:
        with quiet():
            _declare_vision_operators()
            return importlib.import_module("timm")
    except ImportError as e:
        raise ExportError(f"timm networks need timm ({e}); pip install 'paceline[timm]'") from e


def _declare_vision_operators() -> None:
    """timm imports torchvision, which refuses to load where its compiled operators are missing: no network here needs them."""
    if _declared:
        return
    with contextlib.suppress(RuntimeError):
        importlib.import_module("torchvision")
        return
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in _VISION:
        library.define(f"{operator}(Tensor x) -> Tensor")  # type: ignore[no-untyped-call]
    _declared.append(library)


def randomised(module: nn.Module, seed: int) -> nn.Module:
    """`module` with random BatchNorm statistics and scales, and with random numbers where all of a parameter's are alike.

    In a fresh network some layers hide others: zeroed heads, LayerScale near zero. Mistakes there, or in folding, would not show.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
                assert part.running_var is not None
                part.running_mean.copy_(uniform(part.running_mean, -0.2, 0.2))
                part.running_var.copy_(uniform(part.running_mean, 0.5, 1.5))
                if part.affine:
                    part.weight.copy_(uniform(part.weight, 0.5, 1.5))
                    part.bias.copy_(uniform(part.bias, -0.2, 0.2))
        for parameter in module.parameters():
            first = parameter.flatten()[0]
            if parameter.numel() == 1 or bool((parameter != first).any()):
                continue
            if parameter.ndim > 1 and abs(first) < 1e-3 and parameter.numel() > max(parameter.shape):
                fan_in = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * fan_in**-0.5)
            elif first == 0:
                parameter.copy_(uniform(parameter, -0.2, 0.2))
            else:  # a scale; one of a residual branch stays small, so that deep networks stay finite
                parameter.copy_(uniform(parameter, *((0.5, 1.5) if abs(first) > 0.1 else (0.1, 0.3))))
    return module
