"""What an export returns: a file that can be called like the module it was made of, and the report of its making."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import Tensor

from paceline.errors import ExportError
from paceline.exporters.merge import Merge, Refusal
from paceline.exporters.merge_proof import Proof, ProvenMerge
from paceline.exporters.precision.report import PrecisionReport
from paceline.graph import Array, Graph
from paceline.measurement import Artifact

_TO_NHWC, _TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


@dataclass(frozen=True)
class MergeReport:
    """What was merged before the export, what had no exact merge, and how it was proven."""

    merges: tuple[Merge, ...]
    refused: tuple[Refusal, ...]
    proof: Proof


@dataclass(frozen=True)
class ExportReport:
    """What an export did. `seconds` leaves out the comparison with torch; errors are the largest over all kernels it ran on."""

    seconds: float
    ops: Mapping[str, int]
    transposes_inside: int
    max_abs_error: float
    max_rel_error: float
    """Relative to the range (max - min) of the module's output."""
    bytes: int
    warnings: tuple[str, ...] = ()
    passes: tuple[str, ...] = ()
    precision: PrecisionReport | None = None
    merge: MergeReport | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Exported(Artifact):
    """A written `.tflite` or `.onnx`. Called with the module's inputs it returns what the module returns, run by LiteRT or
    onnxruntime: 4-D tensors are NCHW at this boundary, int8 interfaces take and give floats."""

    report: ExportReport = field(kw_only=True)
    graph: Graph | None = field(kw_only=True, default=None, repr=False)
    """What was written, with the module paths of its operators; None for ONNX."""
    merging: ProvenMerge | None = field(kw_only=True, default=None, repr=False, compare=False)
    """The merged network in torch, where the export merged."""

    def __call__(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        if len(inputs) != len(self._shapes):
            raise ExportError(f"{self.path} takes {len(self._shapes)} inputs, not {len(inputs)}")
        for i, (x, shape) in enumerate(zip(inputs, self._shapes, strict=True)):
            if tuple(x.shape) != shape:
                raise ExportError(f"input {i} of {self.path} has shape {shape}, not {tuple(x.shape)}; export it for that shape")
        results = self._run_onnx(inputs) if self.format == "onnx" else _run(self._interpreter, inputs)
        return results[0] if len(results) == 1 else tuple(results)

    @cached_property
    def _interpreter(self) -> Any:
        return _loaded(self.path)

    @cached_property
    def _session(self) -> Any:
        return onnxruntime.InferenceSession(str(self.path), providers=["CPUExecutionProvider"])

    @cached_property
    def _shapes(self) -> list[tuple[int, ...]]:
        if self.format == "onnx":
            return [tuple(node.shape) for node in self._session.get_inputs()]
        shapes = [tuple(int(n) for n in detail["shape"]) for detail in self._interpreter.get_input_details()]
        return [tuple(s[a] for a in _TO_NCHW) if len(s) == 4 else s for s in shapes]

    def _run_onnx(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        named = {node.name: x.detach().cpu().numpy() for node, x in zip(self._session.get_inputs(), inputs, strict=True)}
        return [torch.from_numpy(values) for values in self._session.run(None, named)]


def run_file(path: Path, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of the `.tflite` at `path` for a module's `inputs`, run by LiteRT in this process."""
    return _run(_loaded(path), inputs)


def _loaded(path: Path) -> Any:
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def _run(interpreter: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    for detail, x in zip(interpreter.get_input_details(), inputs, strict=True):
        values = (x.permute(_TO_NHWC) if x.ndim == 4 else x).detach().cpu().numpy()
        interpreter.set_tensor(detail["index"], np.ascontiguousarray(_quantised(values, detail)))
    interpreter.invoke()
    found = [torch.from_numpy(_dequantised(interpreter.get_tensor(d["index"]), d)) for d in interpreter.get_output_details()]
    return [t.permute(_TO_NCHW).contiguous() if t.ndim == 4 else t for t in found]


def _quantised(values: Array, detail: Mapping[str, Any]) -> Array:
    scale, zero_point = detail["quantization"]
    if detail["dtype"] == values.dtype or not scale:
        return values
    limits = np.iinfo(detail["dtype"])
    stored: Array = np.clip(np.round(values / scale) + zero_point, limits.min, limits.max).astype(detail["dtype"])
    return stored


def _dequantised(values: Array, detail: Mapping[str, Any]) -> Array:
    scale, zero_point = detail["quantization"]
    return values if not scale else ((values.astype(np.float32) - zero_point) * scale).astype(np.float32)
