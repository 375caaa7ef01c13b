"""Merge what training kept apart: BatchNorm into convolutions and linear layers into one convolution, exactly.

Found in the traced graph of any network, not by the class of its blocks: whatever is linear between two values becomes one
convolution where that costs nothing or is asked for (RepVGG, Ding et al. 2021; ACNet, Ding et al. 2019; Diverse Branch Block,
Ding et al. 2021; MobileOne, Vasu et al. 2023). `merge_layers` reads nodes, `merge_regions` finds what is linear, `merge_plan`
decides, `merge_write` changes the graph.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from paceline.exporters.algebra import MergeError
from paceline.exporters.merge_forms import Choice, chosen, options_of
from paceline.exporters.merge_plan import Planner
from paceline.exporters.merge_regions import Refusal, Regions
from paceline.exporters.merge_write import Merge, Writer
from paceline.exporters.traced import trace

__all__ = ["Merge", "MergeError", "Merged", "Refusal", "check_merge", "merged"]


@dataclass(frozen=True)
class Merged:
    """A merged network in evaluation mode, where it was merged, in execution order, and what could not be, with reasons."""

    module: nn.Module
    report: tuple[Merge, ...]
    refused: tuple[Refusal, ...] = ()


def merged(module: nn.Module, choose: Choice | None = None) -> Merged:
    """A new network that computes the same in evaluation, its linear layers merged; `module` itself is not changed.

    BatchNorms, constant scales and shifts, identities and paddings are always taken into convolutions. `choose` is asked about
    every other merge (`paceline.exporters.merge_forms.optional_merges`), or tells by name; without it, and for names that it
    leaves out, the free ones are made: parallel branches and what lies in them, where neither multiply-accumulates nor weights
    grow. Kernels are computed in float64 and cast once. What has no exact merge stays as it is; `refused` says why.

    Raises MergeError where torch.fx can't trace the network, a BatchNorm has no running statistics, or `choose` names a merge
    that the network does not have.
    """
    network = trace(module)
    regions = Regions(network)
    options, refused = options_of(regions)
    names = chosen(options, choose)
    planner, writer = Planner(lambda decision: decision.name in names), Writer(network, regions)
    for region in regions.found.values():
        writer.write(region, planner.plan(region))
    network.graph.lint()
    # Built anew: it then holds what the graph calls, in that order, and nothing else.
    return Merged(fx.GraphModule(network, network.graph, type(module).__name__).eval(), writer.report, refused)


def check_merge(before: nn.Module, after: nn.Module, example: Tensor | tuple[Tensor, ...], tolerance: float = 1e-5) -> float:
    """The largest difference between the outputs of two networks in evaluation, relative to the largest output. Returns it.

    Borders count like the rest, but a default-initialised BatchNorm hides mistakes there: check trained or randomised statistics.
    Raises MergeError where the error exceeds `tolerance`, or is not a number, or the outputs differ in number or shape.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    # Copies: evaluation mode here must not change the caller's networks, nor an in-place operator the caller's tensors.
    nets = (copy.deepcopy(net).eval() if any(m.training for m in net.modules()) else net for net in (before, after))
    with torch.no_grad():
        wanted, got = (list(_tensors(net(*(x.clone() for x in inputs)))) for net in nets)
    if [t.shape for t in wanted] != [t.shape for t in got]:
        raise MergeError(f"merged outputs have shapes {[tuple(t.shape) for t in got]}, not {[tuple(t.shape) for t in wanted]}")
    error = max((_relative_error(w.double(), g.double()) for w, g in zip(wanted, got, strict=True)), default=0.0)
    if not error <= tolerance:  # NaN is no match either
        raise MergeError(
            f"the merged network differs from the original by {error:.3g} relative, more than {tolerance:.3g}: do not export it; "
            "if its forward depends on more than its inputs, make it a function of them, else report this network"
        )
    return error


def _tensors(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        yield from (t for value in output.values() for t in _tensors(value))
    elif isinstance(output, list | tuple):
        yield from (t for value in output for t in _tensors(value))


def _relative_error(wanted: Tensor, got: Tensor) -> float:
    difference = (wanted - got).abs()
    if not difference.numel() or bool((difference == 0).all()):
        return 0.0
    return float(difference.max() / wanted.abs().max())
