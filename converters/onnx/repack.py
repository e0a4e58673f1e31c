"""Repacking of codes, scales and zero points for MatMulNBits.

The operator's B is uint8 [rows, groups, group * bits / 8], the lower nibble first. Its zero points
are packed in the same way along a row; without them it uses the middle of the range. The operator
of embeddings, GatherBlockQuantized, reads the same bytes.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional

from converters.onnx.sizes import check_scheme
from phi3quant.quant.tensor import QuantizedTensor


@dataclass(frozen=True)
class NBits:
    """Quantized matrix as inputs of MatMulNBits.

    Attributes:
        weight: codes, uint8 [rows, groups, bytes per group].
        scales: float16 [rows, groups].
        zero_points: uint8 [rows, bytes per row]; None in a symmetric scheme.
    """

    weight: torch.Tensor
    scales: torch.Tensor
    zero_points: torch.Tensor | None


def to_nbits(tensor: QuantizedTensor) -> NBits:
    """Pack a matrix.

    Raises:
        SchemeError: as check_scheme.
    """
    check_scheme(tensor.scheme)
    rows, columns = tensor.shape
    width = tensor.scheme.group_width(columns)
    bits = tensor.scheme.bits
    packed = _pack(tensor.codes, bits).view(rows, columns // width, width * bits // 8)
    zeros = None if tensor.zero_points is None else _pack(tensor.zero_points, bits)
    return NBits(packed, tensor.scales, zeros)


def _pack(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack uint8 [rows, count] below 2**bits into uint8 [rows, bytes]; an odd count is padded."""
    if bits == 8:
        return values.contiguous()
    padded = functional.pad(values, (0, values.shape[1] % 2))
    return padded[:, 0::2] | (padded[:, 1::2] << 4)
