"""Resizing of maps: the runtime's own operators where they map pixels as torch does, else products with constant matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from paceline.exporters.draft import Draft, Shape
from paceline.exporters.lowering.gathering import picked
from paceline.exporters.lowering.layout import emitted, image, reshaped
from paceline.exporters.lowering.products import along
from paceline.exporters.lowering.registry import LoweringError, computed, lowers
from paceline.exporters.lowering.values import Value

_aten = torch.ops.aten
Resize = Callable[[Tensor, list[int], float | None], Tensor]
"""Resizes the height of maps, given the new height and width."""


def _native(draft: Draft, kind: str, x: Value, shape: Shape, align_corners: bool, half_pixel_centers: bool) -> Value:
    flags = {"align_corners": align_corners, "half_pixel_centers": half_pixel_centers}
    return emitted(draft, kind, [image(draft, x).name], shape, **flags)


def _by_ratio(x: Value, shape: Shape, scales: Sequence[float | None] | None) -> bool:
    """Whether positions are mapped by the ratio of the sizes, as in TFLite; in torch it is the scale factor, if there is one."""
    return all(
        factor is None or abs(size * factor - out) < 1e-6
        for size, out, factor in zip(x.shape[2:], shape[2:], scales or (None, None), strict=True)
    )


def _linear(draft: Draft, x: Value, shape: Shape, scales: Sequence[float | None] | None, resize: Resize) -> Value:
    """A resize that is linear in the pixels and separable: one matrix for each dimension, what torch makes of unit vectors."""
    for dim, scale in zip((2, 3), scales or (None, None), strict=True):
        size, out = x.shape[dim], shape[dim]
        if size != out or (scale is not None and scale != 1):
            # two pixels wide: of one torch 2.13 makes something else with antialias=True
            units = torch.eye(size, dtype=torch.float64).reshape(1, size, size, 1).repeat(1, 1, 1, 2)
            matrix = resize(units, [out, 2], scale)[0, :, :, 0].T
            x = along(draft, x, dim, matrix.contiguous().numpy())
    return x


def _rows(draft: Draft, x: Value, shape: Shape, scales: Sequence[float | None] | None, resize: Resize) -> Value:
    """A resize that repeats or leaves out pixels."""
    for dim, scale in zip((2, 3), scales or (None, None), strict=True):
        size, out = x.shape[dim], shape[dim]
        places = resize(torch.arange(float(size)).reshape(1, 1, size, 1), [out, 1], scale).flatten()
        x = picked(draft, x, dim, places.long().tolist())
    return x


@lowers("upsample_bilinear2d")
def bilinear(draft: Draft, shape: Shape, x: Value, size: Any, align_corners: bool, *scales: Any) -> Value:
    x, given = computed(x, "input", 4), _scales(scales)
    if x.shape == shape and _by_ratio(x, shape, given):
        return x
    if align_corners or _by_ratio(x, shape, given):
        return _native(draft, "RESIZE_BILINEAR", x, shape, align_corners, not align_corners)
    return _linear(draft, x, shape, given, lambda t, out, s: _aten.upsample_bilinear2d.default(t, out, False, s, None))


def _scales(scales: Sequence[Any]) -> list[float | None]:
    """The scale factors of an overload with one list of them (vec) or with one argument for each dimension (default)."""
    if len(scales) == 1:
        return list(scales[0]) if scales[0] else [None, None]
    return list(scales)


@lowers("upsample_nearest2d")
def nearest(draft: Draft, shape: Shape, x: Value, size: Any, *scales: Any) -> Value:
    x, given = computed(x, "input", 4), _scales(scales)
    if _by_ratio(x, shape, given):
        return x if x.shape == shape else _native(draft, "RESIZE_NEAREST_NEIGHBOR", x, shape, False, False)
    return _rows(draft, x, shape, given, lambda t, out, s: _aten.upsample_nearest2d.default(t, out, s, None))


@lowers("_upsample_nearest_exact2d")
def nearest_exact(draft: Draft, shape: Shape, x: Value, size: Any, *scales: Any) -> Value:
    x, given = computed(x, "input", 4), _scales(scales)
    if _by_ratio(x, shape, given):
        return x if x.shape == shape else _native(draft, "RESIZE_NEAREST_NEIGHBOR", x, shape, False, True)
    return _rows(draft, x, shape, given, lambda t, out, s: _aten._upsample_nearest_exact2d.default(t, out, s, None))


def _register_matrix(operator: str) -> None:
    function = getattr(_aten, operator).default

    @lowers(operator)
    def lower(draft: Draft, shape: Shape, x: Value, size: Any, align_corners: bool, *scales: Any) -> Value:
        def resize(t: Tensor, out: list[int], scale: float | None) -> Tensor:
            resized: Tensor = function(t, out, align_corners, scale, None)
            return resized

        x = computed(x, "input", 4)
        if operator.endswith("_aa") and x.shape[3] == shape[3] == 1 and x.shape[2] != shape[2]:
            raise LoweringError("torch computes antialiasing of maps one element wide wrongly", "resize without antialias")
        return _linear(draft, x, shape, _scales(scales), resize)


for _operator in ("upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"):
    _register_matrix(_operator)


def _register_flat(operator: str, resize: Callable[..., Value]) -> None:
    """Resizing in one dimension: of a map that is one element high."""

    @lowers(operator)
    def lower(draft: Draft, shape: Shape, x: Value, size: Any, *options: Any) -> Value:
        *corners, scale = options
        given = next(iter(scale)) if isinstance(scale, list | tuple) and scale else scale if isinstance(scale, float) else None
        high, wide = reshaped(draft, computed(x, "input"), (*x.shape[:-1], 1, x.shape[-1])), (*shape[:-1], 1, shape[-1])
        return reshaped(draft, resize(draft, wide, high, None, *corners, [1.0, given] if given else None), shape)


_register_flat("upsample_linear1d", bilinear)
_register_flat("upsample_nearest1d", nearest)
_register_flat("_upsample_nearest_exact1d", nearest_exact)
