"""Measuring what a model costs besides its operators; `overheads` says what is made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from paceline.devices.device import Device
from paceline.errors import LatencyModelError
from paceline.exporters.fused_operators import Step, in_a_row
from paceline.exporters.operator_models import steps_graph, write_operator, write_steps
from paceline.graph import OpSpec, TensorSpec, attrs
from paceline.latency_models.collection.collect import REFERENCE, Collector
from paceline.latency_models.fusion.figures import figure_of
from paceline.latency_models.fusion.flow import flow_of
from paceline.latency_models.fusion.overheads import Overheads, Probe, Separated, overheads_of, separated
from paceline.latency_models.fusion.partitions import moved_mb, pieces
from paceline.measurement import Artifact, Bench, Measurement, Progress, silent, usual_reference
from paceline.store import Store

REPEATS = (1, 2, 4, 8)

_SIZES = ((14, 16), (28, 32), (56, 32), (112, 16))  # height and width, channels: from 12 to 800 kilobytes a tensor
_ORDERS = ("SSSSUUUU", "SSUUSSUU", "SUSUSUSU")
_SELDOM_TAKEN = (
    OpSpec("REVERSE_V2", (), (), attrs(axes=(1,))),
    OpSpec("ELU", (), ()),
    OpSpec("CUMSUM", (), (), attrs(axis=1)),
    OpSpec("SIN", (), ()),
    OpSpec("LEAKY_RELU", (), (), attrs(alpha=0.1)),
)
"""Operators that keep the shape and that many delegates leave to the runtime."""


def chain(spec: OpSpec, repeats: int) -> tuple[Step, ...]:
    """An operator whose result has the shape of its first operand, so many times in a row."""
    return in_a_row(spec, *[(spec, 0)] * (repeats - 1))


def separate(
    device: Device, bench: Bench, store: Store, folder: Path, specs: Sequence[OpSpec], progress: Progress = silent
) -> list[Separated]:
    """For each operator what it takes inside a model, and what a model with it costs besides. Resumes from the store.

    Raises ExportError where the result of an operator hasn't the shape of its first operand, LatencyModelError where one of its
    models can't be measured.
    """
    models = [write_steps(chain(spec, n), folder, f"{n} x {spec.key}") for spec in specs for n in REPEATS]
    reference = reference_of(specs[0].outputs[0].dtype, folder) if specs else write_operator(REFERENCE, folder)
    measured = Collector(device, bench, store, folder).measure(models, reference, progress)
    usual, width = usual_reference(measured), len(REPEATS)
    figures = [figure_of(m, usual) for m in measured]
    return [separated(REPEATS, figures[i * width : (i + 1) * width]) for i in range(len(specs))]


def find_overheads(
    device: Device, bench: Bench, store: Store, folder: Path, dtype: str = "float32", progress: Progress = silent
) -> Overheads:
    """From chains of convolutions of several sizes, alone and alternating with an operator that the delegate leaves.

    Resumes from the store. Raises LatencyModelError where too few of these models can be measured.
    """
    collector, reference = Collector(device, bench, store, folder), reference_of(dtype, folder)
    tensors = tuple(TensorSpec((1, size, size, channels), dtype) for size, channels in _SIZES)
    rows = [chain(pointwise(t), n) for t in tensors for n in REPEATS]
    alone = [OpSpec(spec.kind, tensors[:1], tensors[:1], spec.attrs) for spec in _SELDOM_TAKEN]
    singles = collector.measure([write_operator(spec, folder) for spec in alone], reference)
    left = next((o for o, m in zip(_SELDOM_TAKEN, singles, strict=True) if m.delegation and m.delegation.state == "none"), None)
    if left is not None:
        rows += [_alternating(order, t, left) for t in tensors for order in _ORDERS]
    measured = collector.measure([_model(steps, folder) for steps in rows], reference, progress)
    usual = usual_reference(measured)
    probes = [_probe(steps, m, usual) for steps, m in zip(rows, measured, strict=True) if m.failure is None]
    known = [probe for probe in probes if probe is not None]
    if not known:
        reasons = [m.failure.reason for m in measured if m.failure] or ["the delegate took other operators than these alone"]
        raise LatencyModelError(f"the overheads of {bench.delegate} can't be measured with {dtype} convolutions: {reasons[0]}")
    return overheads_of(known, usual)


def reference_of(dtype: str, folder: Path) -> Artifact:
    """The operator that is measured all along, in a type that the delegate takes."""
    return write_operator(REFERENCE if dtype == "float32" else pointwise(TensorSpec((1, 28, 28, 32), dtype)), folder)


def pointwise(t: TensorSpec) -> OpSpec:
    """A 1x1 convolution that keeps the shape."""
    channels = t.shape[-1]
    inputs = (
        t,
        TensorSpec((channels, 1, 1, channels), t.dtype),
        TensorSpec((channels,), "int32" if t.dtype == "int8" else t.dtype),
    )
    return OpSpec("CONV_2D", inputs, (t,), attrs(stride=(1, 1), dilation=(1, 1), padding="SAME", activation="NONE"), (1, 2))


def _alternating(order: str, t: TensorSpec, left: OpSpec) -> tuple[Step, ...]:
    specs = {"S": pointwise(t), "U": OpSpec(left.kind, (t,), (t,), left.attrs)}
    first, *then = (specs[letter] for letter in order)
    return in_a_row(first, *((spec, 0) for spec in then))


def _model(steps: Sequence[Step], folder: Path) -> Artifact:
    kinds = [step.spec.kind for step in steps]
    return write_steps(steps, folder, f"{' '.join(kinds)} on {steps[0].spec.inputs[0].shape}")


def _probe(steps: Sequence[Step], measured: Measurement, usual_ms: float | None) -> Probe | None:
    """None where the delegate did not take exactly the convolutions, in the pieces in which they stand."""
    specs = [step.spec for step in steps]
    told, flow = measured.delegation, flow_of(steps_graph(steps))
    nothing = told is not None and told.state == "none"
    taken = [spec.kind == "CONV_2D" and not nothing for spec in specs]
    partitions = sum(piece.delegated for piece in pieces(flow, taken))
    if told is not None and (told.partitions != partitions or told.delegated not in (None, sum(taken))):
        return None
    return Probe(Counter(specs), partitions, moved_mb(flow, taken), figure_of(measured, usual_ms))
