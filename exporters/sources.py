"""What `paceline export` accepts as a network: a name that a package knows, a Python file with a factory, an exported program,
a run folder."""

from __future__ import annotations

import importlib.util
import io
import re
import sys
import traceback
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from paceline.errors import ConfigError, ExportError
from paceline.exporters.timm_networks import timm_network
from paceline.exporters.tracing import quiet, traced
from paceline.files import write_atomically
from paceline.graph import TensorSpec

GROUP = "paceline.sources"
"""The entry points of packages that know networks by name: `scheme = "module:loader"` makes `scheme:NAME` a source."""

_FORMS = (
    "timm:NAME[:weights file], zoo:NAME[:weights file], path/to/file.py:factory, a .pt2 file of torch.export.save, or the folder "
    "of a `paceline run`"
)
RUN_PROGRAM = "network.pt2"
"""The trained, merged network in a run folder."""

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Shapes = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Source:
    """A network in inference, an example of its inputs (torch's order, NCHW) and how images become such inputs."""

    name: str
    text: str
    """What it was loaded from, without folders: part of the provenance."""
    module: nn.Module
    example: tuple[Tensor, ...]
    mean: tuple[float, ...] = _IMAGENET[0]
    std: tuple[float, ...] = _IMAGENET[1]
    warnings: tuple[str, ...] = ()


Loader = Callable[[str, Shapes, int], Source]
"""What an entry point of GROUP names: (what stands behind "scheme:", input shapes NHWC or none, seed) -> the network."""


def load_source(source: str, shapes: Shapes = (), seed: int = 0) -> Source:
    """The network that `source` names. `shapes` are its inputs as in a `.tflite` (NHWC), where the source does not tell them.

    Example inputs are standard normal. Raises ExportError where the source can't be loaded.
    """
    scheme, colon, name = source.partition(":")
    for point in entry_points(group=GROUP, name=scheme) if colon else ():
        return _loader(point)(name, shapes, seed)
    path, _, factory = source.rpartition(":")
    if path.endswith(".py"):
        return _from_factory(Path(path), factory, shapes, seed)
    found = Path(source)
    if found.is_dir():
        return _from_run(found, shapes, seed)
    if found.suffix == ".pt2":
        return _from_program(found, shapes, seed)
    if found.suffix == ".py":
        raise ExportError(f"{source}: name the function that makes the network too, {source}:FUNCTION")
    installed = ", ".join(sorted(point.name for point in entry_points(group=GROUP))) or "none; reinstall paceline"
    raise ExportError(f"can't tell what {source!r} is; SOURCE is one of {_FORMS} (installed names before a colon: {installed})")


def save_program(module: nn.Module, examples: tuple[Tensor, ...], path: Path) -> None:
    """Writes `module` as an exported program, `.pt2`, with its weights and `examples`: torch runs it without its code."""
    content = io.BytesIO()
    with quiet():
        torch.export.save(traced(module, examples), content)
    write_atomically(path, content.getvalue())


def shape_of(text: str) -> tuple[int, ...]:
    """ "1x224x224x3" as numbers. Raises ConfigError for anything else."""
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text):
        raise ConfigError(f"--input {text!r} is no shape; write it like 1x224x224x3 (NHWC for images)")
    return tuple(int(n) for n in text.split("x"))


def _loader(point: EntryPoint) -> Loader:
    try:
        loader: Loader = point.load()
    except (ImportError, AttributeError) as e:
        raise ExportError(f"{point.name}:… ({point.value}) can't be loaded: {e}; reinstall the package that brings it") from e
    return loader


def from_timm(name: str, shapes: Shapes, seed: int) -> Source:
    """The source timm:NAME[:weights file]. Raises ExportError as timm_network does."""
    name, *rest = name.split(":", 1)
    weights = Path(rest[0]) if rest else None
    module, chw = timm_network(name, weights)
    pretrained = module.pretrained_cfg
    warnings = () if weights else (f"timm:{name} has random weights; give a file: timm:{name}:weights.safetensors",)
    text = f"timm:{name}" + (f":{weights.name}" if weights else "")
    example = examples(shapes or [(1, chw[1], chw[2], chw[0])], seed)
    mean, std = (tuple(float(v) for v in pretrained[key]) for key in ("mean", "std"))  # type: ignore[index]
    return Source(name, text, module, example, mean, std, warnings)


def _from_factory(path: Path, factory: str, shapes: Shapes, seed: int) -> Source:
    if not path.is_file():
        raise ExportError(f"no file {path}; SOURCE is {_FORMS}")
    made = _called(path, factory)
    example: tuple[Tensor, ...] = ()
    if isinstance(made, tuple) and len(made) == 2:
        made, given = made
        example = given if isinstance(given, tuple) else (given,)
    if not isinstance(made, nn.Module) or not all(isinstance(x, Tensor) for x in example):
        raise ExportError(
            f"{path}:{factory} returned {type(made).__name__}; return a torch.nn.Module, or (module, example input)"
        )
    if shapes or not example:
        if not shapes:
            raise ExportError(f"{path}:{factory} returned a module only; name its input's shape: --input 1x224x224x3")
        example = examples(shapes, seed)
    return Source(factory, f"{path.name}:{factory}", made.eval(), example)


def _called(path: Path, factory: str) -> object:
    module = _imported(path)
    function = getattr(module, factory, None)
    if not callable(function):
        known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ExportError(f"{path} has no function {factory!r}; it has {', '.join(known) or 'none'}")
    try:
        return function()
    except Exception as e:
        raise ExportError(f"{path}:{factory}() failed: {_where(e, path)}; it is called without arguments") from e


def _imported(path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(f"paceline_source_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.parent.resolve()))  # a file may import its neighbours, as when Python runs it
    try:
        spec.loader.exec_module(module)
    except Exception as e:
        raise ExportError(f"{path} can't be imported: {_where(e, path)}") from e
    finally:
        sys.path.pop(0)
    return module


def _where(error: Exception, path: Path) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return f"{type(error).__name__}: {error}" + (f" (line {lines[-1]})" if lines else "")


def _from_program(path: Path, shapes: Shapes, seed: int) -> Source:
    try:
        with quiet():
            program = torch.export.load(path)
            module = program.module()
    except FileNotFoundError as e:
        raise ExportError(f"no file {path}; SOURCE is {_FORMS}") from e
    except Exception as e:
        first = (str(e).strip().splitlines() or ["no message"])[0]
        raise ExportError(f"{path} is no exported program of this torch ({first}); write it with torch.export.save") from e
    module.training = False  # its operators are those of the mode in which it was traced; .eval() does not exist here
    given = program.example_inputs[0] if program.example_inputs else ()
    if not shapes and not given:
        raise ExportError(f"{path} holds no example inputs; name their shapes: --input 1x224x224x3")
    example = examples(shapes, seed) if shapes else tuple(given)
    return Source(path.stem, path.name, module, _one_image(example, program) if not shapes else example)


def _one_image(example: tuple[Tensor, ...], program: torch.export.ExportedProgram) -> tuple[Tensor, ...]:
    """A dynamic batch becomes 1."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    inputs = [values[spec.arg.name] for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    return tuple(
        x[:1] if isinstance(v, Tensor) and v.ndim and not isinstance(v.shape[0], int) else x
        for x, v in zip(example, inputs, strict=True)
    )


def _from_run(folder: Path, shapes: Shapes, seed: int) -> Source:
    program = folder / RUN_PROGRAM
    if not program.is_file():
        raise ExportError(f"{folder} is no folder of a finished `paceline run`: it has no {RUN_PROGRAM}; SOURCE is {_FORMS}")
    found = _from_program(program, shapes, seed)
    return Source(folder.name, f"run {folder.name}", found.module, found.example)


def examples(shapes: Shapes, seed: int) -> tuple[Tensor, ...]:
    """Standard normal inputs of these shapes (NHWC) in torch's order (NCHW). Raises ConfigError for an NCHW shape."""
    rng = np.random.default_rng(seed)
    found = []
    for shape in shapes:
        if len(shape) == 4 and shape[1] in (1, 3) and shape[3] > 4:
            n, c, h, w = shape
            raise ConfigError(f"--input is NHWC as in the .tflite; write {n}x{h}x{w}x{c}")
        values = torch.from_numpy(rng.standard_normal(tuple(shape), np.float32))
        found.append(values.permute(0, 3, 1, 2).contiguous() if len(shape) == 4 else values)
    return tuple(found)


def tensor_specs(example: Sequence[Tensor]) -> dict[str, TensorSpec]:
    """The inputs of the `.tflite` that `example` (torch's order) leads to, by their names in its signature."""
    shapes = [tuple(x.shape) for x in example]
    return {f"input_{i}": TensorSpec((s[0], *s[2:], s[1]) if len(s) == 4 else s) for i, s in enumerate(shapes)}
