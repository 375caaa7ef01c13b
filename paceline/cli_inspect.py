"""How `paceline inspect` shows a model in a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from paceline.exporters.inspect import GraphInfo, Inspection, OperatorInfo

_PLAIN = {"activation": "NONE", "dilation": (1, 1), "stride": (1, 1), "beta": 1.0}
_MOST_ATTRS = 60  # characters of attributes; --json has all


def print_inspection(found: Inspection, console: Console) -> None:
    """Equal operators share one row, at the place of the first."""
    for graph in found.graphs:
        console.print(_operators(graph))
    facts = Table(show_header=False, box=None, pad_edge=False)
    for name, value in _facts(found):
        facts.add_row(_shown(name), _shown(value))
    console.print(facts)


def _operators(graph: GraphInfo) -> Table:
    table = Table("×", "operator", "in → out", "MACs", "params", title=_shown(f"{graph.name}: {len(graph.operators)} operators"))
    for number in (0, 3, 4):
        table.columns[number].justify = "right"
        table.columns[number].no_wrap = True
    for (what, shapes, macs, params), count in Counter(_row(op) for op in graph.operators).items():
        table.add_row(str(count), _shown(what), _shown(shapes), _short(macs), _short(params))
    return table


def _row(op: OperatorInfo) -> tuple[str, str, int, int]:
    weights = next((f" {text}" for text in op.inputs if text.startswith("@")), "")
    told = {name: value for name, value in op.attrs.items() if _PLAIN.get(name) != value and not name.startswith("custom_")}
    attrs = " ".join(f"{name}={_value(name, value)}" for name, value in told.items())
    attrs = attrs if len(attrs) <= _MOST_ATTRS else f"{attrs[:_MOST_ATTRS]}…"
    data = " ".join(text for text in op.inputs if not text.startswith("@"))
    lines = [f"{op.kind}{weights}", attrs, op.quantization]
    return "\n".join(filter(None, lines)), f"{data}\n→ {' '.join(op.outputs)}", op.macs, op.params


def _value(name: str, value: object) -> str:
    between = "x" if name in ("dilation", "filter", "stride") else ","
    return between.join(map(str, value)) if isinstance(value, tuple) else str(value)


def _shown(text: str) -> str:
    """`text`, which a file may have made up, without what could steer the terminal."""
    return escape("".join(c if c.isprintable() or c == "\n" else "�" for c in text))


def _short(n: int) -> str:
    for limit, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if n >= limit:
            return f"{n / limit:.3g} {unit}"
    return str(n) if n else ""


def _facts(found: Inspection) -> Iterator[tuple[str, str]]:
    for graph in found.graphs:
        prefix = f"{graph.name}: " if len(found.graphs) > 1 else ""
        yield f"{prefix}inputs", ", ".join(f"{name} {text}" for name, text in graph.inputs.items())
        yield f"{prefix}outputs", ", ".join(f"{name} {text}" for name, text in graph.outputs.items())
        yield f"{prefix}operators", ", ".join(f"{n} {kind}" for kind, n in graph.counts.items())
        yield f"{prefix}MACs, params", f"{graph.macs:,}, {graph.params:,}"
        yield f"{prefix}activations", f"{graph.peak_bytes:,} bytes at most"
        yield f"{prefix}transposes", f"{graph.transposes_inside} inside the convolutional body"
    yield "numbers", found.scheme
    yield "file", f"{found.bytes:,} bytes, {found.description or 'no description'}"
    for signature in found.signatures:
        yield "signature", f"{signature.name}: {', '.join(signature.inputs)} → {', '.join(signature.outputs)}"
    for name, size in found.metadata.items():
        yield "metadata", f"{name}, {size:,} bytes"
    for name, size in found.files.items():
        yield "attached file", f"{name}, {size:,} bytes"
    for name, value in (found.provenance or {}).items():
        yield f"made: {name}", str(value)
