"""Contents of an ONNX folder as names, types, shapes and places, without loading torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from converters.onnx.options import FLOATS, OnnxOptions, storage
from converters.widths import check_bits
from phi3quant.disk.tensor_plan import PlannedTensor
from phi3quant.errors import SchemeError
from phi3quant.model.architecture import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    block_tensor_name,
    linear_shapes,
)
from phi3quant.model.config import Phi3Config
from phi3quant.quant.matrix_schemes import MatrixSchemes, check_groups
from phi3quant.quant.scheme import GROUP_SIZES, QuantScheme

DATA_FILE = "model.onnx.data"

# Alignment for mapping into memory, enough on every system; smaller tensors are copied anyway.
_PAGE, _SMALL_PAGE = 64 << 10, 64
_LARGE = 1 << 20
_HEAD_MULTIPLE = 16
_HALVES = ("gate_proj", "up_proj")
"""Halves of gate_up_proj: the result of a single product would be split at every step."""


class Announced(Protocol):
    """Name and size of a tensor."""

    @property
    def name(self) -> str:
        """Name of the tensor."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""


@dataclass(frozen=True)
class Place:
    """Place of a tensor's bytes."""

    file: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class PlannedMatrix:
    """Storage of a matrix.

    Attributes:
        name: common start of its tensors' names.
        rows, columns: outputs and inputs.
        storage: scheme of its codes, or type of its floats.
        io: type of activations and stored scales.
    """

    name: str
    rows: int
    columns: int
    storage: QuantScheme | str
    io: str

    def tensors(self) -> list[PlannedTensor]:
        """Tensors of the matrix, in the order of writing."""
        scheme = self.storage
        if isinstance(scheme, str):
            return [PlannedTensor(f"{self.name}.weight", scheme, (self.rows, self.columns))]
        bits, width = scheme.bits, scheme.group_width(self.columns)
        groups = self.columns // width
        blocks = (self.rows, groups, width * bits // 8)
        planned = [
            PlannedTensor(f"{self.name}.qweight", "U8", blocks),
            PlannedTensor(f"{self.name}.scales", self.io, (self.rows, groups)),
        ]
        if not scheme.symmetric:
            zeros = (self.rows, zero_point_bytes(groups, bits))
            planned.append(PlannedTensor(f"{self.name}.qzeros", "U8", zeros))
        return planned


@dataclass(frozen=True)
class PlannedMatrices:
    """Storage of all matrices of a model.

    Attributes:
        embedding, head: matrices with the same name if they share their tensors.
        blocks: qkv_proj, o_proj, gate_proj, up_proj and down_proj of each block.
        io: type of activations.
    """

    embedding: PlannedMatrix
    head: PlannedMatrix
    blocks: tuple[Mapping[str, PlannedMatrix], ...]
    io: str


def plan_matrices(
    config: Phi3Config, schemes: MatrixSchemes | None, options: OnnxOptions
) -> PlannedMatrices:
    """Plan the storage of every matrix of a model.

    Args:
        config: configuration of the model.
        schemes: schemes of the blocks' codes; None for floats of the io type.
        options: options for everything else.

    Raises:
        SchemeError: the operators can't hold a scheme.
    """
    io = FLOATS[options.io]
    # Shape of each matrix in the graph, and the linear with its rows.
    shapes: dict[str, tuple[tuple[int, int], str]] = {}
    for key, (rows, columns) in linear_shapes(config).items():
        halves = dict.fromkeys(_HALVES, ((rows // 2, columns), key))
        shapes.update(halves if key == "gate_up_proj" else {key: ((rows, columns), key)})

    def matrix(name: str, shape: tuple[int, int], kind: QuantScheme | str) -> PlannedMatrix:
        if isinstance(kind, QuantScheme):
            check_scheme(kind)
        return PlannedMatrix(name, *shape, kind, io)

    def stored(index: int, key: str) -> QuantScheme | str:
        return io if schemes is None else schemes.scheme(block_tensor_name(index, key))

    homes = dict.fromkeys(shapes, "mlp") | dict.fromkeys(("qkv_proj", "o_proj"), "self_attn")
    blocks = tuple(
        {
            name: matrix(f"model.layers.{index}.{homes[name]}.{name}", shape, stored(index, key))
            for name, (shape, key) in shapes.items()
        }
        for index in range(config.num_hidden_layers)
    )
    wide = (config.vocab_size, config.hidden_size)
    embedding, head = (name.removesuffix(".weight") for name in (EMBEDDING, HEAD))
    settled = options.settled(config, coded=schemes is not None)
    if config.tie_word_embeddings and settled.embedding == settled.head:
        head = embedding
    return PlannedMatrices(
        matrix(embedding, wide, storage(settled.embedding)),
        matrix(head, wide, storage(settled.head)),
        blocks,
        io,
    )


def stored_tensors(config: Phi3Config, matrices: PlannedMatrices) -> list[PlannedTensor]:
    """All tensors of the data files, in the order of writing, which is the order of use."""
    tied = config.tie_word_embeddings
    apart = matrices.head.name != matrices.embedding.name
    planned = matrices.embedding.tensors()
    if tied and apart:
        # A tied head with another storage is written while the embedding is in memory.
        planned += matrices.head.tensors()
    planned += [
        PlannedTensor(f"{table}_cache{ending}", matrices.io, (length, config.rotary_dim // 2))
        for ending, length in rotary_lengths(config).items()
        for table in ("cos", "sin")
    ]
    for index, linears in enumerate(matrices.blocks):
        before, after = (
            PlannedTensor(block_tensor_name(index, key), matrices.io, (config.hidden_size,))
            for key in ("input_layernorm", "post_attention_layernorm")
        )
        planned += [before, *linears["qkv_proj"].tensors(), *linears["o_proj"].tensors(), after]
        for name in (*_HALVES, "down_proj"):
            planned += linears[name].tensors()
    planned.append(PlannedTensor(FINAL_NORM, matrices.io, (config.hidden_size,)))
    return planned if tied else planned + matrices.head.tensors()


def rotary_lengths(config: Phi3Config) -> dict[str, int]:
    """Positions by pair of tables: LongRoPE has two, unless no text reaches the second."""
    original, longest = config.original_max_position_embeddings, config.max_position_embeddings
    if config.long_rope is None or longest <= original:
        return {"": longest}
    return {"_short": original, "_long": longest}


def place_tensors(specs: Sequence[Announced], split_bytes: int | None) -> dict[str, Place]:
    """Assign places to tensors, in their order.

    Args:
        specs: names and sizes of the tensors.
        split_bytes: size limit of a file; a larger tensor gets a file of its own.
    """
    places: dict[str, Place] = {}
    number, end = 0, 0
    for spec in specs:
        page = _PAGE if spec.nbytes >= _LARGE else _SMALL_PAGE
        offset = -(-end // page) * page
        if split_bytes is not None and offset and offset + spec.nbytes > split_bytes:
            number, offset = number + 1, 0
        file = f"{DATA_FILE}_{number}" if number else DATA_FILE
        places[spec.name] = Place(file, offset, spec.nbytes)
        end = offset + spec.nbytes
    return places


def nbytes(config: Phi3Config, schemes: MatrixSchemes | None, options: OnnxOptions) -> int:
    """Bytes of all tensors, including alignment.

    Raises:
        SchemeError: as plan_matrices.
    """
    places = place_tensors(
        stored_tensors(config, plan_matrices(config, schemes, options)), split_bytes=None
    )
    return max(place.offset + place.nbytes for place in places.values())


def check(schemes: MatrixSchemes | None, config: Phi3Config, options: OnnxOptions) -> None:
    """Refuse models and options that can't be written, before any work.

    Raises:
        SchemeError: the operators can't hold a scheme, the options or a model of these sizes.
    """
    _check_heads(config)
    if schemes is not None:
        for scheme in schemes.distinct:
            check_scheme(scheme)
        check_groups(schemes, config)
    nbytes(config, schemes, options)


def check_scheme(scheme: QuantScheme) -> None:
    """Refuse schemes that MatMulNBits can't hold.

    Raises:
        SchemeError: the scheme has other bits than 4 and 8, or one scale for a whole row.
    """
    check_bits("onnx", "ONNX's MatMulNBits", MatrixSchemes(scheme))
    if scheme.group_size is None:
        raise SchemeError(
            "ONNX's MatMulNBits has no scale for whole rows; it holds 4 and 8 bits, symmetric or "
            f"asymmetric, in groups of {', '.join(map(str, GROUP_SIZES))}: choose a --group-size"
        )


def zero_point_bytes(groups: int, bits: int) -> int:
    """Bytes of a row's zero points."""
    return -(-groups * bits // 8)


def _check_heads(config: Phi3Config) -> None:
    """Refuse sizes of heads that GroupQueryAttention doesn't support on a CPU."""
    if config.head_dim % _HEAD_MULTIPLE or config.rotary_dim % _HEAD_MULTIPLE:
        raise SchemeError(
            f"ONNX's GroupQueryAttention requires heads, and their rotated parts, in multiples of "
            f"{_HEAD_MULTIPLE} values; this model's have {config.head_dim}, of which "
            f"{config.rotary_dim} are rotated. Export gguf instead"
        )
