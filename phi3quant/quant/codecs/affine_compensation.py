"""Kernels of error compensation (GPTQ: Frantar et al., 2022) for affine codes.

Each error is spread over the later columns of its row. ``LANES`` rows are handled side by side (see
lanes.py); compensation.py walks over the strips of columns.
"""

import numpy as np

from phi3quant.quant.codecs.affine_search import Grids, Search, best_grid, store_grid
from phi3quant.quant.codecs.lanes import F32, LANES, gather_rows, kernel


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
    """Search grids and choose codes for a strip of columns.

    Args:
        weights: target values FP32 [rows, strip], with earlier errors compensated.
        factor: the strip's block of the upper Cholesky factor of the inverse Gram matrix,
            FP32 [strip, strip].
        metrics: metrics of the strip's groups, FP32 [groups, width, width].
        search: scales to try.
        grids: output, for the strip's groups.
        codes: output, uint8 [rows, strip].
        errors: output, FP32 [rows, strip]: errors divided by the factor's diagonal, which columns
            after the strip have to compensate.
    """
    width, strip = metrics.shape[1], weights.shape[1]
    rest = np.empty((strip, LANES), F32)
    tile = np.empty((width, LANES), F32)
    grid = np.empty((2, LANES), F32)
    off = np.empty(LANES, F32)
    for first in range(0, len(weights), LANES):
        gather_rows(weights, first, 0, rest)
        for group in range(len(metrics)):
            start = group * width
            for place in range(width):
                for lane in range(LANES):
                    tile[place, lane] = rest[start + place, lane]
            best_grid(tile, metrics[group], search, grid)
            store_grid(grid, first, group, grids)
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
def _round(values: np.ndarray, grid: np.ndarray, top: np.float32, off: np.ndarray) -> None:
    """Replace values FP32 [LANES] by their codes; ``off`` [LANES] receives the errors."""
    for lane in range(LANES):
        code = np.rint(values[lane] / grid[0, lane] + grid[1, lane])
        code = min(max(code, F32(0)), top)
        off[lane] = values[lane] - (code - grid[1, lane]) * grid[0, lane]
        values[lane] = code
