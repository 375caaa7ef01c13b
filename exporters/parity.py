"""Does an exported file compute what the torch module computes?"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from paceline.errors import ExportError
from paceline.exporters.run_tflite import Kernels
from paceline.graph import Array
from paceline.measurement import Artifact


class ParityError(ExportError):
    """An exported file that computes something else than its module, or that does not run at all."""


@dataclass(frozen=True)
class Parity:
    """The largest differences over all outputs: absolute, and relative to the range (max - min) of the module's output.

    Where an output has no range, a single number for example, its largest magnitude stands in.
    """

    max_abs_error: float
    max_rel_error: float


def check(
    module: nn.Module,
    inputs: Sequence[Tensor],
    artifact: Artifact,
    tolerance: float = 1e-4,
    kernels: Kernels = "xnnpack",
    timeout_s: float = 120.0,
) -> Parity:
    """Runs `module` and `artifact` on `inputs` (the module's arguments, NCHW) and compares all outputs.

    A `.tflite` runs in a process of its own, on the given kernels; its 4-D tensors are NHWC. An `.onnx` runs in onnxruntime.
    Raises ParityError where max_rel_error exceeds `tolerance`, or where the file crashes, hangs or has other outputs.
    """
    if module.training:
        raise ExportError(f"{type(module).__name__} is in training mode; call .eval() before comparing it")
    with torch.no_grad():
        result = module(*(x.clone() for x in inputs))
    expected = [t.numpy() for t in ([result] if isinstance(result, Tensor) else result)]
    arrays = [x.detach().numpy() for x in inputs]
    if artifact.format == "onnx":
        computed = _run_onnx(artifact, arrays)
    else:
        computed = [_nchw(a) for a in _run_tflite(artifact, [_nhwc(a) for a in arrays], kernels, timeout_s)]
    if [a.shape for a in computed] != [a.shape for a in expected]:
        raise ParityError(f"{artifact.path} has outputs {[a.shape for a in computed]}, {[a.shape for a in expected]} expected")
    parity = difference(expected, computed)
    if not parity.max_rel_error <= tolerance:
        raise ParityError(
            f"{artifact.path} differs from {type(module).__name__} by {parity.max_abs_error:.3g} "
            f"({parity.max_rel_error:.3g} of the output's range, tolerance {tolerance:.3g}); "
            "export it again, and report the network if that does not help"
        )
    return parity


def difference(expected: Sequence[Array], computed: Sequence[Array]) -> Parity:
    """The largest differences between outputs of equal shapes."""
    errors = [_errors(a, b) for a, b in zip(expected, computed, strict=True)]
    return Parity(max(e[0] for e in errors), max(e[1] for e in errors))


def _nhwc(values: Array) -> Array:
    return values.transpose(0, 2, 3, 1) if values.ndim == 4 else values


def _nchw(values: Array) -> Array:
    return values.transpose(0, 3, 1, 2) if values.ndim == 4 else values


def _errors(expected: Array, computed: Array) -> tuple[float, float]:
    a, b = expected.astype(np.float64), computed.astype(np.float64)
    if np.array_equal(a, b):
        return 0.0, 0.0
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf"), float("inf")
    error = float(np.abs(a - b).max())
    scale = float(a.max() - a.min()) or float(np.abs(a).max())
    return error, error / scale if scale else float("inf")


def _run_onnx(artifact: Artifact, inputs: Sequence[Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(artifact.path.read_bytes(), options, providers=["CPUExecutionProvider"])
        named = {node.name: values for node, values in zip(session.get_inputs(), inputs, strict=True)}
        return list(session.run(None, named))
    except Exception as e:
        raise ParityError(f"{artifact.path} does not run in onnxruntime: {e}; export it again") from e


def _run_tflite(artifact: Artifact, inputs: Sequence[Array], kernels: Kernels, timeout_s: float) -> list[Array]:
    with tempfile.TemporaryDirectory(prefix="paceline-parity-") as folder:
        sent, received = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
        np.savez(sent, *inputs)
        command = [sys.executable, "-m", "paceline.exporters.run_tflite", str(artifact.path), str(sent), str(received), kernels]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired as e:
            raise ParityError(f"{artifact.path} did not finish in {timeout_s:g} s with {kernels} kernels; raise timeout_s") from e
        if done.returncode:
            how = (
                f"was killed by signal {-done.returncode}" if done.returncode < 0 else f"failed with exit code {done.returncode}"
            )
            tail = "\n".join(done.stderr.strip().splitlines()[-5:])
            raise ParityError(f"running {artifact.path} with {kernels} kernels {how}; its last words:\n{tail}")
        with np.load(received) as arrays:
            return [arrays[name] for name in arrays.files]
