"""Parts of a tensor that are all transposed alike are cut from the transposed tensor: one TRANSPOSE instead of several.

Attention cuts queries, keys and values from one projection and brings the heads of each to the front.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from paceline.exporters.draft import Draft, Shape
from paceline.exporters.passes.rewriting import ints
from paceline.graph import Op, attrs


@dataclass(frozen=True)
class _Path:
    """A part: the tensor cut out, where along the axis, and how it is seen when it is transposed."""

    start: int
    size: int
    between: Op | None
    turn: Op
    seen: Shape


def hoist_transposes(draft: Draft) -> None:
    """Moves TRANSPOSEs (with the RESHAPE in front) from all SLICEs or parts of a SPLIT to what these cut."""
    readers: dict[str, list[Op]] = {}
    for op in draft.ops:
        for t in op.inputs:
            readers.setdefault(t, []).append(op)
    replaced: dict[int, list[Op]] = {}
    for source, cuts in readers.items():
        if source not in draft.constants and source not in draft.outputs and cuts[0].kind in ("SLICE", "SPLIT"):
            hoisted = _hoisted(draft, source, cuts, readers)
            if hoisted is not None:
                new, old = hoisted
                replaced |= {id(op): [] for op in old}
                replaced[id(cuts[0])] = new
    if replaced:
        draft.ops = [new for op in draft.ops for new in replaced.get(id(op), [op])]


def _hoisted(draft: Draft, source: str, cuts: list[Op], readers: dict[str, list[Op]]) -> tuple[list[Op], list[Op]] | None:
    """The operators that take the place of others, and those."""
    shape = draft.shapes[source]
    axes = {_cut_axis(draft, op) for op in cuts}
    paths = [path for op in cuts for path in _paths(draft, op, readers)]
    if len(axes) != 1 or None in axes or len(paths) != sum(len(op.outputs) for op in cuts) or len(paths) < 2:
        return None
    axis = next(iter(axes))
    assert axis is not None
    before, behind = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    first = paths[0].seen
    place = next((i for i in range(len(first)) if math.prod(first[:i]) == before), None)
    if place is None:
        return None
    tail = first[place + 1 :]
    if math.prod(tail) % behind:
        return None
    inner = math.prod(tail) // behind
    if not any(math.prod(tail[i:]) == behind for i in range(len(tail) + 1)):
        return None
    perm = ints(paths[0].turn, "perm")
    for path in paths:
        like = (*first[:place], path.size // inner, *tail)
        if path.start % inner or path.size % inner or path.seen != like or ints(path.turn, "perm") != perm:
            return None
    whole = (*first[:place], shape[axis] // inner, *tail)
    seen, turned = source, tuple(whole[a] for a in perm)
    new: list[Op] = []
    if whole != shape:
        seen = draft.tensor(f"{source}/parts", whole)
        new.append(Op("RESHAPE", (source,), (seen,), (), paths[0].turn.source))
    moved = draft.tensor(f"{source}/transposed", turned)
    new.append(Op("TRANSPOSE", (seen,), (moved,), attrs(perm=perm), paths[0].turn.source))
    old = [*cuts, *(op for path in paths for op in (path.between, path.turn) if op is not None)]
    at, rest = perm.index(place), iter(paths)
    for op in cuts:
        ends = [next(rest) for _ in op.outputs]
        outputs = tuple(path.turn.outputs[0] for path in ends)
        if op.kind == "SPLIT":
            new.append(replace(op, inputs=(moved,), outputs=outputs, attrs=attrs(axis=at)))
        else:
            begin = tuple(ends[0].start // inner if a == at else 0 for a in range(len(turned)))
            new.append(replace(op, inputs=(moved,), outputs=outputs, attrs=attrs(begin=begin, size=draft.shapes[outputs[0]])))
    return new, old


def _cut_axis(draft: Draft, op: Op) -> int | None:
    """The one axis along which `op` cuts."""
    if op.kind == "SPLIT":
        axis = op.attr("axis")
        return axis if isinstance(axis, int) else None
    if op.kind != "SLICE":
        return None
    cut = [a for a, (n, kept) in enumerate(zip(draft.shapes[op.inputs[0]], ints(op, "size"), strict=True)) if n != kept]
    return cut[0] if len(cut) == 1 else None


def _paths(draft: Draft, op: Op, readers: dict[str, list[Op]]) -> list[_Path]:
    axis = _cut_axis(draft, op)
    paths: list[_Path] = []
    for i, part in enumerate(op.outputs):
        chain: list[Op] = []
        while not chain or chain[-1].kind == "RESHAPE":
            t = chain[-1].outputs[0] if chain else part
            if t in draft.outputs or len(readers.get(t, ())) != 1 or len(chain) > 1:
                break
            chain.append(readers[t][0])
        if axis is None or not chain or chain[-1].kind != "TRANSPOSE":
            continue
        size = draft.shapes[part][axis]
        start = i * size if op.kind == "SPLIT" else ints(op, "begin")[axis]
        between = chain[0] if len(chain) > 1 else None
        paths.append(_Path(start, size, between, chain[-1], draft.shapes[chain[-1].inputs[0]]))
    return paths
