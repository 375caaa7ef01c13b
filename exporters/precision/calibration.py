"""Calibration data: what the network will see, as arrays in its own layout."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from paceline.errors import ConfigError, DataError
from paceline.graph import Array, TensorSpec

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Per channel (RGB, of values in [0, 1]): the statistics that most published weights were trained with."""

Layout = Literal["NHWC", "NCHW"]
Sample = tuple[Array, ...]
"""One array per network input, in the inputs' order, each of exactly the input's shape and element type."""

_WIDE_GREY = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # how Pillow opens 16-bit grey images


@dataclass(frozen=True)
class Calibration:
    """Samples of what a network will see, and where they come from."""

    samples: tuple[Sample, ...]
    source: str

    @classmethod
    def of(
        cls,
        path: Path,
        inputs: Mapping[str, TensorSpec],
        rng: np.random.Generator,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        limit: int = 100,
        layout: Layout | None = None,
    ) -> Calibration:
        """At most `limit` samples, drawn by `rng`, for a network with `inputs` (name -> shape, images NHWC).

        `path` is a folder of images (searched with its sub-folders; any depth, resized with antialias to the input) or an `.npz`
        with one array per input, samples first: named like the inputs or `input_0` …, or a single array for a single input.
        Arrays of images may be NHWC or NCHW; `layout` says it where the shape does not. Images and uint8 arrays become
        (value / 255 - mean) / std, by default with ImageNet's statistics (their mean over RGB for one channel); all other arrays
        are taken as the network reads them. Raises DataError for data that can't be read or does not fit, ConfigError for
        impossible settings.
        """
        if limit < 1:
            raise ConfigError(f"a calibration of {limit} samples calibrates nothing; give a limit of 1 or more")
        if path.is_dir():
            return cls(tuple(_images(path, inputs, rng, mean, std, limit)), f"{path.name}/")
        if path.suffix == ".npz" and path.is_file():
            return cls(tuple(_arrays(path, inputs, rng, mean, std, limit, layout)), path.name)
        reason = "is neither a folder of images nor an .npz file" if path.exists() else "does not exist"
        raise DataError(f"calibration data {path} {reason}; give a folder with some 100 typical images, or an .npz")

    @classmethod
    def random(cls, inputs: Mapping[str, TensorSpec], count: int, rng: np.random.Generator) -> Calibration:
        """`count` samples of standard normal numbers, labelled as such: enough to compare files or to measure a latency.

        A network that is calibrated with them is not fit for use: its ranges are not those of real data.
        """
        if count < 1:
            raise ConfigError(f"{count} random samples show nothing; ask for 1 or more")
        for name, spec in inputs.items():
            if spec.dtype != "float32":
                raise DataError(f"random numbers don't suit input {name!r} of type {spec.dtype}; give an .npz with real values")
        samples = tuple(tuple(rng.standard_normal(spec.shape, np.float32) for spec in inputs.values()) for _ in range(count))
        return cls(samples, "random numbers")

    def save(self, path: Path) -> None:
        """Writes all samples as an `.npz` of arrays "sample/input", which `load_samples` reads."""
        arrays: dict[str, Any] = {f"{i}/{j}": a for i, sample in enumerate(self.samples) for j, a in enumerate(sample)}
        np.savez(path, **arrays)


def load_samples(path: Path) -> list[Sample]:
    """The samples that `Calibration.save` wrote."""
    with np.load(path) as arrays:
        inputs = 1 + max(int(name.split("/")[1]) for name in arrays.files)
        return [tuple(arrays[f"{i}/{j}"] for j in range(inputs)) for i in range(len(arrays.files) // inputs)]


def _images(
    folder: Path,
    inputs: Mapping[str, TensorSpec],
    rng: np.random.Generator,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    limit: int,
) -> Iterator[Sample]:
    shapes = [spec.shape for spec in inputs.values()]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][0] != 1 or shapes[0][3] not in (1, 3):
        raise DataError(
            f"a folder of images suits networks with one image as input, 1 x H x W x 1 or 3; this one has {_shown(inputs)}: "
            "give an .npz with one array per input"
        )
    endings = {ending for ending, format in Image.registered_extensions().items() if format in Image.OPEN}
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in endings and p.is_file() and not p.name.startswith("."))
    if not paths:
        raise DataError(f"no images in {folder} or its sub-folders; put some 100 typical ones there (.jpg, .png, …)")
    _, height, width, channels = shapes[0]
    for i in _drawn(len(paths), limit, rng):
        yield (_normalised(_image(paths[i], (width, height), channels), mean, std)[np.newaxis],)


def _image(path: Path, size: tuple[int, int], channels: int) -> npt.NDArray[np.float32]:
    """Height x width x channels, in [0, 1]."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(path) as file:
                image = ImageOps.exif_transpose(file)
            if image.mode in _WIDE_GREY:
                wide = Image.fromarray(np.asarray(image).astype(np.float32))
                grey = np.asarray(wide.resize(size, Image.Resampling.BILINEAR), np.float32) / np.float32(65535)
                return np.repeat(np.clip(grey, 0, 1)[..., np.newaxis], channels, 2)
            if image.mode == "F":
                raise DataError(f"{path} holds floats of unknown range; convert it to 8 or 16 bits, or give an .npz")
            if "transparency" in image.info:
                image = image.convert("RGBA")
            plain = image.convert("RGB" if channels == 3 else "L").resize(size, Image.Resampling.BILINEAR)
    except DataError:
        raise
    except Exception as e:  # decoders raise whatever they like
        raise DataError(f"{path} can't be read as an image ({type(e).__name__}: {e}); mend or remove it") from e
    return (np.asarray(plain, np.float32) / np.float32(255)).reshape(size[1], size[0], channels)


def _arrays(
    path: Path,
    inputs: Mapping[str, TensorSpec],
    rng: np.random.Generator,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    limit: int,
    layout: Layout | None,
) -> Iterator[Sample]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as e:
        raise DataError(f"{path} can't be read as an .npz ({type(e).__name__}: {e}); write it with numpy.savez") from e
    found = [
        _laid_out(f"{path}, input {name!r}", values, spec, layout)
        for values, (name, spec) in zip(_assigned(path, arrays, inputs), inputs.items(), strict=True)
    ]
    counts = [len(values) // spec.shape[0] for values, spec in zip(found, inputs.values(), strict=True)]
    if min(counts) < 1 or len(set(counts)) > 1:
        raise DataError(f"{path} holds {counts} samples for {_shown(inputs)}; every input needs the same number, at least one")
    for i in _drawn(counts[0], limit, rng):
        sample = []
        for values, (name, spec) in zip(found, inputs.items(), strict=True):
            rows = values[i * spec.shape[0] : (i + 1) * spec.shape[0]]
            if rows.dtype == np.uint8 and spec.dtype == "float32" and len(spec.shape) == 4:
                rows = _normalised(rows.astype(np.float32) / np.float32(255), mean, std)
            sample.append(_cast(f"{path}, input {name!r}, sample {i}", rows, spec))
        yield tuple(sample)


def _assigned(path: Path, arrays: Mapping[str, Array], inputs: Mapping[str, TensorSpec]) -> list[Array]:
    """The array of each input; others, labels for example, are left alone."""
    for names in (list(inputs), [f"input_{i}" for i in range(len(inputs))], [f"arr_{i}" for i in range(len(inputs))]):
        if all(name in arrays for name in names):
            return [arrays[name] for name in names]
    if len(arrays) == 1 == len(inputs):
        return list(arrays.values())
    raise DataError(
        f"{path} holds the arrays {', '.join(arrays) or '(none)'}, the network reads {_shown(inputs)}; "
        "name the arrays like the inputs"
    )


def _laid_out(where: str, values: Array, spec: TensorSpec, layout: Layout | None) -> Array:
    """`values` with samples first and the rest as in `spec`."""
    if values.ndim != len(spec.shape):
        raise DataError(f"{where}: shape {values.shape} does not fit, {_expected(spec)} is needed")
    rest, fits = values.shape[1:], spec.shape[1:]
    if len(fits) != 3:
        if rest != fits:
            raise DataError(f"{where}: shape {values.shape} does not fit, {_expected(spec)} is needed")
        return values
    shapes: dict[Layout, tuple[int, ...]] = {"NHWC": fits, "NCHW": (fits[2], *fits[:2])}
    possible = [name for name, shape in shapes.items() if rest == shape and layout in (None, name)]
    if not possible:
        raise DataError(
            f"{where}: shape {values.shape} does not fit, {_expected(spec)} is needed" + (f" as {layout}" if layout else "")
        )
    if len(possible) > 1:
        raise DataError(f"{where}: shape {values.shape} may be NHWC or NCHW; say which with layout")
    return values if possible[0] == "NHWC" else values.transpose(0, 2, 3, 1)


def _cast(where: str, values: Array, spec: TensorSpec) -> Array:
    if values.dtype.kind not in "fiub" or (values.dtype.kind == "f" and not spec.dtype.startswith("float")):
        raise DataError(f"{where}: elements are {values.dtype}, the network reads {spec.dtype}; convert them")
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(values.astype(spec.dtype))
    wrong = ~np.isfinite(cast) if cast.dtype.kind == "f" else cast.astype(np.int64) != values.astype(np.int64)
    if wrong.any():
        raise DataError(f"{where} holds NaN, infinity or numbers beyond {spec.dtype}; mend or remove it")
    return cast


def _normalised(
    values: npt.NDArray[np.floating[Any]], mean: Sequence[float] | None, std: Sequence[float] | None
) -> npt.NDArray[np.float32]:
    """(values - mean) / std over the last axis."""
    channels = values.shape[-1]
    centre, scale = (
        np.asarray(_default(channels, usual) if given is None else given, np.float32)
        for given, usual in ((mean, IMAGENET_MEAN), (std, IMAGENET_STD))
    )
    for name, numbers in (("mean", centre), ("std", scale)):
        if numbers.shape not in ((), (1,), (channels,)) or not np.isfinite(numbers).all():
            raise ConfigError(f"{name} {numbers.tolist()} does not fit an input of {channels} channels; give {channels} numbers")
    if (scale <= 0).any():
        raise ConfigError(f"std {scale.tolist()} must be above 0")
    normalised: npt.NDArray[np.float32] = ((values - centre) / scale).astype(np.float32)
    return normalised


def _default(channels: int, usual: tuple[float, ...]) -> tuple[float, ...]:
    if channels not in (1, 3):
        raise ConfigError(f"uint8 data of {channels} channels needs mean and std, one number per channel")
    return usual if channels == 3 else (sum(usual) / 3,)


def _drawn(count: int, limit: int, rng: np.random.Generator) -> list[int]:
    """Indices of at most `limit` of `count` samples, in their order."""
    return sorted(rng.choice(count, min(count, limit), replace=False).tolist())


def _expected(spec: TensorSpec) -> str:
    return " x ".join(["samples", *map(str, spec.shape[1:])])


def _shown(inputs: Mapping[str, TensorSpec]) -> str:
    return ", ".join(f"{name} ({' x '.join(map(str, spec.shape))})" for name, spec in inputs.items())
