"""Graph under construction: nodes in the order of execution, tensors in the order of use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from converters.onnx.data import tensor_proto
from converters.onnx.sizes import Place
from phi3quant.disk.tensor_stream import TensorSpec

CONTRIB = "com.microsoft"
"""Domain of the operators that onnxruntime adds to ONNX."""


@dataclass(frozen=True)
class _Initializer:
    """Tensor that nodes read, and the name under which its bytes are stored."""

    spec: TensorSpec
    stored_as: str


class Graph:
    """Builder of a graph; weights are announced, never held.

    Attributes:
        stored: tensors that must be written, in the order in which they are first used.
    """

    def __init__(self) -> None:
        self.stored: list[TensorSpec] = []
        self._known: set[str] = set()
        self._nodes: list[NodeProto] = []
        self._initializers: dict[str, _Initializer] = {}
        self._constants: dict[str, TensorProto] = {}

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        name: str,
        *,
        domain: str = "",
        output: str | None = None,
        more_outputs: Sequence[str] = (),
        **attributes: Any,
    ) -> str:
        """Append a node.

        Args:
            operator: type of the node.
            inputs: names of its inputs; an empty name leaves one out.
            name: name of the node.
            domain: domain of the operator.
            output: name of the first output; by default derived from ``name``.
            more_outputs: names of the other outputs; an empty name leaves one out.
            attributes: attributes of the operator.

        Returns:
            Name of the first output.
        """
        names = [output or f"{name}/output_0", *more_outputs]
        node = helper.make_node(operator, list(inputs), names, name, domain=domain, **attributes)
        self._nodes.append(node)
        return names[0]

    def store(self, spec: TensorSpec) -> None:
        """Announce a tensor that must be written; repeated calls have no effect."""
        if spec.name not in self._known:
            self._known.add(spec.name)
            self.stored.append(spec)

    def tensor(self, spec: TensorSpec, stored_as: TensorSpec | None = None) -> str:
        """Add a stored tensor as an input for nodes; return its name.

        Args:
            spec: name, type and shape for nodes.
            stored_as: tensor that holds the bytes, if its shape is another one.
        """
        origin = stored_as or spec
        self.store(origin)
        self._initializers[spec.name] = _Initializer(spec, origin.name)
        return spec.name

    def constant(self, name: str, values: Any, dtype: type[np.generic]) -> str:
        """Add a few numbers, stored in the graph itself, as an input for nodes; return its name."""
        self._constants[name] = numpy_helper.from_array(np.array(values, dtype), name)
        return name

    def finish(
        self,
        name: str,
        inputs: Sequence[ValueInfoProto],
        outputs: Sequence[ValueInfoProto],
        places: Mapping[str, Place],
    ) -> GraphProto:
        """Finished graph, with its stored tensors at ``places`` (by the names in ``stored``)."""
        initializers = list(self._constants.values())
        initializers += [
            tensor_proto(key, entry.spec, places[entry.stored_as])
            for key, entry in self._initializers.items()
        ]
        return helper.make_graph(self._nodes, name, list(inputs), list(outputs), initializers)
