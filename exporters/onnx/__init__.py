"""torch module -> `.onnx`: simplified, with the module's names; metadata of `.onnx` files."""

from paceline.exporters.onnx.writer import OPSET, PASSES, operators, read_metadata, write, write_metadata

__all__ = ["OPSET", "PASSES", "operators", "read_metadata", "write", "write_metadata"]
