"""Many architectures of one space as matrices: one option number per choice, or one 0/1 weight per option."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from paceline.arch import Arch, Choice, Space
from paceline.errors import LatencyModelError
from paceline.latency_models.model import Floats

Codes = npt.NDArray[np.integer]
"""One option number per choice, shape (archs, choices), for spaces in which every choice takes exactly one option."""


def is_single(choice: Choice) -> bool:
    """Whether it takes exactly one option."""
    return choice.at_least == choice.at_most == 1


def encode_all(space: Space, archs: Sequence[Arch]) -> Floats:
    """`Space.encode` of each architecture, shape (archs, width). Raises SpaceError for one of another space."""
    return np.array([space.encode(arch) for arch in archs], float).reshape(len(archs), space.width)


def options_at(space: Space, codes: Codes) -> npt.NDArray[np.int64]:
    """Where each code stands in the encoded vector, shape (archs, choices). Raises LatencyModelError for what is no code."""
    several = [c.name for c in space.choices if not is_single(c)]
    if several:
        raise LatencyModelError(f"choice {several[0]!r} can take several options; give 0/1 weights (predict_encoded)")
    if codes.ndim != 2 or codes.shape[1] != len(space.choices) or not np.issubdtype(codes.dtype, np.integer):
        raise LatencyModelError(
            f"codes are integers of shape (archs, {len(space.choices)}), one per choice; got {codes.dtype} of shape {codes.shape}"
        )
    sizes = np.array([len(c.options) for c in space.choices])
    if codes.size and (codes.min() < 0 or (codes.max(axis=0) >= sizes).any()):
        row, column = np.argwhere((codes < 0) | (codes >= sizes))[0]
        choice = space.choices[column]
        raise LatencyModelError(
            f"code {codes[row, column]} of architecture {row} is no option of {choice.name!r}: 0 to {len(choice.options) - 1}"
        )
    return np.asarray(codes + (np.cumsum(sizes) - sizes))


def one_hot(space: Space, codes: Codes) -> npt.NDArray[np.float32]:
    """The same as 0/1 weights, shape (archs, width)."""
    encoded = np.zeros((len(codes), space.width), np.float32)
    np.put_along_axis(encoded, options_at(space, codes), 1.0, axis=1)
    return encoded


def codes_of(space: Space, encoded: npt.NDArray[np.generic], first: int = 0) -> Codes:
    """The codes of 0/1 weights, shape (archs, choices), where every choice takes exactly one option. Errors are those of
    `checked`."""
    numbers = np.concatenate([np.arange(len(c.options)) for c in space.choices])
    return (checked(space, encoded, first) @ (_belonging(space) * numbers[:, None].astype(np.float32))).astype(np.int64)


def _belonging(space: Space) -> npt.NDArray[np.float32]:
    """1 where an option is of a choice, shape (width, choices)."""
    sizes = [len(c.options) for c in space.choices]
    return np.repeat(np.eye(len(sizes), dtype=np.float32), sizes, axis=0)


def checked(space: Space, encoded: npt.NDArray[np.generic], first: int = 0) -> npt.NDArray[np.float32]:
    """0/1 weights in any dtype, shape (archs, width), as float32.

    Raises LatencyModelError for a row that is no architecture of the space; it counts from `first`.
    """
    if encoded.ndim != 2 or encoded.shape[1] != space.width:
        raise LatencyModelError(
            f"encoded architectures have shape (archs, {space.width}), one weight an option; got {encoded.shape}"
        )
    weights = encoded.astype(np.float32, copy=False)
    if (weights != (weights != 0)).any():
        raise LatencyModelError("encoded architectures hold 0 and 1 only; for weights in between take expected_ms")
    taken = weights @ _belonging(space)
    wrong = (taken < [c.at_least for c in space.choices]) | (taken > [c.at_most for c in space.choices])
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        choice = space.choices[column]
        raise LatencyModelError(
            f"architecture {first + row} takes {taken[row, column]:g} options of {choice.name!r}, "
            f"which takes {choice.at_least} to {choice.at_most}"
        )
    return weights
