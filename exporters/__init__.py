"""torch -> Graph -> `.tflite` and `.onnx`, proven; `.tflite` -> Graph; single-operator models; merging; quantisation."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paceline.exporters.exporting import export
    from paceline.exporters.stabilisers import fold_stabilisers

__all__ = ["export", "fold_stabilisers"]


def __getattr__(name: str) -> Any:
    """Imported when it is asked for: what only reads files needs no torch."""
    if name == "export":
        from paceline.exporters.exporting import export

        return export
    if name == "fold_stabilisers":
        from paceline.exporters.stabilisers import fold_stabilisers

        return fold_stabilisers
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
