"""Which function lowers which ATen operator, and what such functions take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from paceline.errors import ExportError
from paceline.exporters.lowering.values import Constant, Value


class UnsupportedOperator(ExportError):  # noqa: N818 - reads as what it names
    """A torch operator with no exact counterpart among the operators that Paceline writes."""


class LoweringError(Exception):
    """What a lowering raises: the reason and the remedy; the caller adds operator, module path and source line."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason, self.remedy = reason, remedy


Lowering = Callable[..., Any]
_Lowering = TypeVar("_Lowering", bound=Lowering)
LOWERINGS: dict[str, Lowering] = {}


def lowers(*operators: str) -> Callable[[_Lowering], _Lowering]:
    """Registers a lowering for ATen operators: "conv2d", or with one overload only "mean.dim".

    It is called with the draft, the shape that torch computed for the result (a tuple of shapes for several results), and all
    arguments of the operator's schema in order, defaults filled in. In-place variants share the lowering.
    """

    def register(function: _Lowering) -> _Lowering:
        LOWERINGS.update(dict.fromkeys(operators, function))
        return function

    return register


def known(argument: Any, what: str) -> Constant:
    """`argument`, where it must not depend on the network's input."""
    if not isinstance(argument, Constant):
        raise LoweringError(f"its {what} is computed at run time", f"make the {what} a parameter or buffer")
    return argument


def computed(argument: Any, what: str, rank: int | None = None) -> Value:
    """`argument`, where it must be computed at run time and have `rank` dimensions."""
    if not isinstance(argument, Value):
        raise LoweringError(f"its {what} is a constant", f"compute the {what} from the network's input")
    if rank is not None and len(argument.dims) != rank:
        raise LoweringError(f"its {what} has {len(argument.dims)} dimensions", f"give it {rank} dimensions")
    return argument


def pair(values: Any) -> tuple[int, int]:
    """torch's int, [n] or [h, w] as (h, w)."""
    items = [values] if isinstance(values, int) else list(values)
    return (int(items[0]), int(items[-1]))
