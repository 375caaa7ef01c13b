"""NAS-Bench-201 cells (Dong and Yang, arXiv 2001.00326) as features, and which cells do the same work."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from paceline.latency_models.model import Floats

Codes = npt.NDArray[np.int64]
"""Shape (cells, 6): the operator on each edge 0->1, 0->2, 1->2, 0->3, 1->3, 2->3 as an index into OPERATORS."""

OPERATORS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
_NONE, _, _CONV1, _CONV3, _ = range(5)

# Height times width times channels squared is the same in all three stages: 32*32*16*16 = 16*16*32*32 = 8*8*64*64.
_CELLS, _CONV1_MACS = 15, 32 * 32 * 16 * 16
_STEM_MACS = 32 * 32 * 9 * 3 * 16
_REDUCTION_MACS = 9 * _CONV1_MACS // 2 + 9 * _CONV1_MACS + _CONV1_MACS // 2  # 3x3 stride 2, 3x3, and 1x1 on the short cut
_HEAD_MACS = 64 * 10


def reaching_output(codes: Codes) -> Codes:
    """The cells without operators from which no path leads to the output: what a runtime leaves that prunes from there."""
    there = codes != _NONE
    second = there[:, 5]
    first = there[:, 4] | (there[:, 2] & second)
    used = np.stack([first, second, second, there[:, 3], there[:, 4], there[:, 5]], axis=1)
    return np.where(used, codes, _NONE)


def live(codes: Codes) -> Codes:
    """The cells without operators that are on no path from the input to the output."""
    there = codes != _NONE
    first = there[:, 0]
    second = there[:, 1] | (first & there[:, 2])
    fed = np.stack([there[:, 0], there[:, 1], first, there[:, 3], first, second], axis=1)
    return np.where(fed, reaching_output(codes), _NONE)


def macs(codes: Codes) -> Floats:
    """Multiply-accumulates of the whole network's live operators on 32x32 images: stem, 3x5 cells, 2 reductions, 10 classes."""
    alive = live(codes)
    convolutions = 9 * np.sum(alive == _CONV3, axis=1) + np.sum(alive == _CONV1, axis=1)
    fixed = _STEM_MACS + 2 * _REDUCTION_MACS + _HEAD_MACS
    return np.asarray(fixed + _CELLS * _CONV1_MACS * convolutions, dtype=np.float64)


def one_hot(codes: Codes) -> Floats:
    """What a lookup table has rows for: shape (cells, 30)."""
    return np.eye(len(OPERATORS))[codes].reshape(len(codes), -1)


def features(codes: Codes) -> Floats:
    """Shape (cells, 75). Runtimes differ in what they prune, so operators are described as written and as pruned.

    For the cell as written, and for what reaches the output: how many of each operator there are, and which operator each edge
    has. For its live part: how many of each, additions (a node's inputs beyond the first), and the most convolutions and
    operators on a path. MACs, parameters and memory traffic are multiples of the counts.
    """
    kept, alive = reaching_output(codes), live(codes)
    convolution = np.isin(alive, (_CONV1, _CONV3))
    columns = [_counts(codes), _counts(kept), _counts(alive), one_hot(codes), one_hot(kept)]
    return np.column_stack([*columns, _additions(alive), _longest(alive, convolution), _longest(alive, alive != _NONE)])


def swapped(codes: Codes) -> Codes:
    """The same cells with nodes 1 and 2 exchanged: only a change of names where edge 1->2 has no operator."""
    return codes[:, [1, 0, 2, 3, 5, 4]]


def twins(codes: Codes) -> npt.NDArray[np.intp]:
    """For each cell the row of another one that does the same work in another order, -1 where there is none; shape (cells,).

    Only nodes are renamed: whether a runtime prunes dead operators or skips, its work is the same for both.
    """
    place = {tuple(code): row for row, code in enumerate(codes.tolist())}
    found = np.array([place.get(tuple(code), -1) for code in swapped(codes).tolist()], dtype=np.intp)
    renamed = (codes[:, 2] == _NONE) & (found != np.arange(len(codes)))
    return np.where(renamed, found, -1)


def _counts(codes: Codes) -> Floats:
    return np.stack([np.sum(codes == operator, axis=1) for operator in range(1, len(OPERATORS))], axis=1).astype(np.float64)


def _additions(codes: Codes) -> Floats:
    there = (codes != _NONE).astype(np.float64)
    inputs = np.stack([there[:, 0], there[:, 1] + there[:, 2], there[:, 3:].sum(axis=1)], axis=1)
    return np.asarray(np.maximum(inputs - 1, 0).sum(axis=1))


def _longest(codes: Codes, weights: npt.NDArray[np.bool_]) -> Floats:
    """The largest sum of weights on a path from the input to the output, 0 where there is none."""
    cost = np.where(codes != _NONE, weights, -np.inf)
    first = cost[:, 0]
    second = np.maximum(cost[:, 1], first + cost[:, 2])
    longest = np.maximum.reduce([cost[:, 3], first + cost[:, 4], second + cost[:, 5]])
    return np.where(np.isfinite(longest), longest, 0.0)
