"""Stored parts of ONNX models: codes of MatMulNBits, and floats."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from onnx import NodeProto

from converters.onnx.initializers import Initializers
from converters.onnx.reader import OnnxModel
from converters.onnx.repack import NBits, from_nbits
from converters.onnx.roles import Roles, attributes, find_roles, input_of, window_notes
from converters.parts import Parts, StoredBlock
from converters.widths import HELD_BITS
from phi3quant.errors import CheckpointError, SchemeError
from phi3quant.model.architecture import LINEARS, block_tensor_name, linear_shapes
from phi3quant.notices import notify
from phi3quant.quant.matrix_schemes import MatrixSchemes, matrix_schemes
from phi3quant.quant.scheme import GROUP_SIZES, QuantScheme
from phi3quant.quant.tensor import Quantized, QuantizedTensor
from phi3quant.units import alternatives

_ADVICE = "export it to safetensors"
_NBITS = "MatMulNBits"
# Conversions and transpositions between a stored weight and its product; damaged graphs have loops.
_MOST_STEPS = 8


def onnx_parts(model: OnnxModel) -> Parts:
    """Parts of an ONNX model by any builder that keeps Phi-3's names of modules.

    Embedding and head are read as floats.

    Raises:
        CheckpointError: the graph computes something else than Phi-3.
    """
    file = model.file
    roles = find_roles(model.graph, model.config, file)
    notify(window_notes(model.graph, model.config, file))
    stored = Initializers(file, {entry.name: entry for entry in model.graph.graph.initializer})
    reader = _Reader(model, roles, stored, _transposes(model))
    schemes, unfit = reader.schemes()
    block = partial(reader.block, schemes)
    return Parts(schemes, reader.embedding, block, reader.final_norm, reader.head, unfit)


@dataclass(frozen=True)
class _Reader:
    """Access to a model's weights.

    Attributes:
        model: the model.
        roles: nodes with weights.
        stored: its tensors.
        transposes: inputs of transpositions and conversions, by the name of their output.
    """

    model: OnnxModel
    roles: Roles
    stored: Initializers
    transposes: dict[str, NodeProto]

    def schemes(self) -> tuple[MatrixSchemes | None, str]:
        """Schemes of all matrices, or why there are none; neither for a plain model."""
        nodes = [node for nodes in self.roles.linears.values() for node in nodes]
        coded = [node for node in nodes if node.op_type == _NBITS]
        if not coded:
            return None, ""
        if len(coded) < len(nodes):
            kinds = sorted({str(self._scheme_of(node)) for node in coded})
            return None, (
                f"{self.stored.file} stores matrices as {' and '.join([*kinds, 'floats'])}, and "
                f"other formats need codes for all; {_ADVICE}"
            )
        whole_rows = all(attributes(node)["block_size"] == self._columns(node) for node in coded)
        schemes: dict[str, QuantScheme] = {}
        for (index, key), parts in self.roles.linears.items():
            kinds_of_parts = {self._scheme_of(node) for node in parts}
            if len(kinds_of_parts) > 1:
                return None, (
                    f"{self.stored.file} stores parts of {key} in layer {index} as "
                    f"{' and '.join(sorted(map(str, kinds_of_parts)))}, and other formats need one "
                    f"scheme for each matrix; {_ADVICE}"
                )
            scheme = kinds_of_parts.pop()
            name = block_tensor_name(index, key)
            schemes[name] = replace(scheme, group_size=None) if whole_rows else scheme
        try:
            self._codes(coded[0])
        except SchemeError as error:
            return None, str(error)
        return matrix_schemes(schemes), ""

    def embedding(self) -> torch.Tensor:
        """Token embeddings, floats [vocab, hidden]."""
        node, config = self.roles.embedding, self.model.config
        if node.op_type == "Gather":
            weight = self._floats(input_of(node, 0, self.stored.file))
        else:
            scheme = self._scheme_for(node, config.hidden_size, any(node.input[3:4]))
            names = (*(input_of(node, i, self.stored.file) for i in (0, 2)), *node.input[3:4])
            weight = self._unpacked(names, scheme, config.hidden_size).dequantize()
        return self._shaped(weight, (config.vocab_size, config.hidden_size), node)

    def block(self, schemes: MatrixSchemes | None, index: int) -> StoredBlock:
        """A block, with codes where it has them; of ``schemes``, if these describe all of them."""
        first, second = self.roles.norms[index]
        linears = {key: self._linear(index, key) for key in LINEARS}
        return {
            **{
                key: replace(weight, scheme=schemes.scheme(block_tensor_name(index, key)))
                if schemes is not None and isinstance(weight, QuantizedTensor)
                else weight
                for key, weight in linears.items()
            },
            "input_layernorm": self._norm(first),
            "post_attention_layernorm": self._norm(second),
        }

    def final_norm(self) -> torch.Tensor:
        """The last norm, FP32 [hidden]."""
        return self._norm(self.roles.final_norm)

    def head(self) -> torch.Tensor:
        """The head, floats [vocab, hidden]."""
        node, config = self.roles.head, self.model.config
        weight = self._matrix(node)
        plain = weight if isinstance(weight, torch.Tensor) else weight.dequantize()
        return self._shaped(plain, (config.vocab_size, config.hidden_size), node)

    def _linear(self, index: int, key: str) -> torch.Tensor | Quantized:
        parts = [self._matrix(node) for node in self.roles.linears[index, key]]
        shape = (sum(part.shape[0] for part in parts), parts[0].shape[1])
        expected = linear_shapes(self.model.config)[key]
        if shape != expected:
            raise CheckpointError(
                f"{self.stored.file} has {key} of shape {list(shape)} in layer {index}; "
                f"config.json requires {list(expected)}"
            )
        codes = [part for part in parts if isinstance(part, QuantizedTensor)]
        if len(codes) == len(parts) and len({part.scheme for part in codes}) == 1:
            return _joined(codes)
        return torch.cat(
            [part if isinstance(part, torch.Tensor) else part.dequantize() for part in parts]
        )

    def _matrix(self, node: NodeProto) -> torch.Tensor | QuantizedTensor:
        if node.op_type == _NBITS:
            return self._codes(node)
        # A product takes [columns, rows]: stored so, or transposed and converted on the way.
        name, turned = input_of(node, 1, self.stored.file), True
        for _ in range(_MOST_STEPS):
            step = self.transposes.get(name)
            if step is None:
                break
            turned ^= step.op_type == "Transpose"
            name = input_of(step, 0, self.stored.file)
        weight = self._floats(name)
        if weight.ndim != 2:
            raise CheckpointError(f"{self.stored.file}: tensor {name} is not a matrix")
        return weight.T.contiguous() if turned else weight

    def _floats(self, name: str) -> torch.Tensor:
        tensor = self.stored.load(name)
        if not tensor.is_floating_point():
            raise CheckpointError(
                f"tensor {name} of {self.stored.file} is {tensor.dtype}; weights are floats"
            )
        return tensor

    def _columns(self, node: NodeProto) -> int:
        """Weights in a row of a quantized matrix."""
        columns = attributes(node).get("K")
        if not isinstance(columns, int) or columns < 1:
            raise CheckpointError(f"{self.stored.file}: node {node.name!r} has no K")
        return columns

    def _codes(self, node: NodeProto) -> QuantizedTensor:
        file = self.stored.file
        names = (input_of(node, 1, file), input_of(node, 2, file), *node.input[3:4])
        return self._unpacked(names, self._scheme_of(node), self._columns(node))

    def _unpacked(self, names: Sequence[str], scheme: QuantScheme, columns: int) -> QuantizedTensor:
        weight, scales, *zeros = (self.stored.load(name) for name in names if name)
        where = f"{names[0]} in {self.stored.file}"
        if not scales.is_floating_point():
            raise CheckpointError(f"the scales of {where} are not floats")
        if scales.dtype != torch.float16 and not torch.equal(scales.half().float(), scales.float()):
            raise SchemeError(f"the scales of {where} don't fit FP16; {_ADVICE}")
        try:
            return from_nbits(
                NBits(weight, scales.half(), zeros[0] if zeros else None), scheme, columns
            )
        except CheckpointError as error:
            raise CheckpointError(f"{where} {error}") from None

    def _scheme_of(self, node: NodeProto) -> QuantScheme:
        if any(node.input[4:]):
            raise CheckpointError(
                f"{self.stored.file}: node {node.name!r} has a g_idx or a bias, which Phi-3 models "
                "don't have"
            )
        return self._scheme_for(node, self._columns(node), any(node.input[3:4]))

    def _scheme_for(
        self,
        node: NodeProto,
        columns: int,
        zeros: bool,  # noqa: FBT001 - private
    ) -> QuantScheme:
        settings = attributes(node)
        bits, width = settings.get("bits", 4), settings.get("block_size", 0)
        if bits not in HELD_BITS["onnx"]:
            raise CheckpointError(
                f"{self.stored.file}: node {node.name!r} has {bits} bits; it must have "
                f"{alternatives(HELD_BITS['onnx'])}"
            )
        try:
            return QuantScheme(
                bits,
                None if width == columns and width not in GROUP_SIZES else width,
                symmetric=not zeros,
            )
        except SchemeError as error:
            raise CheckpointError(f"{self.stored.file}: node {node.name!r}: {error}") from None

    def _norm(self, node: NodeProto) -> torch.Tensor:
        place = 1 if node.op_type == "SimplifiedLayerNormalization" else 2
        weight = self._floats(input_of(node, place, self.stored.file)).float()
        return self._shaped(weight, (self.model.config.hidden_size,), node)

    def _shaped(
        self, weight: torch.Tensor, shape: tuple[int, ...], node: NodeProto
    ) -> torch.Tensor:
        if tuple(weight.shape) != shape:
            raise CheckpointError(
                f"{self.stored.file}: the weight of node {node.name!r} is {list(weight.shape)}; "
                f"config.json requires {list(shape)}"
            )
        return weight


def _joined(parts: Sequence[QuantizedTensor]) -> QuantizedTensor:
    """One matrix whose rows are those of several."""
    if len(parts) == 1:
        return parts[0]
    zeros = [part.zero_points for part in parts if part.zero_points is not None]
    return QuantizedTensor(
        parts[0].scheme,
        torch.cat([part.codes for part in parts]),
        torch.cat([part.scales for part in parts]),
        torch.cat(zeros) if zeros else None,
    )


def _transposes(model: OnnxModel) -> dict[str, NodeProto]:
    return {
        node.output[0]: node
        for node in model.graph.graph.node
        if node.op_type in ("Transpose", "Cast")
    }
