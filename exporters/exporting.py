"""torch module -> a file that is proven: exported, quantised, compared with torch, its provenance inside."""

from __future__ import annotations

import tempfile
import time
import typing
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from paceline.errors import ConfigError, ExportError
from paceline.exporters import litert_torch, onnx, parity, tflite
from paceline.exporters.artifact import Exported, ExportReport, MergeReport, run_file
from paceline.exporters.inspect import transposes_inside
from paceline.exporters.merge_forms import Choice
from paceline.exporters.merge_proof import ProvenMerge, proven_merge
from paceline.exporters.parity import Parity
from paceline.exporters.precision import Calibration, Interface, Precision, PrecisionReport, compare, quantised
from paceline.exporters.precision.weight_ranges import weight_ranges
from paceline.exporters.provenance import KEY, Provenance, weights_hash
from paceline.exporters.run_tflite import Kernels
from paceline.exporters.torch_graph import lowered
from paceline.files import write_atomically
from paceline.graph import Graph
from paceline.measurement import Artifact

Via = Literal["paceline", "litert-torch"]
_KERNELS: tuple[Kernels, ...] = ("xnnpack", "builtin")
_MAX_RANK = 4  # GPU delegates take no tensors of higher rank


def export(
    module: nn.Module,
    example_input: Tensor | tuple[Tensor, ...],
    path: Path | str,
    *,
    precision: Precision = "fp32",
    calibration: Calibration | None = None,
    interface: Interface = "float",
    via: Via = "paceline",
    merge: bool | Choice = False,
    source: str = "",
    tolerance: float = 1e-4,
) -> Exported:
    """Writes `module` in inference to `path` (`.tflite` or `.onnx`), for inputs shaped like `example_input` (NCHW as in torch).

    4-D inputs and outputs of a `.tflite` are NHWC. The float file is compared with torch on `example_input` (on standard normal
    numbers where that is constant): a `.tflite` in LiteRT on XNNPACK's and on TFLite's own kernels, an `.onnx` in onnxruntime.
    "int8" needs `calibration`; other precisions are compared on it too, where it is given. `source` goes into the provenance.

    `merge` merges first what is linear: True what is free, a choice as `merged` takes it. That is proven on random statistics and
    with the real weights (`proven_merge`), and the file is compared with `module` as it was. The result tells what was merged.

    Raises UnsupportedOperator where an operator has no counterpart, MergeError where merging changes what is computed,
    ParityError where the float file differs from torch by more than `tolerance` of the output's range, ExportError or
    ConfigError for all else that prevents a file; then none is written.
    """
    path = Path(path)
    examples = example_input if isinstance(example_input, tuple) else (example_input,)
    _check(module, path, precision, interface, via)
    inputs = tuple(_telling(x) for x in examples)
    merging = None if merge is False else proven_merge(module, inputs, None if merge is True else merge)
    options: dict[str, str] = {"precision": precision, "interface": interface, "via": via}
    if merging is not None:
        options["merged"] = f"{len(merging.merges)} places"
    origin = Provenance(
        source=source or type(module).__name__,
        network=type(module).__name__,
        options=options,
        torch=torch.__version__,
        weights_sha256=weights_hash({name: t.detach().cpu().numpy() for name, t in module.state_dict().items()}),
    )
    shipped = module if merging is None else merging.module
    if path.suffix == ".onnx":
        return _onnx(module, merging, examples, inputs, path, origin, tolerance)
    start = time.perf_counter()
    model, passes = _converted(shipped, examples, via)
    content = tflite.write(model)
    seconds = time.perf_counter() - start
    proven = _proven(module, inputs, content, path.name, tolerance)
    report: PrecisionReport | None = None
    if precision != "fp32":
        exact, start = content, time.perf_counter()
        content = quantised(exact, precision, calibration, interface)
        seconds += time.perf_counter() - start
        report = compare(exact, content, calibration or _as_samples(inputs))
        if merging is not None:
            report = replace(report, merged_weights=weight_ranges(module, merging.module, merging.merges))
        model = tflite.read(content)
        proven = _measured_error(module, inputs, content)
    origin = replace(origin, passes=passes, max_abs_error=proven.max_abs_error, max_rel_error=proven.max_rel_error)
    stamped = replace(model, metadata={**model.metadata, KEY: origin.to_json().encode()})
    start = time.perf_counter()
    content = tflite.write(stamped)
    write_atomically(path, content)
    summary = ExportReport(
        seconds=seconds + time.perf_counter() - start,
        ops=dict(Counter(op.kind for op in model.graph.ops).most_common()),
        transposes_inside=transposes_inside(model.graph),
        max_abs_error=proven.max_abs_error,
        max_rel_error=proven.max_rel_error,
        bytes=len(content),
        warnings=_warnings(model.graph),
        passes=passes,
        precision=report,
        merge=_merge_report(merging),
    )
    return Exported(path, path.name, report=summary, graph=model.graph, merging=merging)


def _onnx(
    module: nn.Module,
    merging: ProvenMerge | None,
    examples: tuple[Tensor, ...],
    inputs: tuple[Tensor, ...],
    path: Path,
    origin: Provenance,
    tolerance: float,
) -> Exported:
    with tempfile.TemporaryDirectory(prefix="paceline-export-") as folder:
        candidate = Artifact(Path(folder) / path.name, path.name, "onnx")
        start = time.perf_counter()
        onnx.write(module if merging is None else merging.module, examples, candidate.path)
        seconds = time.perf_counter() - start
        proven = parity.check(module, inputs, candidate, tolerance)
        origin = replace(origin, max_abs_error=proven.max_abs_error, max_rel_error=proven.max_rel_error)
        onnx.write_metadata(candidate.path, {KEY: origin.to_json()})
        content = candidate.path.read_bytes()
    write_atomically(path, content)
    ops = onnx.operators(path)
    inside = 0
    errors = proven.max_abs_error, proven.max_rel_error
    summary = ExportReport(seconds, ops, inside, *errors, len(content), merge=_merge_report(merging))
    return Exported(path, path.name, "onnx", report=summary, merging=merging)


def _merge_report(merging: ProvenMerge | None) -> MergeReport | None:
    return None if merging is None else MergeReport(merging.merges, merging.refused, merging.proof)


def _converted(module: nn.Module, examples: tuple[Tensor, ...], via: Via) -> tuple[tflite.Model, tuple[str, ...]]:
    """The float model, and the passes that changed it."""
    if via == "litert-torch":
        return tflite.read(litert_torch.convert(module, examples)), ()
    result = lowered(module, examples)
    return tflite.model_of(result.graph), result.passes


def _proven(module: nn.Module, inputs: Sequence[Tensor], content: bytes, name: str, tolerance: float) -> Parity:
    """The larger differences of both kernels. Raises ParityError where one exceeds `tolerance`."""
    with tempfile.TemporaryDirectory(prefix="paceline-export-") as folder:
        candidate = Artifact(Path(folder) / name, name)
        candidate.path.write_bytes(content)
        found = [parity.check(module, inputs, candidate, tolerance, kernels) for kernels in _KERNELS]
    return Parity(max(p.max_abs_error for p in found), max(p.max_rel_error for p in found))


def _measured_error(module: nn.Module, inputs: Sequence[Tensor], content: bytes) -> Parity:
    """How much a quantised file differs from torch."""
    with torch.no_grad():
        expected = module(*(x.clone() for x in inputs))
    with tempfile.TemporaryDirectory(prefix="paceline-export-") as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(content)
        computed = run_file(path, inputs)
    outputs = [expected] if isinstance(expected, Tensor) else list(expected)
    return parity.difference([t.numpy() for t in outputs], [t.numpy() for t in computed])


def _check(module: nn.Module, path: Path, precision: str, interface: str, via: str) -> None:
    for name, value, allowed in (("precision", precision, Precision), ("interface", interface, Interface), ("via", via, Via)):
        if value not in typing.get_args(allowed):
            raise ConfigError(f"{name} {value!r} does not exist; it is one of {', '.join(typing.get_args(allowed))}")
    if path.suffix not in (".tflite", ".onnx"):
        raise ExportError(f"{path} ends neither in .tflite nor in .onnx; the ending says what is written")
    if path.suffix == ".onnx" and (precision != "fp32" or via != "paceline"):
        raise ExportError(f"{path}: ONNX files are written in fp32 and by torch.onnx; quantise the .tflite")
    if not path.parent.is_dir():
        raise ExportError(f"no folder {path.parent} to write {path.name} into; make it first")
    if module.training:
        raise ExportError(f"{type(module).__name__} is in training mode; call .eval() before the export")


def _telling(example: Tensor) -> Tensor:
    """`example`, or standard normal numbers where it is constant: zeros would prove nothing."""
    if example.numel() < 2 or bool((example != example.flatten()[0]).any()):
        return example
    return torch.from_numpy(np.random.default_rng(0).standard_normal(tuple(example.shape), np.float32))


def _as_samples(inputs: Sequence[Tensor]) -> Calibration:
    arrays = (x.detach().cpu().numpy() for x in inputs)
    sample = tuple(np.ascontiguousarray(a.transpose(0, 2, 3, 1)) if a.ndim == 4 else a for a in arrays)
    return Calibration((sample,), "the example input")


def _warnings(graph: Graph) -> tuple[str, ...]:
    """What a user should know before shipping the file."""
    found = []
    if inside := transposes_inside(graph):
        turned = [op.source for op in graph.ops if op.kind == "TRANSPOSE"]
        found.append(f"{inside} TRANSPOSE operators between convolutions: {_places(turned)}")
    high = [op.source for op in graph.ops if any(len(graph.tensors[t].shape) > _MAX_RANK for t in op.outputs)]
    if high:
        found.append(f"tensors of more than {_MAX_RANK} dimensions, which GPU delegates refuse: {_places(high)}")
    return tuple(found)


def _places(sources: Sequence[str]) -> str:
    names = list(dict.fromkeys(source or "the network itself" for source in sources))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
