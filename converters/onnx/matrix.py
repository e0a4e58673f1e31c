"""Matrices of an ONNX model, as floats or codes: their tensors and operators."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from converters.half import to_full, to_half
from converters.onnx.data import TYPES
from converters.onnx.nodes import CONTRIB, Graph
from converters.onnx.repack import to_nbits
from converters.onnx.sizes import PlannedMatrix
from phi3quant.disk.tensor_stream import DTYPE_NAMES, DTYPES, TensorSpec, spec_of
from phi3quant.quant.codecs import affine
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.tensor import Quantized, QuantizedTensor

Weight = torch.Tensor | Quantized
"""Matrix to be stored: floats [rows, columns], or quantized."""

Pieces = Iterator[tuple[str, Iterable[torch.Tensor]]]
"""Tensors by name, each in pieces along its first axis; they must be consumed in order."""

# Weights in a piece that is rounded or converted.
_CHUNK_WEIGHTS = 1 << 24


class Matrix(Protocol):
    """Matrix in its stored form, with the operators that use it."""

    @property
    def name(self) -> str:
        """Common start of its tensors' names."""

    def specify(self) -> list[TensorSpec]:
        """Specifications of its tensors, in the order of ``pieces``."""

    def pieces(self, weight: Weight) -> Pieces:
        """Contents of its tensors.

        Raises:
            CheckpointError: a value doesn't fit FP16.
            SchemeError: a group's scale doesn't fit FP16.
        """

    def multiply(
        self, graph: Graph, x: str, node: str, accuracy_level: int, output: str | None = None
    ) -> str:
        """Append ``x @ weight.T``; return the name of the result, which ``output`` can set."""

    def look_up(self, graph: Graph, ids: str, node: str) -> str:
        """Append a lookup of the rows ``ids``; return the name of the result."""


@dataclass(frozen=True)
class FloatMatrix:
    """Matrix of floats.

    Attributes:
        name: see Matrix.
        rows, columns: outputs and inputs.
        dtype: type of the weights.
        io: type of activations.
    """

    name: str
    rows: int
    columns: int
    dtype: torch.dtype
    io: torch.dtype

    def specify(self) -> list[TensorSpec]:
        """See Matrix."""
        return _specs(self.name, self.rows, self.columns, DTYPE_NAMES[self.dtype], self.io)

    def pieces(self, weight: Weight) -> Pieces:
        """See Matrix."""
        plain = weight if isinstance(weight, torch.Tensor) else weight.dequantize()
        convert = to_half if self.dtype == torch.float16 else to_full
        yield f"{self.name}.weight", (convert(self.name, part) for part in _parts(plain))

    def multiply(
        self, graph: Graph, x: str, node: str, accuracy_level: int, output: str | None = None
    ) -> str:
        """See Matrix; runtimes transpose and convert the weights once, when they load them."""
        del accuracy_level  # applies only to codes
        (spec,) = self.specify()
        weight = self._converted(graph, graph.tensor(spec), node)
        transposed = graph.node("Transpose", [weight], f"{node}/Transpose", perm=[1, 0])
        return graph.node("MatMul", [x, transposed], f"{node}/MatMul", output=output)

    def look_up(self, graph: Graph, ids: str, node: str) -> str:
        """See Matrix."""
        (spec,) = self.specify()
        rows = graph.node("Gather", [graph.tensor(spec), ids], f"{node}/Gather")
        return self._converted(graph, rows, node)

    def _converted(self, graph: Graph, value: str, node: str) -> str:
        if self.dtype == self.io:
            return value
        return graph.node("Cast", [value], f"{node}/Cast", to=TYPES[self.io])


@dataclass(frozen=True)
class CodeMatrix:
    """Matrix of codes with scales, in groups along the rows.

    Attributes:
        name: see Matrix.
        rows, columns: outputs and inputs.
        scheme: scheme of the codes.
        io: type of activations and stored scales.
    """

    name: str
    rows: int
    columns: int
    scheme: QuantScheme
    io: torch.dtype

    def specify(self) -> list[TensorSpec]:
        """See Matrix."""
        return _specs(self.name, self.rows, self.columns, self.scheme, self.io)

    def pieces(self, weight: Weight) -> Pieces:
        """See Matrix; codes of this scheme stay unchanged, other weights are rounded to nearest."""
        rest: dict[str, list[torch.Tensor]] = {"scales": [], "qzeros": []}

        def codes() -> Iterator[torch.Tensor]:
            for part in self._quantized(weight):
                packed = to_nbits(part)
                rest["scales"].append(packed.scales.to(self.io))
                if packed.zero_points is not None:
                    rest["qzeros"].append(packed.zero_points)
                yield packed.weight

        yield f"{self.name}.qweight", codes()
        for ending, parts in rest.items():
            if parts:
                yield f"{self.name}.{ending}", parts

    def multiply(
        self, graph: Graph, x: str, node: str, accuracy_level: int, output: str | None = None
    ) -> str:
        """See Matrix."""
        return graph.node(
            "MatMulNBits",
            [x, *(graph.tensor(spec) for spec in self.specify())],
            f"{node}/MatMulNBits",
            domain=CONTRIB,
            output=output,
            K=self.columns,
            N=self.rows,
            bits=self.scheme.bits,
            block_size=self.scheme.group_width(self.columns),
            accuracy_level=accuracy_level,
        )

    def look_up(self, graph: Graph, ids: str, node: str) -> str:
        """See Matrix; the operator requires the same bytes in two dimensions."""
        weight, scales, *zeros = self.specify()
        row = (self.rows, self.columns * self.scheme.bits // 8)
        flat = replace(weight, name=f"{self.name}.qrows", shape=row)
        data = graph.tensor(flat, stored_as=weight)
        return graph.node(
            "GatherBlockQuantized",
            [data, ids, graph.tensor(scales), *(graph.tensor(spec) for spec in zeros)],
            f"{node}/GatherBlockQuantized",
            domain=CONTRIB,
            bits=self.scheme.bits,
            block_size=self.scheme.group_width(self.columns),
            gather_axis=0,
            quantize_axis=1,
        )

    def _quantized(self, weight: Weight) -> Iterable[QuantizedTensor]:
        if isinstance(weight, QuantizedTensor) and weight.scheme == self.scheme:
            return [weight]
        plain = weight if isinstance(weight, torch.Tensor) else weight.dequantize()
        return (affine.quantize(to_full(self.name, part), self.scheme) for part in _parts(plain))


def matrix(plan: PlannedMatrix) -> Matrix:
    """Matrix in the form that a plan gives it."""
    io = DTYPES[plan.io]
    if isinstance(plan.storage, QuantScheme):
        return CodeMatrix(plan.name, plan.rows, plan.columns, plan.storage, io)
    return FloatMatrix(plan.name, plan.rows, plan.columns, DTYPES[plan.storage], io)


def _specs(
    name: str, rows: int, columns: int, storage: QuantScheme | str, io: torch.dtype
) -> list[TensorSpec]:
    planned = PlannedMatrix(name, rows, columns, storage, DTYPE_NAMES[io])
    return [spec_of(tensor) for tensor in planned.tensors()]


def _parts(weight: torch.Tensor) -> Iterable[torch.Tensor]:
    return torch.split(weight, max(1, _CHUNK_WEIGHTS // weight.shape[1]))
