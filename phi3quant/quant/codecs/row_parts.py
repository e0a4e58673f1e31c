"""Compensation of a matrix by a team, each member in its rows.

Rows don't depend on each other, once the Gram matrix is factored; every member factors it.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch

from phi3quant.quant.codecs import Codec
from phi3quant.quant.codecs.ggml_blocks import BlockTensor
from phi3quant.quant.gram import Gram
from phi3quant.quant.tensor import Quantized, QuantizedTensor
from phi3quant.team import Team, rows_of


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
    coded = cast("Sequence[QuantizedTensor]", parts)
    zeros = [part.zero_points for part in coded if part.zero_points is not None]
    return QuantizedTensor(
        coded[0].scheme,
        torch.cat([part.codes for part in coded]),
        torch.cat([part.scales for part in coded]),
        torch.cat(zeros) if zeros else None,
    )
