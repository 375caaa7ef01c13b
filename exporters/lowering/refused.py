"""Operators that are refused, with what to write instead; those that nobody thought of get a general answer."""

from __future__ import annotations

from typing import Any, NoReturn

from paceline.exporters.lowering.registry import LoweringError, lowers


def _refuse(reason: str, remedy: str, *operators: str) -> None:
    @lowers(*operators)
    def lower(*_: Any) -> NoReturn:
        raise LoweringError(reason, remedy)


_refuse(
    "it works on volumes, for which mobile delegates have no kernels",
    "use the operator for maps (2d) on slices of the volume",
    *("conv3d.padding", "conv_transpose3d.input", "max_pool3d", "max_pool3d_with_indices", "avg_pool3d"),
    *("adaptive_avg_pool3d", "adaptive_max_pool3d", "upsample_nearest3d", "_upsample_nearest_exact3d", "upsample_trilinear3d"),
)
_refuse("there is no exact form of it", "use torch.nn.functional.gelu for x (1 + erf(x / sqrt(2))) / 2", "erf", "special_erf")
_refuse("it is drawn at random", "use max_pool2d or adaptive_max_pool2d", "fractional_max_pool2d", "fractional_max_pool3d")
_refuse("it puts values where indices computed at run time say", "use interpolate or conv_transpose2d", "max_unpool2d")
_refuse("it samples at positions computed at run time", "use interpolate, or a convolution", "grid_sampler", "grid_sampler_2d")
