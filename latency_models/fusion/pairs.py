"""Pairs of neighbouring operators: which there are in networks, and which are always worth a question."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from paceline.graph import Attrs, Graph, OpSpec, TensorSpec, attrs
from paceline.latency_models.fusion.flow import CONSTANT, flow_of

ARITHMETIC = frozenset(("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "POW", "SQUARED_DIFFERENCE"))


@dataclass(frozen=True)
class Pair:
    """`consumer` reads the one result of `producer` as its operand `operand`."""

    producer: OpSpec
    consumer: OpSpec
    operand: int = 0

    @property
    def name(self) -> str:
        """What a rule about it says: kinds, and what else may decide; never the sizes. `CONV_2D RELU6 > ADD` for example."""
        return rule_name(self.producer, self.consumer, self.operand)


def rule_name(producer: OpSpec, consumer: OpSpec, operand: int) -> str:
    """See `Pair.name`: the fused activation, types other than float32, and what an arithmetic operator's other operand is."""
    return f"{_described(producer)} > {_described(consumer)}{_form(consumer, operand)}"


def _described(spec: OpSpec) -> str:
    activation = str(spec.attr("activation", "NONE"))
    dtype = spec.outputs[0].dtype if spec.outputs else "float32"
    return " ".join([spec.kind, *(w for w, usual in ((activation, "NONE"), (dtype, "float32")) if w != usual)])


def _form(spec: OpSpec, operand: int) -> str:
    """Of an arithmetic operator: whether the other operand is a constant, and whether one of them is broadcast."""
    if spec.kind not in ARITHMETIC or len(spec.inputs) != 2:
        return ""
    read, other = spec.inputs[operand].elements, spec.inputs[1 - operand].elements
    if 1 - operand in spec.constants:
        return " constant"
    return " broadcast" if read < other else " with broadcast" if other < read else ""


def pairs_in(networks: Iterable[Graph | Sequence[OpSpec]]) -> list[Pair]:
    """Every pair that could be fused, because the consumer alone reads what the producer makes; each once."""
    found: dict[Pair, None] = {}
    for network in networks:
        flow = flow_of(network)
        for spec, reads in zip(flow.operators, flow.reads, strict=True):
            for operand, tensor in enumerate(reads):
                if tensor != CONSTANT and tensor in flow.producers and flow.readers[tensor] == 1:
                    producer = flow.operators[flow.producers[tensor]]
                    if len(producer.outputs) == 1:
                        found[Pair(producer, spec, operand)] = None
    return list(found)


def common_pairs(dtype: str = "float32", sizes: Sequence[tuple[int, int]] = ((64, 16), (56, 24), (96, 8))) -> list[Pair]:
    """The pairs that mobile networks are made of, each at the given (height and width, channels)."""
    found = []
    for size, channels in sizes:
        t = TensorSpec((1, size, size, channels), dtype)
        ops = _operators(t)
        one = _operators(TensorSpec((1, 1, 1, channels), dtype))
        behind = {
            "CONV_2D": ("RELU", "RELU6", "HARD_SWISH", "LOGISTIC", "TANH", "ADD", "MUL", "constant ADD", "PRELU"),
            "DEPTHWISE_CONV_2D": ("RELU", "RELU6", "HARD_SWISH", "LOGISTIC", "ADD"),
            "ADD": ("RELU", "HARD_SWISH", "MUL"),
        }
        rows = [(producer, consumer) for producer, its in behind.items() for consumer in its]
        rows += [
            ("CONV_2D", "DEPTHWISE_CONV_2D"),
            ("DEPTHWISE_CONV_2D", "CONV_2D"),
            ("CONV_2D", "CONV_2D"),
            ("PAD", "VALID CONV_2D"),
            ("PAD", "VALID DEPTHWISE"),
            ("MUL", "ADD"),
            ("HARD_SWISH", "CONV_2D"),
            ("AVERAGE_POOL_2D", "RELU"),
            ("CONV_2D", "AVERAGE_POOL_2D"),
            ("CONV_2D", "MAX_POOL_2D"),
            ("CONV_2D", "MEAN"),
            ("CONV_2D", "RESHAPE"),
        ]
        found += [Pair(ops[a], ops[b]) for a, b in rows]
        found += [Pair(ops["MEAN"], one["CONV_2D"]), Pair(one["CONV_2D"], one["RELU"])]
        found.append(Pair(one["LOGISTIC"], _op("MUL", (t, one["RELU"].inputs[0]), t, activation="NONE"), 1))
    return found


def _operators(t: TensorSpec) -> dict[str, OpSpec]:
    _, size, _, channels = t.shape
    dtype = t.dtype
    bias = "int32" if dtype in ("int8", "uint8") else dtype
    padded = TensorSpec((1, size + 2, size + 2, channels), dtype)
    dense, deep = TensorSpec((channels, 1, 1, channels), dtype), TensorSpec((1, 3, 3, channels), dtype)
    per_channel = TensorSpec((channels,), bias)
    few = (padded, TensorSpec((4, 3, 3, channels), dtype), TensorSpec((4,), bias))  # cheap, so that a PAD is seen beside it
    convolution = {"stride": (1, 1), "dilation": (1, 1), "activation": "NONE"}
    pool = attrs(stride=(1, 1), filter=(3, 3), padding="SAME", activation="NONE")
    flat = TensorSpec((1, size * size, channels), dtype)
    mean = TensorSpec((1, 1, 1, channels), dtype)
    single = {kind: OpSpec(kind, (t,), (t,)) for kind in ("RELU", "RELU6", "HARD_SWISH", "LOGISTIC", "TANH")}
    return single | {
        "CONV_2D": _op("CONV_2D", (t, dense, per_channel), t, (1, 2), padding="SAME", **convolution),
        "DEPTHWISE_CONV_2D": _op("DEPTHWISE_CONV_2D", (t, deep, per_channel), t, (1, 2), padding="SAME", **convolution),
        "VALID CONV_2D": _op("CONV_2D", few, TensorSpec((1, size, size, 4), dtype), (1, 2), padding="VALID", **convolution),
        "VALID DEPTHWISE": _op("DEPTHWISE_CONV_2D", (padded, deep, per_channel), t, (1, 2), padding="VALID", **convolution),
        "ADD": _op("ADD", (t, t), t, activation="NONE"),
        "MUL": _op("MUL", (t, t), t, activation="NONE"),
        "constant ADD": _op("ADD", (t, TensorSpec((channels,), dtype)), t, (1,), activation="NONE"),
        "PRELU": _op("PRELU", (t, TensorSpec((1, 1, channels), dtype)), t, (1,)),
        "PAD": _op("PAD", (t,), padded, paddings=(0, 0, 1, 1, 1, 1, 0, 0)),
        "AVERAGE_POOL_2D": OpSpec("AVERAGE_POOL_2D", (t,), (t,), pool),
        "MAX_POOL_2D": OpSpec("MAX_POOL_2D", (t,), (t,), pool),
        "MEAN": _op("MEAN", (t,), mean, axes=(1, 2), keep_dims=True),
        "RESHAPE": OpSpec("RESHAPE", (t,), (flat,)),
    }


def _op(
    kind: str, inputs: tuple[TensorSpec, ...], output: TensorSpec, constants: tuple[int, ...] = (), **values: object
) -> OpSpec:
    given: Attrs = attrs(**values)  # type: ignore[arg-type]
    return OpSpec(kind, inputs, (output,), given, constants)
