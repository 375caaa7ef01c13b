"""Simulated phones for the tests of fusion, and what is true of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from paceline.devices.composed import ComposedDevice
from paceline.devices.simulated.costs import type_of
from paceline.devices.simulated.device import simulated_device
from paceline.devices.simulated.phone import SimulatedPhone
from paceline.devices.simulated.profile import Delegate, load_profile
from paceline.graph import OpSpec
from paceline.latency_models.fusion.pairs import Pair
from paceline.measurement import Artifact, Bench, Measurement
from paceline.store import Store


class Phone:
    """A simulated phone with a store and a folder of its own; counts what it measures."""

    def __init__(self, profile: str, delegate: str, folder: Path, seed: int = 1) -> None:
        self.profile = load_profile(profile)
        self.phone = SimulatedPhone("phone", self.profile, seed)
        self.inner: ComposedDevice = simulated_device(self.phone)
        self.bench = self.inner.default_bench(delegate)
        self.store, self.folder = Store(folder / "store.sqlite"), folder / "models"
        self.measured: list[str] = []

    @property
    def delegate(self) -> Delegate:
        return self.profile.delegates[self.bench.delegate]

    @property
    def info(self) -> object:
        return self.inner.info

    @property
    def clock(self) -> object:
        return self.phone.clock

    def measure(self, artifacts: Sequence[Artifact], bench: Bench, reference: Artifact | None = None) -> list[Measurement]:
        self.measured += [a.sha256 + bench.key for a in artifacts]
        return self.inner.measure(artifacts, bench, reference)

    def takes(self, spec: OpSpec) -> bool:
        its = self.delegate
        kinds = spec.kind in its.kinds or not its.kinds
        return kinds and (not its.types or type_of(spec, self.bench.precision) in its.types) and self.bench.delegate != "builtin"

    def fuses(self, pair: Pair) -> bool:
        """The truth."""
        first, second = pair.producer, pair.consumer
        if not (self.takes(first) and self.takes(second)):
            return False
        if first.kind == "PAD":
            return "PAD" in self.delegate.fuses and second.kind in ("CONV_2D", "DEPTHWISE_CONV_2D")
        return second.kind in self.delegate.fuses
