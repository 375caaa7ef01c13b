"""A runtime's operator profile beside the operators of the Graph that it executed."""

from __future__ import annotations

from collections.abc import Sequence

from paceline.graph import OpSpec
from paceline.measurement import OpTime

_NAMES = {
    "ADD": ("Add",),
    "AVERAGE_POOL_2D": ("Average Pooling", "Global Average"),
    "CONV_2D": ("Convolution", "Fully Connected"),
    "DEPTHWISE_CONV_2D": ("Convolution",),
    "FULLY_CONNECTED": ("Fully Connected",),
    "HARD_SWISH": ("HardSwish", "Hard Swish"),
    "LOGISTIC": ("Sigmoid",),
    "MAX_POOL_2D": ("Max Pooling",),
    "MEAN": ("Mean", "Global Average"),
    "MUL": ("Multiply",),
    "RESHAPE": ("Static Reshape", "Copy"),
    "SOFTMAX": ("Softmax",),
}
"""How XNNPACK names what it runs for a TFLite operator; others use TFLite's own names, also PAD+CONV_2D."""


def align(operators: Sequence[OpSpec], profile: Sequence[OpTime]) -> list[float] | None:
    """Milliseconds of each operator, or None where the runtime ran something else.

    What a runtime adds by itself (a reshape behind a mean) counts for the operator before it, a PAD for the one behind it.
    """
    ms = [0.0] * len(operators)
    at, carried = -1, 0.0
    for event in profile:
        if at + 1 < len(operators) and _runs(event.name, operators[at + 1].kind):
            at += 1
            ms[at] = carried + event.ms
            carried = 0.0
        elif at < 0 or event.name == "PAD":
            carried += event.ms
        else:
            ms[at] += event.ms
    return ms if at == len(operators) - 1 else None


def _runs(name: str, kind: str) -> bool:
    return kind in name.split("+") or any(name.startswith(prefix) for prefix in _NAMES.get(kind, ()))
