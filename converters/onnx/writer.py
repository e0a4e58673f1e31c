"""Writer of ONNX folders: a graph for onnxruntime(-genai), and weights streamed next to it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from converters.format import Format, Source
from converters.half import to_half
from converters.onnx.data import DataStream, write_file_list
from converters.onnx.embedded_manifest import fill
from converters.onnx.file import MODEL_FILE
from converters.onnx.genai import genai_config, generation_ids, write_companions
from converters.onnx.graph import (
    Matrices,
    build_graph,
    model_proto,
    rotary_pieces,
)
from converters.onnx.matrix import Matrix, Weight, matrix
from converters.onnx.options import (
    IR_VERSIONS,
    OnnxOptions,
)
from converters.onnx.sizes import (
    PlannedMatrices,
    check,
    nbytes,
    place_tensors,
    plan_matrices,
    stored_tensors,
)
from phi3quant.disk.tensor_stream import DTYPES, spec_of
from phi3quant.model.architecture import (
    FINAL_NORM,
    block_tensor_name,
)
from phi3quant.notices import notify
from phi3quant.quant.block import QuantizedBlock, rounded_norm
from phi3quant.quant.matrix_schemes import MatrixSchemes
from phi3quant.quant.tensor import Quantized, QuantizedTensor


class OnnxWriter:
    """Writer of a model into ``FOLDER/model.onnx`` and its data files."""

    def __init__(
        self,
        folder: Path,
        source: Source,
        schemes: MatrixSchemes | None,
        options: OnnxOptions | None = None,
    ) -> None:
        options = options or OnnxOptions()
        config = source.config
        self._folder, self._source, self._config = folder, source, config
        self._coded = schemes is not None
        stops = generation_ids(source.folder, config, source.tokenizer)
        self._settings = genai_config(config, stops, MODEL_FILE)
        notify(_notes(options, options.settled(config, coded=self._coded)))
        plan = plan_matrices(config, schemes, options)
        self._matrices = _matrices(plan)
        graph = build_graph(config, self._matrices, options.accuracy_level)
        # The plan that sizes are computed from must be the one that is written.
        specs = [spec_of(planned) for planned in stored_tensors(config, plan)]
        assert graph.stored == specs
        places = place_tensors(specs, options.split_bytes)
        folder.mkdir(parents=True, exist_ok=True)
        versions = (options.opset, IR_VERSIONS[options.opset])
        proto = model_proto(graph, config, self._matrices.io, versions, places)
        (folder / MODEL_FILE).write_bytes(proto.SerializeToString())
        self._data = DataStream(folder, specs, places)

    def complete(self) -> None:
        """See Completable."""
        self._data.complete()
        write_companions(self._folder, self._source, self._settings)
        write_file_list(self._folder, self._data.files)

    def abandon(self) -> None:
        """See Completable."""
        self._data.abandon()

    @property
    def hashed(self) -> Mapping[str, Mapping[str, Any]]:
        """See ModelWriter."""
        return self._data.files

    def embedding(self, weight: torch.Tensor | Quantized) -> None:
        """Write the token embeddings [vocab, hidden] and a tied head; called first."""
        matrices = self._matrices
        self._matrix(matrices.embedding, weight)
        if self._config.tie_word_embeddings and matrices.head.name != matrices.embedding.name:
            self._matrix(matrices.head, weight)
        for name, table in rotary_pieces(self._config, matrices.io).items():
            self._data.write(name, [table])

    def block(self, index: int, block: QuantizedBlock) -> None:
        """Write the next block."""
        self.tensors(index, {**block.norms, **block.linears})

    def tensors(self, index: int, block: Mapping[str, torch.Tensor | Quantized]) -> None:
        """Write the next block, given its tensors by short name."""
        linears = self._matrices.blocks[index]
        gate, up = _halves(block["gate_up_proj"])
        self._norm(block_tensor_name(index, "input_layernorm"), block["input_layernorm"])
        self._matrix(linears["qkv_proj"], block["qkv_proj"])
        self._matrix(linears["o_proj"], block["o_proj"])
        name = "post_attention_layernorm"
        self._norm(block_tensor_name(index, name), block[name])
        self._matrix(linears["gate_proj"], gate)
        self._matrix(linears["up_proj"], up)
        self._matrix(linears["down_proj"], block["down_proj"])

    def final(self, norm: torch.Tensor, head: torch.Tensor | Quantized | None) -> None:
        """Write the last norm [hidden] and an untied head [vocab, hidden]."""
        self._norm(FINAL_NORM, norm)
        if head is not None:
            self._matrix(self._matrices.head, head)

    def _matrix(self, matrix: Matrix, weight: Weight) -> None:
        for name, pieces in matrix.pieces(weight):
            self._data.write(name, pieces)

    def _norm(self, name: str, weight: Weight) -> None:
        assert isinstance(weight, torch.Tensor)
        io = self._matrices.io
        rounded = weight
        if io == torch.float16:
            rounded = to_half(name, weight)
        elif self._coded:
            # Packed folders store norms as FP16; models with the same codes must have equal norms.
            rounded = rounded_norm(weight)
        self._data.write(name, [rounded.to(io)])


def _notes(options: OnnxOptions, settled: OnnxOptions) -> list[str]:
    """Note on a chosen type that a tied model doesn't get."""
    if options.embedding in (None, settled.embedding):
        return []
    note = (
        f"embedding and head of this model are one matrix, stored as {settled.head}; choose "
        f"{options.embedding} as the head's type to store both so"
    )
    return [note]


def _matrices(plan: PlannedMatrices) -> Matrices:
    """Matrices in the form that a plan gives them."""
    blocks = tuple(
        {name: matrix(linear) for name, linear in linears.items()} for linears in plan.blocks
    )
    return Matrices(matrix(plan.embedding), matrix(plan.head), blocks, DTYPES[plan.io])


def onnx_format(options: OnnxOptions) -> Format:
    """Format for ONNX with these options."""
    return Format(
        name="onnx",
        title="ONNX",
        check=lambda schemes, config: check(schemes, config, options),
        nbytes=lambda config, schemes: nbytes(config, schemes, options),
        open=lambda folder, source, schemes: OnnxWriter(folder, source, schemes, options),
        embed=fill,
    )


FORMAT = onnx_format(OnnxOptions())


def _halves(weight: Weight) -> tuple[Weight, Weight]:
    """Split the rows of gate_up_proj into two matrices."""
    if isinstance(weight, torch.Tensor):
        return weight[: len(weight) // 2], weight[len(weight) // 2 :]
    if not isinstance(weight, QuantizedTensor):
        raise TypeError(f"ONNX holds codes, not a {type(weight).__name__}")
    codes, scales = weight.codes.chunk(2), weight.scales.chunk(2)
    zeros = (None, None) if weight.zero_points is None else weight.zero_points.chunk(2)
    gate, up = (
        QuantizedTensor(weight.scheme, *parts) for parts in zip(codes, scales, zeros, strict=True)
    )
    return gate, up
