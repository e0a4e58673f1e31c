"""Quantized matrices as integers times scales, whose scales can be changed.

A weight of every quantized type is a sum of at most two terms, each an integer times a real scale
that a group shares. In an affine scheme the integer is the code minus the zero point; in a type of
llama.cpp's superblocks it includes the integer scale of a part of the block. Scales change without
a change of the codes, so the matrix takes the same room as before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from phi3quant.quant.codecs.ggml_blocks import BlockTensor
from phi3quant.quant.codecs.ggml_decoding import decode
from phi3quant.quant.ggml_types import SCALE_PLACES
from phi3quant.quant.offset_tensor import OffsetTensor
from phi3quant.quant.tensor import Quantized, QuantizedTensor

_ONE = np.array([1.0], np.float16).view(np.uint8)


@dataclass(frozen=True)
class Term:
    """A term of a matrix: ``values * scales``.

    Attributes:
        values: int16 [rows, groups, width]; a width of 1 stands for equal values in the group.
        scales: FP32 [rows, groups], exactly as stored.
    """

    values: torch.Tensor
    scales: torch.Tensor

    def to(self, device: torch.device) -> "Term":
        """The same term on a device."""
        return Term(self.values.to(device), self.scales.to(device))


def has_terms(matrix: torch.Tensor | Quantized) -> bool:
    """Whether a matrix has scales: plain matrices, and blocks of floats, have none."""
    return not isinstance(matrix, torch.Tensor) and (
        not isinstance(matrix, BlockTensor) or matrix.kind.name in SCALE_PLACES
    )


def terms_of(matrix: Quantized) -> tuple[Term, ...]:
    """Terms of a matrix that ``has_terms``; their sum is the matrix."""
    if isinstance(matrix, QuantizedTensor):
        rows, groups = matrix.scales.shape
        zeros: torch.Tensor | int = matrix.scheme.middle
        if matrix.zero_points is not None:
            zeros = matrix.zero_points.to(torch.int16).unsqueeze(-1)
        values = matrix.codes.view(rows, groups, -1).to(torch.int16) - zeros
        return (Term(values, matrix.scales.float()),)
    if isinstance(matrix, OffsetTensor):
        rows, groups = matrix.scales.shape
        codes = matrix.codes.view(rows, groups, -1).to(torch.int16)
        ones = torch.ones(rows, groups, 1, dtype=torch.int16)
        return Term(codes, matrix.scales.float()), Term(ones, matrix.offsets.float())
    assert isinstance(matrix, BlockTensor)
    places = SCALE_PLACES[matrix.kind.name]
    return tuple(_block_term(matrix, place, places) for place in places)


def with_scales(matrix: Quantized, scales: Sequence[torch.Tensor]) -> Quantized:
    """The same codes with other scales, rounded to the type in which they are stored.

    Args:
        matrix: matrix that ``has_terms``.
        scales: FP32 [rows, groups] for each term, in the order of ``terms_of``.
    """
    if isinstance(matrix, QuantizedTensor):
        return replace(matrix, scales=scales[0].to(matrix.scales.dtype))
    if isinstance(matrix, OffsetTensor):
        return replace(
            matrix,
            scales=scales[0].to(matrix.scales.dtype),
            offsets=scales[1].to(matrix.offsets.dtype),
        )
    assert isinstance(matrix, BlockTensor)
    data = matrix.data.copy()
    blocks = data.reshape(len(data), -1, matrix.kind.row_bytes(matrix.kind.block))
    for place, numbers in zip(SCALE_PLACES[matrix.kind.name], scales, strict=True):
        halves = numbers.half().contiguous().numpy()
        blocks[..., place : place + 2] = halves.view(np.uint8).reshape(*halves.shape, 2)
    return replace(matrix, data=data)


def _block_term(matrix: BlockTensor, place: int, places: Sequence[int]) -> Term:
    """Term of one of a block type's scales.

    Weights are linear in the scales, so blocks in which this one is 1 and the other 0 decode to the
    term's integers.
    """
    kind = matrix.kind
    blocks = matrix.data.reshape(len(matrix.data), -1, kind.row_bytes(kind.block))
    scales = np.ascontiguousarray(blocks[..., place : place + 2]).view(np.float16)[..., 0]
    unit = blocks.copy()
    for each in places:
        unit[..., each : each + 2] = _ONE if each == place else 0
    values = decode(unit.reshape(matrix.data.shape), kind.type)
    return Term(
        torch.from_numpy(values.astype(np.int16)).view(len(blocks), blocks.shape[1], kind.block),
        torch.from_numpy(scales.astype(np.float32)),
    )
