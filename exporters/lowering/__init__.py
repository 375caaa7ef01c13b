"""ATen operators -> Graph operators, grouped; importing this package fills `registry.LOWERINGS`."""

from paceline.exporters.lowering import (
    activations,
    arithmetic,
    convolution,
    gathering,
    normalisation,
    pooling,
    products,
    rearrange,
    reductions,
    refused,
    resizing,
    transposed,
    windows,
)

__all__ = [
    "activations",
    "arithmetic",
    "convolution",
    "gathering",
    "normalisation",
    "pooling",
    "products",
    "rearrange",
    "reductions",
    "refused",
    "resizing",
    "transposed",
    "windows",
]
