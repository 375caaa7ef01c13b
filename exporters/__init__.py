"""torch -> Graph -> `.tflite` and `.onnx`, proven; `.tflite` -> Graph; single-operator models; merging; quantisation."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paceline.exporters.exporting import export

__all__ = ["export"]


def __getattr__(name: str) -> Any:
    """`export`, imported when it is asked for: what only reads files needs no torch."""
    if name == "export":
        from paceline.exporters.exporting import export

        return export
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
