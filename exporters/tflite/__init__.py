"""`.tflite` files: `read` them as a Model of Graphs, `write` and `save` Graphs and Models."""

from paceline.exporters.tflite.model import Model, Signature, model_of
from paceline.exporters.tflite.reader import read
from paceline.exporters.tflite.writer import save, write

__all__ = ["Model", "Signature", "model_of", "read", "save", "write"]
