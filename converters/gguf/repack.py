"""Repacking of a method's codes as GGUF blocks, without quantizing again."""

import numpy as np
import torch

from converters.gguf.sizes import BLOCK, type_name_for
from phi3quant.quant.codecs.ggml_blocks import TYPES, BlockType
from phi3quant.quant.offset_tensor import OffsetTensor
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.tensor import QuantizedTensor


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


def _bytes(halves: torch.Tensor) -> torch.Tensor:
    """View FP16 [rows, blocks] as uint8 [rows, blocks, 2]."""
    return halves.contiguous().view(torch.uint8).view(*halves.shape, 2)
