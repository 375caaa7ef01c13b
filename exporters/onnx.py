"""torch module -> `.onnx`, through torch's own exporter."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from paceline.errors import ExportError
from paceline.exporters.tracing import quiet, traced
from paceline.files import write_atomically


def write(module: nn.Module, example: Tensor | tuple[Tensor, ...], path: Path) -> None:
    """Writes `module` in inference for inputs shaped like `example` (NCHW as in torch); the file is there whole or not at all.

    One input is named "input", one output "output"; several "input_0", … Traces through torch.export as `graph_of` does
    (torch.onnx with dynamo=True: the older exporter is deprecated). The file passes onnx.checker and names no source files.
    Raises ExportError where torch can't export the module, or where that is in training mode.
    """
    if module.training:
        raise ExportError(f"{type(module).__name__} is in training mode; call .eval() before the export")
    examples = example if isinstance(example, tuple) else (example,)
    program = traced(module, examples)
    outputs = len(program.graph_signature.user_outputs)
    try:
        with quiet():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=_names("input", len(examples)),
                output_names=_names("output", outputs),
            )
            assert exported is not None
            model = exported.model_proto
            _forget_sources(model)
            onnx.checker.check_model(model, full_check=True)
    except Exception as e:
        first = (str(e).strip().splitlines() or ["no message"])[0]
        raise ExportError(f"torch.onnx can't export {type(module).__name__} ({type(e).__name__}: {first})") from e
    write_atomically(path, model.SerializeToString())


def _names(word: str, count: int) -> list[str]:
    return [word] if count == 1 else [f"{word}_{i}" for i in range(count)]


def _forget_sources(model: onnx.ModelProto) -> None:
    """Drops stack traces and file names: the same network gives the same file on every machine."""
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
