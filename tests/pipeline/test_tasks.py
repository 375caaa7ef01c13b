from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from paceline.errors import ConfigError, DataError
from paceline.pipeline.tasks import Split, Task, digits, image_folder, make_task, npz
from paceline.pipeline.training import accuracy


def picture(seed: int, size: tuple[int, int] = (12, 10)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8))


def folder(root: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 6) -> Path:
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            picture(c * 100 + i).save(root / name / f"{i}.png")
    return root


def test_digits_are_split_in_proportion_without_overlap() -> None:
    task = digits(0)
    sizes = [len(s.labels) for s in (task.train, task.val, task.test)]
    assert sum(sizes) == 1797
    assert [round(n / 1797, 2) for n in sizes] == [0.6, 0.2, 0.2]
    for split in (task.train, task.val, task.test):
        shares = torch.bincount(split.labels, minlength=10) / len(split.labels)
        assert float((shares - torch.bincount(task.train.labels) / sizes[0]).abs().max()) < 0.01
    assert task.train.images.shape[1:] == (1, 32, 32)
    everything = torch.cat([s.images.flatten(1) for s in (task.train, task.val, task.test)])
    assert torch.equal(
        everything.double().sum(),
        digits(1).train.images.double().sum() + digits(1).val.images.double().sum() + digits(1).test.images.double().sum(),
    )
    assert not torch.equal(task.val.images, digits(1).val.images)
    assert torch.equal(task.val.images, digits(0).val.images)


def test_batches_in_order_hold_every_image_normalised(task: Task) -> None:
    batches = list(task.batches("train", 100))
    assert torch.equal(torch.cat([y for _, y in batches]), task.train.labels)
    images = torch.cat([x for x, _ in batches])
    assert abs(float(images.mean())) < 1e-4
    assert abs(float(images.std()) - 1) < 1e-3
    assert batches[0][0].is_contiguous(memory_format=torch.channels_last)


def test_shuffled_batches_are_a_function_of_seed_and_epoch(task: Task) -> None:
    def labels(seed: int, epoch: int) -> torch.Tensor:
        return torch.cat([y for _, y in task.batches("train", 100, seed=seed, epoch=epoch, augment=True)])

    assert torch.equal(labels(1, 0), labels(1, 0))
    assert not torch.equal(labels(1, 0), labels(1, 1))
    assert not torch.equal(labels(1, 0), labels(2, 0))
    assert len(labels(1, 0)) == 1000 == 100 * task.steps(100)
    assert len(list(task.batches("train", 10**6, seed=1))) == 1 == task.steps(10**6)
    with pytest.raises(ConfigError, match="give a seed"):
        next(task.batches("train", 10, augment=True))


def test_augmentation_shifts_and_mirrors() -> None:
    images = torch.zeros(400, 1, 7, 7, dtype=torch.uint8)
    images[:, 0, 3, 2] = 255
    split = Split(images, torch.arange(400) % 2)
    task = Task("dots", ("a", "b"), split, split, split, (0.0,), (1.0,), shift=1, flip=True)
    found = torch.cat([x for x, _ in task.batches("train", 400, seed=1, augment=True)])
    assert torch.equal(found.sum((1, 2, 3)), torch.ones(400))
    places = {tuple(p) for p in found[:, 0].nonzero()[:, 1:].tolist()}
    assert places == {(row, column) for row in (2, 3, 4) for column in (1, 2, 3, 3, 4, 5)}
    still = Task("dots", ("a", "b"), split, split, split, (0.0,), (1.0,))
    assert {tuple(p) for p in next(still.batches("train", 400, seed=1, augment=True))[0][:, 0].nonzero()[:, 1:].tolist()} == {
        (3, 2)
    }


def test_image_folder(tmp_path: Path) -> None:
    root = folder(tmp_path / "pets", count=10)
    (root / "cat" / ".DS_Store").write_bytes(b"x")
    task = image_folder(root, 8, seed=0)
    assert task.name == "pets"
    assert task.classes == ("cat", "dog")
    assert task.train.images.shape == (12, 3, 8, 8)
    assert [len(s.labels) for s in (task.train, task.val, task.test)] == [12, 4, 4]
    assert task.train.labels.bincount().tolist() == [6, 6]
    assert task.flip
    assert accuracy(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2)), task, "test") <= 1.0


def test_image_folder_with_given_splits(tmp_path: Path) -> None:
    folder(tmp_path / "train", count=5)
    folder(tmp_path / "test", count=3)
    task = image_folder(tmp_path, 8, seed=0)
    assert [len(s.labels) for s in (task.train, task.val, task.test)] == [8, 2, 6]
    folder(tmp_path / "val", ("bird",), 1)
    with pytest.raises(DataError, match="class 'bird' that the training images do not have"):
        image_folder(tmp_path, 8, seed=0)


def test_broken_image_is_named(tmp_path: Path) -> None:
    root = folder(tmp_path / "pets")
    broken = root / "dog" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(DataError, match=r"dog/3\.png.*remove or replace"):
        image_folder(root, 8, seed=0)
    broken.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"dog/3\.png"):
        image_folder(root, 8, seed=0)


def test_folders_that_are_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        image_folder(tmp_path / "none", 8, seed=0)
    with pytest.raises(DataError, match="0 class folders"):
        image_folder(tmp_path, 8, seed=0)
    root = folder(tmp_path / "pets", count=2)
    with pytest.raises(DataError, match="class 'cat' of pets has 2 images to train on, at least 3"):
        image_folder(root, 8, seed=0)
    (root / "empty").mkdir()
    with pytest.raises(DataError, match="empty is empty"):
        image_folder(root, 8, seed=0)
    (root / "empty" / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"notes\.txt is not an image"):
        image_folder(root, 8, seed=0)


def arrays(n: int = 30, shape: tuple[int, ...] = (8, 8), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, *shape)).astype(np.uint8), np.arange(n) % 3


def test_npz_of_one_array_and_of_given_splits(tmp_path: Path) -> None:
    x, y = arrays()
    np.savez(tmp_path / "a.npz", x=x, y=y)
    task = npz(tmp_path / "a.npz", 8, seed=0)
    assert [len(s.labels) for s in (task.train, task.val, task.test)] == [18, 6, 6]
    assert (task.channels, task.image_size, task.flip, task.classes) == (1, 8, False, ("0", "1", "2"))
    colour, y = arrays(30, (8, 8, 3))
    np.savez(
        tmp_path / "b.npz",
        x_train=colour / 255.0,
        y_train=np.array(["cat", "dog", "eel"])[y],
        x_test=colour / 255.0,
        y_test=np.array(["cat", "dog", "eel"])[y],
    )
    task = npz(tmp_path / "b.npz", 16, seed=0)
    assert [len(s.labels) for s in (task.train, task.val, task.test)] == [24, 6, 30]
    assert (task.channels, task.image_size, task.flip, task.classes) == (3, 16, True, ("cat", "dog", "eel"))
    assert task.train.images.dtype == torch.float32
    np.testing.assert_array_equal(task.test.labels, y)


def test_npz_channels_are_in_place(tmp_path: Path) -> None:
    x, y = arrays(30, (8, 8, 3))
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_val=x, y_val=y, x_test=x, y_test=y)
    task = npz(tmp_path / "a.npz", 8, seed=0)
    np.testing.assert_array_equal(task.train.images.permute(0, 2, 3, 1), x)


def encoded(n: int, seed: int) -> dict[str, np.ndarray]:
    files = []
    for i in range(n):
        buffer = io.BytesIO()
        picture(seed + i, (8, 8)).save(buffer, "JPEG")
        files.append(buffer.getvalue())
    return {
        "blob": np.frombuffer(b"".join(files), np.uint8),
        "off": np.cumsum([0, *map(len, files)]),
        "y": (np.arange(n) % 2).astype(np.uint8),
    }


def test_npz_of_encoded_images(tmp_path: Path) -> None:
    content = {f"{s}_{k}": v for s, n in (("train", 10), ("test", 4)) for k, v in encoded(n, n).items()}
    np.savez(tmp_path / "a.npz", classes=np.array(["plane", "car"]), **content)
    task = npz(tmp_path / "a.npz", 8, seed=0)
    assert [len(s.labels) for s in (task.train, task.val, task.test)] == [8, 2, 4]
    assert task.classes == ("plane", "car")
    first = np.asarray(Image.open(io.BytesIO(content["test_blob"][: content["test_off"][1]].tobytes())))
    np.testing.assert_array_equal(task.test.images[0].permute(1, 2, 0), first)
    content["test_blob"] = np.zeros_like(content["test_blob"])
    np.savez(tmp_path / "b.npz", **content)
    with pytest.raises(DataError, match="can't read the image 0 of test_blob"):
        npz(tmp_path / "b.npz", 8, seed=0)
    content["test_off"] = content["test_off"] * 2
    np.savez(tmp_path / "c.npz", **content)
    with pytest.raises(DataError, match="test_off must rise within"):
        npz(tmp_path / "c.npz", 8, seed=0)


def test_npz_files_that_are_no_data_set(tmp_path: Path) -> None:
    x, y = arrays()
    cases: list[tuple[dict[str, object], str]] = [
        ({"images": x, "labels": y}, "holds images, labels; expected one of: x, y"),
        ({"x": x, "y": y[:-1]}, "expected one integer or name for each of 30 images"),
        ({"x": x, "y": y / 2}, "float64; expected one integer"),
        ({"x": x.reshape(30, 64), "y": y}, r"shape \(30, 64\)"),
        ({"x": x.astype(np.int64) * 300, "y": y}, "int64; expected uint8"),
        ({"x": np.full(x.shape, np.nan), "y": y}, "not finite"),
        ({"x": x, "y": y * 0}, "has 1 classes"),
        ({"x": x[:4], "y": y[:4]}, "class '0' of a has 2 images"),
    ]
    for content, message in cases:
        np.savez(tmp_path / "a.npz", **content)
        with pytest.raises(DataError, match=message):
            npz(tmp_path / "a.npz", 8, seed=0)
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:200])
    with pytest.raises(DataError, match="can't read"):
        npz(tmp_path / "a.npz", 8, seed=0)
    np.save(tmp_path / "a.npy", x)
    with pytest.raises(DataError, match="single array"):
        npz(tmp_path / "a.npy", 8, seed=0)
    with pytest.raises(DataError, match="can't read"):
        npz(tmp_path / "none.npz", 8, seed=0)


def test_a_constant_channel_does_not_divide_by_zero() -> None:
    split = Split(torch.full((6, 1, 2, 2), 7, dtype=torch.uint8), torch.tensor([0, 0, 0, 1, 1, 1]))
    task = make_task("flat", ("a", "b"), split, None, None, seed=0, shift=0, flip=False)
    assert bool(task.example().isfinite().all())


@pytest.mark.skipif("PACELINE_CIFAR10" not in os.environ, reason="PACELINE_CIFAR10 names no cifar10_jpeg.npz")
def test_cifar10() -> None:
    task = npz(Path(os.environ["PACELINE_CIFAR10"]), 32, seed=0)
    assert [len(s.labels) for s in (task.train, task.val, task.test)] == [40_000, 10_000, 10_000]
    assert task.classes[0] == "airplane"
    np.testing.assert_allclose(task.mean, (0.4913, 0.4821, 0.4465), atol=2e-3)
