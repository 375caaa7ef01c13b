"""Calibration data from folders and `.npz` files, and what is said about data that can't be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paceline.errors import ConfigError, DataError
from paceline.exporters.precision.calibration import IMAGENET_MEAN, IMAGENET_STD, Calibration, load_samples
from paceline.graph import TensorSpec

COLOUR = {"x": TensorSpec((1, 6, 8, 3))}
GREY = {"x": TensorSpec((1, 6, 8, 1))}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def gradient(height: int = 12, width: int = 16) -> np.ndarray:
    values = np.linspace(0, 255, height * width * 3).reshape(height, width, 3)
    return values.astype(np.uint8)


def test_images_are_resized_and_normalised(tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 30, 3), (255, 0, 51), np.uint8)).save(tmp_path / "flat.png")
    ((sample,),) = Calibration.of(tmp_path, COLOUR, rng()).samples
    expected = (np.array([1, 0, 0.2]) - IMAGENET_MEAN) / IMAGENET_STD
    assert (sample.shape, sample.dtype) == ((1, 6, 8, 3), np.float32)
    np.testing.assert_allclose(sample, np.broadcast_to(expected, sample.shape), atol=1e-5)
    ((plain,),) = Calibration.of(tmp_path, COLOUR, rng(), mean=(0, 0, 0), std=(1, 1, 1)).samples
    np.testing.assert_allclose(plain[0, 0, 0], [1, 0, 0.2], atol=1e-6)


def test_reduction_does_not_alias(tmp_path: Path) -> None:
    stripes = np.zeros((48, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    ((sample,),) = Calibration.of(tmp_path, COLOUR, rng(), mean=(0, 0, 0), std=(1, 1, 1)).samples
    np.testing.assert_allclose(sample, 0.5, atol=0.05)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("inputs", [COLOUR, GREY])
def test_images_of_any_depth(tmp_path: Path, mode: str, inputs: dict[str, TensorSpec]) -> None:
    if mode == "I;16":
        Image.fromarray(np.full((12, 16), 40000, np.uint16)).save(tmp_path / "deep.png")
        level = 40000 / 65535
    else:
        white = Image.fromarray(np.full((12, 16, 3), 255, np.uint8)).convert(mode)
        white.save(tmp_path / ("white.jpg" if mode == "CMYK" else "white.png"))
        level = 1
    ((sample,),) = Calibration.of(tmp_path, inputs, rng(), mean=[0], std=[1]).samples
    assert sample.shape == inputs["x"].shape
    np.testing.assert_allclose(sample, level, atol=0.01)


def test_a_palette_with_transparency_is_read(tmp_path: Path) -> None:
    Image.fromarray(gradient()).convert("P").save(tmp_path / "clear.png", transparency=bytes(range(256)))
    assert len(Calibration.of(tmp_path, COLOUR, rng()).samples) == 1


def test_rotated_photographs_are_turned_upright(tmp_path: Path) -> None:
    values = np.zeros((16, 12, 3), np.uint8)
    values[8:] = 255  # bright below
    image = Image.fromarray(values)
    exif = image.getexif()
    exif[274] = 6  # turn by 90 degrees clockwise to show: bright on the left
    image.save(tmp_path / "turned.png", exif=exif)
    ((sample,),) = Calibration.of(tmp_path, GREY, rng(), mean=[0], std=[1]).samples
    assert sample[0, 3, 0, 0] > 0.9 > 0.1 > sample[0, 3, -1, 0]


def test_grey_inputs_get_one_mean_of_the_usual_statistics(tmp_path: Path) -> None:
    Image.fromarray(np.full((6, 8), 255, np.uint8)).save(tmp_path / "white.png")
    ((sample,),) = Calibration.of(tmp_path, GREY, rng()).samples
    np.testing.assert_allclose(sample, (1 - np.mean(IMAGENET_MEAN)) / np.mean(IMAGENET_STD), rtol=1e-5)


def test_the_limit_draws_by_the_generator(tmp_path: Path) -> None:
    for i in range(12):
        folder = tmp_path / f"class{i % 3}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(np.full((6, 8, 3), i * 20, np.uint8)).save(folder / f"{i}.png")
    (tmp_path / "notes.txt").write_text("no image")

    def levels(seed: int, limit: int) -> list[float]:
        return [float(s[0][0, 0, 0, 0]) for s in Calibration.of(tmp_path, COLOUR, rng(seed), limit=limit).samples]

    assert len(levels(0, 100)) == 12
    assert len(set(levels(0, 5))) == 5
    assert levels(0, 5) == levels(0, 5)
    assert any(levels(0, 5) != levels(seed, 5) for seed in range(1, 5))


def test_folders_that_can_not_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing does not exist; give a folder"):
        Calibration.of(tmp_path / "missing", COLOUR, rng())
    with pytest.raises(DataError, match="no images in"):
        Calibration.of(tmp_path, COLOUR, rng())
    (tmp_path / "list.txt").write_text("a b c")
    with pytest.raises(DataError, match="neither a folder of images nor an"):
        Calibration.of(tmp_path / "list.txt", COLOUR, rng())
    Image.fromarray(gradient()).save(tmp_path / "good.png")
    with pytest.raises(DataError, match=r"this one has a \(1 x 4\)"):
        Calibration.of(tmp_path, {"a": TensorSpec((1, 4))}, rng())
    with pytest.raises(DataError, match=r"give an \.npz with one array per input"):
        Calibration.of(tmp_path, {**COLOUR, "y": COLOUR["x"]}, rng())


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_corrupted_images_are_named(tmp_path: Path, damage: str) -> None:
    Image.fromarray(gradient(60, 80)).save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "bad.png").write_bytes({"truncated": whole[: len(whole) // 2], "text": b"not an image", "empty": b""}[damage])
    with pytest.raises(DataError, match=r"bad\.png can't be read as an image .*mend or remove it"):
        Calibration.of(tmp_path, COLOUR, rng())


def test_impossible_settings(tmp_path: Path) -> None:
    Image.fromarray(gradient()).save(tmp_path / "good.png")
    with pytest.raises(ConfigError, match="limit of 1 or more"):
        Calibration.of(tmp_path, COLOUR, rng(), limit=0)
    with pytest.raises(ConfigError, match=r"std \[.*\] must be above 0"):
        Calibration.of(tmp_path, COLOUR, rng(), std=(1, 0, 1))
    with pytest.raises(ConfigError, match="does not fit an input of 3 channels"):
        Calibration.of(tmp_path, COLOUR, rng(), mean=(0, 0))
    with pytest.raises(ConfigError, match="1 or more"):
        Calibration.random(COLOUR, 0, rng())


# .npz


def saved(path: Path, *arrays: np.ndarray, **named: np.ndarray) -> Path:
    np.savez(path, *arrays, **named)
    return path


def test_torch_and_nhwc_layouts_are_told_by_the_shape(tmp_path: Path) -> None:
    values = rng().standard_normal((5, 6, 8, 3)).astype(np.float32)
    for name, stored in (("nhwc", values), ("nchw", values.transpose(0, 3, 1, 2))):
        found = Calibration.of(saved(tmp_path / f"{name}.npz", stored), COLOUR, rng())
        np.testing.assert_array_equal(np.concatenate([s[0] for s in found.samples]), values)
        assert all(s[0].flags.c_contiguous for s in found.samples)
        assert found.source == f"{name}.npz"


def test_a_shape_that_may_be_either_is_refused_unless_told(tmp_path: Path) -> None:
    values = rng().standard_normal((2, 3, 3, 3)).astype(np.float32)
    path, inputs = saved(tmp_path / "cube.npz", values), {"x": TensorSpec((1, 3, 3, 3))}
    with pytest.raises(DataError, match="may be NHWC or NCHW; say which with layout"):
        Calibration.of(path, inputs, rng())
    np.testing.assert_array_equal(Calibration.of(path, inputs, rng(), layout="NHWC").samples[1][0][0], values[1])
    np.testing.assert_array_equal(
        Calibration.of(path, inputs, rng(), layout="NCHW").samples[1][0][0], values[1].transpose(1, 2, 0)
    )


def test_several_inputs_by_name(tmp_path: Path) -> None:
    inputs = {"a": TensorSpec((1, 6, 8, 3)), "b": TensorSpec((1, 4))}
    a, b = rng().standard_normal((5, 3, 6, 8)).astype(np.float32), rng(1).standard_normal((5, 4))
    for i, path in enumerate(
        [
            saved(tmp_path / "names.npz", b=b, a=a, labels=np.arange(5)),
            saved(tmp_path / "signature.npz", input_1=b, input_0=a),
            saved(tmp_path / "plain.npz", a, b),
        ]
    ):
        first = Calibration.of(path, inputs, rng(i)).samples[0]
        assert [(v.shape, v.dtype.name) for v in first] == [((1, 6, 8, 3), "float32"), ((1, 4), "float32")]
        np.testing.assert_array_equal(first[1][0], b[0].astype(np.float32))
    with pytest.raises(DataError, match=r"holds the arrays a, c, the network reads a \(1 x 6 x 8 x 3\), b \(1 x 4\)"):
        Calibration.of(saved(tmp_path / "other.npz", a=a, c=b), inputs, rng())
    with pytest.raises(DataError, match=r"holds \[5, 4\] samples"):
        Calibration.of(saved(tmp_path / "fewer.npz", a=a, b=b[:4]), inputs, rng())


def test_batches_of_the_network_are_kept_together(tmp_path: Path) -> None:
    values = np.arange(10, dtype=np.float32).reshape(5, 2)
    found = Calibration.of(saved(tmp_path / "rows.npz", values), {"x": TensorSpec((2, 2))}, rng())
    np.testing.assert_array_equal(found.samples, [[values[:2]], [values[2:4]]])


def test_uint8_images_are_normalised(tmp_path: Path) -> None:
    path = saved(tmp_path / "bytes.npz", np.full((2, 3, 6, 8), 255, np.uint8))
    np.testing.assert_allclose(
        Calibration.of(path, COLOUR, rng()).samples[0][0][0, 0, 0], (1 - np.array(IMAGENET_MEAN)) / IMAGENET_STD, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((4, 3, 7, 8), np.float32), r"shape \(4, 3, 7, 8\) does not fit, samples x 6 x 8 x 3 is needed"),
        (np.zeros((6, 8, 3), np.float32), r"shape \(6, 8, 3\) does not fit"),
        (np.full((4, 6, 8, 3), np.nan, np.float32), "sample 0 holds NaN, infinity"),
        (np.full((4, 6, 8, 3), 1e300), "sample 0 holds NaN, infinity or numbers beyond float32"),
        (np.zeros((0, 6, 8, 3), np.float32), "at least one"),
        (np.zeros((4, 6, 8, 3), np.complex64), "elements are complex64"),
    ],
)
def test_arrays_that_can_not_be_used(tmp_path: Path, values: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        Calibration.of(saved(tmp_path / "data.npz", values), COLOUR, rng())
    assert "data.npz" in str(error.value)


def test_files_that_are_no_npz_are_refused(tmp_path: Path) -> None:
    for content in (b"", b"nonsense", b"PK\x03\x04 torn"):
        (tmp_path / "torn.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"torn\.npz can't be read as an \.npz"):
            Calibration.of(tmp_path / "torn.npz", COLOUR, rng())
    path = saved(tmp_path / "objects.npz", np.array([{}], object))
    with pytest.raises(DataError, match=r"objects\.npz can't be read"):
        Calibration.of(path, COLOUR, rng())


def test_random_numbers_say_so(tmp_path: Path) -> None:
    found = Calibration.random(COLOUR, 3, rng())
    assert found.source == "random numbers"
    np.testing.assert_array_equal(found.samples[2][0], Calibration.random(COLOUR, 3, rng()).samples[2][0])
    with pytest.raises(DataError, match="don't suit input 'ids'"):
        Calibration.random({"ids": TensorSpec((1, 4), "int32")}, 1, rng())


def test_samples_survive_a_file(tmp_path: Path) -> None:
    found = Calibration.random({**COLOUR, "b": TensorSpec((1, 4))}, 11, rng())
    found.save(tmp_path / "samples.npz")
    again = load_samples(tmp_path / "samples.npz")
    assert len(again) == 11
    for before, after in zip(found.samples, again, strict=True):
        for a, b in zip(before, after, strict=True):
            np.testing.assert_array_equal(a, b)
