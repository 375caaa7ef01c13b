"""Rewrites of a Draft that leave its results the same: what a runtime need not execute disappears.

Each pass is correct alone and in any order: they are applied again and again until none finds anything. `legalise` replaces
the operator kinds that only drafts have; it must run, once, after them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from paceline.exporters.draft import Draft
from paceline.exporters.passes.channels import absorb_shuffles
from paceline.exporters.passes.folding import fold_arithmetic, fold_constants
from paceline.exporters.passes.fusing import fuse_activations, merge_pads, pad_pools_with_zero, recognise_hard_swish
from paceline.exporters.passes.hoisting import hoist_transposes
from paceline.exporters.passes.legal import legalise
from paceline.exporters.passes.moves import remove_moves
from paceline.exporters.passes.rewriting import remove_dead
from paceline.exporters.passes.scaling import absorb_scales
from paceline.exporters.passes.sharing import share
from paceline.exporters.passes.striding import stride_by_convolution

__all__ = ["PASSES", "Pass", "legalise", "simplify"]
_ROUNDS = 10


@dataclass(frozen=True)
class Pass:
    """A rewrite by name. `exact`: the same results in real arithmetic, for every input; others are off by default."""

    name: str
    apply: Callable[[Draft], None]
    exact: bool = True


PASSES: tuple[Pass, ...] = (
    Pass("remove-dead", remove_dead),
    Pass("share", share),
    Pass("fold-constants", fold_constants),
    Pass("remove-moves", remove_moves),
    Pass("absorb-shuffles", absorb_shuffles),
    Pass("absorb-scales", absorb_scales),
    Pass("hoist-transposes", hoist_transposes),
    Pass("hard-swish", recognise_hard_swish),
    Pass("fold-arithmetic", fold_arithmetic),
    Pass("fuse-activations", fuse_activations),
    Pass("merge-pads", merge_pads),
    Pass("zero-padded-pools", pad_pools_with_zero),
    Pass("stride-by-convolution", stride_by_convolution),
)


def simplify(draft: Draft, passes: Sequence[Pass] = PASSES) -> tuple[str, ...]:
    """Applies `passes` until none changes anything; the names of those that did."""
    used: dict[str, None] = {}
    for _ in range(_ROUNDS):
        before = draft.ops
        for step in passes:
            ops, outputs = list(draft.ops), draft.outputs
            step.apply(draft)
            if (ops, outputs) != (draft.ops, draft.outputs):
                used[step.name] = None
        if draft.ops == before:
            break
    return tuple(used)
