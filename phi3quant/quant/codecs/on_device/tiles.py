"""Layout in which the searches for scales run: tiles FP32 [places, rows, groups].

The weights of a group lie along the first dimension, so that sums over groups add whole rows of
memory, on CPUs and GPUs alike.
"""

import torch

_IN_ORDER = 16


def tile_of(weights: torch.Tensor, width: int) -> torch.Tensor:
    """FP32 [rows, columns] of any float dtype as a tile FP32 [width, rows, columns / width]."""
    grouped = weights.float().view(len(weights), -1, width)
    return grouped.permute(2, 0, 1).contiguous()


def codes_of_blocks(codes: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """Codes of a tile, FP32 [places, rows, groups], as uint8 [blocks, weights]."""
    return codes.to(torch.uint8).permute(1, 2, 0).reshape(len(blocks), -1)


def sum_places(tile: torch.Tensor) -> torch.Tensor:
    """Sum of a tile FP32 [places, ...] over the places; overwrites ``tile``.

    On CPUs torch adds up to 16 places one after another, so that the sum equals that of a loop. On
    other devices the order is different.
    """
    for start in range(_IN_ORDER, len(tile), _IN_ORDER):
        tile[start] += tile[start - _IN_ORDER : start].sum(dim=0)
    return tile[-_IN_ORDER:].sum(dim=0)
