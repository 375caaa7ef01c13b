"""Files of models that were damaged, or made to do harm: one clear error each, and no code is run."""

from __future__ import annotations

import io
import json
import math
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator

from paceline.errors import LatencyModelError
from paceline.latency_models import saving
from paceline.latency_models.archive import packed, unpacked
from paceline.latency_models.saving import load, members_of, model_of

from samples import conv


class Fitted(BaseEstimator):  # type: ignore[misc]
    """What any estimator of the package looks like."""

    def __init__(self, part: Any = None, strength: float = 1.0) -> None:
        self.part, self.strength = part, strength


@dataclass(frozen=True)
class Facts:
    names: tuple[str, ...]


@dataclass
class Loose:
    value: int


@pytest.fixture(autouse=True)
def these_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "TRUSTED", (*saving.TRUSTED, __name__))


def with_model(node: Any, arrays: dict[str, bytes] | None = None, **about: Any) -> dict[str, bytes]:
    values = {"format": saving.FORMAT, "version": saving.VERSION, "paceline": "9.9", "model": node} | about
    return {"model.json": json.dumps(values).encode()} | (arrays or {})


def learned(name: str, value: Any, cls: str = f"{__name__}.Fitted") -> dict[str, Any]:
    return {"estimator": cls, "settings": {}, "learned": {name: value}}


OBJECTS = io.BytesIO()
np.lib.format.write_array(OBJECTS, np.array([print], object), allow_pickle=True)
HUGE = io.BytesIO()
np.lib.format.write_array_header_1_0(HUGE, {"descr": "<f8", "fortran_order": False, "shape": (10**15,)})


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        (with_model(learned("x_", 1, "os.system")), "is no class"),
        (with_model(learned("x_", 1, "sklearn.linear_model._ridge.Ridge")), "is no class"),
        (with_model(learned("x_", 1, "paceline.latency_models.saving.import_module")), "there is no class"),
        (with_model(learned("x_", 1, "paceline.latency_models.saving.BaseEstimator")), "there is no class"),
        (with_model(learned("x_", 1, "paceline.latency_models.nowhere.Model")), "there is no"),
        (with_model(learned("x_", 1, "paceline.latency_models.saving._Reader")), "is no estimator"),
        (with_model(learned("__class__", 1)), "no name of what was learned"),
        (with_model(learned("predict", 1)), "no name of what was learned"),
        (with_model(learned("x_", {"dataclass": f"{__name__}.Loose", "fields": {"value": 1}})), "no frozen dataclass"),
        (with_model(learned("x_", {"dataclass": f"{__name__}.Facts", "fields": {"other": 1}})), "other"),
        (with_model(learned("x_", {"array": "a.npy"}), {"a.npy": OBJECTS.getvalue()}), "neither numbers nor texts"),
        (with_model(learned("x_", {"array": "a.npy"}), {"a.npy": HUGE.getvalue()}), "has 0 bytes"),
        (with_model(learned("x_", {"array": "a.npy"}), {"a.npy": pickle.dumps(print)}), "magic string"),
        (with_model(learned("x_", {"array": "../../etc/passwd"})), "it has no"),
        (with_model(learned("x_", {"scalar": ["object", 1]})), "is no value"),
        (with_model(learned("x_", {"scalar": ["uint8", 1000]})), "out of bounds"),
        (with_model(learned("x_", {"pickle": ""})), "is no value"),
        (with_model(learned("x_", {"operator": "CONV_2D 1x"})), "not an operator key"),
        (with_model(learned("x_", {"dict": [[[1], 2]]})), "unhashable"),
        (with_model(math.nan), "NaN stands"),
        (with_model(None, version=2), "its format is 'paceline model' 2"),
        ({"model.json": b"[" * 100_000}, "recursion"),
        ({}, "it has no"),
    ],
)
def test_hostile_members_are_one_clear_error(members: dict[str, bytes], reason: str) -> None:
    with pytest.raises(LatencyModelError, match=f"(?s){reason}.*Fit it again"):
        model_of(members)


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no whole zip"),
        (pickle.dumps(print), "no whole zip"),
        (zipped(("../model.json", b"{}")), "strange member"),
        (zipped(("/model.json", b"{}")), "strange member"),
        (zipped(("code.py", b"{}")), "strange member"),
        (zipped(("model.json", b"{}"), method=zipfile.ZIP_LZMA), "unusual way"),
        (zipped(("model.json", bytes(300_000_000))), "would unpack to 300000000"),
    ],
)
def test_hostile_files_are_one_clear_error(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(content)
    with pytest.raises(LatencyModelError, match=f"model: .*{reason}"):
        load(tmp_path / "model")


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(LatencyModelError, match="paceline fit"):
        load(tmp_path / "none")


def fitted() -> bytes:
    model = Fitted(Fitted(), 2.0)
    model.rows_ = {conv(8, 3, 4, 3): 0.25}
    model.weights_ = [np.arange(5.0), np.arange(3)]
    return packed(members_of(model))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_file_is_an_error_or_what_it_was(data: st.DataObject) -> None:
    content = bytearray(fitted())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    kept = bytes(content[: data.draw(st.integers(0, len(content)))]) if data.draw(st.booleans()) else bytes(content)
    try:
        model = model_of(unpacked(kept))
    except (ValueError, LatencyModelError):
        return
    assert type(model) is Fitted


PAIRED = ["estimator", "settings", "learned", "dataclass", "fields"]
TAGS = st.sampled_from(["tuple", "dict", "array", "scalar", "operator", *PAIRED])
ATOMS = st.none() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.just(f"{__name__}.Facts")
JSONS = st.recursive(ATOMS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TAGS, inner, max_size=3), max_leaves=10)


@settings(max_examples=200, deadline=None)
@given(JSONS)
def test_any_json_is_a_value_or_one_clear_error(node: Any) -> None:
    try:
        model_of(with_model(node))
    except LatencyModelError as e:
        assert "Fit it again" in str(e)  # noqa: PT017
