"""Who ran a model's operators, from the lines that benchmark_model and the delegates log about it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from paceline.devices.benchmark_model.operator_table import OperatorTime, is_delegate
from paceline.measurement import Delegation

_REPLACING = re.compile(
    r"Replacing (?P<taken>\d+)(?: out of (?P<all>\d+))? node\(s\) with delegate \((?P<name>[^)]*)\) node, "
    r"yielding (?P<partitions>\d+) partitions(?: for subgraph (?P<subgraph>\d+))?"
)
_COMPLETELY = re.compile(r"Explicitly applied (\S+) delegate, and the model graph will be completely executed by the delegate")
_PARTIALLY = re.compile(
    r"Explicitly applied (\S+) delegate, and the model graph will be partially executed by the delegate w/ (\d+) delegate kernels"
)
_NOT_AT_ALL = re.compile(
    r"Though (\S+) delegate is explicitly applied, the model graph will not be executed by the delegate"
    r"|(GPU|NNAPI) acceleration is unsupported on this platform"
    r"|Could not create (Hexagon) delegate"
    r"|Couldn't load (NNAPI) support library"
)
_UNSUPPORTED = re.compile(r"(?:Following|Next) operations are not supported by (\S+) delegate:")
_REASON = re.compile(r"[A-Z][A-Z0-9_]*(?: \S+)?:.*")

# The delegates' own names contain these; what contains none of them is a delegate from outside.
_NAMES = (
    ("xnnpack", "xnnpack"),
    ("nnapi", "nnapi"),
    ("hexagon", "hexagon"),
    ("gpu", "gpu"),
    ("litert_cl", "gpu"),
    ("ml_drift", "gpu"),
    ("dispatchdelegate", "npu"),
    ("external", "external"),
)


def delegate_name(text: str) -> str:
    """Bench's name of the delegate that calls itself `text`, such as "TfLiteGpuDelegateV2": "gpu". Unknown names stay."""
    return next((name for part, name in _NAMES if part in text.lower()), text)


@dataclass
class _Evidence:
    replaced: dict[int, tuple[int, int | None, int]] = field(default_factory=dict)  # by subgraph: taken, of all, partitions
    verdict: str = ""  # what the tool itself concludes: "full", "partial" or "none"
    kernels: int = 0

    def delegation(self, name: str, left: tuple[str, ...] | None) -> Delegation:
        taken = sum(taken for taken, _, _ in self.replaced.values()) if self.replaced else None
        if self.verdict == "none" or taken == 0 or (self.verdict == "partial" and self.kernels == 0):
            return Delegation(name, 0, 0)
        all_taken = all(taken == nodes for taken, nodes, _ in self.replaced.values())
        whole = self.verdict == "full" if taken is None else all_taken and self.verdict != "partial"
        pieces = self.kernels or sum(_pieces(taken, parts) for taken, _, parts in self.replaced.values()) or 1
        return Delegation(name, pieces, taken, () if whole else left)


def _pieces(taken: int, partitions: int) -> int:
    """How many of the runtime's `partitions` are the delegate's: it counts the pieces in between too, which alternate with them.

    Of an odd number it may have the larger half or the smaller one; it is taken to have the larger, unless it took fewer nodes.
    """
    return min((partitions + 1) // 2, taken)


def read_delegations(lines: Iterable[str], operators: Sequence[OperatorTime]) -> tuple[Delegation, ...]:
    """What each delegate took, in the order in which they appear. `operators`, the profile, tells what one delegate alone left.

    Several subgraphs are added up. A delegate that was asked for and took nothing is there too, with no partition.
    """
    seen: dict[str, _Evidence] = {}
    for line in lines:
        if found := _REPLACING.search(line):
            evidence = seen.setdefault(delegate_name(found["name"]), _Evidence())
            nodes = int(found["all"]) if found["all"] else None
            evidence.replaced[int(found["subgraph"] or 0)] = int(found["taken"]), nodes, int(found["partitions"])
        elif found := _COMPLETELY.search(line):
            seen.setdefault(delegate_name(found[1]), _Evidence()).verdict = "full"
        elif found := _PARTIALLY.search(line):
            evidence = seen.setdefault(delegate_name(found[1]), _Evidence())
            evidence.verdict, evidence.kernels = "partial", int(found[2])
        elif found := _NOT_AT_ALL.search(line):
            name = next(group for group in found.groups() if group)
            seen.setdefault(delegate_name(name), _Evidence()).verdict = "none"
    _join_external(seen)
    if not seen:
        return _from_profile(operators)
    left = tuple(o.kind for o in operators if not o.delegated) if len(seen) == 1 else ()
    return tuple(evidence.delegation(name, left or None) for name, evidence in seen.items())


def _join_external(seen: dict[str, _Evidence]) -> None:
    """The tool says EXTERNAL where the delegate's own line says its name."""
    own = [name for name in seen if name not in dict.fromkeys(n for _, n in _NAMES)]
    if "external" in seen and len(own) == 1:
        tool, delegate = seen["external"], seen.pop(own[0])
        delegate.verdict, delegate.kernels = tool.verdict, tool.kernels
        seen["external"] = delegate


def _from_profile(operators: Sequence[OperatorTime]) -> tuple[Delegation, ...]:
    """An excerpt with nothing but the profile: each kernel of a delegate is one row of it."""
    names = [delegate_name(o.kind) for o in operators if is_delegate(o.kind)]
    left = tuple(o.kind for o in operators if not o.delegated) if len(set(names)) == 1 else None
    return tuple(Delegation(name, names.count(name), None, left) for name in dict.fromkeys(names))


def read_unsupported(lines: Iterable[str]) -> tuple[str, ...]:
    """The operators that a delegate refuses, each with its reason, as "RESHAPE: Tensor dimensions must be less than 5"."""
    reasons: dict[str, None] = {}
    inside = False
    for line in lines:
        text = line.strip()
        if _UNSUPPORTED.search(text):
            inside = True
        elif inside := inside and _REASON.fullmatch(text) is not None:
            reasons[text] = None
    return tuple(reasons)
