"""Plain scales and nearest codes of many groups: what RTN and ONNX's 8-bit matrices need.

The same numbers as affine.py's tensor operations, in one pass over weights that are in the cache.
"""

import numpy as np

from phi3quant.codecs.affine_search import as_scale
from phi3quant.codecs.lanes import F32, kernel

_I32 = np.int32
_MAGNITUDE = np.int32(0x7FFFFFFF)


@kernel
def round_rows(
    weights: np.ndarray,
    limits: tuple[np.float32, np.float32, bool],
    grids: tuple[np.ndarray, np.ndarray],
    codes: np.ndarray,
) -> None:
    """Choose scales, zero points and codes.

    Args:
        weights: FP32 [rows, columns], finite.
        limits: the largest code, what the extreme value (symmetric) or the range is multiplied by
            to give the scale, and whether the scheme is symmetric.
        grids: scales FP32 [rows, groups] and zero points FP32 [rows, groups], filled. Scales that
            don't fit FP16 become infinite.
        codes: uint8 [rows, columns], filled.
    """
    top, share, symmetric = limits
    groups = grids[0].shape[1]
    width = weights.shape[1] // groups
    middle = np.floor((top + F32(1)) * F32(0.5))
    for row in range(len(weights)):
        for group in range(groups):
            start = group * width
            values = weights[row, start : start + width]
            lowest, highest = _extremes(values.view(_I32))
            if symmetric:
                scale = as_scale((lowest if -lowest >= highest else highest) * share)
                zero = middle
            else:
                lowest, highest = min(lowest, F32(0)), max(highest, F32(0))
                scale = as_scale((highest - lowest) * share)
                zero = min(max(np.rint(-lowest / scale), F32(0)), top)
            grids[0][row, group] = scale
            grids[1][row, group] = zero
            own = codes[row, start : start + width]
            for place in range(width):
                level = np.rint(values[place] / scale + zero)
                own[place] = np.uint8(_I32(min(max(level, F32(0)), top)))


@kernel
def _extremes(bits: np.ndarray) -> tuple[np.float32, np.float32]:
    """Least and greatest of the FP32 numbers with these bits, as int32.

    Integers in the same order, since only they can be compared many at a time: comparing floats one
    way or the other differs for NaN.
    """
    least = greatest = bits[0] ^ ((bits[0] >> _I32(31)) & _MAGNITUDE)
    for place in range(1, len(bits)):
        ordered = bits[place] ^ ((bits[place] >> _I32(31)) & _MAGNITUDE)
        least = min(least, ordered)
        greatest = max(greatest, ordered)
    least ^= (least >> _I32(31)) & _MAGNITUDE
    greatest ^= (greatest >> _I32(31)) & _MAGNITUDE
    return _I32(least).view(F32), _I32(greatest).view(F32)
