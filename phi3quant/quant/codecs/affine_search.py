"""Search for the scales and zero points of groups that lose least output.

The search runs over ``LANES`` rows side by side (see lanes.py).
"""

import numpy as np

from phi3quant.quant.codecs.lanes import F32, LANES, gather_rows, half_bits, half_value, kernel

# FP16's smallest normal number: the scale of a group of zeros, for readers that divide by scales.
ZERO_GROUP_SCALE = F32(2.0**-14)
# FP16's smallest subnormal number: used for scales that would round to zero.
_SMALLEST_SCALE = F32(2.0**-24)
# FP16's largest number.
_LARGEST = F32(65504)
# Least share of a determinant in its terms; codes that are all alike determine only their sum.
_DETERMINED = F32(1e-5)

MIDDLE, WHOLE, REAL = 0, 1, 2
"""Kinds of zero points: the middle of the codes, a whole number among them, or any real number for
which the offset, ``-scale * zero_point``, is an FP16 number."""

Search = tuple[np.ndarray, int, int]
"""Parts of the plain range to try, FP32 [shares]; the largest code; the kind of zero points."""

Grids = tuple[np.ndarray, np.ndarray]
"""Scales (FP16 numbers) and zero points of groups, FP32 [rows, groups] each."""

# Rounds, after the search, of fitting the scales to the codes and the codes to the scales.
_REFINEMENTS = 3


@kernel
def fit(weights: np.ndarray, metrics: np.ndarray, search: Search, grids: Grids) -> None:
    """Find the grid of each group with the least error E M E^T, for codes rounded to nearest.

    Args:
        weights: FP32 [rows, columns].
        metrics: M of each group, FP32 [groups, width, width]: its block of a Gram matrix.
        search: scales to try.
        grids: output.
    """
    width = metrics.shape[1]
    tile = np.empty((width, LANES), F32)
    grid = np.empty((2, LANES), F32)
    for first in range(0, len(weights), LANES):
        for group in range(len(metrics)):
            gather_rows(weights, first, group * width, tile)
            best_grid(tile, metrics[group], search, grid)
            store_grid(grid, first, group, grids)


@kernel
def best_grid(tile: np.ndarray, metric: np.ndarray, search: Search, best: np.ndarray) -> None:
    """Search the best grid of one group in each lane.

    Tries the plain scale times each share. Then, a few times, it fits the scale to the codes by
    least squares and, if zero points are whole, tries their neighbours.

    Real zero points are fitted along with the scale, after each try too. The two ends of the range
    are cut independently, in all pairs of shares.

    Args:
        tile: weights FP32 [width, LANES].
        metric: M of the group, FP32 [width, width].
        search: scales to try.
        best: output, scales and zero points FP32 [2, LANES].
    """
    shares, max_code, zeros = search
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
    _extent(tile, zeros == MIDDLE, plain)
    for attempt in range(len(shares) ** 2 if zeros == REAL else len(shares)):
        above, below = divmod(attempt, len(shares))
        if zeros == REAL:
            _cut(plain, shares[below], shares[above], max_code, tried)
        else:
            _shrunk(plain, shares[attempt], max_code, zeros == MIDDLE, tried)
        _measure(tile, metric, tried, max_code, levels, off, error)
        _keep_better(tried, error, best, lowest)
        if zeros == REAL:
            _refit_both(metric, tried, levels, off, tried)
            _measure(tile, metric, tried, max_code, levels, off, error)
            _keep_better(tried, error, best, lowest)
    for _ in range(_REFINEMENTS):
        _measure(tile, metric, best, max_code, levels, off, error)
        if zeros == REAL:
            _refit_both(metric, best, levels, off, tried)
        else:
            _refit(metric, best, levels, off, tried)
        _measure(tile, metric, tried, max_code, levels, off, error)
        _keep_better(tried, error, best, lowest)
        if zeros == WHOLE:
            for shift in (F32(-1), F32(1)):
                for lane in range(LANES):
                    tried[0, lane] = best[0, lane]
                    tried[1, lane] = min(max(best[1, lane] + shift, F32(0)), F32(max_code))
                _measure(tile, metric, tried, max_code, levels, off, error)
                _keep_better(tried, error, best, lowest)


@kernel
def store_grid(grid: np.ndarray, first: int, group: int, grids: Grids) -> None:
    """Store the grid [2, LANES] of one group for the rows from ``first`` on."""
    for lane in range(min(LANES, len(grids[0]) - first)):
        grids[0][first + lane, group] = grid[0, lane]
        grids[1][first + lane, group] = grid[1, lane]


@kernel
def _extent(tile: np.ndarray, symmetric: bool, plain: np.ndarray) -> None:  # noqa: FBT001
    """Range of the plain grid [2, LANES] of a tile [width, LANES].

    Symmetric: the value of largest magnitude, and 0. Otherwise: the least and the greatest value,
    widened to include zero.
    """
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
    symmetric: bool,  # noqa: FBT001 - kernels take positional arguments
    grid: np.ndarray,
) -> None:
    """Plain scales times ``shrink``, with matching zero points; ``grid`` [2, LANES] is output."""
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
def _cut(
    plain: np.ndarray, below: np.float32, above: np.float32, max_code: int, grid: np.ndarray
) -> None:
    """Grid [2, LANES] of a range of which parts are kept on both sides of zero."""
    for lane in range(LANES):
        low, high = plain[0, lane] * below, plain[1, lane] * above
        grid[0, lane] = as_scale((high - low) / F32(max_code))
        grid[1, lane] = _zero_point(low, grid[0, lane])


@kernel
def as_scale(value: np.float32) -> np.float32:
    """Round a scale to FP16, as readers will see it, but never to zero."""
    if value == 0:
        return ZERO_GROUP_SCALE
    rounded = half_value(half_bits(value))
    if rounded == 0:
        return _SMALLEST_SCALE if value > 0 else -_SMALLEST_SCALE
    return rounded


@kernel
def _zero_point(offset: np.float32, scale: np.float32) -> np.float32:
    """Zero point of an offset after rounding it to FP16, as readers will see it."""
    limited = min(max(offset, -_LARGEST), _LARGEST)
    return -half_value(half_bits(limited)) / scale


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
    """Codes and errors of a tile on a grid.

    Args:
        tile: weights FP32 [width, LANES].
        metric: FP32 [width, width].
        grid: scales and zero points FP32 [2, LANES].
        max_code: the largest code.
        levels: output, codes minus zero points FP32 [width, LANES].
        off: output, errors of the weights FP32 [width, LANES].
        error: output, E M E^T of each lane FP32 [LANES].
    """
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
    """x^T M y of each lane: FP32 [LANES] from x and y, FP32 [width, LANES]."""
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
    """Least-squares scales for weights w and codes minus zero points q: s = q M w / q M q."""
    along, across = np.empty(LANES, F32), np.empty(LANES, F32)
    # With the errors e = s q - w this equals s - q M e / q M q.
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
def _refit_both(
    metric: np.ndarray,
    grid: np.ndarray,
    levels: np.ndarray,
    off: np.ndarray,
    fitted: np.ndarray,
) -> None:
    """Least-squares scales and offsets; ``fitted`` may be ``grid``.

    With the errors e = s q - w of codes minus zero points q, and 1 for a vector of ones, the scale
    changes by -a and the offset by -b, where

        a (q M q) + b (q M 1) = q M e
        a (q M 1) + b (1 M 1) = 1 M e
    """
    width = levels.shape[0]
    inner, q_q, q_e = np.empty(LANES, F32), np.zeros(LANES, F32), np.zeros(LANES, F32)
    q_one, one_e, one_one = np.zeros(LANES, F32), np.zeros(LANES, F32), F32(0)
    for row in range(width):
        total = F32(0)
        for lane in range(LANES):
            inner[lane] = F32(0)
        for column in range(width):
            share = metric[row, column]
            total += share
            for lane in range(LANES):
                inner[lane] += share * levels[column, lane]
        one_one += total
        for lane in range(LANES):
            q_q[lane] += inner[lane] * levels[row, lane]
            q_e[lane] += inner[lane] * off[row, lane]
            q_one[lane] += inner[lane]
            one_e[lane] += total * off[row, lane]
    for lane in range(LANES):
        scale, zero = grid[0, lane], grid[1, lane]
        product = q_q[lane] * one_one
        determinant = product - q_one[lane] * q_one[lane]
        fitted[0, lane], fitted[1, lane] = scale, zero
        if determinant > _DETERMINED * product:
            a = (q_e[lane] * one_one - one_e[lane] * q_one[lane]) / determinant
            b = (one_e[lane] * q_q[lane] - q_e[lane] * q_one[lane]) / determinant
            better = as_scale(scale - a)
            if scale != a and abs(better) <= _LARGEST:
                fitted[0, lane] = better
                # A weight is (code - zero) * (scale - a) - b.
                fitted[1, lane] = _zero_point(-zero * better - b, better)


@kernel
def _keep_better(
    tried: np.ndarray, error: np.ndarray, best: np.ndarray, lowest: np.ndarray
) -> None:
    """Replace best grids [2, LANES] by the tried ones in the lanes where their error is lower."""
    for lane in range(LANES):
        better = error[lane] < lowest[lane]
        lowest[lane] = error[lane] if better else lowest[lane]
        for row in range(2):
            best[row, lane] = tried[row, lane] if better else best[row, lane]
