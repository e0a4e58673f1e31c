"""Plain scales and nearest codes of many groups: what RTN and ONNX's 8-bit matrices need.

The same numbers as affine.py's tensor operations, in one pass over weights that are in the cache.
"""

import numpy as np

from phi3quant.quant.codecs.affine_search import as_scale
from phi3quant.quant.codecs.lanes import F32, kernel

_I32, _U32 = np.int32, np.uint32
_MAGNITUDE = np.int32(0x7FFFFFFF)
_INFINITY = np.int32(0x7F800000)

Limits = tuple[np.float32, np.float32, bool]
"""The largest code, what the extreme value (symmetric) or the range is multiplied by to give the
scale, and whether the scheme is symmetric."""


@kernel
def round_rows(
    weights: np.ndarray, limits: Limits, grids: tuple[np.ndarray, np.ndarray], codes: np.ndarray
) -> bool:
    """Choose scales, zero points and codes.

    Args:
        weights: FP32 [rows, columns].
        limits: of the scheme.
        grids: scales FP32 [rows, groups] and zero points FP32 [rows, groups], filled. Scales that
            don't fit FP16 become infinite.
        codes: uint8 [rows, columns], filled.

    Returns:
        Whether all weights are finite; if not, what was filled in means nothing.
    """
    finite = True
    for row in range(len(weights)):
        finite &= _round_row(weights[row], limits, grids[0][row], grids[1][row], codes[row])
    return finite


@kernel
def round_bfloat16_rows(
    weights: np.ndarray, limits: Limits, grids: tuple[np.ndarray, np.ndarray], codes: np.ndarray
) -> bool:
    """``round_rows`` of BF16 weights, given as their bits: uint16 [rows, columns]."""
    finite = True
    bits = np.empty(weights.shape[1], _U32)
    for row in range(len(weights)):
        for place in range(len(bits)):
            bits[place] = _U32(weights[row, place]) << _U32(16)
        finite &= _round_row(bits.view(F32), limits, grids[0][row], grids[1][row], codes[row])
    return finite


@kernel
def _round_row(
    weights: np.ndarray, limits: Limits, scales: np.ndarray, zeros: np.ndarray, codes: np.ndarray
) -> bool:
    top, share, symmetric = limits
    width = len(weights) // len(scales)
    middle = np.floor((top + F32(1)) * F32(0.5))
    finite = True
    for group in range(len(scales)):
        start = group * width
        values = weights[start : start + width]
        least, greatest = _extremes(values.view(_I32))
        # NaN is past infinity on the side of its sign.
        finite &= bool(greatest < _INFINITY and least > ~_INFINITY)
        lowest, highest = _number(least), _number(greatest)
        if symmetric:
            scale = as_scale((lowest if -lowest >= highest else highest) * share)
            zero = middle
        else:
            lowest, highest = min(lowest, F32(0)), max(highest, F32(0))
            scale = as_scale((highest - lowest) * share)
            zero = min(max(np.rint(-lowest / scale), F32(0)), top)
        scales[group] = scale
        zeros[group] = zero
        own = codes[start : start + width]
        for place in range(width):
            level = np.rint(values[place] / scale + zero)
            own[place] = np.uint8(_I32(min(max(level, F32(0)), top)))
    return finite


@kernel
def _extremes(bits: np.ndarray) -> tuple[np.int32, np.int32]:
    """Least and greatest of the FP32 numbers with these bits, as int32, as ``_ordered`` has them.

    Only integers can be compared many at a time: comparing floats one way or the other differs for
    NaN.
    """
    least, greatest = _MAGNITUDE, ~_MAGNITUDE
    for place in range(len(bits)):
        ordered = _ordered(bits[place])
        least = min(least, ordered)
        greatest = max(greatest, ordered)
    return least, greatest


@kernel
def _ordered(bits: np.int32) -> np.int32:
    """The bits of an FP32 number as an integer that is in the same order; its own inverse."""
    return _I32(bits ^ ((bits >> _I32(31)) & _MAGNITUDE))


@kernel
def _number(ordered: np.int32) -> np.float32:
    return _I32(_ordered(ordered)).view(F32)
