"""Images in a `.npz` file."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from paceline.errors import DataError
from paceline.pipeline.tasks.images import decoded
from paceline.pipeline.tasks.task import Split, Task, make_task, resized

Arrays = Mapping[str, np.ndarray]

LAYOUTS = (
    "x, y",
    "x_train, y_train[, x_val, y_val][, x_test, y_test]",
    "train_blob, train_off, train_y, test_blob, test_off, test_y (encoded images one after the other, their offsets)",
)


def npz(path: Path, size: int, seed: int) -> Task:
    """A task from a `.npz` in one of these layouts, images resized to `size` pixels where they differ:

    - `x`, `y`: cut 60/20/20;
    - `x_train`, `y_train` and, where there, `x_val`, `y_val`, `x_test`, `y_test`;
    - `train_blob`, `train_off`, `train_y` and the same of `test`: JPEG or PNG files one after the other, N + 1 offsets, labels;
      optionally `classes`, the names.

    x is (N, H, W) or (N, H, W, C), uint8 or floating point, y (N,). Colour images are mirrored in training, grey ones are not.
    Raises DataError where the file is none of that, with what was found.
    """
    arrays = _loaded(path)
    if "x" in arrays and "y" in arrays:
        pairs = {"train": (_images(arrays["x"], f"x of {path}", size), arrays["y"])}
    elif "x_train" in arrays and "y_train" in arrays:
        pairs = {
            s: (_images(arrays[f"x_{s}"], f"x_{s} of {path}", size), arrays[f"y_{s}"])
            for s in ("train", "val", "test")
            if f"x_{s}" in arrays and f"y_{s}" in arrays
        }
    elif all(f"{s}_{part}" in arrays for s in ("train", "test") for part in ("blob", "off", "y")):
        pairs = {s: (_unpacked(arrays, s, path, size), arrays[f"{s}_y"]) for s in ("train", "test")}
    else:
        found = ", ".join(sorted(arrays)) or "nothing"
        raise DataError(f"{path} holds {found}; expected one of: {'; '.join(LAYOUTS)}")
    values = np.unique(np.concatenate([np.ravel(y) for _, y in pairs.values()]))
    splits = {
        s: Split(images, _labels(y, values, f"the labels of {s} in {path}", len(images))) for s, (images, y) in pairs.items()
    }
    names = [str(v) for v in values]
    if "classes" in arrays and np.issubdtype(values.dtype, np.integer) and values[0] >= 0 and values[-1] < len(arrays["classes"]):
        names = [str(arrays["classes"][v]) for v in values]
    if len(names) < 2:
        raise DataError(f"{path} has {len(names)} classes, at least 2 are needed")
    colour = splits["train"].images.shape[1] == 3
    return make_task(
        path.stem,
        names,
        splits["train"],
        splits.get("val"),
        splits.get("test"),
        seed=seed,
        shift=size // 8 if colour else size // 16,
        flip=colour,
    )


def _loaded(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as opened:  # np.load would leave it open when it fails
            file = np.load(opened, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DataError(f"{path} is a single array, not a .npz file; save it with numpy.savez")
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as e:
        raise DataError(f"can't read {path} as a .npz file: {e}") from e


def _images(x: np.ndarray, name: str, size: int) -> torch.Tensor:
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or x.shape[-1] not in (1, 3) or not len(x):
        raise DataError(f"{name} has shape {x.shape}; expected (N, H, W) or (N, H, W, C) with 1 or 3 channels")
    if np.issubdtype(x.dtype, np.floating):
        if not np.isfinite(x).all():
            raise DataError(f"{name} has values that are not finite (NaN or infinity); clean them")
        x = x.astype(np.float32)
    elif x.dtype != np.uint8:
        if not np.issubdtype(x.dtype, np.integer) or x.min() < 0 or x.max() > 255:
            raise DataError(f"{name} has type {x.dtype}; expected uint8, floating point, or integers in 0…255")
        x = x.astype(np.uint8)
    return resized(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))), size)


def _unpacked(arrays: Arrays, split: str, path: Path, size: int) -> torch.Tensor:
    blob, offsets = arrays[f"{split}_blob"], arrays[f"{split}_off"]
    fits = (
        offsets.ndim == 1 and len(offsets) > 1 and offsets[0] >= 0 and offsets[-1] <= len(blob) and (np.diff(offsets) > 0).all()
    )
    if blob.dtype != np.uint8 or blob.ndim != 1 or not fits:
        raise DataError(f"{path}: {split}_off must rise within the {len(blob)} bytes of {split}_blob (uint8)")
    content = blob.tobytes()
    images = [
        decoded(content[start:end], f"{i} of {split}_blob in {path}", size)
        for i, (start, end) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True))
    ]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def _labels(y: np.ndarray, values: np.ndarray, name: str, n: int) -> torch.Tensor:
    if y.shape != (n,) or np.issubdtype(y.dtype, np.floating):
        raise DataError(f"{name} have shape {y.shape} and type {y.dtype}; expected one integer or name for each of {n} images")
    return torch.from_numpy(np.searchsorted(values, y).astype(np.int64))
