"""Which neighbouring operators a runtime runs as one: what was found on a device, with the evidence, as JSON and as text."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from paceline.errors import DataError
from paceline.files import write_atomically
from paceline.graph import OpSpec
from paceline.latency_models.fusion.figures import Estimate
from paceline.latency_models.fusion.pairs import rule_name

Verdict = Literal["fused", "apart", "undecided", "contradictory", "failed"]

MATERIAL = 0.5
"""What a fusion saves at least, as a part of the shorter of both operators' own times."""

_PLACEMENT = 0.25
"""What batches can't tell: where in memory a model happens to lie moves its figure on a CPU, by one or two percent and more.
Measured on XNNPACK, pairs that are not fused save 0 ± 10 % (half of them) to ± 40 % (one in ten) of the shorter operator."""

_DEVIATIONS = 2.6  # standard deviations in an interval of 99 %

_FORMAT = "paceline fusions 1"


_NONE = Estimate(0.0, 0.0)


@dataclass(frozen=True)
class Evidence:
    """One pair of operators, measured. Milliseconds of one pair, but `together_ms`: `copies` of both in one model.

    `saved_ms`: by how much both in one model take less than the same two when the result between them has to be there for others
    too. `smaller_ms`: what the cheaper of both takes of its own, without the start of a model. `split`: the delegate takes one of
    them alone, so they can't be one. `failure` says why there are no figures.
    """

    producer: str
    consumer: str
    operand: int
    copies: int
    together_ms: float
    saved_ms: Estimate = _NONE
    smaller_ms: Estimate = _NONE
    split: bool = False
    failure: str = ""

    @property
    def share(self) -> Estimate | None:
        """What is saved as a part of what there was to save. None where the cheaper operator is too short for an answer."""
        smaller, saved = self.smaller_ms, self.saved_ms
        if self.failure or self.split or smaller.low <= 0:
            return None
        part = saved.value / smaller.value
        return Estimate(part, math.hypot(saved.error / smaller.value, part * smaller.error / smaller.value, _PLACEMENT))

    @property
    def verdict(self) -> Verdict:
        if self.failure:
            return "failed"
        return "apart" if self.split else _verdict(self.share)

    @property
    def text(self) -> str:
        """Saved / smaller, in microseconds."""
        if self.failure or self.split:
            return self.failure or "not on one processor"
        return f"{1e3 * self.saved_ms.value:.1f}±{1e3 * self.saved_ms.error:.1f}/{1e3 * self.smaller_ms.value:.1f}"


@dataclass(frozen=True)
class Finding:
    """What was found about one kind of pair, `name` as of `Pair.name`, at several sizes."""

    name: str
    evidence: tuple[Evidence, ...]

    @property
    def share(self) -> Estimate | None:
        """What is saved as a part of what there was to save, over all sizes: None for fewer than two that tell.

        Where the sizes scatter more than their errors say, the interval grows with them.
        """
        telling = [e for e in self.evidence if e.share is not None]
        if len({OpSpec.parse(e.producer).outputs for e in telling}) < 2:
            return None
        shares = [e.share for e in telling if e.share is not None]
        weights = [1 / share.error**2 for share in shares]
        mean = sum(w * share.value for w, share in zip(weights, shares, strict=True)) / sum(weights)
        scatter = sum(((share.value - mean) / share.error * _DEVIATIONS) ** 2 for share in shares) / (len(shares) - 1)
        return Estimate(mean, math.sqrt(max(1.0, scatter) / sum(weights)))

    @property
    def verdict(self) -> Verdict:
        said = {e.verdict for e in self.evidence}
        if self.evidence and all(e.failure or e.split for e in self.evidence):
            return "apart" if "apart" in said else "failed"
        found = _verdict(self.share)
        return "contradictory" if found == "undecided" and said >= {"fused", "apart"} else found


def _verdict(share: Estimate | None) -> Verdict:
    if share is not None and share.low > MATERIAL:
        return "fused"
    return "apart" if share is not None and share.high < MATERIAL else "undecided"


@dataclass(frozen=True)
class Fusions:
    """The findings on one device (its fingerprint) with one runtime and delegate, under the Bench of this key."""

    device: str
    runtime: str
    delegate: str
    bench: str
    findings: tuple[Finding, ...] = ()

    @cached_property
    def rules(self) -> frozenset[str]:
        """The names of the pairs that are run as one."""
        return frozenset(f.name for f in self.findings if f.verdict == "fused")

    def fuse(self, producer: OpSpec, consumer: OpSpec, operand: int) -> bool:
        """Whether `consumer` runs as one with `producer`, whose result it alone reads, as its operand `operand`."""
        plain = "+" not in producer.kind + consumer.kind  # what is fused already stays as it is
        return plain and rule_name(producer, consumer, operand) in self.rules

    def unknown(self, names: Sequence[str]) -> list[str]:
        """Which of these kinds of pairs nothing is known about."""
        known = {f.name for f in self.findings if f.verdict in ("fused", "apart")}
        return [name for name in names if name not in known]

    def to_json(self) -> str:
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Fusions:
        """Raises DataError where the text is nothing that `to_json` wrote."""
        try:
            values = json.loads(text)
            if values.pop("format") != _FORMAT:
                raise DataError(f"not written as {_FORMAT!r}; measure the fusions again with this version")
            findings = [Finding(f["name"], tuple(_evidence(**e) for e in f["evidence"])) for f in values.pop("findings")]
            return cls(findings=tuple(findings), **values)
        except (ValueError, TypeError, KeyError, AttributeError) as e:
            raise DataError(f"these are no fusions that paceline wrote ({type(e).__name__}: {e}); measure them again") from e

    def save(self, path: Path) -> None:
        write_atomically(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Fusions:
        """Raises DataError where the file can't be read or holds something else."""
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as e:
            raise DataError(f"can't read the fusions in {path}: {getattr(e, 'strerror', None) or e}") from e

    def show(self) -> str:
        """A table for people, what is fused first: the share that is saved; saved / smaller in microseconds, of each size."""
        lines = [f"{self.runtime}, {self.delegate}, device {self.device}"]
        order = get_args(Verdict)
        ordered = sorted(self.findings, key=lambda f: (order.index(f.verdict), f.name))
        for f in ordered:
            share = f"{100 * f.share.value:.0f} ± {100 * f.share.error:.0f} %" if f.share else ""
            lines.append(f"{f.verdict:13} {f.name:50} {share:14} {'  '.join(e.text for e in f.evidence)}".rstrip())
        return "\n".join(lines)


NOTHING_FUSED = Fusions("", "", "", "")
"""Every operator runs on its own."""


def _evidence(saved_ms: dict[str, float], smaller_ms: dict[str, float], **values: Any) -> Evidence:
    return Evidence(saved_ms=Estimate(**saved_ms), smaller_ms=Estimate(**smaller_ms), **values)
