"""Kernels for plain scales and nearest codes, used by RTN and for ONNX's 8-bit matrices.

Results equal those of the tensor operations in affine.py, but take a single pass over the weights.
"""

import numpy as np

from phi3quant.quant.codecs.affine_search import as_scale
from phi3quant.quant.codecs.lanes import F32, kernel

_I32, _U32 = np.int32, np.uint32
_MAGNITUDE = np.int32(0x7FFFFFFF)
_INFINITY = np.int32(0x7F800000)

Limits = tuple[np.float32, np.float32, bool]
"""The largest code; the factor that turns the extreme value (symmetric) or the range (asymmetric)
into the scale; and whether the scheme is symmetric."""


@kernel
def round_rows(
    weights: np.ndarray, limits: Limits, grids: tuple[np.ndarray, np.ndarray], codes: np.ndarray
) -> bool:
    """Choose scales, zero points and codes.

    Args:
        weights: FP32 [rows, columns].
        limits: from the scheme.
        grids: output, scales and zero points FP32 [rows, groups]. Scales that don't fit FP16
            become infinite.
        codes: output, uint8 [rows, columns].

    Returns:
        Whether all weights are finite; if not, the output is meaningless.
    """
    finite = True
    for row in range(len(weights)):
        finite &= _round_row(weights[row], limits, grids[0][row], grids[1][row], codes[row])
    return finite


@kernel
def round_bfloat16_rows(
    weights: np.ndarray, limits: Limits, grids: tuple[np.ndarray, np.ndarray], codes: np.ndarray
) -> bool:
    """``round_rows`` for BF16 weights, passed as their bits: uint16 [rows, columns]."""
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
        # In this order, NaN lies beyond the infinity of its sign.
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
        group_codes = codes[start : start + width]
        for place in range(width):
            level = np.rint(values[place] / scale + zero)
            group_codes[place] = np.uint8(_I32(min(max(level, F32(0)), top)))
    return finite


@kernel
def _extremes(bits: np.ndarray) -> tuple[np.int32, np.int32]:
    """Least and greatest of the FP32 numbers with these bits, as the integers of ``_ordered``.

    Integer comparisons can be vectorized. Float comparisons can't, since their order matters for
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
    """Map the bits of FP32 numbers to integers in the same order; the map is its own inverse."""
    return _I32(bits ^ ((bits >> _I32(31)) & _MAGNITUDE))


@kernel
def _number(ordered: np.int32) -> np.float32:
    return _I32(_ordered(ordered)).view(F32)
