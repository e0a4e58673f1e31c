"""Stored parts of GGUF models: codes of the types that hold affine schemes, other blocks as is."""

from collections.abc import Sequence

import numpy as np
import torch

from converters.gguf.reader import GgufCheckpoint
from converters.gguf.repack import AFFINE, unpack
from converters.gguf.sizes import FLOATS
from converters.parts import Parts, StoredBlock
from phi3quant.errors import CheckpointError, SchemeError
from phi3quant.model.architecture import BLOCK_TENSORS, LINEARS
from phi3quant.quant.codecs.ggml_blocks import TYPES, BlockTensor
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.tensor import Quantized

_ADVICE = "export it to safetensors"


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
    kinds = {
        model.model.tensors[name].type.name
        for index in range(model.config.num_hidden_layers)
        for key in LINEARS
        for name in model.tensor_names(index, key)
    }
    if kinds <= set(FLOATS):
        return None, ""
    names = " and ".join(sorted(kinds))
    if len(kinds) > 1:
        return None, (
            f"{model.path} stores matrices as {names}, and other formats need one scheme for all; "
            + _ADVICE
        )
    (kind,) = kinds
    if kind not in AFFINE:
        return None, (
            f"{model.path} stores matrices as {names}, whose codes no other format holds; {_ADVICE}"
        )
    return AFFINE[kind], ""


def _unfit_minima(model: GgufCheckpoint) -> str:
    """Reason why the codes of Q4_1 have no zero points; empty if they do. Reads all matrices."""
    scheme = AFFINE["Q4_1"]
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
    kind, *others = {model.model.tensors[name].type.name for name in names}
    if others or kind in FLOATS or kind not in TYPES:
        return torch.cat([model.model.load(name) for name in names])
    data = np.concatenate([model.model.load_bytes(name) for name in names])
    columns = model.model.tensors[names[0]].shape[1]
    if scheme is None:
        return BlockTensor(TYPES[kind], data, (len(data), columns))
    try:
        return unpack(data, scheme, columns)
    except SchemeError as error:
        raise SchemeError(f"{names[0]} in {model.path} {error}; {_ADVICE}") from None
    except CheckpointError as error:
        raise CheckpointError(f"{names[0]} in {model.path} {error}") from None
