"""torch -> Graph -> `.tflite` and `.onnx`, proven; `.tflite` -> Graph; single-operator models; merging; quantisation."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paceline.exporters.exporting import export
    from paceline.exporters.merge import merged
    from paceline.exporters.stabilisers import fold_stabilisers

__all__ = ["export", "fold_stabilisers", "merged"]

_PLACES = {"export": "exporting", "fold_stabilisers": "stabilisers", "merged": "merge"}


def __getattr__(name: str) -> Any:
    """Imported when it is asked for: what only reads files needs no torch."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
