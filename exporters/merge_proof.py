"""Merges that are proven before anything is written: on random statistics, at borders and odd sizes, and with the real weights.

A fresh BatchNorm (mean 0, shift 0) hides the usual mistake, padding that a merged kernel sees differently, and so may a trained
one. So a copy of the network gets random statistics, is merged in the same way, and must give the same numbers in float64.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from paceline.exporters.algebra import MergeError
from paceline.exporters.merge import Merge, Refusal, check_merge, merged
from paceline.exporters.merge_forms import Choice, OptionalMerge
from paceline.exporters.timm_networks import randomised

__all__ = ["Proof", "ProvenMerge", "proven_merge"]

TOLERANCE = 1e-5
"""The largest difference that is rounding, relative to the largest output."""
_LOSS_FACTOR = 10.0  # how many times float32's own loss a merged network may lose, where that is more than the tolerance

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Proof:
    """The largest differences between a network and its merged form, relative to the largest output.

    `randomised_error` is that of a copy with random statistics in `dtype`, on random inputs of `shapes` (NCHW); `error` that of
    the network itself, in its own type, on the example.
    """

    randomised_error: float
    error: float
    shapes: tuple[tuple[int, ...], ...]
    dtype: str


@dataclass(frozen=True)
class ProvenMerge:
    """A merged network in evaluation, what was merged and refused (as in `Merged`), and the proof that it computes the same."""

    module: nn.Module
    merges: tuple[Merge, ...]
    refused: tuple[Refusal, ...]
    proof: Proof


def proven_merge(
    module: nn.Module, example: Tensor | Inputs, choose: Choice | None = None, *, seed: int = 0, tolerance: float = TOLERANCE
) -> ProvenMerge:
    """`merged(module, choose)` for inputs like `example` (NCHW), compared with `module` before it is returned.

    First a copy whose BatchNorm statistics, scales and shifts are random, and merged in the same way: on two random images of an
    odd height and an even width, smaller than the example; on one of the example's own size where the network takes no
    other. Computed in float64, unless the network runs in float32 only. Then the network itself, on `example`. Where float32
    itself loses more than `tolerance` there, ten times that loss counts. A `choose` that is called decides twice, and has to
    decide alike.

    Raises MergeError as `merged` does, and where a difference exceeds `tolerance`.
    """
    examples = example if isinstance(example, tuple) else (example,)
    module = copy.deepcopy(module).eval() if any(part.training for part in module.modules()) else module
    result = merged(module, choose)
    proof = _randomised(module, examples, choose, seed, tolerance)
    error = _checked(module, result.module, examples, tolerance)
    return ProvenMerge(result.module, result.report, result.refused, replace(proof, error=error))


def _randomised(module: nn.Module, examples: Inputs, choose: Choice | None, seed: int, tolerance: float) -> Proof:
    """The proof on random statistics; its `error` is still 0."""
    network, x = _settled(randomised(copy.deepcopy(module), seed), examples, np.random.default_rng(seed))
    again = merged(network, _by_name(choose))
    shapes = tuple(tuple(t.shape) for t in x)
    try:
        error = check_merge(network, again.module, x, tolerance)
    except MergeError as e:
        text = ", ".join("x".join(map(str, shape)) for shape in shapes)
        raise MergeError(f"{type(module).__name__} with random statistics, on inputs of {text}: {e}") from e
    dtype = next((t.dtype for t in x if t.is_floating_point()), torch.float32)
    return Proof(error, 0.0, shapes, str(dtype).removeprefix("torch."))


def _settled(network: nn.Module, examples: Inputs, rng: np.random.Generator) -> tuple[nn.Module, Inputs]:
    """The network in float64 and small random inputs; else in float32, else inputs of the example's size: what it takes."""
    for small in (True, False):
        for dtype in (torch.float64, torch.float32):
            network, x = network.to(dtype), tuple(_drawn(x, dtype, rng, small) for x in examples)
            if _settle(network, x, rng):
                return network, x
    raise MergeError(f"{type(network).__name__} does not run on inputs like the example, so its merging can't be proven")


def _by_name(choose: Choice | None) -> Choice | None:
    """A choice that asks for no merge that random numbers made impossible, a bias of 0 that is none any more for example."""
    if choose is None or callable(choose):
        return choose
    wanted = dict(choose)

    def decide(merge: OptionalMerge) -> bool:
        return wanted.get(merge.name, merge.free)

    return decide


def _checked(before: nn.Module, after: nn.Module, inputs: Inputs, tolerance: float) -> float:
    """The difference. Raises MergeError where it exceeds `tolerance` and what float32 loses on this network."""
    try:
        return check_merge(before, after, inputs, tolerance)
    except MergeError:
        exact = copy.deepcopy(before).double()
        wide = tuple(_as(x, torch.float64) for x in inputs)
        if not _runs(exact, wide):
            raise
        loss = check_merge(exact, _Float32(before), wide, float("inf"))
        return check_merge(before, after, inputs, max(tolerance, _LOSS_FACTOR * loss))


class _Float32(nn.Module):
    """A network in float32 for inputs in float64."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> object:
        return self.network(*(_as(x, torch.float32) for x in inputs))


def _drawn(example: Tensor, dtype: torch.dtype, rng: np.random.Generator, small: bool) -> Tensor:
    """Standard normal numbers: of the example's shape, or two images whose height is odd and whose width is even."""
    if not example.is_floating_point():
        return example
    shape = tuple(example.shape)
    if small and len(shape) == 4:
        shape = (2, shape[1], _odd(shape[2]), _odd(shape[3]) + 11)
    return torch.from_numpy(rng.standard_normal(shape)).to(dtype)


def _odd(size: int) -> int:
    """A seventh, or 15 if that is less, but never more than `size`; then the next odd number."""
    return min(max(size // 7, 15), size) | 1


def _as(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) if x.is_floating_point() else x


@torch.no_grad()
def _runs(network: nn.Module, inputs: Inputs) -> bool:
    """Whether a network takes inputs of this type and size: only trying tells."""
    try:
        network(*(x.clone() for x in inputs))
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError):
        return False
    return True


@torch.no_grad()
def _settle(network: nn.Module, inputs: Inputs, rng: np.random.Generator) -> bool:
    """Draws statistics around those of the activations that `inputs` cause, as training would leave them. Whether it ran.

    Any others let signals grow or fade layer by layer, and with them what a mistake in an early layer changes.
    """

    def draw(part: nn.Module, given: tuple[Tensor, ...]) -> None:
        mean, var = part.running_mean, part.running_var
        assert isinstance(mean, Tensor)
        assert isinstance(var, Tensor)
        if not given or given[0].ndim < 2 or given[0].shape[1] != len(var) or given[0].numel() == given[0].shape[1]:
            return
        values = given[0].transpose(0, 1).flatten(1)
        spread = values.var(1, unbiased=False)
        spread = spread.clamp_min(0.01 * float(spread.mean()) + 1e-6)
        moved, wider = (torch.from_numpy(rng.uniform(*limits, len(var))).to(var.dtype) for limits in ((-0.2, 0.2), (0.5, 1.5)))
        mean.copy_(values.mean(1) + moved * spread.sqrt())
        var.copy_(spread * wider)

    norms = [part for part in network.modules() if isinstance(getattr(part, "running_var", None), Tensor)]
    hooks = [part.register_forward_pre_hook(draw) for part in norms]
    try:
        return _runs(network, inputs)
    finally:
        for hook in hooks:
            hook.remove()
