"""What a network's latency is a sum of: terms of its operators, that a calibration scales."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from paceline.graph import OpSpec
from paceline.latency_models.features import amounts, kind_of
from paceline.latency_models.model import Floats, Network


def operator_terms(operators: Sequence[OpSpec], ms: Floats, unknown: npt.NDArray[np.bool_], overheads: bool) -> Floats:
    """Shape (operators, terms). The cost `ms` of each operator alone; with `overheads` also what it costs more or less inside a
    network:

    - shares of their own for depthwise convolutions and for operators without MACs;
    - one per operator, since alone each pays for an invoke, and more for those without MACs;
    - megabytes of weights and of activations, since inside a network they come from farther away;
    - one per operator and per megabyte for those of `unknown` kinds, whose `ms` is a guess.
    """
    if not overheads:
        return ms[:, None]
    count, macs, weights, moved, _ = amounts(operators).T
    depthwise = np.array([kind_of(spec) == "DEPTHWISE_CONV_2D" for spec in operators], float)
    plain = (macs == 0).astype(float)
    guessed = unknown.astype(float)
    return np.stack([ms, ms * depthwise, ms * plain, count, plain, weights, moved, guessed, moved * guessed], axis=1)


GUESSED = (7, 8)
"""The terms of operators of unknown kinds, which never make a network faster."""


def plain_sum(overheads: bool) -> Floats:
    """The scale of the terms where nothing is known but the costs; the last is that of the base."""
    return np.asarray(np.eye(10 if overheads else 2)[0])


def summed(networks: Sequence[Network], operators: Sequence[OpSpec], values: Floats) -> Floats:
    """Sums over each network of the `values` of its operators, shape (networks, …); `operators` are distinct."""
    row_of = {spec: i for i, spec in enumerate(operators)}
    return np.array([values[[row_of[spec] for spec in network]].sum(axis=0) for network in networks]).reshape(
        len(networks), *values.shape[1:]
    )


def distinct(networks: Sequence[Network]) -> list[OpSpec]:
    """Every operator of the networks once, in the order of their first appearance."""
    return list(dict.fromkeys(spec for network in networks for spec in network))
