"""What a model costs on a simulated phone: a roofline per operator, fusion, partitions of a delegate and their hand-over."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from paceline.devices.simulated.model_file import ModelFile, Operator, kinds_of
from paceline.devices.simulated.profile import Cluster, Delegate, Profile
from paceline.graph import OpSpec
from paceline.measurement import Bench, Delegation

_INT8 = ("int8", "uint8", "int16", "int4", "uint4", "int2")
_MOVES = frozenset(
    {
        *("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "CONCATENATION", "PACK", "UNPACK", "SPLIT", "SPLIT_V", "TILE"),
        *("PAD", "PADV2", "MIRROR_PAD", "SLICE", "STRIDED_SLICE", "GATHER", "BROADCAST_TO", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH"),
    }
)
"""Kinds that only move bytes."""

_REDUCTIONS = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "ARG_MAX", "ARG_MIN")
_POOLS = ("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D")
_WORK = {"HARD_SWISH": 4, "LEAKY_RELU": 2, "PRELU": 2, "DIV": 4, "SQRT": 4, "RSQRT": 4, "RESIZE_BILINEAR": 6} | dict.fromkeys(
    ("LOGISTIC", "TANH", "GELU", "EXP", "LOG", "SOFTMAX", "LOG_SOFTMAX", "ELU", "POW"), 12
)
"""Multiply-accumulates that a result element is worth, where that isn't 1."""


@dataclass(frozen=True)
class Part:
    """Operators that run as one, and the milliseconds they take."""

    name: str
    ms: float
    delegated: bool


@dataclass(frozen=True)
class Plan:
    """How a phone runs a model under a Bench: `ms` in all at the fixed clock; `watts` above idle while it does."""

    parts: tuple[Part, ...]
    ms: float
    watts: float
    delegation: Delegation


@dataclass(frozen=True)
class _Processor:
    """A delegate on the hardware that it uses: 10⁹ MACs and bytes a second, microseconds per operator."""

    delegate: Delegate
    gmacs: float
    gb_s: float
    overhead_us: float

    def ms(self, spec: OpSpec, precision: str) -> float:
        kind = type_of(spec, precision)
        family = family_of(spec)
        speed = self.delegate.speed.get(kind, 1.0)
        width = self.delegate.align
        channels = spec.outputs[0].shape[-1] if spec.outputs and spec.outputs[0].shape else 1
        used = channels / (math.ceil(channels / width) * width) if family != "other" and channels else 1.0
        compute = work_of(spec) / (self.gmacs * 1e6 * speed * self.delegate.efficiency[family] * used)
        moved = bytes_of(spec, precision) / (self.gb_s * 1e6)
        return max(compute, moved) + self.overhead_us / 1e3


def plan(model: ModelFile, profile: Profile, bench: Bench, fallback: bool = False) -> Plan:
    """The plan of a model under `bench`; with `fallback` the delegate takes nothing, and says so only in the delegation."""
    delegate = profile.delegates[bench.delegate]
    cores = cores_of(profile, bench)
    own = _processor(delegate, profile, cores)
    rest = _processor(profile.delegates["builtin"], profile, cores)
    offered = bench.delegate != "builtin" and not fallback
    taken = [offered and _takes(delegate, op.spec, bench.precision) for op in model.operators]
    left = kinds_of([op for op, its in zip(model.operators, taken, strict=True) if not its])
    parts: list[Part] = []
    crossing = 0.0
    runs = _runs(taken)
    for start, end in runs:
        operators = model.operators[start:end]
        processor = own if taken[start] else rest
        found = _parts(operators, model, processor, bench.precision, taken[start])
        if taken[start] and delegate.own_processor:
            crossing += _hand_over_ms(delegate, operators, model)
            found = [Part(f"{bench.delegate} of {len(operators)} operators", sum(part.ms for part in found), True)]
        parts += found
    delegated = sum(taken)
    delegation = Delegation(bench.delegate, sum(taken[start] for start, _ in runs), delegated, left)
    busy = delegate.watts if delegate.own_processor and delegated else sum(cluster.watts for cluster in cores)
    return Plan(tuple(parts), sum(part.ms for part in parts) + crossing + profile.invoke_us / 1e3, busy, delegation)


def cores_of(profile: Profile, bench: Bench) -> tuple[Cluster, ...]:
    """The cores that the threads of a Bench run on, as their clusters: the fastest of those allowed."""
    allowed = [cpu for cpu in profile.cpus if not bench.affinity or cpu in bench.affinity]
    return tuple(profile.cluster_of(cpu) for cpu in allowed[-bench.threads :])


def family_of(spec: OpSpec) -> str:
    match spec.kind:
        case "CONV_2D" if len(spec.inputs) > 1 and len(spec.inputs[1].shape) == 4:
            _, kh, kw, per_group = spec.inputs[1].shape
            if per_group != spec.inputs[0].shape[-1]:
                return "grouped"
            return "pointwise" if kh == kw == 1 else "conv"
        case "DEPTHWISE_CONV_2D":
            return "depthwise"
        case "TRANSPOSE_CONV" | "CONV_3D":
            return "conv"
        case "FULLY_CONNECTED":
            return "fully_connected"
        case "BATCH_MATMUL":
            return "matmul"
    return "other"


def type_of(spec: OpSpec, precision: str) -> str:
    """In which type it computes: int8 with quantised results or weights, else fp16 where asked or stored so, else fp32."""
    results = [t.dtype for t in spec.outputs[:1]]
    if any(dtype in _INT8 for dtype in results + [spec.inputs[i].dtype for i in spec.constants[:1]]):
        return "int8"
    return "fp16" if precision == "fp16" or results == ["float16"] else "fp32"


def work_of(spec: OpSpec) -> float:
    """Multiply-accumulates, or what other work is worth in them."""
    results = sum(t.elements for t in spec.outputs)
    if spec.macs or spec.kind in _MOVES:
        return spec.macs
    if spec.kind in _POOLS:
        window = spec.attr("filter")
        return results * (math.prod(window) if isinstance(window, tuple) else 1)
    if spec.kind in _REDUCTIONS:
        return spec.inputs[0].elements
    return results * _WORK.get(spec.kind, 1)


def bytes_of(spec: OpSpec, precision: str) -> float:
    """What is read and written once; activations take half where float32 is computed as fp16."""
    halved = 0.5 if precision == "fp16" else 1.0
    return sum(t.bytes * (halved if t.dtype == "float32" else 1.0) for t in (*spec.inputs, *spec.outputs))


def _takes(delegate: Delegate, spec: OpSpec, precision: str) -> bool:
    """XNNPACK, too, takes only the kinds that it lists."""
    if delegate.kinds and spec.kind not in delegate.kinds:
        return False
    if delegate.types and type_of(spec, precision) not in delegate.types:
        return False
    return not delegate.max_rank or all(len(t.shape) <= delegate.max_rank for t in (*spec.inputs, *spec.outputs))


def _processor(delegate: Delegate, profile: Profile, cores: Sequence[Cluster]) -> _Processor:
    """On the CPU, work is split evenly, so that every core waits for the slowest; what isn't shared runs on one."""
    if delegate.own_processor:
        return _Processor(delegate, delegate.gmacs, delegate.gb_s, delegate.overhead_us)
    slowest = min(cores, key=lambda cluster: cluster.gmacs)
    speedup = 1 / ((1 - profile.parallel) + profile.parallel / len(cores))
    slowness = max(cluster.mhz for cluster in profile.clusters) / slowest.mhz
    overhead = (delegate.overhead_us + delegate.sync_us * (len(cores) - 1)) * slowness
    return _Processor(delegate, slowest.gmacs * speedup, slowest.gb_s, overhead)


def _runs(taken: Sequence[bool]) -> list[tuple[int, int]]:
    """Where neighbours are of one mind: start and end of each run."""
    edges = [0, *(i for i in range(1, len(taken)) if taken[i] != taken[i - 1]), len(taken)]
    return [(start, end) for start, end in itertools.pairwise(edges) if start < end]


def _parts(operators: Sequence[Operator], model: ModelFile, processor: _Processor, precision: str, delegated: bool) -> list[Part]:
    """One Part for each kernel: what can be fused goes with its producer, a PAD with the convolution behind it."""
    readers = model.readers
    made: dict[int, int] = {}
    parts: list[Part] = []
    padded: dict[int, str] = {}
    behind = {op.reads[0]: op.spec.kind for op in operators if op.reads}
    for op in operators:
        kind, result = op.spec.kind, op.writes[0] if op.writes else -1
        fuses = kind in processor.delegate.fuses
        if fuses and kind == "PAD" and readers[result] == 1 and behind.get(result) in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            padded[result] = kind
            continue
        homes = [made[n] for n in op.reads if n in made and readers[n] == 1] if fuses and kind != "PAD" else []
        home = max(homes, default=-1)
        if home < 0:
            prefix = "".join(f"{padded[n]}+" for n in op.reads if n in padded)
            parts.append(Part(prefix + kind, processor.ms(op.spec, precision), delegated))
            home = len(parts) - 1
        else:
            parts[home] = replace(parts[home], name=f"{parts[home].name}+{kind}")
        made[result] = home
    return parts


def _hand_over_ms(delegate: Delegate, operators: Sequence[Operator], model: ModelFile) -> float:
    """Both ways: what the partition reads from outside, and what others read from it."""
    written = {n for op in operators for n in op.writes}
    read = {n for op in operators for n in op.reads} - written
    inside = {id(op) for op in operators}
    asked = {n for op in model.operators if id(op) not in inside for n in op.reads} | set(model.outputs)
    moved = sum(model.tensors[n].bytes for n in read | (written & asked))
    travel = moved / (delegate.hand_over_gb_s * 1e6) if delegate.hand_over_gb_s else 0.0
    return 2 * delegate.hand_over_us / 1e3 + travel
