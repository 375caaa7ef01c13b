"""Whole networks of a space as files: to calibrate and test latency models on, and to shortlist a search's best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from paceline.arch import Arch, Space
from paceline.exporters import tflite
from paceline.exporters.torch_graph import graph_of
from paceline.graph import Graph, OpSpec, macs_of
from paceline.measurement import Artifact, Progress, silent
from paceline.pipeline.operators import shipped
from paceline.pipeline.ops.skip import unstabilised
from paceline.pipeline.supernet.mixed import derive
from paceline.seeds import Seeds
from paceline.space_operators import SpaceOperators, decisions


@dataclass(frozen=True)
class Network:
    """One architecture, exported as it would be deployed, with weights of no meaning."""

    arch: Arch
    operators: tuple[OpSpec, ...]
    artifact: Artifact


def sample_archs(space: Space, count: int, rng: np.random.Generator, exclude: Sequence[Arch] = ()) -> list[Arch]:
    """Different random architectures, none of `exclude`; fewer where the space is used up."""
    found: dict[Arch, None] = {}
    left_out = set(exclude)
    for _ in range(100 * count):
        arch = space.sample(rng)
        if arch not in left_out:
            found[arch] = None
        if len(found) == count:
            break
    return list(found)


def leaning_archs(operators: SpaceOperators, count: int, rng: np.random.Generator) -> list[Arch]:
    """Different architectures all the way from light networks (MACs) to heavy ones; random ones crowd around the mean, and what
    a search finds does not. Fewer where the space is used up.

    Each leans one way, more or less: as often as it leans, a choice takes its lightest or heaviest, else anything.
    """
    macs = operators.of_options(lambda specs: float(macs_of(specs)))
    ends = {}
    for c in operators.space.choices:
        ordered = sorted(decisions(c), key=lambda taken: sum(macs[c.name, o] for o in taken))
        ends[c.name] = ordered[0], ordered[-1]
    found: dict[Arch, None] = {}
    for lean in np.linspace(-1, 1, count + 2)[1:-1].tolist():
        for _ in range(100):
            anything = operators.space.sample(rng)
            arch = Arch(tuple((n, ends[n][lean > 0] if rng.random() < abs(lean) else taken) for n, taken in anything.picks))
            if arch not in found:
                found[arch] = None
                break
    return list(found)


def deployable(net: nn.Module, arch: Arch) -> nn.Module:
    """One architecture of a supernet as it is trained by itself and deployed, with weights that mean nothing by themselves."""
    return unstabilised(derive(net, arch))


@dataclass(frozen=True)
class Builder:
    """Writes the networks of a space below `folder`. `example` is one input, (1, C, H, W)."""

    net: nn.Module
    operators: SpaceOperators
    example: Tensor
    folder: Path
    seeds: Seeds

    def build(self, archs: Sequence[Arch], progress: Progress = silent, copy: int = 0) -> list[Network]:
        """Each architecture derived, merged and written, where it is not there yet.

        Weights are random: `copy` 0, 1, … are the same networks with different ones, so that measuring two copies shows how
        well a latency repeats.
        """
        networks = []
        for done, arch in enumerate(archs, 1):
            path = self.folder / f"{arch.key}-{copy}.tflite"
            if not path.exists():
                first = self.folder / f"{arch.key}-0.tflite"
                graph = tflite.read(first).graph if first.exists() else graph_of(shipped(self.net, arch), self.example)
                tflite.save(with_random_weights(graph, self.seeds.rng(f"weights/{arch.key}/{copy}")), path)
            networks.append(Network(arch, self.operators.of(arch), Artifact(path, f"network {arch.key}")))
            progress(done, len(archs))
        return networks


def with_random_weights(graph: Graph, rng: np.random.Generator) -> Graph:
    """The same operators with other weights, of the scale that keeps activations in range."""
    weights = {name: _random_like(np.asarray(w), rng) for name, w in graph.weights.items()}
    return replace(graph, weights=weights)


def _random_like(weight: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if weight.dtype != np.float32:
        return weight
    fan_in = max(1, weight.size // max(1, weight.shape[0] if weight.ndim else 1))
    return (rng.standard_normal(weight.shape, np.float32) * np.float32(np.sqrt(2 / fan_in))).astype(np.float32)
