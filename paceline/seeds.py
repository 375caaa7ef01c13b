"""Named child seeds from one root seed: the same name gives the same stream in every process."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Seeds:
    """The root of all chance in a run. Stages draw from `rng("search")`, `rng("train")`, … and never from each other."""

    root: int

    def seed(self, name: str) -> int:
        """A child seed in [0, 2**63): what torch.Generator.manual_seed takes."""
        digest = hashlib.sha256(f"{self.root}/{name}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1

    def rng(self, name: str) -> np.random.Generator:
        """A fresh generator for one named use."""
        return np.random.default_rng(self.seed(name))
