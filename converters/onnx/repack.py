"""Repacking of codes, scales and zero points for MatMulNBits, and back.

The operator's B is uint8 [rows, groups, group * bits / 8], the lower nibble first. Its zero points
are packed in the same way along a row; without them it uses the middle of the range. The operator
of embeddings, GatherBlockQuantized, reads the same bytes.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional

from converters.onnx.sizes import check_scheme
from phi3quant.errors import CheckpointError
from phi3quant.quant.scheme import QuantScheme
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


def from_nbits(packed: NBits, scheme: QuantScheme, columns: int) -> QuantizedTensor:
    """Restore a matrix from inputs of MatMulNBits or GatherBlockQuantized, of any shape.

    A group of zeros may have a scale of 0; it gets the scale 1 and codes that stand for zero, since
    other formats divide by scales.

    Raises:
        CheckpointError: sizes contradict one another, a scale is not finite, or zero points are
            floats; the message continues a sentence about the matrix.
    """
    width, bits = scheme.group_width(columns), scheme.bits
    groups = columns // width
    rows = packed.scales.numel() // groups
    if packed.weight.dtype != torch.uint8 or packed.weight.numel() * 8 != rows * columns * bits:
        raise CheckpointError(
            f"has codes of shape {list(packed.weight.shape)} and scales of shape "
            f"{list(packed.scales.shape)}, which don't make rows of {columns} weights"
        )
    scales = packed.scales.reshape(rows, groups).clone()
    if not torch.isfinite(scales).all():
        raise CheckpointError("has scales that are not finite")
    codes = _unpack(packed.weight.reshape(rows, -1), bits, columns)
    zero_points = None
    if packed.zero_points is not None:
        zeros = packed.zero_points
        if zeros.dtype != torch.uint8 or zeros.numel() * 8 != rows * -(-groups * bits // 8) * 8:
            raise CheckpointError("has zero points that are not packed integers")
        zero_points = _unpack(zeros.reshape(rows, -1), bits, groups)
    empty = scales == 0
    if empty.any():
        scales[empty] = 1
        codes.view(rows, groups, width)[empty] = scheme.middle
        if zero_points is not None:
            zero_points[empty] = scheme.middle
    return QuantizedTensor(scheme, codes, scales, zero_points)


def _unpack(packed: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Inverse of ``_pack``: uint8 [rows, count]."""
    if bits == 8:
        return packed.clone()
    both = torch.stack([packed & 15, packed >> 4], dim=-1)
    return both.view(len(packed), -1)[:, :count].contiguous()


def _pack(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack uint8 [rows, count] below 2**bits into uint8 [rows, bytes]; an odd count is padded."""
    if bits == 8:
        return values.contiguous()
    padded = functional.pad(values, (0, values.shape[1] % 2))
    return padded[:, 0::2] | (padded[:, 1::2] << 4)
