"""A graph under construction: nodes in the order of execution, tensors in the order of use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from converters.onnx.data import tensor_proto
from converters.onnx.sizes import Place
from phi3quant.disk.tensor_stream import TensorSpec

CONTRIB = "com.microsoft"
"""The domain of onnxruntime's own operators."""


@dataclass(frozen=True)
class _Initializer:
    """A tensor that nodes read, and the name that its bytes are stored under."""

    spec: TensorSpec
    stored_as: str


class Graph:
    """Collects what a graph is made of; weights are announced, never held.

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
            operator: its type.
            inputs: names; an empty one is an input left out.
            name: its own.
            domain: the operator's.
            output: name of its first output; by default made from ``name``.
            more_outputs: names of the others; an empty one is left out.
            attributes: the operator's.

        Returns:
            The name of its first output.
        """
        names = [output or f"{name}/output_0", *more_outputs]
        made = helper.make_node(operator, list(inputs), names, name, domain=domain, **attributes)
        self._nodes.append(made)
        return names[0]

    def store(self, spec: TensorSpec) -> None:
        """Announce a tensor that must be written, unless that has been done."""
        if spec.name not in self._known:
            self._known.add(spec.name)
            self.stored.append(spec)

    def tensor(self, spec: TensorSpec, stored_as: TensorSpec | None = None) -> str:
        """Let nodes read a stored tensor; gives its name.

        Args:
            spec: name, type and shape as nodes see them.
            stored_as: the tensor whose bytes it shares, if they have several shapes.
        """
        origin = stored_as or spec
        self.store(origin)
        self._initializers[spec.name] = _Initializer(spec, origin.name)
        return spec.name

    def constant(self, name: str, values: Any, dtype: type[np.generic]) -> str:
        """Let nodes read a few numbers that stand in the graph itself; gives their name."""
        self._constants[name] = numpy_helper.from_array(np.array(values, dtype), name)
        return name

    def finish(
        self,
        name: str,
        inputs: Sequence[ValueInfoProto],
        outputs: Sequence[ValueInfoProto],
        places: Mapping[str, Place],
    ) -> GraphProto:
        """The graph, with its stored tensors at ``places`` (keys are names in ``stored``)."""
        initializers = list(self._constants.values())
        initializers += [
            tensor_proto(key, entry.spec, places[entry.stored_as])
            for key, entry in self._initializers.items()
        ]
        return helper.make_graph(self._nodes, name, list(inputs), list(outputs), initializers)
