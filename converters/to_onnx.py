"""ONNX for onnxruntime and onnxruntime-genai: a graph, and weights streamed beside it."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from converters.half import to_half
from converters.layout import check_groups, linear_shapes
from converters.onnx_data import DataStream, place_tensors, write_file_list
from converters.onnx_file import MODEL_FILE
from converters.onnx_genai import genai_config, generation_ids, write_companions
from converters.onnx_graph import (
    Linears,
    Matrices,
    build_graph,
    model_proto,
    rotary_pieces,
)
from converters.onnx_matrix import CodeMatrix, FloatMatrix, Matrix, Weight
from converters.onnx_options import (
    IR_VERSIONS,
    OnnxOptions,
    storage,
)
from converters.onnx_provenance import fill
from converters.onnx_repack import check_scheme
from converters.writer import Format, Source
from phi3quant.config import Phi3Config
from phi3quant.errors import SchemeError
from phi3quant.layout import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    block_tensor_name,
)
from phi3quant.qblock import QuantizedBlock
from phi3quant.qtensor import Quantized, QuantizedTensor
from phi3quant.scheme import QuantScheme

_HEAD_MULTIPLE = 16
_HALVES = ("gate_proj", "up_proj")
"""What gate_up_proj is cut into: one product for both would be cut again at every step."""


class OnnxWriter:
    """Streams a model into ``FOLDER/model.onnx`` and its data files."""

    def __init__(
        self,
        folder: Path,
        source: Source,
        scheme: QuantScheme | None,
        options: OnnxOptions | None = None,
    ) -> None:
        options = options or OnnxOptions()
        config = source.config
        self._folder, self._source, self._config = folder, source, config
        self._coded = scheme is not None
        stops = generation_ids(source.folder, config)
        self._settings = genai_config(config, stops, MODEL_FILE)
        self._matrices = plan_matrices(config, scheme, options)
        graph = build_graph(config, self._matrices, options.accuracy_level)
        places = place_tensors(graph.stored, options.split_bytes)
        folder.mkdir(parents=True, exist_ok=True)
        versions = (options.opset, IR_VERSIONS[options.opset])
        proto = model_proto(graph, config, self._matrices.io, versions, places)
        (folder / MODEL_FILE).write_bytes(proto.SerializeToString())
        self._data = DataStream(folder, graph.stored, places)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._data.__exit__(kind, error, trace)
        if kind is None:
            write_companions(self._folder, self._source, self._settings)
            write_file_list(self._folder, self._data.files)

    def embedding(self, weight: torch.Tensor) -> None:
        """Write the token embeddings [vocab, hidden], and a tied head; comes first."""
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
        """Write the next block from its tensors by their short names."""
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

    def final(self, norm: torch.Tensor, head: torch.Tensor | None) -> None:
        """Write the last norm [hidden] and, of an untied model, the head [vocab, hidden]."""
        self._norm(FINAL_NORM, norm)
        if head is not None:
            self._matrix(self._matrices.head, head)

    def _matrix(self, matrix: Matrix, weight: Weight) -> None:
        for name, pieces in matrix.pieces(weight):
            self._data.write(name, pieces)

    def _norm(self, name: str, weight: Weight) -> None:
        assert isinstance(weight, torch.Tensor)
        # Packed folders store norms as FP16, and what goes with the same codes must be the same.
        io = self._matrices.io
        rounded = to_half(name, weight) if self._coded or io == torch.float16 else weight
        self._data.write(name, [rounded.to(io)])


def plan_matrices(config: Phi3Config, scheme: QuantScheme | None, options: OnnxOptions) -> Matrices:
    """How every matrix of a model is stored.

    Args:
        config: the model's sizes.
        scheme: of the blocks' codes; None: they are plain, in the io type.
        options: for the rest.

    Raises:
        SchemeError: the operators can't hold this.
    """
    io = options.io_dtype
    shapes = {}
    for name, (rows, columns) in linear_shapes(config).items():
        halves = dict.fromkeys(_HALVES, (rows // 2, columns))
        shapes.update(halves if name == "gate_up_proj" else {name: (rows, columns)})

    def matrix(name: str, shape: tuple[int, int], kind: QuantScheme | torch.dtype) -> Matrix:
        if isinstance(kind, torch.dtype):
            return FloatMatrix(name, *shape, kind, io)
        check_scheme(kind)
        return CodeMatrix(name, *shape, kind, io)

    blocks: list[Linears] = []
    for index in range(config.num_hidden_layers):
        prefix = f"model.layers.{index}."
        homes = dict.fromkeys(shapes, "mlp") | dict.fromkeys(("qkv_proj", "o_proj"), "self_attn")
        blocks.append(
            {
                name: matrix(f"{prefix}{homes[name]}.{name}", shape, scheme or io)
                for name, shape in shapes.items()
            }
        )
    wide = (config.vocab_size, config.hidden_size)
    embedding, head = (_stem(name) for name in (EMBEDDING, HEAD))
    settled = options.settled(config, scheme)
    if config.tie_word_embeddings and settled.embedding == settled.head:
        head = embedding
    return Matrices(
        matrix(embedding, wide, storage(settled.embedding)),
        matrix(head, wide, storage(settled.head)),
        tuple(blocks),
        io,
    )


def nbytes(config: Phi3Config, scheme: QuantScheme | None, options: OnnxOptions) -> int:
    """Bytes of all tensors, with what alignment adds.

    Raises:
        SchemeError: as plan_matrices.
    """
    graph = build_graph(config, plan_matrices(config, scheme, options), options.accuracy_level)
    places = place_tensors(graph.stored, None)
    return max(place.offset + place.nbytes for place in places.values())


def check(scheme: QuantScheme | None, config: Phi3Config, options: OnnxOptions) -> None:
    """Refuse what can't be written, before any work.

    Raises:
        SchemeError: the operators can't hold this scheme, these options or a model of these sizes.
    """
    _check_heads(config)
    if scheme is not None:
        check_scheme(scheme)
        check_groups(scheme, config)
    nbytes(config, scheme, options)


def onnx_format(options: OnnxOptions) -> Format:
    """ONNX with these options."""
    return Format(
        name="onnx",
        title="ONNX",
        check=lambda scheme, config: check(scheme, config, options),
        nbytes=lambda config, scheme: nbytes(config, scheme, options),
        open=lambda folder, source, scheme: OnnxWriter(folder, source, scheme, options),
        embed=fill,
    )


FORMAT = onnx_format(OnnxOptions())


def _check_heads(config: Phi3Config) -> None:
    """The sizes that GroupQueryAttention takes on a CPU."""
    if config.head_dim % _HEAD_MULTIPLE or config.rotary_dim % _HEAD_MULTIPLE:
        raise SchemeError(
            f"ONNX's GroupQueryAttention takes heads, and the part of them that rotates, in "
            f"multiples of {_HEAD_MULTIPLE} values; this model's have {config.head_dim}, of which "
            f"{config.rotary_dim} rotate. Export gguf instead"
        )


def _halves(weight: Weight) -> tuple[Weight, Weight]:
    """The rows of gate_up_proj as two matrices."""
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


def _stem(name: str) -> str:
    return name.removesuffix(".weight")
