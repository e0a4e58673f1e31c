"""Repacking of codes as GGUF blocks and back, without quantizing again."""

from collections.abc import Mapping

import numpy as np
import torch

from converters.gguf.sizes import BLOCK, type_name_for
from phi3quant.errors import CheckpointError
from phi3quant.quant.codecs.ggml_blocks import TYPES, BlockType
from phi3quant.quant.offset_tensor import OffsetTensor, zero_points
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.tensor import QuantizedTensor

AFFINE: Mapping[str, QuantScheme] = {
    "Q4_0": QuantScheme(4, 32),
    "Q4_1": QuantScheme(4, 32, symmetric=False),
    "Q8_0": QuantScheme(8, 32),
}
"""Block types that hold an affine scheme in groups of 32."""


def type_for(scheme: QuantScheme) -> BlockType:
    """Block type that holds a scheme's codes unchanged.

    Raises:
        SchemeError: there is none.
    """
    return TYPES[type_name_for(scheme)]


def repack(tensor: QuantizedTensor | OffsetTensor) -> np.ndarray:
    """Pack codes, scales and zero points into blocks: uint8 [rows, row_bytes].

    Q4_0 and Q8_0 hold exactly the same weights. Q4_1 stores the minimum -zero_point * scale instead
    of the zero point, rounded to FP16. Offsets are such minima, and must fit FP16.

    Raises:
        SchemeError: as type_for.
    """
    kind = type_for(tensor.scheme)
    rows, columns = tensor.shape
    repeats = tensor.scheme.group_width(columns) // BLOCK
    scales = tensor.scales.half().repeat_interleave(repeats, dim=1)
    codes = tensor.codes.view(rows, -1, BLOCK)
    parts = [_bytes(scales)]
    if isinstance(tensor, OffsetTensor):
        parts.append(_bytes(tensor.offsets.half().repeat_interleave(repeats, dim=1)))
    elif tensor.zero_points is not None:
        zeros = tensor.zero_points.repeat_interleave(repeats, dim=1)
        parts.append(_bytes((-zeros.float() * scales.float()).half()))
    if tensor.scheme.bits == 8:
        parts.append(
            (codes.to(torch.int16) - tensor.scheme.middle).to(torch.int8).view(torch.uint8)
        )
    else:
        low, high = codes[..., : BLOCK // 2], codes[..., BLOCK // 2 :]
        parts.append(low | (high << 4))
    blocks = torch.cat(parts, dim=-1)
    return blocks.view(rows, kind.row_bytes(columns)).numpy()


def unpack(data: np.ndarray, scheme: QuantScheme, columns: int) -> QuantizedTensor | OffsetTensor:
    """Codes, scales and zero points in the blocks that ``repack`` makes.

    Minima of Q4_1 that are not zero points times scales become offsets.

    llama.cpp writes a scale of 0 for a block of equal weights. Such a block gets the scale 1, since
    other formats divide by scales.

    Args:
        data: uint8 [rows, row_bytes].
        scheme: a scheme that type_for accepts, with groups of one block.
        columns: weights in a row.

    Raises:
        CheckpointError: a scale or a minimum is not finite; the message continues a sentence about
            the matrix.
    """
    rows = len(data)
    blocks = torch.from_numpy(data).view(rows, columns // BLOCK, -1)
    scales = _halves(blocks[..., :2])
    if not torch.isfinite(scales).all():
        raise CheckpointError("has scales that are not finite")
    empty = scales == 0
    scales[empty] = 1
    minima = None if scheme.symmetric else _halves(blocks[..., 2:4])
    if minima is not None and not torch.isfinite(minima).all():
        raise CheckpointError("has minima that are not finite")
    codes = blocks[..., 2 if minima is None else 4 :]
    if scheme.bits == 8:
        codes = (codes.view(torch.int8).to(torch.int16) + scheme.middle).to(torch.uint8)
    else:
        codes = torch.cat([codes & 15, codes >> 4], dim=-1)
    codes[empty] = scheme.middle if minima is None else 0
    codes = codes.reshape(rows, columns)
    zeros = None if minima is None else zero_points(scales, minima, scheme)
    if minima is not None and zeros is None:
        return OffsetTensor(scheme, codes, scales, minima)
    return QuantizedTensor(scheme, codes, scales, zeros)


def _halves(data: torch.Tensor) -> torch.Tensor:
    """FP16 [rows, blocks] from uint8 [rows, blocks, 2]."""
    return data.contiguous().view(torch.float16).squeeze(-1).clone()


def _bytes(halves: torch.Tensor) -> torch.Tensor:
    """View FP16 [rows, blocks] as uint8 [rows, blocks, 2]."""
    return halves.contiguous().view(torch.uint8).view(*halves.shape, 2)
