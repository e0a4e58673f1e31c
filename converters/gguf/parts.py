"""Stored parts of GGUF models: codes of the types that hold affine schemes, other blocks as is."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from gguf import GGMLQuantizationType

from converters.gguf.reader import GgufCheckpoint
from converters.gguf.repack import unpack
from converters.parts import Parts, StoredBlock
from phi3quant.errors import CheckpointError, SchemeError
from phi3quant.model.architecture import BLOCK_TENSORS, LINEARS
from phi3quant.quant.codecs.ggml_blocks import TYPES, BlockTensor
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.tensor import Quantized

_Types = GGMLQuantizationType
_FLOATS = (_Types.F32, _Types.F16, _Types.BF16)

SCHEMES: Mapping[GGMLQuantizationType, QuantScheme] = {
    _Types.Q4_0: QuantScheme(4, 32),
    _Types.Q4_1: QuantScheme(4, 32, symmetric=False),
    _Types.Q8_0: QuantScheme(8, 32),
}
"""Schemes whose codes a block type holds."""


def gguf_parts(model: GgufCheckpoint) -> Parts:
    """Parts of a GGUF model.

    Embedding and head are read as floats. A matrix in several tensors of one type is joined.
    """
    scheme, unfit = _scheme(model)
    if scheme is not None and not scheme.symmetric:
        unfit = _unfit_minima(model)
        scheme = None if unfit else scheme

    def block(index: int) -> StoredBlock:
        return {
            key: _stored(model, model.tensor_names(index, key), scheme)
            if key in LINEARS
            else model.model.load(*model.tensor_names(index, key))
            for key in BLOCK_TENSORS
        }

    return Parts(scheme, model.embedding, block, model.final_norm, model.head, unfit)


def _scheme(model: GgufCheckpoint) -> tuple[QuantScheme | None, str]:
    """Scheme of all matrices, or why there is none; neither for a plain model."""
    types = {
        name: model.model.tensors[name].type
        for index in range(model.config.num_hidden_layers)
        for key in LINEARS
        for name in model.tensor_names(index, key)
    }
    kinds = set(types.values())
    if kinds <= set(_FLOATS):
        return None, ""
    names = " and ".join(sorted(kind.name for kind in kinds))
    if len(kinds) > 1:
        return None, (
            f"{model.path} stores matrices as {names}, and other formats need one scheme for all; "
            + _ADVICE
        )
    (kind,) = kinds
    if kind not in SCHEMES:
        return None, (
            f"{model.path} stores matrices as {names}, whose codes no other format holds; {_ADVICE}"
        )
    return SCHEMES[kind], ""


_ADVICE = "export it to safetensors"


def _unfit_minima(model: GgufCheckpoint) -> str:
    """Reason why the codes of Q4_1 have no zero points; empty if they do. Reads all matrices."""
    scheme = SCHEMES[_Types.Q4_1]
    try:
        for index in range(model.config.num_hidden_layers):
            for key in LINEARS:
                _stored(model, model.tensor_names(index, key), scheme)
    except SchemeError as error:
        return str(error)
    return ""


def _stored(
    model: GgufCheckpoint, names: Sequence[str], scheme: QuantScheme | None
) -> torch.Tensor | Quantized:
    """A matrix, from the tensors that hold its rows; as codes of ``scheme``, if there is one."""
    kinds = {model.model.tensors[name].type for name in names}
    (kind,) = kinds if len(kinds) == 1 else (None,)
    if kind is None or kind in _FLOATS or kind.name not in TYPES:
        return torch.cat([model.model.load(name) for name in names])
    tensors = [model.model.tensors[name] for name in names]
    data = np.concatenate([model.model.load_bytes(name) for name in names])
    columns = tensors[0].shape[1]
    if scheme is None:
        return BlockTensor(TYPES[kind.name], data, (len(data), columns))
    try:
        return unpack(data, scheme, columns)
    except SchemeError as error:
        raise SchemeError(f"{names[0]} in {model.path} {error}; {_ADVICE}") from None
    except CheckpointError as error:
        raise CheckpointError(f"{names[0]} in {model.path} {error}") from None
