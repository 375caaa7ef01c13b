"""`paceline bench`: models on devices, measured, or compared with another one."""

from __future__ import annotations

import json
import tempfile
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from paceline.bench_tables import comparison_json, measurement_json, print_comparison, print_measurements, print_operators
from paceline.cli_options import DEFAULT_STORE, DevicesFile, Json, StorePlace, shown
from paceline.errors import DeviceError, PacelineError
from paceline.measurement import Progress, silent

if TYPE_CHECKING:
    from paceline.devices.bench import Benched
    from paceline.devices.comparison import Comparison
    from paceline.measurement import Artifact, Bench, DeviceInfo


def bench(
    models: Annotated[
        list[str],
        typer.Argument(help=".tflite files, .onnx for a device whose runtime is onnxruntime, or timm:NAME, zoo:NAME, …"),
    ],
    device: Annotated[str, typer.Option(help='Which: an id, "model=Pixel 8", "any 3 of soc=…", "all".')] = "local",
    delegate: Annotated[str, typer.Option(help="xnnpack, builtin, gpu, … Default: the first that the device has.")] = "",
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    precision: Annotated[str, typer.Option(help="Of computing, where the delegate has a choice: fp32 or fp16.")] = "fp32",
    ops: Annotated[bool, typer.Option("--ops", help="The runtime's own time per operator, too.")] = False,
    compare: Annotated[str | None, typer.Option(metavar="OTHER", help="How much slower is this model than MODEL?")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws which goes first in a comparison.")] = 0,
    devices: DevicesFile = None,
    store: StorePlace = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Measure models on devices, whole or operator by operator; or compare two."""
    from paceline.devices.bench import BenchOptions, bench_models, compare_models
    from paceline.devices.farm.local import LocalFarm
    from paceline.devices.hosted import candidates, chosen, entries_of
    from paceline.store import Store

    options = BenchOptions(delegate or None, threads, {"precision": precision})
    if compare is not None and len(models) != 1:
        raise DeviceError(f"--compare takes one model beside the other, not {len(models)}")
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="paceline-bench-")))
        artifacts = [_artifact(name, folder) for name in models]
        other = None if compare is None else _artifact(compare, folder)
        kept = opened.enter_context(Store(store))
        farm = opened.enter_context(LocalFarm.of(candidates(entries_of(devices), device)))
        names = [member.id for member in chosen(farm, device)]
        with shown(as_json)("measuring" if compare is None else "comparing") as progress:
            alone, together = (progress, silent) if len(names) == 1 else (silent, progress)
            futures: list[Future[Any]]
            if other is None:
                futures = [farm.on(name).submit(bench_models, artifacts, options, ops) for name in names]
            else:
                pair = (artifacts[0], other)
                futures = [farm.on(name).submit(compare_models, *pair, options, seed, alone) for name in names]
            found, troubles = _gathered(futures, together)
        if compare is not None:
            _tell_comparisons(found, as_json)
        else:
            benched = [b for row in found for b in row]
            for b in benched:
                kept.add_device(b.info)
            kept.add([b.measurement for b in benched])
            _tell_measurements(benched, ops, as_json)
            troubles += [DeviceError() for b in benched if b.measurement.failure]
    for trouble in filter(str, troubles):
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(trouble))}", soft_wrap=True)
    if troubles:
        raise typer.Exit(troubles[0].exit_code)


def _artifact(name: str, folder: Path) -> Artifact:
    """The file `name`, or what exporting this network in fp32 writes into `folder`."""
    from paceline.measurement import Artifact

    path = Path(name)
    suffix = path.suffix.lower()
    if suffix not in (".tflite", ".onnx"):
        from paceline.exporters.graphs import graph_from  # torch, which nothing else here needs
        from paceline.latency_models.collection.candidates import write_graph

        return write_graph(name, partial(graph_from, name), folder)
    if not path.is_file():
        raise DeviceError(f"no file {path}; give a .tflite or .onnx model")
    return Artifact(path, path.name, "onnx" if suffix == ".onnx" else "tflite")


def _gathered(futures: list[Future[Any]], progress: Progress) -> tuple[list[Any], list[PacelineError]]:
    """What came back; a device that fails doesn't cost the figures of the others. One device alone raises."""
    found, troubles = [], []
    for i, future in enumerate(futures):
        try:
            found.append(future.result())
        except PacelineError as e:
            if len(futures) == 1:
                raise
            troubles.append(e)
        progress(i + 1, len(futures), "devices")
    return found, troubles


def _print_json(rows: list[dict[str, Any]]) -> None:
    """One object for one model on one device, a list for more."""
    print(json.dumps(rows[0] if len(rows) == 1 else rows))


def _tell_measurements(benched: list[Benched], ops: bool, as_json: bool) -> None:
    rows = [measurement_json(b) for b in benched]
    if as_json:
        _print_json(rows)
        return
    console = Console()
    for row in rows if ops else ():
        print_operators(row, console)
    print_measurements(rows, console, Console(stderr=True))


def _tell_comparisons(found: list[tuple[DeviceInfo, Bench, Comparison]], as_json: bool) -> None:
    rows = [comparison_json(comparison, info, bench) for info, bench, comparison in found]
    if as_json:
        _print_json(rows)
        return
    for row in rows:
        print_comparison(row, Console())
