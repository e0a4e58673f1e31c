"""Kernel of error compensation (GPTQ: Frantar et al., 2022) on grids that stay.

Each error is spread over the later columns of its row. ``LANES`` rows are handled side by side (see
lanes.py); compensation.py walks over the strips of columns.
"""

import numpy as np

from phi3quant.quant.codecs.affine_search import Grids
from phi3quant.quant.codecs.lanes import F32, LANES, gather_rows, kernel


@kernel
def compensate_on(
    weights: np.ndarray,
    factor: np.ndarray,
    grids: Grids,
    values: np.ndarray,
    codes: np.ndarray,
    errors: np.ndarray,
) -> None:
    """Choose codes for a strip of columns on fixed grids.

    Args:
        weights: target values FP32 [rows, strip], with earlier errors compensated.
        factor: the strip's block of the upper Cholesky factor of the inverse Gram matrix,
            FP32 [strip, strip].
        grids: scale and least value of each group, FP32 [rows, groups] each; a weight is
            scale * values[code] + least.
        values: value of each code, FP32 [codes], ascending.
        codes: output, uint8 [rows, strip].
        errors: output, FP32 [rows, strip]: errors divided by the factor's diagonal, which columns
            after the strip have to compensate.
    """
    uniform = values[-1] == F32(len(values) - 1)
    highest = F32(len(values) - 1)
    strip = weights.shape[1]
    width = strip // grids[0].shape[1]
    rest = np.empty((strip, LANES), F32)
    off = np.empty(LANES, F32)
    for first in range(0, len(weights), LANES):
        present = min(LANES, len(weights) - first)
        gather_rows(weights, first, 0, rest)
        for column in range(strip):
            for lane in range(present):
                scale = grids[0][first + lane, column // width]
                least = grids[1][first + lane, column // width]
                # The codes of a group with scale 0 don't matter.
                target = F32(0) if scale == 0 else (rest[column, lane] - least) / scale
                if uniform:
                    code = min(max(np.rint(target), F32(0)), highest)
                else:
                    code = _nearest(target, values)
                off[lane] = rest[column, lane] - (scale * values[int(code)] + least)
                codes[first + lane, column] = np.uint8(code)
                errors[first + lane, column] = off[lane] / factor[column, column]
            for later in range(column + 1, strip):
                share = factor[column, later] / factor[column, column]
                for lane in range(present):
                    rest[later, lane] -= off[lane] * share


@kernel
def _nearest(number: np.float32, values: np.ndarray) -> np.float32:
    """Code of the nearest of ``values``, which are ascending."""
    code = F32(0)
    for step in range(len(values) - 1):
        code += F32(0) if F32(2) * number < values[step] + values[step + 1] else F32(1)
    return code
