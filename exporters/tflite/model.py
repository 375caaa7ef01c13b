"""What a `.tflite` file holds besides its graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from paceline.graph import Graph

SIGNATURE = "serving_default"


@dataclass(frozen=True)
class Signature:
    """Names by which callers know the inputs and outputs of one graph: signature name -> tensor."""

    name: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    graph: int = 0


@dataclass(frozen=True)
class Model:
    """A whole file. Control-flow operators name graphs by their index; the first one is the network itself.

    `files` are those attached behind the network as a ZIP archive, class labels for example.
    """

    graphs: Sequence[Graph]
    signatures: tuple[Signature, ...] = ()
    metadata: Mapping[str, bytes] = field(default_factory=dict)
    description: str = "paceline"
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def graph(self) -> Graph:
        """The network itself."""
        return self.graphs[0]


def model_of(graph: Graph, metadata: Mapping[str, bytes] | None = None) -> Model:
    """`graph` as a file of its own, with the signature `serving_default` (input_0 …, output_0 …)."""
    inputs = {f"input_{i}": name for i, name in enumerate(graph.inputs)}
    outputs = {f"output_{i}": name for i, name in enumerate(graph.outputs)}
    return Model((graph,), (Signature(SIGNATURE, inputs, outputs),), metadata or {})
