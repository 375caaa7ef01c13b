"""torch module -> `.onnx`: torch's own exporter, then simplified, with the module's names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnxscript import version_converter
from torch import Tensor, nn

from paceline import __version__
from paceline.errors import ExportError
from paceline.exporters.onnx import names, passes
from paceline.exporters.tracing import quiet, traced
from paceline.files import write_atomically

OPSET = 25
"""The newest that onnxscript converts to. onnxruntime 1.24 and later run it; for older ones pass a smaller `opset`."""

PASSES = passes.PASSES
_OLDEST = 20
_TRANSLATED = _OLDEST  # from 23 on, torch.onnx writes attention as one operator and refuses attention with shared keys


def write(
    module: nn.Module,
    example: Tensor | tuple[Tensor, ...],
    path: Path,
    metadata: Mapping[str, str] | None = None,
    opset: int = OPSET,
) -> None:
    """Writes `module` in inference for inputs shaped like `example` (NCHW as in torch); the file is there whole or not at all.

    One input is named "input", one output "output"; several "input_0", … Weights have the names of the module's parameters,
    nodes and values those of the modules they come from ("blocks.0.conv_dw/Conv"). All shapes are static; BatchNorm is folded
    into convolutions, constants are folded and shared. `metadata` goes into the file's metadata_props. The same module gives
    the same bytes. The file passes onnx.checker; whether it computes the same, `paceline.exporters.parity` tells.

    Traces through torch.export as `graph_of` does (torch.onnx with dynamo=True: the older exporter is deprecated). Raises
    ExportError where torch can't export the module, where that is in training mode, and for an opset outside 20 to 25.
    """
    if module.training:
        raise ExportError(f"{type(module).__name__} is in training mode; call .eval() before the export")
    if not _OLDEST <= opset <= OPSET:
        raise ExportError(
            f"ONNX opset {opset} can't be written; choose one of {_OLDEST} to {OPSET}, the newest that your runtime has"
        )
    examples = example if isinstance(example, tuple) else (example,)
    program = traced(module, examples)
    outputs = len(program.graph_signature.user_outputs)
    try:
        with quiet():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                optimize=False,
                opset_version=_TRANSLATED,
                input_names=_names("input", len(examples)),
                output_names=_names("output", outputs),
            )
            assert exported is not None
            model = exported.model
            model.graph.name = type(module).__name__
            model.producer_name, model.producer_version = "paceline", __version__
            proto = _finished(model, {*program.state_dict, *program.constants}, opset)
            _set_metadata(proto, metadata or {})
            onnx.checker.check_model(proto, full_check=True)
            content = proto.SerializeToString(deterministic=True)
    except Exception as e:
        raise ExportError(
            f"torch.onnx can't export {type(module).__name__} ({_reason(e)}); "
            "write that part with operators that ONNX has, or export a .tflite"
        ) from e
    write_atomically(path, content)


def operators(path: Path) -> dict[str, int]:
    """How often each kind of operator occurs, the most frequent first. Raises ExportError where that is no ONNX file."""
    return dict(Counter(node.op_type for node in _read(path).graph.node).most_common())


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata_props of an `.onnx`. Raises ExportError where that is no ONNX file."""
    return {entry.key: entry.value for entry in _read(path).metadata_props}


def write_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Replaces the metadata_props of the `.onnx` at `path`. Raises ExportError where that is no ONNX file."""
    proto = _read(path)
    _set_metadata(proto, metadata)
    write_atomically(path, proto.SerializeToString(deterministic=True))


def _finished(model: ir.Model, parameters: set[str], opset: int) -> onnx.ModelProto:
    names.mark_parameters(model)
    version_converter.convert_version(model, opset)
    passes.simplify(model)
    names.rename(model, parameters)
    model.ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    proto = ir.to_proto(model)
    _forget_sources(proto)
    return proto


def _reason(error: BaseException) -> str:
    """What went wrong first: the exporter wraps errors in errors whose texts are instructions for its own developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = (str(error).strip().splitlines() or ["no message"])[0]
    return f"{type(error).__name__}: {first}"


def _read(path: Path) -> onnx.ModelProto:
    try:
        proto = onnx.load_model_from_string(path.read_bytes())
    except OSError as e:
        raise ExportError(f"{path} can't be read ({e.strerror}); name an .onnx file") from e
    except DecodeError as e:
        raise ExportError(f"{path} is no ONNX file ({e}); write it again") from e
    if not proto.HasField("graph"):
        raise ExportError(f"{path} is no ONNX file (it holds no graph); write it again")
    return proto


def _set_metadata(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    onnx.helper.set_model_props(model, dict(sorted(metadata.items())))


def _names(word: str, count: int) -> list[str]:
    return [word] if count == 1 else [f"{word}_{i}" for i in range(count)]


def _forget_sources(model: onnx.ModelProto) -> None:
    """Drops stack traces and file names: the same network gives the same file on every machine."""
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
