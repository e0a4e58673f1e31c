"""Search for the scales and zero points of groups; see phi3quant.quant.codecs.affine_search.

Tiles are FP32 [..., width, rows], metrics FP32 [..., width, width], and scales and zero points FP32
[..., 1, rows]; leading axes are groups or attempts.
"""

from collections.abc import Sequence

import torch

from phi3quant.quant.codecs.affine_search import ZERO_GROUP_SCALE
from phi3quant.quant.scheme import QuantScheme

Grid = tuple[torch.Tensor, torch.Tensor]
"""Scales (FP16 numbers) and zero points (whole numbers)."""

_SMALLEST_SCALE = 2.0**-24
_ZERO_GROUP_SCALE = float(ZERO_GROUP_SCALE)
_REFINEMENTS = 3
# Weights that are tried at once, each with one scale; more would only take more memory.
_AT_ONCE = 1 << 24


def best_grid(
    tile: torch.Tensor, metric: torch.Tensor, scheme: QuantScheme, shrinks: Sequence[float]
) -> Grid:
    """Find the grid of each group with the least error E M E^T, for codes rounded to nearest.

    Args:
        tile: weights.
        metric: M.
        scheme: bits and symmetry.
        shrinks: multiples of the plain scale to try.

    Returns:
        The grids. Scales that don't fit FP16 are infinite.
    """
    best, lowest = _widest(tile, metric, scheme, shrinks)
    for _ in range(_REFINEMENTS):
        levels, off, _ = _measured(tile, metric, best, scheme)
        fitted = _refitted(metric, best, levels, off)
        best, lowest = _better(tile, metric, scheme, fitted, best, lowest)
        if not scheme.symmetric:
            for shift in (-1, 1):
                tried = (best[0], (best[1] + shift).clamp_(0, scheme.max_code))
                best, lowest = _better(tile, metric, scheme, tried, best, lowest)
    return best


def _widest(
    tile: torch.Tensor, metric: torch.Tensor, scheme: QuantScheme, shrinks: Sequence[float]
) -> tuple[Grid, torch.Tensor]:
    """The best multiple of the plain grid, and its error."""
    low = tile.amin(dim=-2, keepdim=True).clamp_(max=0)
    high = tile.amax(dim=-2, keepdim=True).clamp_(min=0)
    # Filled on the device, since a CUDA graph can't contain copies from the CPU.
    factors = torch.stack([torch.full_like(low, shrink) for shrink in shrinks])
    if scheme.symmetric:
        extreme = torch.where(-low >= high, low, high)
        scales = as_scales(extreme * (-factors / scheme.middle))
        zeros = torch.full_like(scales, scheme.middle)
    else:
        scales = as_scales((high - low) * (factors / scheme.max_code))
        zeros = torch.round(-low * factors / scales).clamp_(0, scheme.max_code)
    best = (torch.full_like(low, _ZERO_GROUP_SCALE), torch.zeros_like(low))
    lowest = torch.full_like(low, torch.inf)
    step = max(1, _AT_ONCE // tile.numel())
    for start in range(0, len(factors), step):
        tried = (scales[start : start + step], zeros[start : start + step])
        error = _measured(tile, metric, tried, scheme)[2]
        least, number = torch.nan_to_num(error, nan=torch.inf).min(dim=0, keepdim=True)
        better = least[0] < lowest
        lowest = torch.where(better, least[0], lowest)
        best = (
            torch.where(better, tried[0].gather(0, number)[0], best[0]),
            torch.where(better, tried[1].gather(0, number)[0], best[1]),
        )
    return best, lowest


def _better(
    tile: torch.Tensor,
    metric: torch.Tensor,
    scheme: QuantScheme,
    tried: Grid,
    best: Grid,
    lowest: torch.Tensor,
) -> tuple[Grid, torch.Tensor]:
    """The tried grids where their error is below ``lowest``, otherwise the best ones."""
    error = _measured(tile, metric, tried, scheme)[2]
    better = error < lowest
    chosen = (torch.where(better, tried[0], best[0]), torch.where(better, tried[1], best[1]))
    return chosen, torch.where(better, error, lowest)


def _measured(
    tile: torch.Tensor, metric: torch.Tensor, grid: Grid, scheme: QuantScheme
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes minus zero points, errors of the weights, and E M E^T of each group."""
    scales, zeros = grid
    levels = (tile / scales).add_(zeros).round_().clamp_(0, scheme.max_code).sub_(zeros)
    off = (levels * scales).sub_(tile)
    return levels, off, _quadratic(off, off, metric)


def _quadratic(x: torch.Tensor, y: torch.Tensor, metric: torch.Tensor) -> torch.Tensor:
    """x^T M y of each group, FP32 [..., 1, rows]."""
    return (metric @ y).mul_(x).sum(dim=-2, keepdim=True)


def _refitted(metric: torch.Tensor, grid: Grid, levels: torch.Tensor, off: torch.Tensor) -> Grid:
    """Least-squares scales for weights w and codes minus zero points q: s = q M w / q M q."""
    scales, zeros = grid
    # With the errors e = s q - w this equals s - q M e / q M q.
    across = _quadratic(levels, levels, metric)
    better = scales - _quadratic(levels, off, metric) / across
    usable = (across > 0) & (better != 0)
    return torch.where(usable, as_scales(better), scales), zeros


def as_scales(values: torch.Tensor) -> torch.Tensor:
    """Round scales to FP16, as readers will see them, but never to zero."""
    rounded = values.half().float()
    smallest = torch.full_like(rounded, _SMALLEST_SCALE).copysign_(values)
    rounded = torch.where(rounded == 0, smallest, rounded)
    return torch.where(values == 0, _ZERO_GROUP_SCALE, rounded)
