"""IQ4_NL and IQ4_XS: 4-bit codes of a table of 16 values that lie closer together near zero.

Output equals that of ``quantize_row_iq4_nl_impl`` of ggml-quants.c bit for bit, with and without an
importance per column.
"""

import numpy as np

from phi3quant.quant.codecs.ggml_error_weights import (
    SUPER,
    weigh_by_importance,
    weigh_by_square,
)
from phi3quant.quant.codecs.ggml_scale_search import EPSILON, extremes
from phi3quant.quant.codecs.lanes import F32, LANES, gather, gather_columns, kernel, put_half

VALUES = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)
"""Value of each code, to be multiplied by the scale of its group; ascending."""

_GROUP = 32
_GROUPS = SUPER // _GROUP
_BLOCKS = LANES // _GROUPS
_HALF_RANGE = 32
_STEPS = len(VALUES) - 1
# A number from MIDPOINTS[i] up is rounded to VALUES[i + 1] or more. All of them are exact in FP32.
_MIDPOINTS = (VALUES[:-1] + VALUES[1:]) / 2
_LOWEST = F32(VALUES[0])
_ATTEMPTS = 7


@kernel
def encode_nl(weights: np.ndarray, importance: np.ndarray, packed: np.ndarray) -> None:
    """Quantize rows to IQ4_NL: FP16 d and 16 bytes of nibbles.

    Args:
        weights: FP32 [rows * columns], columns a multiple of 32.
        importance: mean square of each column's input, FP32 [columns]; or empty.
        packed: output, uint8 [blocks, 18].
    """
    x, w = np.empty((_GROUP, LANES), F32), np.empty((_GROUP, LANES), F32)
    scales, inverses = np.empty(LANES, F32), np.empty(LANES, F32)
    codes = np.empty((LANES, _GROUP), np.uint8)
    for first in range(0, len(packed), LANES):
        present = gather(weights, first, 1, x)
        _weigh(x, importance, first, 1, w)
        _search_scales(x, w, scales)
        for lane in range(LANES):
            inverses[lane] = F32(1) / scales[lane] if scales[lane] != 0 else F32(0)
        _choose_codes(x, inverses, codes)
        for lane in range(present):
            put_half(packed[first + lane], 0, scales[lane])
            _pack_nibbles(codes[lane], packed[first + lane, 2:])


@kernel
def encode_xs(weights: np.ndarray, importance: np.ndarray, packed: np.ndarray) -> None:
    """Quantize rows to IQ4_XS.

    A superblock of 8 groups consists of FP16 d, 2 bytes with the high bit pairs of the scales,
    4 bytes with their low nibbles, and 16 bytes of nibbles for each group.

    Args:
        weights: FP32 [rows * columns], columns a multiple of 256.
        importance: as encode_nl.
        packed: output, uint8 [superblocks, 136].
    """
    x, w = np.empty((_GROUP, LANES), F32), np.empty((_GROUP, LANES), F32)
    scales, inverses = np.empty(LANES, F32), np.empty(LANES, F32)
    codes = np.empty((LANES, _GROUP), np.uint8)
    for first in range(0, len(packed), _BLOCKS):
        present = gather(weights, first, _GROUPS, x)
        _weigh(x, importance, first, _GROUPS, w)
        _search_scales(x, w, scales)
        for block in range(present):
            _quantize_scales(scales, block, inverses, packed[first + block])
        _choose_codes(x, inverses, codes)
        for block in range(present):
            for group in range(_GROUPS):
                start = 8 + group * _GROUP // 2
                _pack_nibbles(codes[group * _BLOCKS + block], packed[first + block, start:])


@kernel
def _weigh(x: np.ndarray, importance: np.ndarray, first: int, groups: int, w: np.ndarray) -> None:
    """Fill ``w`` FP32 [places, LANES] with the weights of squared errors."""
    if len(importance):
        gather_columns(importance, first, groups, w)
        weigh_by_importance(x, w, groups)
    else:
        weigh_by_square(x, w)


@kernel
def _search_scales(x: np.ndarray, w: np.ndarray, scales: np.ndarray) -> None:
    """Search the scale of each lane, FP32 [LANES], by weighted squared error; 0 for zeros."""
    extreme, best = np.empty(LANES, F32), np.empty(LANES, F32)
    tried, along, across = np.empty(LANES, F32), np.empty(LANES, F32), np.empty(LANES, F32)
    extremes(x, extreme)
    for attempt in range(-_ATTEMPTS - 1, _ATTEMPTS + 1):
        # The first attempt maps the value of largest magnitude to -VALUES[0], which isn't a value.
        plain = attempt < -_ATTEMPTS
        for lane in range(LANES):
            if plain:
                tried[lane] = F32(1) / (-extreme[lane] / _LOWEST)
            else:
                tried[lane] = (F32(attempt) + _LOWEST) / extreme[lane]
            along[lane] = F32(0)
            across[lane] = F32(0)
        for place in range(x.shape[0]):
            for lane in range(LANES):
                value = _nearest(tried[lane] * x[place, lane])
                once = w[place, lane] * value
                along[lane] += once * x[place, lane]
                across[lane] += once * value
        for lane in range(LANES):
            fitted = along[lane] / across[lane]
            if plain:
                scales[lane] = fitted if across[lane] > F32(0) else F32(0)
                best[lane] = scales[lane] * along[lane]
            else:
                better = (across[lane] > F32(0)) & (
                    along[lane] * along[lane] > best[lane] * across[lane]
                )
                scales[lane] = fitted if better else scales[lane]
                best[lane] = fitted * along[lane] if better else best[lane]
    for lane in range(LANES):
        if abs(extreme[lane]) < EPSILON:
            scales[lane] = F32(0)


@kernel
def _nearest(number: np.float32) -> np.float32:
    """The nearest of VALUES; the greater one of two that are equally near."""
    value = _LOWEST
    for step in range(_STEPS):
        value = value if number < _MIDPOINTS[step] else F32(VALUES[step + 1])
    return value


@kernel
def nearest_table_code(number: np.float32) -> int:
    """Code of the nearest of VALUES; the greater one of two that are equally near."""
    code = 0
    for step in range(_STEPS):
        code += 0 if number < _MIDPOINTS[step] else 1
    return code


@kernel
def _quantize_scales(
    scales: np.ndarray, block: int, inverses: np.ndarray, packed: np.ndarray
) -> None:
    """Write d and the 6-bit scales of one superblock; ``inverses`` FP32 [LANES] is output."""
    extreme = F32(0)
    for group in range(_GROUPS):
        scale = scales[group * _BLOCKS + block]
        # Squares of weights that overflow give NaN; as an infinite scale it is refused later.
        scale = scale if scale == scale else F32(np.inf)  # noqa: PLR0124
        extreme = scale if abs(scale) > abs(extreme) else extreme
    d = -extreme / F32(_HALF_RANGE)
    put_half(packed, 0, d)
    inverse = F32(1) / d if d != 0 else F32(0)
    for byte in range(2, 8):
        packed[byte] = 0
    for group in range(_GROUPS):
        lane = group * _BLOCKS + block
        code = np.rint(inverse * scales[lane])
        code = max(F32(-_HALF_RANGE), min(code, F32(_HALF_RANGE - 1)))
        step = d * code
        inverses[lane] = F32(1) / step if step != 0 else F32(0)
        stored = int(code) + _HALF_RANGE
        packed[2 + group // 4] |= (stored >> 4) << 2 * (group % 4)
        packed[4 + group // 2] |= (stored & 0xF) << 4 * (group % 2)


@kernel
def _choose_codes(x: np.ndarray, inverses: np.ndarray, codes: np.ndarray) -> None:
    """Choose the code uint8 [LANES, places] nearest to each weight times its inverse scale."""
    for place in range(x.shape[0]):
        for lane in range(LANES):
            codes[lane, place] = nearest_table_code(inverses[lane] * x[place, lane])


@kernel
def _pack_nibbles(codes: np.ndarray, packed: np.ndarray) -> None:
    """Pack codes uint8 [32] into 16 bytes."""
    for place in range(_GROUP // 2):
        packed[place] = codes[place] | (codes[place + _GROUP // 2] << 4)
