"""Search for the scales and zero points of groups; see phi3quant.quant.codecs.affine_search.

Tiles are FP32 [..., width, rows], metrics FP32 [..., width, width], and scales and zero points FP32
[..., 1, rows]; leading axes are groups or attempts.
"""

from typing import NamedTuple

import torch

from phi3quant.quant.codecs.affine_search import MIDDLE, REAL, WHOLE, ZERO_GROUP_SCALE

Grid = tuple[torch.Tensor, torch.Tensor]
"""Scales (FP16 numbers) and zero points."""


class Search(NamedTuple):
    """The parts of a search; see phi3quant.quant.codecs.affine_search.

    Attributes:
        shares: parts of the plain range to try.
        max_code: the largest code.
        zeros: kind of zero points.
    """

    shares: tuple[float, ...]
    max_code: int
    zeros: int


_SMALLEST_SCALE = 2.0**-24
_ZERO_GROUP_SCALE = float(ZERO_GROUP_SCALE)
_REFINEMENTS = 3
_LARGEST = 65504.0
_DETERMINED = 1e-5
# Weights that are tried at once, each with one scale; more would only take more memory.
_AT_ONCE = 1 << 24


def best_grid(tile: torch.Tensor, metric: torch.Tensor, search: Search) -> Grid:
    """Find the grid of each group with the least error E M E^T, for codes rounded to nearest.

    Args:
        tile: weights.
        metric: M.
        search: what is tried.

    Returns:
        The grids. Scales that don't fit FP16 are infinite.
    """
    best, lowest = _widest(tile, metric, search)
    refit = _refitted_both if search.zeros == REAL else _refitted
    for _ in range(_REFINEMENTS):
        levels, off, _ = _measured(tile, metric, best, search)
        fitted = refit(metric, best, levels, off)
        best, lowest = _better(tile, metric, search, fitted, best, lowest)
        if search.zeros == WHOLE:
            for shift in (-1, 1):
                tried = (best[0], (best[1] + shift).clamp_(0, search.max_code))
                best, lowest = _better(tile, metric, search, tried, best, lowest)
    return best


def _widest(tile: torch.Tensor, metric: torch.Tensor, search: Search) -> tuple[Grid, torch.Tensor]:
    """The best of the grids of all shares, and its error."""
    low = tile.amin(dim=-2, keepdim=True).clamp_(max=0)
    high = tile.amax(dim=-2, keepdim=True).clamp_(min=0)
    # Filled on the device, since a CUDA graph can't contain copies from the CPU.
    factors = torch.stack([torch.full_like(low, share) for share in search.shares])
    if search.zeros == MIDDLE:
        middle = (search.max_code + 1) // 2
        extreme = torch.where(-low >= high, low, high)
        scales = as_scales(extreme * (-factors / middle))
        zeros = torch.full_like(scales, middle)
    elif search.zeros == WHOLE:
        scales = as_scales((high - low) * (factors / search.max_code))
        zeros = torch.round(-low * factors / scales).clamp_(0, search.max_code)
    else:
        below, above = low * factors.unsqueeze(1), high * factors.unsqueeze(0)
        scales = as_scales((above - below).flatten(0, 1) * (1 / search.max_code))
        zeros = _zero_points(below.expand_as(above - below).flatten(0, 1), scales)
    best = (torch.full_like(low, _ZERO_GROUP_SCALE), torch.zeros_like(low))
    lowest = torch.full_like(low, torch.inf)
    step = max(1, _AT_ONCE // tile.numel())
    for start in range(0, len(scales), step):
        tried = (scales[start : start + step], zeros[start : start + step])
        levels, off, error = _measured(tile, metric, tried, search)
        best, lowest = _least(tried, error, best, lowest)
        if search.zeros == REAL:
            tried = _refitted_both(metric, tried, levels, off)
            best, lowest = _least(tried, _measured(tile, metric, tried, search)[2], best, lowest)
    return best, lowest


def _least(
    tried: Grid, error: torch.Tensor, best: Grid, lowest: torch.Tensor
) -> tuple[Grid, torch.Tensor]:
    """The best of several tried grids, FP32 [attempts, ..., 1, rows], and of the best so far."""
    least, number = torch.nan_to_num(error, nan=torch.inf).min(dim=0, keepdim=True)
    better = least[0] < lowest
    chosen = (
        torch.where(better, tried[0].gather(0, number)[0], best[0]),
        torch.where(better, tried[1].gather(0, number)[0], best[1]),
    )
    return chosen, torch.where(better, least[0], lowest)


def _better(
    tile: torch.Tensor,
    metric: torch.Tensor,
    search: Search,
    tried: Grid,
    best: Grid,
    lowest: torch.Tensor,
) -> tuple[Grid, torch.Tensor]:
    """The tried grids where their error is below ``lowest``, otherwise the best ones."""
    error = _measured(tile, metric, tried, search)[2]
    better = error < lowest
    chosen = (torch.where(better, tried[0], best[0]), torch.where(better, tried[1], best[1]))
    return chosen, torch.where(better, error, lowest)


def _measured(
    tile: torch.Tensor, metric: torch.Tensor, grid: Grid, search: Search
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes minus zero points, errors of the weights, and E M E^T of each group."""
    scales, zeros = grid
    levels = (tile / scales).add_(zeros).round_().clamp_(0, search.max_code).sub_(zeros)
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


def _refitted_both(
    metric: torch.Tensor, grid: Grid, levels: torch.Tensor, off: torch.Tensor
) -> Grid:
    """Least-squares scales and offsets; see affine_search._refit_both for the equations."""
    scales, zeros = grid
    moved = metric @ levels
    ones = metric.sum(dim=-1).unsqueeze(-1)
    one_one = ones.sum(dim=-2, keepdim=True)
    q_q = (moved * levels).sum(dim=-2, keepdim=True)
    q_e = (moved * off).sum(dim=-2, keepdim=True)
    q_one = moved.sum(dim=-2, keepdim=True)
    one_e = (ones * off).sum(dim=-2, keepdim=True)
    product = q_q * one_one
    determinant = product - q_one * q_one
    a = (q_e * one_one - one_e * q_one) / determinant
    b = (one_e * q_q - q_e * q_one) / determinant
    better = as_scales(scales - a)
    usable = (determinant > _DETERMINED * product) & (scales != a) & (better.abs() <= _LARGEST)
    better = torch.where(usable, better, scales)
    fitted = _zero_points(-zeros * better - b, better)
    return better, torch.where(usable, fitted, zeros)


def _zero_points(offsets: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Zero points of offsets after rounding them to FP16, as readers will see them."""
    return -offsets.clamp(-_LARGEST, _LARGEST).half().float() / scales


def as_scales(values: torch.Tensor) -> torch.Tensor:
    """Round scales to FP16, as readers will see them, but never to zero."""
    rounded = values.half().float()
    smallest = torch.full_like(rounded, _SMALLEST_SCALE).copysign_(values)
    rounded = torch.where(rounded == 0, smallest, rounded)
    return torch.where(values == 0, _ZERO_GROUP_SCALE, rounded)
