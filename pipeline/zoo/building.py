"""From an entry of the zoo to a network."""

from __future__ import annotations

import difflib
from dataclasses import replace

from torch import nn

from paceline.errors import SpaceError
from paceline.pipeline.zoo.entries import ENTRIES, Entry


def names() -> tuple[str, ...]:
    """All published networks."""
    return tuple(ENTRIES)


def entry(name: str) -> Entry:
    """The published network `name`. Raises SpaceError for an unknown one, with near names."""
    if name not in ENTRIES:
        near = difflib.get_close_matches(name, ENTRIES, n=3)
        raise SpaceError(
            f"the zoo has no network {name!r}; " + (f"near ones: {', '.join(near)}" if near else f"it has {', '.join(ENTRIES)}")
        )
    return ENTRIES[name]


def build(name: str, classes: int = 1000, in_channels: int = 3, *, seed: int) -> nn.Module:
    """A published network with random weights, a function of `seed` alone.

    Images (N, in_channels, H, W) -> logits (N, classes); the papers' are 224x224, any of at least 32x32 can be read.
    Raises SpaceError for an unknown name.
    """
    found = entry(name)
    return replace(found.space, classes=classes, in_channels=in_channels).network(found.arch, seed)
