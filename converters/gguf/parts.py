"""Stored parts of GGUF models: codes of the types that hold affine schemes, other blocks as is."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from converters.gguf.names import outer_name
from converters.gguf.reader import GgufCheckpoint
from converters.gguf.repack import AFFINE, unpack
from converters.gguf.sizes import FLOATS
from converters.parts import Parts, StoredBlock
from phi3quant.errors import CheckpointError
from phi3quant.model.architecture import BLOCK_TENSORS, EMBEDDING, HEAD, LINEARS, block_tensor_name
from phi3quant.quant.codecs.ggml_blocks import TYPES, BlockTensor
from phi3quant.quant.matrix_schemes import MatrixSchemes, matrix_schemes
from phi3quant.quant.offset_tensor import OffsetTensor
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.tensor import Quantized

_ADVICE = "export it to safetensors"


def gguf_parts(model: GgufCheckpoint) -> Parts:
    """Parts of a GGUF model.

    Embedding and head are read as floats. A matrix in several tensors of one type is joined.
    """
    schemes, unfit = _schemes(model)
    offsets = "" if schemes is None else _real_minima(model, schemes)

    def block(index: int) -> StoredBlock:
        return {
            key: _stored(
                model,
                model.tensor_names(index, key),
                None if schemes is None else schemes.scheme(block_tensor_name(index, key)),
            )
            if key in LINEARS
            else model.model.load(*model.tensor_names(index, key))
            for key in BLOCK_TENSORS
        }

    return Parts(schemes, model.embedding, block, model.final_norm, model.head, unfit, offsets)


def with_stored_ends(model: GgufCheckpoint, parts: Parts) -> Parts:
    """Parts whose embedding and head are blocks as they are stored, for another GGUF file."""
    head = EMBEDDING if model.config.tie_word_embeddings else HEAD
    return replace(
        parts,
        embedding=partial(_stored, model, (outer_name(EMBEDDING),), None),
        head=partial(_stored, model, (outer_name(head),), None),
    )


def _schemes(model: GgufCheckpoint) -> tuple[MatrixSchemes | None, str]:
    """Schemes of all matrices, or why there are none; neither for a plain model."""
    kinds = {
        block_tensor_name(index, key): {
            model.model.tensors[name].type.name for name in model.tensor_names(index, key)
        }
        for index in range(model.config.num_hidden_layers)
        for key in LINEARS
    }
    every = set().union(*kinds.values())
    if every <= set(FLOATS):
        return None, ""
    unknown = every - AFFINE.keys() - {*FLOATS}
    if unknown:
        return None, (
            f"{model.path} stores matrices as {' and '.join(sorted(unknown))}, whose codes no "
            f"other format holds; {_ADVICE}"
        )
    if every & {*FLOATS}:
        return None, (
            f"{model.path} stores matrices as {' and '.join(sorted(every))}, and other formats "
            f"need codes for all; {_ADVICE}"
        )
    for name, types in kinds.items():
        if len(types) > 1:
            return None, (
                f"{model.path} stores parts of {name} as {' and '.join(sorted(types))}, and other "
                f"formats need one scheme for each matrix; {_ADVICE}"
            )
    return matrix_schemes({name: AFFINE[kind] for name, (kind,) in kinds.items()}), ""


def _real_minima(model: GgufCheckpoint, schemes: MatrixSchemes) -> str:
    """Reason why codes of Q4_1 have no zero points; empty if they do. Reads all of them."""
    for index in range(model.config.num_hidden_layers):
        for key in LINEARS:
            scheme = schemes.scheme(block_tensor_name(index, key))
            names = model.tensor_names(index, key)
            if not scheme.symmetric and isinstance(_stored(model, names, scheme), OffsetTensor):
                return (
                    f"{names[0]} in {model.path} has minima that are not zero points times scales; "
                    "export mlx, gguf or safetensors"
                )
    return ""


def _stored(
    model: GgufCheckpoint, names: Sequence[str], scheme: QuantScheme | None
) -> torch.Tensor | Quantized:
    """A matrix, from the tensors that hold its rows; as codes of ``scheme``, if there is one."""
    kind, *others = {model.model.tensors[name].type.name for name in names}
    if others or kind in FLOATS or kind not in TYPES:
        return torch.cat([model.model.load(name) for name in names])
    data = np.concatenate([model.model.load_bytes(name) for name in names])
    columns = model.model.tensors[names[0]].shape[1]
    if scheme is None:
        return BlockTensor(TYPES[kind], data, (len(data), columns))
    try:
        return unpack(data, scheme, columns)
    except CheckpointError as error:
        raise CheckpointError(f"{names[0]} in {model.path} {error}") from None
