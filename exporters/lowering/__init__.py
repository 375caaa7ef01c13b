"""ATen operators -> Graph operators, grouped; importing this package fills `registry.LOWERINGS`."""

from paceline.exporters.lowering import arithmetic, convolution, pooling, rearrange

__all__ = ["arithmetic", "convolution", "pooling", "rearrange"]
