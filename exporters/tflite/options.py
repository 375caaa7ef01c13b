"""The options tables of TFLite's schema as attributes, in both directions, by the classes that ai-edge-litert generates.

A field is an attribute in snake case; strideH and strideW together are `stride`, likewise `dilation` and `filter`; enumerations
are names. Fields at their default are left out, except those in ALWAYS.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from paceline.errors import ExportError
from paceline.graph import AttrValue

ALWAYS = frozenset(
    {
        *("activation", "adj_x", "adj_y", "align_corners", "alpha", "approximate", "axis", "beta", "block_size", "dilation"),
        *("filter", "half_pixel_centers", "keep_dims", "mode", "padding", "stride"),
    }
)
"""Attributes that an operator has even at their default: what it computes can't be told without them."""

_REQUIRED = frozenset(["alpha", "beta", "block_size", "filter", "padding", "stride"])  # their defaults, 0, compute nothing
_NAMES = {"fused_activation_function": "activation", "keep_num_dims": "keep_dims"}
_SPATIAL = re.compile(r"(stride|dilation|filter)(D|H|W)(?:Factor|eight|idth)?")


def names(enumeration: Any) -> dict[int, str]:
    """The names of a generated enumeration's values."""
    return {value: name for name, value in vars(enumeration).items() if not name.startswith("_")}


TYPES: dict[int, str] = {value: name.lower() for value, name in names(schema.TensorType).items()}
"""Element types as a TensorSpec names them."""

_ACTIVATIONS, _PADDINGS, _MODES = names(schema.ActivationFunctionType), names(schema.Padding), names(schema.MirrorPadMode)
_TYPE_FIELDS = ("in_data_type", "out_data_type", "output_type", "out_type", "key_dtype", "value_dtype", "quantized_bias_type")
_ENUMS = {"activation": _ACTIVATIONS, "padding": _PADDINGS, "mode": _MODES, "idx_out_type": TYPES} | dict.fromkeys(
    _TYPE_FIELDS, TYPES
)
_IRREGULAR = {
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D"), "Pool2DOptions"),
    **dict.fromkeys(("MEAN", "SUM", *(f"REDUCE_{what}" for what in ("ALL", "ANY", "MAX", "MIN", "PROD"))), "ReducerOptions"),
    **dict.fromkeys(("MAXIMUM", "MINIMUM"), "MaximumMinimumOptions"),
    **dict.fromkeys(("RANDOM_STANDARD_NORMAL", "RANDOM_UNIFORM", "MULTINOMIAL"), "RandomOptions"),
    "CONV_3D_TRANSPOSE": "Conv3DOptions",
    "L2_NORMALIZATION": "L2NormOptions",
    "RNN": "RNNOptions",
    "UNIDIRECTIONAL_SEQUENCE_RNN": "SequenceRNNOptions",
}
_FIRST, _SECOND = names(schema.BuiltinOptions), names(schema.BuiltinOptions2)
_BY_KIND = {name.upper(): name for name in (*_FIRST.values(), *_SECOND.values()) if name != "NONE"}


@dataclass(frozen=True)
class _Field:
    """An attribute and the fields of a table that hold it, several for a spatial one."""

    attr: str
    members: tuple[str, ...]
    default: tuple[Any, ...]
    spatial: bool = False

    @property
    def enumeration(self) -> dict[int, str]:
        """The names of its values, where it has such; StableHLO has vectors with the same names."""
        return _ENUMS.get(self.attr, {}) if isinstance(self.default[0], int) else {}


def table_of(kind: str) -> str:
    """The name of the options table of an operator kind; "" where it has none."""
    return _IRREGULAR.get(kind) or _BY_KIND.get(kind.replace("_", "") + "OPTIONS", "")


def table_named(number: int, second: bool) -> str:
    """The table that a file's number means, of the schema's first or second union; "" for none."""
    found = (_SECOND if second else _FIRST).get(number)
    if found is None:
        raise ExportError(f"it has options of the unknown type {number}")
    return "" if found == "NONE" else found


def number_of(table: str) -> tuple[int, bool]:
    """A table's number in a file, and whether that is one of the second union."""
    second = table in _SECOND.values()
    return getattr(schema.BuiltinOptions2 if second else schema.BuiltinOptions, table), second


@cache
def has_fields(table: str) -> bool:
    return bool(table and _fields(table))


@cache
def _fields(table: str) -> tuple[_Field, ...]:
    defaults = vars(getattr(schema, f"{table}T")())
    found: dict[str, list[str]] = {}
    for member in defaults:
        match = _SPATIAL.fullmatch(member)
        snake = match[1] if match else re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", member).lower()
        found.setdefault(_NAMES.get(snake, snake), []).append(member)
    fields = []
    for attr, members in found.items():
        spatial = bool(_SPATIAL.fullmatch(members[0]))
        members.sort(key=lambda member: (_SPATIAL.fullmatch(member) or member)[2])  # depth, height, width
        fields.append(_Field(attr, tuple(members), tuple(defaults[m] for m in members), spatial))
    return tuple(fields)


def to_attrs(table: str, options: Any, also: frozenset[str]) -> dict[str, AttrValue]:
    """The attributes that the options object holds; those named in `also` even at their default.

    Raises ExportError for what attributes can't say.
    """
    values: dict[str, AttrValue] = {}
    for field in _fields(table):
        raw = tuple(getattr(options, member) for member in field.members)
        if raw[0] is not None and (field.attr in ALWAYS or field.attr in also or _differs(raw, field.default)):
            values[field.attr] = tuple(int(n) for n in raw) if field.spatial else _decoded(field, raw[0])
    return values


def from_attrs(table: str, values: Mapping[str, AttrValue], what: str) -> tuple[Any, set[str]]:
    """The options object that holds `values`, and which of them it holds. `what` is the operator, for errors."""
    options, used = getattr(schema, f"{table}T")(), set()
    for field in _fields(table):
        if field.attr in values:
            used.add(field.attr)
            found = values[field.attr]
            if field.spatial and not (isinstance(found, tuple) and len(found) == len(field.members)):
                raise ExportError(f"{what} needs the attribute {field.attr!r} as {len(field.members)} ints, got {found!r}")
            encoded = found if field.spatial and isinstance(found, tuple) else (_encoded(table, field, found, what),)
            for member, value in zip(field.members, encoded, strict=True):
                setattr(options, member, value)
        elif field.attr in _REQUIRED and field.default[0] is not None:
            raise ExportError(f"{what} needs the attribute {field.attr!r}")
    return options, used


def _differs(raw: tuple[Any, ...], default: tuple[Any, ...]) -> bool:
    return default[0] is None or raw != default


def _decoded(field: _Field, raw: Any) -> AttrValue:
    if field.enumeration:
        if int(raw) not in field.enumeration:
            raise ExportError(f"its {field.attr} has the unknown value {raw}")
        return field.enumeration[int(raw)]
    if isinstance(raw, bytes):
        return raw.decode()
    if isinstance(raw, np.ndarray):
        return ",".join(map(_short, raw)) if raw.dtype.kind == "f" else tuple(int(n) for n in raw)
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, float):
        return float(_short(raw))
    if isinstance(raw, int):
        return raw
    raise ExportError(f"its {field.attr} is a structure, which is not supported")


def _short(value: Any) -> str:
    """The shortest text that means the same float32: what a network's author wrote."""
    return str(np.float32(value))


def _encoded(table: str, field: _Field, value: AttrValue, what: str) -> Any:
    if field.enumeration:
        numbers = {name: number for number, name in field.enumeration.items()}
        if value not in numbers:
            raise ExportError(f"{what} has {field.attr}={value!r}; TFLite knows {', '.join(numbers)}")
        return numbers[str(value)]
    if field.default[0] is not None:
        return type(field.default[0])(value)
    member = field.members[0]
    is_vector = hasattr(schema, f"{table}Start{member[0].upper()}{member[1:]}Vector")
    if is_vector and isinstance(value, str):
        return [float(text) for text in value.split(",") if text]
    return list(value) if is_vector and isinstance(value, tuple) else value
