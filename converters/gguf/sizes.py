"""Contents of a GGUF file as names, types and shapes, for sizes without loading torch."""

import math
import re
from collections import Counter
from collections.abc import Mapping

from gguf import LlamaFileType

from converters.gguf.names import ROPE_LONG, ROPE_SHORT, block_name, gguf_name, outer_name
from converters.gguf.type_policy import (
    FILE_TYPES,
    MIXED,
    FileType,
    check_overrides,
    file_type,
    linear_type,
    matrix_type,
)
from converters.widths import HELD_BITS, holders
from phi3quant.errors import SchemeError
from phi3quant.model.architecture import (
    BLOCK_TENSORS,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    LINEARS,
    Shape,
    block_tensor_name,
)
from phi3quant.model.config import Phi3Config
from phi3quant.quant.ggml_types import BLOCK_SIZES, BlockSize
from phi3quant.quant.matrix_schemes import MatrixSchemes
from phi3quant.quant.scheme import QuantScheme
from phi3quant.units import alternatives

BLOCK = 32
"""Weights in a block of the legacy quantized types."""

FLOATS = ("F32", "F16", "BF16")
"""Types without codes."""

ALIGNMENT = 32
"""Bytes to a multiple of which every tensor's offset is aligned."""

_MIXES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
"""Recipes by their most frequent type, where the names differ."""

_ROOM, _ROOM_PER_BLOCK = 24_576, 1024


def type_name_for(scheme: QuantScheme) -> str:
    """Name of the block type that holds a scheme's codes unchanged.

    Raises:
        SchemeError: there is none.
    """
    if scheme.bits not in HELD_BITS["gguf"]:
        raise SchemeError(
            f"GGUF has no type for {scheme}; choose one of its own, such as Q3_K_M or Q6_K, "
            f"or export {alternatives(holders(scheme.bits))}"
        )
    kinds = {(4, True): "Q4_0", (4, False): "Q4_1", (8, True): "Q8_0"}
    kind = kinds.get((scheme.bits, scheme.symmetric))
    if kind is None:
        raise SchemeError(
            f"GGUF has no type for {scheme}; choose --sym for 8 bits, or compressed-tensors"
        )
    if scheme.group_size is not None and scheme.group_size % BLOCK:
        raise SchemeError(
            f"GGUF's blocks hold {BLOCK} weights, so groups of {scheme.group_size} don't fit; "
            f"choose a group size of {BLOCK} or more"
        )
    return kind


def holds(type_name: str, scheme: QuantScheme) -> bool:
    """Whether a block type holds a scheme's codes unchanged."""
    try:
        return type_name_for(scheme) == type_name
    except SchemeError:
        return False


def natural_type(schemes: MatrixSchemes) -> FileType:
    """Recipe that keeps the codes of these schemes unchanged.

    Raises:
        SchemeError: GGUF has no type for them.
    """
    base, overrides = type_name_for(schemes.base), []
    for name, scheme in schemes.others.items():
        try:
            kind = type_name_for(scheme)
        except SchemeError as error:
            raise SchemeError(f"{name}: {error}") from None
        overrides.append(f"^{re.escape(gguf_name(name))}$={kind}")
    return file_type(base, overrides)


def tensor_types(kind: FileType, config: Phi3Config) -> dict[str, tuple[BlockSize, Shape]]:
    """Type and shape of every tensor, in the order of writing.

    Raises:
        SchemeError: a type doesn't fit the model's rows, or llama.cpp can't compute its heads.
    """
    if config.query_rows != config.hidden_size:
        raise SchemeError(
            f"llama.cpp computes {config.num_attention_heads} heads of "
            f"{config.hidden_size // config.num_attention_heads} values for Phi-3 models of "
            f"hidden_size {config.hidden_size}, not of head_dim {config.head_dim}; "
            "choose another format than GGUF"
        )
    full = BLOCK_SIZES["F32"]
    types: dict[str, tuple[BlockSize, Shape]] = {}
    if config.long_rope is not None:
        for name in (ROPE_LONG, ROPE_SHORT):
            types[name] = (full, (config.rotary_dim // 2,))
    wide = (config.vocab_size, config.hidden_size)
    types[outer_name(EMBEDDING)] = (matrix_type(kind, EMBEDDING, config), wide)
    for index in range(config.num_hidden_layers):
        for key, role in BLOCK_TENSORS.items():
            shape = role.shape(config)
            chosen = linear_type(kind, key, index, config, shape[-1]) if key in LINEARS else full
            types[block_name(index, key)] = (chosen, shape)
    types[outer_name(FINAL_NORM)] = (full, (config.hidden_size,))
    if not config.tie_word_embeddings:
        types[outer_name(HEAD)] = (matrix_type(kind, HEAD, config), wide)
    check_overrides(kind, types)
    _check_limits(kind, types)
    return types


def linear_types(kind: FileType, config: Phi3Config) -> dict[str, BlockSize]:
    """Type of the matrices of all blocks, by their names in the checkpoint."""
    types = tensor_types(kind, config)
    return {
        block_tensor_name(index, key): types[block_name(index, key)][0]
        for index in range(config.num_hidden_layers)
        for key in LINEARS
    }


def _check_limits(kind: FileType, types: Mapping[str, tuple[BlockSize, Shape]]) -> None:
    for name, (size, _) in types.items():
        if kind.limits is not None and size.name not in kind.limits.types:
            raise SchemeError(
                f"tensor {name} would be {size.name}, but the profile {kind.limits.profile} allows "
                f"only {', '.join(kind.limits.types)}; set another type with --tensor-type"
            )


def limit_notes(kind: FileType, config: Phi3Config) -> list[str]:
    """Notes on limits that a file exceeds without becoming useless.

    Raises:
        SchemeError: as tensor_types.
    """
    limit = None if kind.limits is None else kind.limits.session_bytes
    if limit is None:
        return []
    # Rows of an untied embedding are looked up by the CPU.
    looked_up = None if config.tie_word_embeddings else outer_name(EMBEDDING)
    size = sum(
        tensor_bytes(entry, shape)
        for name, (entry, shape) in tensor_types(kind, config).items()
        if name != looked_up
    )
    if size <= limit:
        return []
    sessions = -(-size // limit)
    note = (
        f"{size / 1e9:.2f} GB of weights exceed the {limit / 1e9:.2f} GB that an NPU session "
        f"holds for certain; start llama.cpp with {sessions} sessions "
        f"(GGML_HEXAGON_DEVICES={sessions})"
    )
    return [note]


def file_number(kind: FileType, config: Phi3Config) -> LlamaFileType:
    """Value of general.file_type; a mixture gets that of the type with the most bytes.

    Runtimes only display it; every tensor has its own type.
    """
    if kind.name != MIXED.name:
        return kind.number
    sizes: Counter[str] = Counter()
    for entry, shape in tensor_types(kind, config).values():
        sizes[entry.name] += tensor_bytes(entry, shape)
    name = sizes.most_common(1)[0][0]
    return FILE_TYPES[_MIXES.get(name, name)].number


def tensor_bytes(entry: BlockSize, shape: Shape) -> int:
    """Bytes of a tensor of a given type and shape."""
    return entry.row_bytes(shape[-1]) * math.prod(shape[:-1])


def nbytes(kind: FileType, config: Phi3Config) -> int:
    """Bytes of all tensors of a file of this kind."""
    return sum(tensor_bytes(entry, shape) for entry, shape in tensor_types(kind, config).values())


def manifest_room(config: Phi3Config) -> int:
    """Bytes reserved in a file for its manifest.

    Most of a manifest consists of the errors of linears in each block, the rest of hashes of source
    files.
    """
    return _ROOM + _ROOM_PER_BLOCK * config.num_hidden_layers
