"""Real CNNs on phone GPUs: what the TFLite delegate executes, and what it took (Li, Paolieri, Golubchik, EdgeSys 2024).

The file of operators has one line for each kernel that computes something, and leaves out the kernels that only move data (PAD,
the MUL of a squeeze-and-excitation gate, an ADD that no convolution took over). Kernel names number the delegate's nodes, so a
gap in the numbers is such a kernel; its shape follows from its neighbours. It becomes an operator of the network without a row.
"""

from __future__ import annotations

import ast
import csv
import gzip
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from paceline.errors import DataError
from paceline.graph import Attrs, OpSpec, TensorSpec, attrs
from paceline.latency_models.model import Row

FOLDER = "latency_mobile_ml_benchmark"
_ACTIVATIONS = {"relu": "RELU", "hard_swish": "HARD_SWISH", "sigmoid": "LOGISTIC"}
_NODES = re.compile(r"([a-z]+)_(\d+)$")


@dataclass(frozen=True)
class PhoneNetwork:
    """A whole network: its operators in order, each one kernel of the delegate; which of them were measured; milliseconds."""

    name: str
    operators: tuple[OpSpec, ...]
    measured: tuple[int, ...]
    """Indices of the operators that have a row."""
    operator_ms: Mapping[str, tuple[float, ...]]
    """By device, one for each of `measured`: what the delegate's profiler says about the kernel inside this network."""
    ms: Mapping[str, float]
    noise: Mapping[str, float]
    """By device, standard deviation over the repeated inferences, relative to their mean `ms`."""

    def rows(self, device: str) -> list[Row]:
        """One for each measured operator."""
        return [Row((self.operators[i],), ms) for i, ms in zip(self.measured, self.operator_ms[device], strict=True)]

    def row(self, device: str) -> Row:
        """The whole network."""
        return Row(self.operators, self.ms[device])


def read_networks(data: Path) -> list[PhoneNetwork]:
    """All networks that both files hold. Raises DataError where a file is missing or isn't what it should be."""
    totals = {line["model"]: line for line in _lines(data / FOLDER / "tflite_cnn_e2e.csv.gz")}
    groups: dict[str, list[dict[str, str]]] = {}
    for line in _lines(data / FOLDER / "tflite_cnn_ops_gpu.csv.gz"):
        groups.setdefault(line["model"], []).append(line)
    networks = [_network(name, lines, totals[name]) for name, lines in groups.items() if name in totals]
    if not networks:
        raise DataError(f"{data / FOLDER}: its two tflite_cnn files have no network in common")
    return networks


def devices_of(networks: Sequence[PhoneNetwork]) -> list[str]:
    """Those with whole networks and operators, in the file's order."""
    return [device for device in networks[0].operator_ms if device in networks[0].ms]


def _lines(path: Path) -> list[dict[str, str]]:
    try:
        with gzip.open(path, "rt", newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise DataError(f"{path} can't be read ({e}). It belongs to the public data of the protocol phones") from e


def _network(name: str, lines: Sequence[Mapping[str, str]], total: Mapping[str, str]) -> PhoneNetwork:
    operators: list[OpSpec] = []
    measured: list[int] = []
    last_node, before = -1, Kernel.read(lines[0]).image
    gated = False
    for line in lines:
        kernel = Kernel.read(line)
        operators += kernel.unmeasured(kernel.first_node - last_node - 1, before, gated)
        measured.append(len(operators))
        operators.append(kernel.spec())
        last_node, before = kernel.last_node, operators[-1].outputs[0]
        gated = before.shape[1:3] == (1, 1) and bool({"sigmoid", "minimum", "mul"} & set(kernel.linked))
    devices = [column.split("|")[0] for column in lines[0] if column.endswith("|gpu|float")]
    with_total = [device for device in devices if f"{device}|gpu|float|mean" in total]
    try:
        return PhoneNetwork(
            name,
            tuple(operators),
            tuple(measured),
            {d: tuple(_ms(line[f"{d}|gpu|float"]) for line in lines) for d in devices},
            {d: _ms(total[f"{d}|gpu|float|mean"]) for d in with_total},
            {d: float(total[f"{d}|gpu|float|std"]) / float(total[f"{d}|gpu|float|mean"]) for d in with_total},
        )
    except (ValueError, ZeroDivisionError) as e:
        raise DataError(f"the network {name} of the phones has a latency that is no positive number ({e})") from e


def _ms(microseconds: str) -> float:
    value = float(microseconds) / 1000
    if not 0 < value < float("inf"):
        raise ValueError(microseconds)
    return value


@dataclass(frozen=True)
class Kernel:
    """One line of the file of operators."""

    operation: str
    feature: Mapping[str, object]
    first_node: int
    last_node: int
    linked: tuple[str, ...]
    """The elementwise nodes that the kernel computes as well, in order."""

    @classmethod
    def read(cls, line: Mapping[str, str]) -> Kernel:
        """Nodes come from the first device's kernel name; they are the same for all but for fused pairs of convolutions."""
        try:
            name = next(line[column] for column in line if column.endswith("|kernel")).strip()
            head, *tail = name.split("_linked_:_")
            linked = [_NODES.search(text) for text in tail]
            nodes = [int(head.rsplit("_", 1)[1]), *(int(m[2]) for m in linked if m)]
            feature = ast.literal_eval(line["feature"])
            kinds = tuple(text.rsplit("_", 1)[0] for text in tail)
            return cls(line["operation"], feature, nodes[0], nodes[-1], kinds)
        except (KeyError, StopIteration, IndexError, ValueError, SyntaxError) as e:
            raise DataError(f"tflite_cnn_ops_gpu.csv.gz has a line that is not understood: {dict(line)!r}") from e

    def _number(self, name: str) -> int:
        text = str(self.feature[name])
        return int(text) if text.isdigit() else 1

    @property
    def image(self) -> TensorSpec:
        """What the kernel reads first."""
        size = self._number("Input_shape")
        return TensorSpec((1, size, size, self._number("Input_channel")))

    def spec(self) -> OpSpec:
        """The kernel as one operator: linked additions and products as further operands, the last activation as its own."""
        image, size, out = self.image, self._number("Output_shape"), self._number("Filter")
        channels, kernel, stride = image.shape[-1], self._number("Kernel"), self._number("Stride")
        values = self._attrs(stride, kernel)
        match self.operation:
            case "CONV_2D" | "CONV_2D_GROUP":
                weights = (out, kernel, kernel, channels // self._number("Group"))
                return self._with_linked(self.operation.removesuffix("_GROUP"), (image,), weights, (1, size, size, out), values)
            case "DEPTHWISE_CONV_2D":
                return self._with_linked(
                    self.operation, (image,), (1, kernel, kernel, channels), (1, size, size, channels), values
                )
            case "FULLY_CONNECTED":
                return self._with_linked(self.operation, (TensorSpec((1, channels)),), (out, channels), (1, out), values)
            case "MEAN":
                return self._with_linked("MEAN", (image,), (), (1, 1, 1, channels), attrs(axes=(1, 2)))
            case "MAX_POOL_2D" | "AVERAGE_POOL_2D":
                return self._with_linked(self.operation, (image,), (), (1, size, size, channels), values)
            case "CONCATENATION":
                rest = max(out - channels, 0) // max(kernel - 1, 1)  # the file tells the first input's channels only
                others = (TensorSpec((1, size, size, rest)),) * (kernel - 1)
                return self._with_linked("CONCATENATION", (image, *others), (), (1, size, size, out), attrs(axis=3))
        raise DataError(f"tflite_cnn_ops_gpu.csv.gz holds the operator {self.operation}, which is not translated")

    def _attrs(self, stride: int, kernel: int) -> Attrs:
        if self.operation == "FULLY_CONNECTED":
            return ()
        valid = self.image.shape[1] > self._number("Output_shape") * stride and kernel > 1
        window = {} if "CONV" in self.operation else {"filter": (kernel, kernel)}
        return attrs(stride=(stride, stride), padding="VALID" if valid else "SAME", **window)

    def _with_linked(
        self, kind: str, data: tuple[TensorSpec, ...], weights: tuple[int, ...], out: tuple[int, ...], values: Attrs
    ) -> OpSpec:
        constants = (TensorSpec(weights), TensorSpec((out[-1],))) if weights else ()
        result = TensorSpec(out)
        # an ADD right after the kernel adds another branch; MUL and ADD after it are a folded normalisation
        skip = (result,) if "add" in self.linked and out[1:3] != (1, 1) else ()
        activation = next((_ACTIVATIONS[name] for name in reversed(self.linked) if name in _ACTIVATIONS), "NONE")
        values = attrs(**dict(values), activation=activation)
        weight_indices = tuple(range(len(data), len(data) + len(constants)))
        return OpSpec(kind, (*data, *constants, *skip), (result,), values, weight_indices)

    def unmeasured(self, nodes: int, before: TensorSpec, gated: bool) -> list[OpSpec]:
        """The kernels between the line before, whose result is `before`, and this one: `nodes` many nodes.

        The last node is a PAD where this kernel reads more than its window needs. The others are one elementwise kernel, since
        the delegate links them: the product with a gate, an addition, or a normalisation that no convolution could take.
        """
        padded, unpadded = self.image, self._number("Output_shape") * self._number("Stride")
        has_pad = nodes > 0 and self.feature["Stride"] != "-" and padded.shape[1] > unpadded
        data = TensorSpec((1, unpadded, unpadded, padded.shape[-1])) if has_pad else padded
        found: list[OpSpec] = []
        if elementwise := nodes - has_pad:
            data_or_before = max(data, before, key=lambda t: t.elements)
            found.append(_elementwise(elementwise, data_or_before, gated))
        if has_pad:
            margin = padded.shape[1] - unpadded
            top = margin // 2
            found.append(OpSpec("PAD", (data,), (padded,), attrs(paddings=(0, 0, top, margin - top, top, margin - top, 0, 0))))
        return found


def _elementwise(nodes: int, data: TensorSpec, gated: bool) -> OpSpec:
    channels = TensorSpec((1, 1, 1, data.shape[-1]))
    if gated:
        skip = (data,) if nodes > 1 else ()
        return OpSpec("MUL", (data, channels, *skip), (data,), attrs(activation="RELU" if nodes > 2 else "NONE"))
    if nodes > 2:
        return OpSpec("MUL", (data, channels, channels), (data,), attrs(activation="RELU"), (1, 2))
    return OpSpec("ADD", (data, data), (data,), attrs(activation="RELU" if nodes > 1 else "NONE"))
