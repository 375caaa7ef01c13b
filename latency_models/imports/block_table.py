"""Lookup tables in the format of ProxylessNAS (arXiv 1812.00332) and Once-for-All (arXiv 1908.09791): YAML, or CSV of the same.

A row is a block: `expanded_conv-input:56x56x24-output:28x28x40-expand:3-kernel:5-stride:2-idskip:0` with its `mean` in
milliseconds, the `var`iance and `count` of the invokes. Tables of MobileNetV3 add `-se:0-hs:1` (squeeze-and-excitation, hard
swish) and give the expanded channels instead of the ratio.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from paceline.errors import DataError
from paceline.graph import OpSpec
from paceline.latency_models.imports.block_operators import Shape, classifier, convolution, inverted_bottleneck, pooled
from paceline.latency_models.imports.imports import UNITS, Format, Rows, csv_rows

_KEY = re.compile(r"(?P<kind>\w+)-input:(?P<input>\d+(?:x\d+)*)-output:(?P<output>\d+(?:x\d+)*)(?P<rest>(?:-\w+:\d+)*)", re.ASCII)
_NEEDED = {"expand", "kernel", "stride", "idskip"}


def read(content: str, name: str, rows: Rows) -> None:
    """The rows of a table; figures are in the unit that the source says."""
    table = list(_table(content))
    v3 = any("-se:" in key for key, _ in table)
    unit = UNITS[rows.source.unit]
    for key, values in table:
        mean, var, count = (_number(values.get(what)) for what in ("mean", "var", "count"))
        operators = operators_of(key, v3)
        rows.add(
            key,
            mean * unit if isinstance(mean, float) else mean,
            operators,
            "operator" if len(operators) == 1 else "block",
            count=int(count) if isinstance(count, float) and math.isfinite(count) and count > 0 else None,
            std_ms=math.sqrt(var) * unit if isinstance(var, float) and math.isfinite(var) and var >= 0 else None,
        )


def operators_of(key: str, v3: bool) -> tuple[OpSpec, ...]:
    """What a device executes for a row of this key; () for a kind of row that isn't known. `v3`: in a table of MobileNetV3."""
    found = _KEY.fullmatch(key)
    if found is None:
        raise DataError(f"{key!r:.200} is no key of a table of blocks, such as Conv-input:224x224x3-output:112x112x32")
    shape, output = _shape(found["input"]), _shape(found["output"])
    rest = {word.split(":")[0]: int(word.split(":")[1]) for word in found["rest"].split("-")[1:]}
    activation = "HARD_SWISH" if v3 else "RELU6"
    match found["kind"], len(shape), len(output):
        case "Conv", 3, 3:
            return tuple(convolution(shape, output[2], 3, max(1, round(shape[0] / output[0])), activation))
        case "Conv_1" | "Conv_2", 3, 3:
            return tuple(convolution(shape, output[2], 1, activation=activation))
        case "AvgPool2D", 3, 3:
            return tuple(pooled(shape))
        case "Logits", 3, 1:
            return (*(pooled(shape) if shape[:2] != (1, 1) else ()), *classifier(shape[2], output[0]))
        case "expanded_conv", 3, 3 if rest.keys() >= _NEEDED:
            return tuple(_block(shape, output, rest))
    return ()


def _block(shape: Shape, output: Shape, rest: Mapping[str, int]) -> list[OpSpec]:
    v3 = "se" in rest
    return inverted_bottleneck(
        shape,
        output[2],
        rest["expand"] if v3 else rest["expand"] * shape[2],
        rest["kernel"],
        rest["stride"],
        bool(rest["idskip"]),
        "RELU6" if not v3 else "HARD_SWISH" if rest.get("hs") else "RELU",
        bool(rest.get("se")),
    )


def _shape(text: str) -> Shape:
    return tuple(int(n) for n in text.split("x"))


def _table(content: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
    if content.lstrip().startswith("key,"):
        for line in csv_rows(content, ["key"]):
            yield line["key"], {"mean": line.get("mean_ms")} | line
        return
    try:
        table = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        raise DataError(f"it is no YAML ({str(e)[:200]})") from e
    if not isinstance(table, dict):
        raise DataError("it is no table of blocks: at its top is no mapping from keys to figures")
    for key, values in table.items():
        yield str(key), values if isinstance(values, dict) else {"mean": values}


def _number(value: Any) -> Any:
    """As a float where it is a number, or the text of one; what isn't stays, and will be named."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return value
    try:
        return float(value)
    except (ValueError, OverflowError):
        return value


def _recognises(content: str) -> bool:
    head = content[:10_000]
    return "-input:" in head and "-output:" in head and ("mean" in head or "key," in head)


FORMAT = Format("block-table", "table of ProxylessNAS or Once-for-All, YAML or CSV", _recognises, read)
