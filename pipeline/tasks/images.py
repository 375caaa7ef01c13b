"""A folder of images per class."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from paceline.errors import DataError
from paceline.pipeline.tasks.task import Split, Task, make_task

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def image_folder(path: Path, size: int, seed: int, *, flip: bool = True) -> Task:
    """Images in one folder per class: `path/<class>/…`, or `path/train/<class>/…` with `val` and `test` beside it.

    Each image is made RGB and cut to its central square of `size` pixels. A split without a folder is cut out of the training
    images, 20 % of each class. Hidden files are left out.

    Raises DataError naming the file that can't be decoded, and for missing or empty folders and too few images.
    """
    if not path.is_dir():
        raise DataError(f"no folder {path}; it should hold one folder of images per class")
    root = path / "train" if (path / "train").is_dir() else path
    classes = [folder.name for folder in _folders(root)]
    if len(classes) < 2:
        raise DataError(f"{root} holds {len(classes)} class folders, at least 2 are needed: one folder of images per class")
    train = _read(root, classes, size, every_class=True)
    others = [
        _read(path / name, classes, size, every_class=False) if root != path and (path / name).is_dir() else None
        for name in ("val", "test")
    ]
    return make_task(path.name, classes, train, *others, seed=seed, shift=size // 8, flip=flip)


def decoded(source: Path | bytes, name: str, size: int | None) -> np.ndarray:
    """An encoded image as (H, W, 3) uint8, its central square of `size` pixels where given. Raises DataError naming it."""
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
            rgb = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as e:
        raise DataError(f"can't read the image {name}: {e}; remove or replace it") from e
    if size is not None and rgb.size != (size, size):
        rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(rgb)


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _read(root: Path, classes: Sequence[str], size: int, *, every_class: bool) -> Split:
    unknown = sorted({p.name for p in _folders(root)} - set(classes))
    if unknown:
        raise DataError(f"{root} has a class {unknown[0]!r} that the training images do not have")
    images, labels = [], []
    for number, name in enumerate(classes):
        folder = root / name
        files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")) if folder.is_dir() else []
        if not files and every_class:
            raise DataError(f"class folder {folder} is empty; put images there or remove it")
        for file in files:
            if file.suffix.lower() not in SUFFIXES:
                raise DataError(f"{file} is not an image ({', '.join(SUFFIXES)}); move it out of the class folder")
            images.append(decoded(file, str(file), size))
            labels.append(number)
    if not images:
        raise DataError(f"{root} holds no images; fill it or remove it")
    return Split(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels))
