"""Compensation of a matrix by a team, each member in its rows.

Rows don't depend on each other, once the Gram matrix is factored; every member factors it.
"""

from collections.abc import Sequence
from functools import cache
from typing import cast

import numpy as np
import torch

from phi3quant.model.wide_products import wide_products
from phi3quant.quant.codecs import Codec
from phi3quant.quant.codecs.ggml_blocks import BlockTensor
from phi3quant.quant.gram import Gram
from phi3quant.quant.offset_tensor import OffsetTensor
from phi3quant.quant.tensor import Quantized, QuantizedTensor
from phi3quant.team import Team, part_of, rows_of

# Shapes (rows, inner, columns) of trial products, and parts into which their rows are divided.
_TRIALS = ((200, 96, 64), (640, 128, 944), (256, 576, 576), (1152, 128, 3000))
_PARTS = (2, 3)


@cache
def rows_are_exact() -> bool:
    """Whether the operations on parts of a matrix give the bits of the whole on this CPU.

    Libraries choose their kernels by the CPU and the number of rows, so this is tried.
    """
    generator = torch.Generator().manual_seed(0)
    with wide_products():
        for rows, inner, columns in _TRIALS:
            matrix = torch.randn(rows, inner, generator=generator)
            factor = torch.randn(inner, columns, generator=generator)
            lower = torch.randn(inner, inner, generator=generator).tril_().fill_diagonal_(inner)
            whole = _operated(matrix, factor, lower)
            parts = [part_of(rank, size, rows) for size in _PARTS for rank in range(size)]
            for part in parts:
                pairs = zip(_operated(matrix[part], factor, lower), whole, strict=True)
                if not all(torch.equal(piece, expected[part]) for piece, expected in pairs):
                    return False
    return True


def _operated(
    rows: torch.Tensor, factor: torch.Tensor, lower: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Results of the operations that compensation applies to rows."""
    updated = torch.ones(len(rows), factor.shape[1]).addmm_(rows, factor, alpha=-1)
    solved = torch.linalg.solve_triangular(lower, rows, upper=False, left=False)
    return rows @ factor, updated, solved


def quantize_compensated(
    codec: Codec, weight: torch.Tensor, gram: Gram, shortfall: torch.Tensor, team: Team
) -> Quantized | None:
    """Quantize a matrix as Codec.quantize_compensated.

    Args:
        codec: the codec.
        weight: FP32 [rows, columns].
        gram: statistics of the input.
        shortfall: see Codec, but only for this member's rows (see team.rows_of).
        team: the team.

    Raises:
        SchemeError: a weight doesn't fit the codec.
    """
    if not team.splits_rows:
        return codec.quantize_compensated(weight, gram, shortfall)
    rows = rows_of(team, len(weight))
    own = []
    if rows.start < rows.stop:
        own = [codec.quantize_compensated(weight[rows], gram, shortfall)]
    parts = [part for parcels in team.gather(own) for part in parcels]
    return None if any(part is None for part in parts) else _joined(parts)


def _joined(parts: Sequence[Quantized]) -> Quantized:
    """A matrix from parts with some of its rows each."""
    if isinstance(parts[0], BlockTensor):
        blocks = cast("Sequence[BlockTensor]", parts)
        rows = sum(part.shape[0] for part in blocks)
        data = np.concatenate([part.data for part in blocks])
        return BlockTensor(blocks[0].kind, data, (rows, blocks[0].shape[1]))
    if isinstance(parts[0], OffsetTensor):
        with_offsets = cast("Sequence[OffsetTensor]", parts)
        return OffsetTensor(
            with_offsets[0].scheme,
            *(
                torch.cat([getattr(part, name) for part in with_offsets])
                for name in ("codes", "scales", "offsets")
            ),
        )
    coded = cast("Sequence[QuantizedTensor]", parts)
    zeros = [part.zero_points for part in coded if part.zero_points is not None]
    return QuantizedTensor(
        coded[0].scheme,
        torch.cat([part.codes for part in coded]),
        torch.cat([part.scales for part in coded]),
        torch.cat(zeros) if zeros else None,
    )
