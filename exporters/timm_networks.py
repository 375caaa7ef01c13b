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


def timm_network(name: str, weights: Path | None = None) -> tuple[nn.Module, tuple[int, int, int]]:
    """The timm network `name` in inference and its input (C, H, W); with random weights unless `weights` names a state dict.

    Raises ExportError without timm, for an unknown name (with near ones) and for weights that do not fit.
    """
    timm = _timm()
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=5)
        raise ExportError(
            f"timm has no network {name!r}; " + (f"near ones: {', '.join(near)}" if near else "see timm.list_models()")
        )
    if weights is not None and not weights.is_file():
        raise ExportError(f"no file {weights} with weights for {name}; give a .safetensors or .pth file")
    with quiet():
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
    """`module` with random BatchNorm statistics and scales: with those of a fresh network wrong folding would not show."""
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
    return module
