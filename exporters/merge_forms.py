"""The merges of a network about which a device may have its own opinion: all exact, each to be made or left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import fx, nn

from paceline.exporters.algebra import ConvForm, MergeError
from paceline.exporters.merge_costs import decisions
from paceline.exporters.merge_plan import Conv, Kind, Planner
from paceline.exporters.merge_regions import Refusal, Regions
from paceline.exporters.traced import trace

__all__ = ["OptionalMerge", "branch_form", "optional_merges"]


@dataclass(frozen=True)
class OptionalMerge:
    """Several operators that compute the same as one.

    `kind` is "chain" for layers one behind the other, "parallel" for a branch that joins the others of its sum, "concat" for
    neighbours in a concatenation, "dense" for a grouped convolution computed in one group.
    """

    name: str
    """Names it in this network: layers joined by " > ", " + " or " | "; "dense …"."""
    kind: Kind
    layers: tuple[str, ...]
    """What would become one."""
    region: str
    """Merges of different regions do not touch each other. Within one, a merge may make another one impossible or possible."""
    free: bool
    """Whether `merged` makes it when nobody is asked: it unites branches of a sum or neighbours in a concatenation, or lies
    inside of one, and needs neither more multiply-accumulates nor more weights. A chain by itself is never free: it may reach
    from one block of a network into the next."""


Choice = Callable[[OptionalMerge], bool] | Mapping[str, bool]


def optional_merges(module: nn.Module) -> tuple[OptionalMerge, ...]:
    """The optional merges of a network in execution order.

    Not among them is what no device can lose by: BatchNorm, scales, shifts, identities and padding taken into convolutions.
    Neither is what needs more than 10 times the multiply-accumulates of its layers. Raises MergeError as `merged` does.
    """
    return options_of(Regions(trace(module)))[0]


def branch_form(module: nn.Module) -> ConvForm:
    """The one convolution that a module computes of one input, all that it holds merged.

    Raises MergeError, with the reason, where it is none, and for a module in training mode.
    """
    name = type(module).__name__
    training = next((path or name for path, m in module.named_modules() if m.training), None)
    if training is not None:
        raise MergeError(f"{training!r} is in training mode, where norms depend on the batch and dropout on chance; call eval()")
    network = trace(module)
    regions, planner = Regions(network), Planner(lambda decision: decision.kind != "dense")
    result = next(node for node in network.graph.nodes if node.op == "output").args[0]
    region = regions.found.get(result) if isinstance(result, fx.Node) else None
    part = None if region is None else planner.plan(region)
    if isinstance(part, Conv) and not part.uniform and isinstance(part.input, fx.Node) and part.input.op == "placeholder":
        return part.form
    reasons = [f"{refusal.where}: {refusal.reason}" for refusal in (*planner.refused.values(), *regions.obstacles())]
    raise MergeError(f"{name} is no single convolution; {'; '.join(reasons) or 'nothing in it has a number of channels'}")


def options_of(regions: Regions) -> tuple[tuple[OptionalMerge, ...], tuple[Refusal, ...]]:
    """The optional merges of all regions, and what they refuse."""
    options: dict[str, OptionalMerge] = {}
    refused = list(regions.refusals)
    for region in regions.found.values():
        found, refusals = decisions(region)
        refused += refusals
        for decision, free in found.items():
            option = OptionalMerge(decision.name, decision.kind, decision.layers, region.heavy[0].path, free)
            options.setdefault(option.name, option)
    return tuple(options.values()), tuple(dict.fromkeys(refused))


def chosen(options: tuple[OptionalMerge, ...], choose: Choice | None) -> frozenset[str]:
    """The names of those that are made. Raises MergeError for a choice about a merge that does not exist."""
    if isinstance(choose, Mapping):
        known = {option.name for option in options}
        unknown = sorted(choose.keys() - known)
        if unknown:
            raise MergeError(
                f"no merge is named {unknown[0]!r}; this network's are {', '.join(sorted(known)) or 'none'} (optional_merges)"
            )
        return frozenset(option.name for option in options if choose.get(option.name, option.free))
    return frozenset(option.name for option in options if (option.free if choose is None else choose(option)))
