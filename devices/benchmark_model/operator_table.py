"""benchmark_model's operator profile: its Run Order tables, tab-separated or CSV, and LiteRT's, in columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from paceline.devices.benchmark_model.lines import NUMBER

_TITLE = re.compile(r"=+ (Run Order|Top by Computation Time|Top by Memory Use|Summary by node type) =+")
_SUBGRAPH = re.compile(r"(?:Primary graph|Subgraph \(index: (\d+))\b.*\bprofile:")
_OBSERVED = re.compile(r"(?:Subgraph \(.*\) )?(\d+) nodes observed")
_CSV = re.compile(
    rf"(?P<kind>\S.*?), (?:(?P<start>{NUMBER}), )?(?P<first>{NUMBER}), (?P<avg>{NUMBER}), {NUMBER}%, {NUMBER}%, {NUMBER}, "
    r"(?P<calls>\d+), (?P<name>.*)"
)
_TABS = re.compile(
    rf"(?P<kind>[^\t]+)\t(?: *(?P<start>{NUMBER})\t)? *(?P<first>{NUMBER})\t *(?P<avg>{NUMBER})\t *{NUMBER}%\t *{NUMBER}%\t"
    rf" *{NUMBER}\t *(?P<calls>\d+)\t(?P<name>.*)"
)
_COLUMNS = re.compile(
    rf"(?P<kind>\S.*?) +(?P<start>{NUMBER}) +(?P<first>{NUMBER}) +(?P<avg>{NUMBER}) +{NUMBER}% +{NUMBER}% +{NUMBER} +"
    r"(?P<calls>\d+) +(?P<name>\[.*)"
)
_NAMED = re.compile(r"\[?(?P<name>.*?)\]?:(?P<index>\d+)")


@dataclass(frozen=True)
class OperatorTime:
    """One row of an operator profile.

    Times in milliseconds: `start_ms` from the start of the run (None where the table has no such column), `first_ms` of the first
    profiled call, `avg_ms` of a call on average. `times_called` in `runs` runs of the model; the oldest tools say 0. `index` is
    the node's in its subgraph, None where the table doesn't say. `delegated`: the row is a delegate's kernel, or an operator
    inside of one.
    """

    kind: str
    name: str
    index: int | None
    start_ms: float | None
    first_ms: float
    avg_ms: float
    times_called: int
    delegated: bool
    subgraph: int = 0
    runs: int = 1

    @property
    def run_ms(self) -> float:
        """What the operator takes in one run of the model."""
        return self.avg_ms * (max(self.times_called, 1) / self.runs)


@dataclass(frozen=True)
class OperatorTables:
    """The operator profiles of an output, each in execution order.

    `operators` of the regular runs, a delegate's kernel being one row; `internal`: the operators inside of delegates' kernels;
    `initialization`. `complete`: the table of the regular runs has as many rows as the tool says it observed nodes.
    """

    initialization: tuple[OperatorTime, ...] = ()
    operators: tuple[OperatorTime, ...] = ()
    internal: tuple[OperatorTime, ...] = ()
    complete: bool = False


_Key = tuple[str, int]  # section, subgraph


@dataclass
class _Reader:
    section: str = "operators"
    subgraph: int = 0
    inside: bool = False
    rows: dict[_Key, list[OperatorTime]] = field(default_factory=dict)
    observed: dict[_Key, int] = field(default_factory=dict)
    damaged: set[_Key] = field(default_factory=set)

    @property
    def key(self) -> _Key:
        return self.section, self.subgraph

    def read(self, line: str) -> None:
        text = line.strip()
        if "Profiling Info for Benchmark Initialization:" in text:
            self.section, self.subgraph, self.inside = "initialization", 0, False
        elif "Operator-wise Profiling Info for Regular Benchmark Runs:" in text:
            self.section, self.subgraph, self.inside = "operators", 0, False
        elif text == "Delegate internal:":
            self.section = "internal" if self.section == "operators" else "initialization internal"
            self.subgraph, self.inside = 0, False
        elif graph := _SUBGRAPH.match(text):
            self.subgraph, self.inside = int(graph[1] or 0), False
        elif title := _TITLE.search(text):
            self.inside = title[1] == "Run Order"
            if self.inside:
                self.rows.setdefault(self.key, [])
        elif observed := _OBSERVED.fullmatch(text):
            self.observed[self.key] = int(observed[1])
        elif not text:
            self.inside = False
        elif self.inside and not _is_header(text):
            row = _row(text, self.section, self.subgraph)
            if row is None:
                self.damaged.add(self.key)
            else:
                self.rows[self.key].append(row)

    def of(self, section: str) -> tuple[OperatorTime, ...]:
        return tuple(row for (name, _), rows in self.rows.items() if name == section for row in _per_run(rows))

    def whole(self, section: str) -> bool:
        """Whether all tables of a section have as many rows as nodes were observed."""
        keys = [key for key in self.rows if key[0] == section]
        return bool(keys) and all(key not in self.damaged and self.observed.get(key) == len(self.rows[key]) for key in keys)


def read_tables(lines: Iterable[str]) -> OperatorTables:
    """The operator profiles among `lines`, which bear no log prefixes any more. A row that can't be read is left out, and
    the tables are not `complete` then."""
    reader = _Reader()
    for line in lines:
        reader.read(line)
    return OperatorTables(reader.of("initialization"), reader.of("operators"), reader.of("internal"), reader.whole("operators"))


def _per_run(rows: list[OperatorTime]) -> list[OperatorTime]:
    """LiteRT counts the calls of all runs and doesn't say how many those were: as many as calls of the rarest operator."""
    return [replace(row, runs=min(other.runs for other in rows)) for row in rows]


def _is_header(text: str) -> bool:
    return text.lower().lstrip("[").startswith("node type")


def _row(text: str, section: str, subgraph: int) -> OperatorTime | None:
    if cells := _TABS.fullmatch(text) or _CSV.fullmatch(text):
        return _operator(cells.groupdict(), section, subgraph)
    if cells := _COLUMNS.fullmatch(text):
        row = _operator(cells.groupdict(), section, subgraph)
        return replace(row, runs=max(row.times_called, 1))
    return None


def _operator(cells: Mapping[str, str | None], section: str, subgraph: int) -> OperatorTime:
    kind, shown = str(cells["kind"]).strip(), str(cells["name"]).replace("\t", ",").strip()  # CSV has tabs for a name's commas
    named = _NAMED.fullmatch(shown)
    name, index = (named["name"], int(named["index"])) if named else (shown.removeprefix("[").removesuffix("]"), None)
    inner = section.endswith("internal") or name.startswith("Delegate/") or kind.startswith("Delegate/")
    if kind == "DelegateOpInvoke":  # the same for all of them
        kind = name
    elif name in ("Delegate", "Builtin"):  # LiteRT's, which has no names
        name = kind
    kind, name = (kind.removeprefix("Delegate/"), name.removeprefix("Delegate/")) if inner else (kind, name)
    return OperatorTime(
        kind=kind,
        name=name,
        index=index,
        start_ms=None if cells["start"] is None else float(str(cells["start"])),
        first_ms=float(str(cells["first"])),
        avg_ms=float(str(cells["avg"])),
        times_called=int(str(cells["calls"])),
        delegated=inner or is_delegate(kind),
        subgraph=subgraph,
    )


def is_delegate(kind: str) -> bool:
    """Whether a row of this kind is a delegate's kernel as a whole."""
    return "delegate" in kind.lower() or kind in ("LITERT_CL", "ML_DRIFT_CL")
