"""`paceline export`: a network in, a proven file out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from paceline.errors import ConfigError

if TYPE_CHECKING:
    from paceline.exporters.artifact import Exported


def export(
    source: Annotated[
        str, typer.Argument(help="timm:NAME[:weights], zoo:NAME[:weights], path/to/file.py:factory, a .pt2 file, a run's folder.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .tflite file to write.")],
    precision: Annotated[
        Literal["fp32", "fp16", "dynamic", "int8"],
        typer.Option(help="fp16: weights only; dynamic: int8 weights; int8: weights and activations, needs --calibration."),
    ] = "fp32",
    calibration: Annotated[Path | None, typer.Option(help="Typical inputs: a folder of images, or a .npz of arrays.")] = None,
    interface: Annotated[Literal["float", "int8"], typer.Option(help="What an int8 file takes and gives.")] = "float",
    shapes: Annotated[
        list[str] | None,
        typer.Option("--input", help="An input's shape in the file (NHWC), 1x224x224x3; once for each."),
    ] = None,
    onnx: Annotated[Path | None, typer.Option(help="Write this .onnx file too.")] = None,
    via: Annotated[
        Literal["paceline", "litert-torch"], typer.Option(help="litert-torch: the converter of that package, slower.")
    ] = "paceline",
    merge: Annotated[bool, typer.Option("--merge", help="Merge parallel branches first (RepVGG, MobileOne …).")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of random weights and of the numbers the file is compared on.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Write a torch network as .tflite (NHWC), compared with torch on LiteRT's kernels, its provenance inside."""
    import torch

    from paceline.exporters import export as exported
    from paceline.exporters.precision.calibration import Calibration
    from paceline.exporters.sources import load_source, shape_of, tensor_specs

    if out.suffix != ".tflite":
        raise ConfigError(f"-o {out}: give a file that ends in .tflite (and --onnx FILE for ONNX)")
    if onnx is not None and onnx.suffix != ".onnx":
        raise ConfigError(f"--onnx {onnx}: give a file that ends in .onnx")
    torch.manual_seed(seed)
    found = load_source(source, [shape_of(text) for text in shapes or ()], seed)
    data = None
    if calibration is not None:
        rng = np.random.default_rng(seed)
        data = Calibration.of(calibration, tensor_specs(found.example), rng, found.mean, found.std)
    module, example, text = found.module, found.example, found.text
    quantising = {"precision": precision, "calibration": data, "interface": interface}
    files = [exported(module, example, out, **quantising, via=via, merge=merge, source=text)]  # type: ignore[arg-type]
    if onnx is not None:
        files.append(exported(module, example, onnx, merge=merge, source=text))
    if as_json:
        summary = _summary(files[0], found.warnings)
        print(json.dumps(summary | ({"onnx": _summary(files[1], ())} if onnx else {})))
        return
    console = Console()
    for file in files:
        _print(console, file)
    for warning in (*found.warnings, *files[0].report.warnings):
        console.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)


def _summary(file: Exported, warnings: tuple[str, ...]) -> dict[str, Any]:
    summary = file.report.to_json()
    return {"path": str(file.path), **summary, "warnings": [*warnings, *summary["warnings"]]}


def _print(console: Console, file: Exported) -> None:
    from paceline.exporters.precision.weight_ranges import WIDENED

    report = file.report
    facts = Table(show_header=False, title=escape(str(file.path)))
    facts.add_column(no_wrap=True)
    facts.add_column()
    facts.add_row("operators", ", ".join(f"{n} {kind}" for kind, n in report.ops.items()))
    facts.add_row("bytes", f"{report.bytes:,}")
    facts.add_row("took", f"{report.seconds:.2f} s")
    facts.add_row("error to torch", f"{report.max_abs_error:.2g} at most, {report.max_rel_error:.2g} of the output's range")
    if report.merge is not None:
        proof = report.merge.proof
        facts.add_row("merged", f"{len(report.merge.merges)} places")
        proven = f"{proof.randomised_error:.2g} on random statistics ({proof.dtype}), {proof.error:.2g} with these weights"
        facts.add_row("error of merging", proven)
    console.print(facts)
    if report.precision is None:
        return
    compared = Table(
        *("output", "largest error", "mean error", "SNR", "same top 1"),
        title=f"{report.precision.samples} inputs from {escape(report.precision.source)}, compared with fp32",
    )
    for output in report.precision.outputs:
        top = "" if output.top1_agreement is None else f"{output.top1_agreement:.0%}"
        errors = f"{output.max_abs_error:.2g}", f"{output.mean_abs_error:.2g}"
        compared.add_row(escape(output.name), *errors, f"{output.snr_db:.1f} dB", top)
    console.print(compared)
    worst = report.precision.first_wrong
    if worst is not None:
        fall = f"{worst.snr_before_db:.1f} to {worst.snr_after_db:.1f} dB"
        console.print(f"largest fall: {fall} after {worst.kind} {escape(worst.tensor)}", soft_wrap=True)
    wider = [layer for layer in report.precision.merged_weights if layer.widening >= WIDENED]
    if wider:
        worst_layer = max(wider, key=lambda layer: layer.widening)
        text = f"merging made weights harder to quantise in {len(wider)} of {len(report.precision.merged_weights)} layers"
        numbers = f"{worst_layer.before:.1f} to {worst_layer.after:.1f} times the root mean square in {escape(worst_layer.layer)}"
        console.print(f"[yellow]{text}[/], most {numbers}; compare with an int8 file without --merge", soft_wrap=True)
    for name in report.precision.in_float:
        console.print(f"computes on floats: {escape(name)}", soft_wrap=True)
