"""Scales and zero points of groups that lose least output, and codes that make up for each other.

Two kernels over tiles of ``LANES`` rows, which search side by side (see lanes.py): ``fit`` rounds
each weight to nearest, ``compensate`` also lets later weights of a row make up for the errors of
earlier ones (GPTQ: Frantar et al., 2022).
"""

import numpy as np

from phi3quant.quant.codecs.lanes import F32, LANES, half_bits, half_value, kernel

# FP16's smallest normal number: the scale of a group of zeros, for readers that divide by scales.
ZERO_GROUP_SCALE = F32(2.0**-14)
# FP16's smallest subnormal number: a scale that would round to zero becomes this.
_SMALLEST_SCALE = F32(2.0**-24)
Search = tuple[np.ndarray, int, bool]
"""What is tried: multiples of the plain scale FP32 [tries], the largest code, and whether the zero
point stays in the middle."""

Grids = tuple[np.ndarray, np.ndarray]
"""Scales (FP16 numbers) and zero points (whole ones) of groups, FP32 [rows, groups] each."""

# Times that scales are fitted to the codes and codes to the scales, after the search.
_REFINEMENTS = 3


@kernel
def fit(weights: np.ndarray, metrics: np.ndarray, search: Search, grids: Grids) -> None:
    """Find the grid of each group with the least error E M E^T.

    Args:
        weights: FP32 [rows, columns].
        metrics: FP32 [groups, width, width], what errors cost: the group's block of a Gram matrix.
        search: what is tried.
        grids: filled.
    """
    width = metrics.shape[1]
    tile = np.empty((width, LANES), F32)
    grid = np.empty((2, LANES), F32)
    for first in range(0, len(weights), LANES):
        for group in range(len(metrics)):
            _gather(weights, first, group * width, tile)
            _search(tile, metrics[group], search, grid)
            _put(grid, first, group, grids)


@kernel
def compensate(
    weights: np.ndarray,
    factor: np.ndarray,
    metrics: np.ndarray,
    search: Search,
    grids: Grids,
    codes: np.ndarray,
    errors: np.ndarray,
) -> None:
    """Choose grids and codes of a strip of columns, each error spread over the columns after it.

    Args:
        weights: FP32 [rows, strip], what is left to represent.
        factor: FP32 [strip, strip], the strip's block of the upper Cholesky factor of the inverse
            Gram matrix.
        metrics: as ``fit``, for the groups of the strip.
        search: what is tried.
        grids: of the groups of the strip, filled.
        codes: uint8 [rows, strip], filled.
        errors: FP32 [rows, strip], filled with what columns after the strip have to make up for:
            errors over the factor's diagonal.
    """
    width, strip = metrics.shape[1], weights.shape[1]
    rest = np.empty((strip, LANES), F32)
    tile = np.empty((width, LANES), F32)
    grid = np.empty((2, LANES), F32)
    off = np.empty(LANES, F32)
    for first in range(0, len(weights), LANES):
        _gather(weights, first, 0, rest)
        for group in range(len(metrics)):
            start = group * width
            for place in range(width):
                for lane in range(LANES):
                    tile[place, lane] = rest[start + place, lane]
            _search(tile, metrics[group], search, grid)
            _put(grid, first, group, grids)
            for column in range(start, start + width):
                _round(rest[column], grid, F32(search[1]), off)
                for lane in range(min(LANES, len(weights) - first)):
                    codes[first + lane, column] = np.uint8(rest[column, lane])
                    errors[first + lane, column] = off[lane] / factor[column, column]
                for later in range(column + 1, strip):
                    share = factor[column, later] / factor[column, column]
                    for lane in range(LANES):
                        rest[later, lane] -= off[lane] * share


@kernel
def compensate_on(
    weights: np.ndarray,
    factor: np.ndarray,
    grids: Grids,
    highest: int,
    codes: np.ndarray,
    errors: np.ndarray,
) -> None:
    """Choose codes of a strip of columns on grids that are given.

    Args:
        weights: FP32 [rows, strip], what is left to represent.
        factor: as ``compensate``.
        grids: scale and least value of each group, FP32 [rows, groups]: a weight is
            scale * code + least.
        highest: the largest code.
        codes: uint8 [rows, strip], filled.
        errors: as ``compensate``.
    """
    strip = weights.shape[1]
    width = strip // grids[0].shape[1]
    rest = np.empty((strip, LANES), F32)
    off = np.empty(LANES, F32)
    for first in range(0, len(weights), LANES):
        present = min(LANES, len(weights) - first)
        _gather(weights, first, 0, rest)
        for column in range(strip):
            for lane in range(present):
                scale = grids[0][first + lane, column // width]
                least = grids[1][first + lane, column // width]
                # The codes of a group with scale 0 don't matter.
                code = F32(0) if scale == 0 else np.rint((rest[column, lane] - least) / scale)
                code = min(max(code, F32(0)), F32(highest))
                off[lane] = rest[column, lane] - (scale * code + least)
                codes[first + lane, column] = np.uint8(code)
                errors[first + lane, column] = off[lane] / factor[column, column]
            for later in range(column + 1, strip):
                share = factor[column, later] / factor[column, column]
                for lane in range(present):
                    rest[later, lane] -= off[lane] * share


@kernel
def _round(values: np.ndarray, grid: np.ndarray, top: np.float32, off: np.ndarray) -> None:
    """Replace values [LANES] by their codes; ``off`` is what was lost."""
    for lane in range(LANES):
        code = np.rint(values[lane] / grid[0, lane] + grid[1, lane])
        code = min(max(code, F32(0)), top)
        off[lane] = values[lane] - (code - grid[1, lane]) * grid[0, lane]
        values[lane] = code


@kernel
def _put(grid: np.ndarray, first: int, group: int, grids: Grids) -> None:
    """Store the grids [2, LANES] of rows from ``first``."""
    for lane in range(min(LANES, len(grids[0]) - first)):
        grids[0][first + lane, group] = grid[0, lane]
        grids[1][first + lane, group] = grid[1, lane]


@kernel
def _gather(weights: np.ndarray, first: int, start: int, tile: np.ndarray) -> None:
    """Rows from ``first``, columns from ``start``, as [columns, LANES]; absent rows are zeros."""
    present = min(LANES, len(weights) - first)
    for lane in range(present):
        for place in range(tile.shape[0]):
            tile[place, lane] = weights[first + lane, start + place]
    for lane in range(present, LANES):
        for place in range(tile.shape[0]):
            tile[place, lane] = F32(0)


@kernel
def _search(tile: np.ndarray, metric: np.ndarray, search: Search, best: np.ndarray) -> None:
    """The best grid [2, LANES] (scales, zero points) of groups [width, LANES].

    The plain scale times each of the multiples; then the scale that suits the codes best by least
    squares, a few times, and with a zero point the neighbours of that too.
    """
    shrinks, max_code, symmetric = search
    plain, tried, lowest = (
        np.empty((2, LANES), F32),
        np.empty((2, LANES), F32),
        np.empty(LANES, F32),
    )
    error, off = np.empty(LANES, F32), np.empty((tile.shape[0], LANES), F32)
    levels = np.empty((tile.shape[0], LANES), F32)
    for lane in range(LANES):
        lowest[lane] = F32(np.inf)
        best[0, lane] = ZERO_GROUP_SCALE
        best[1, lane] = F32(0)
    _extent(tile, symmetric, plain)
    for attempt in range(len(shrinks)):
        _shrunk(plain, shrinks[attempt], max_code, symmetric, tried)
        _measure(tile, metric, tried, max_code, levels, off, error)
        _keep_better(tried, error, best, lowest)
    for _ in range(_REFINEMENTS):
        _measure(tile, metric, best, max_code, levels, off, error)
        _refit(metric, best, levels, off, tried)
        _measure(tile, metric, tried, max_code, levels, off, error)
        _keep_better(tried, error, best, lowest)
        if not symmetric:
            for shift in (F32(-1), F32(1)):
                for lane in range(LANES):
                    tried[0, lane] = best[0, lane]
                    tried[1, lane] = min(max(best[1, lane] + shift, F32(0)), F32(max_code))
                _measure(tile, metric, tried, max_code, levels, off, error)
                _keep_better(tried, error, best, lowest)


@kernel
def _extent(tile: np.ndarray, symmetric: bool, plain: np.ndarray) -> None:  # noqa: FBT001
    """What the plain grid spans: the extreme value and 0, or least and greatest around zero."""
    for lane in range(LANES):
        plain[0, lane] = F32(0)
        plain[1, lane] = F32(0)
    for place in range(tile.shape[0]):
        for lane in range(LANES):
            plain[0, lane] = min(plain[0, lane], tile[place, lane])
            plain[1, lane] = max(plain[1, lane], tile[place, lane])
    if symmetric:
        for lane in range(LANES):
            low, high = plain[0, lane], plain[1, lane]
            plain[0, lane] = low if -low >= high else high
            plain[1, lane] = F32(0)


@kernel
def _shrunk(
    plain: np.ndarray,
    shrink: np.float32,
    max_code: int,
    symmetric: bool,  # noqa: FBT001 - a kernel's arguments have no names
    grid: np.ndarray,
) -> None:
    """The plain grid's scale times ``shrink``, with its zero points: [2, LANES]."""
    top = F32(max_code)
    middle = F32((max_code + 1) // 2)
    for lane in range(LANES):
        if symmetric:
            grid[0, lane] = as_scale(plain[0, lane] * (-shrink / middle))
            grid[1, lane] = middle
        else:
            scale = as_scale((plain[1, lane] - plain[0, lane]) * (shrink / top))
            grid[0, lane] = scale
            grid[1, lane] = min(max(np.rint(-plain[0, lane] * shrink / scale), F32(0)), top)


@kernel
def as_scale(value: np.float32) -> np.float32:
    """A scale as a reader will see it: FP16, never zero."""
    if value == 0:
        return ZERO_GROUP_SCALE
    rounded = half_value(half_bits(value))
    if rounded == 0:
        return _SMALLEST_SCALE if value > 0 else -_SMALLEST_SCALE
    return rounded


@kernel
def _measure(
    tile: np.ndarray,
    metric: np.ndarray,
    grid: np.ndarray,
    max_code: int,
    levels: np.ndarray,
    off: np.ndarray,
    error: np.ndarray,
) -> None:
    """Codes less zero points, the errors of a grid [width, LANES], and what they cost [LANES]."""
    top = F32(max_code)
    for place in range(tile.shape[0]):
        for lane in range(LANES):
            level = np.rint(tile[place, lane] / grid[0, lane] + grid[1, lane])
            level = min(max(level, F32(0)), top) - grid[1, lane]
            levels[place, lane] = level
            off[place, lane] = level * grid[0, lane] - tile[place, lane]
    _quadratic(off, off, metric, error)


@kernel
def _quadratic(x: np.ndarray, y: np.ndarray, metric: np.ndarray, total: np.ndarray) -> None:
    """x^T M y for each lane of [width, LANES]: [LANES]."""
    width = x.shape[0]
    inner = np.empty(LANES, F32)
    for lane in range(LANES):
        total[lane] = F32(0)
    for row in range(width):
        for lane in range(LANES):
            inner[lane] = F32(0)
        for column in range(width):
            share = metric[row, column]
            for lane in range(LANES):
                inner[lane] += share * y[column, lane]
        for lane in range(LANES):
            total[lane] += inner[lane] * x[row, lane]


@kernel
def _refit(
    metric: np.ndarray,
    grid: np.ndarray,
    levels: np.ndarray,
    off: np.ndarray,
    fitted: np.ndarray,
) -> None:
    """The scales that suit the codes best: s = q M w / q M q for codes q around zero."""
    along, across = np.empty(LANES, F32), np.empty(LANES, F32)
    # With w = s q - e, that is s - q M e / q M q.
    _quadratic(levels, off, metric, along)
    _quadratic(levels, levels, metric, across)
    for lane in range(LANES):
        scale = grid[0, lane]
        if across[lane] > 0:
            better = scale - along[lane] / across[lane]
            scale = as_scale(better) if better != 0 else scale
        fitted[0, lane] = scale
        fitted[1, lane] = grid[1, lane]


@kernel
def _keep_better(
    tried: np.ndarray, error: np.ndarray, best: np.ndarray, lowest: np.ndarray
) -> None:
    for lane in range(LANES):
        better = error[lane] < lowest[lane]
        lowest[lane] = error[lane] if better else lowest[lane]
        for row in range(2):
            best[row, lane] = tried[row, lane] if better else best[row, lane]
