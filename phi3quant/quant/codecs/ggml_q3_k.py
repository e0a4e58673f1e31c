"""Q3_K: 3-bit codes in superblocks of 16 groups of 16 weights, without minima.

Output equals that of ggml-quants.c bit for bit: ``quantize_row_q3_K_ref`` without, and
``quantize_row_q3_K_impl`` with an importance per column. Each lane holds a whole superblock, so
that the search for the scale of the scales runs in lanes too.
"""

import numpy as np

from phi3quant.quant.codecs.ggml_error_weights import SUPER, weigh_by_importance
from phi3quant.quant.codecs.ggml_scale_search import EPSILON, extremes, signed_scale
from phi3quant.quant.codecs.lanes import (
    F32,
    LANES,
    column_sums,
    gather,
    gather_columns,
    half_bits,
    half_value,
    kernel,
)

_GROUP, _GROUPS = 16, 16
# Codes run from -4 to 3 around the middle, those of the scales from -32 to 31.
_HALF, _HALF_SCALE = 4, 32
_ROUNDS = 5
# Bytes of a superblock: the high bits of all codes, their low bit pairs, the scales, d.
_PAIRS, _SCALES, _D = 32, 96, 108


@kernel
def encode(weights: np.ndarray, importance: np.ndarray, packed: np.ndarray) -> None:
    """Quantize rows to Q3_K.

    Args:
        weights: FP32 [rows * columns], columns a multiple of 256.
        importance: mean square of each column's input, FP32 [columns]; or empty.
        packed: output, uint8 [superblocks, 110].
    """
    x = np.empty((SUPER, LANES), F32)
    codes = np.empty((SUPER, LANES), np.uint8)
    scales, d = np.empty((_GROUPS, LANES), F32), np.empty(LANES, F32)
    scale_codes = np.empty((_GROUPS, LANES), F32)
    tile = np.empty((packed.shape[1], LANES), np.uint8)
    weighted = len(importance) > 0
    w = np.empty((SUPER if weighted else 0, LANES), F32)
    for first in range(0, len(packed), LANES):
        present = gather(weights, first, 1, x)
        if weighted:
            gather_columns(importance, first, 1, w)
            weigh_by_importance(x, w, 1)
            _search(x, w, scales, scale_codes, d, codes)
        else:
            _refine(x, scales, codes)
            _plain_scale_codes(scales, scale_codes, d)
        for lane in range(LANES):
            d[lane] = half_value(half_bits(d[lane]))
        _round_on_grid(x, scale_codes, d, codes)
        _pack(codes, scale_codes, d, tile, packed[first : first + present])


@kernel
def _search(
    x: np.ndarray,
    w: np.ndarray,
    scales: np.ndarray,
    scale_codes: np.ndarray,
    d: np.ndarray,
    codes: np.ndarray,
) -> None:
    """Search scales by weighted squared error.

    Args:
        x: FP32 [256, LANES].
        w: weights of the squared errors, FP32 [256, LANES].
        scales: output, FP32 [groups, LANES].
        scale_codes: output, codes of the scales from 0, FP32 [groups, LANES].
        d: output, scale of the scales, FP32 [LANES].
        codes: output, uint8 [256, LANES].
    """
    inverses, sums = np.empty(LANES, F32), np.empty((_GROUPS, LANES), F32)
    for group in range(_GROUPS):
        part = slice(group * _GROUP, (group + 1) * _GROUP)
        column_sums(w[part], sums[group])
        signed_scale(x[part], w[part], _HALF, scales[group], inverses)
        for place in range(group * _GROUP, (group + 1) * _GROUP):
            for lane in range(LANES):
                code = _cut(np.rint(inverses[lane] * x[place, lane]), F32(_HALF))
                # The reference leaves the codes of groups of zeros at 0, not in the middle.
                codes[place, lane] = np.uint8(code if inverses[lane] != 0 else F32(0))
    signed_scale(scales, sums, _HALF_SCALE, d, inverses)
    for group in range(_GROUPS):
        for lane in range(LANES):
            code = _cut(np.rint(inverses[lane] * scales[group, lane]), F32(_HALF_SCALE))
            scale_codes[group, lane] = code if inverses[lane] != 0 else F32(0)


@kernel
def _refine(x: np.ndarray, scales: np.ndarray, codes: np.ndarray) -> None:
    """Choose codes and scales in turns, each error weighted by x^2: ``make_q3_quants``.

    ``scales``, FP32 [groups, LANES], and ``codes``, uint8 [256, LANES], are output.
    """
    extreme, inverses = np.empty(LANES, F32), np.empty(LANES, F32)
    sums, before = np.empty((2, LANES), F32), np.empty((2, LANES), F32)
    chosen = np.empty((_GROUP, LANES), F32)
    for group in range(_GROUPS):
        start = group * _GROUP
        part = x[start : start + _GROUP]
        extremes(part, extreme)
        for lane in range(LANES):
            inverses[lane] = F32(-_HALF) / extreme[lane]
            sums[0, lane] = F32(0)
            sums[1, lane] = F32(0)
        for place in range(_GROUP):
            for lane in range(LANES):
                value = part[place, lane]
                code = _clipped(np.rint(inverses[lane] * value))
                chosen[place, lane] = code
                sums[0, lane] += value * value * value * code
                sums[1, lane] += value * value * code * code
        for _ in range(_ROUNDS):
            before[:] = sums
            _improve(part, chosen, sums)
            if not _differ(before, sums):
                break
        for lane in range(LANES):
            zeros = abs(extreme[lane]) < EPSILON
            scale = sums[0, lane] / sums[1, lane] if sums[1, lane] > F32(0) else F32(0)
            scales[group, lane] = F32(0) if zeros else scale
            # The reference leaves the codes of groups of zeros at 0, not in the middle.
            inverses[lane] = F32(0) if zeros else F32(1)
        for place in range(_GROUP):
            for lane in range(LANES):
                code = (chosen[place, lane] + F32(_HALF)) * inverses[lane]
                codes[start + place, lane] = np.uint8(code)


@kernel
def _improve(x: np.ndarray, chosen: np.ndarray, sums: np.ndarray) -> None:
    """Replace each code in turn by the best for the scale that the other codes fit.

    Args:
        x: FP32 [places, LANES].
        chosen: codes around 0, FP32 [places, LANES]; updated.
        sums: weighted sums of x * code and of code * code, FP32 [2, LANES]; updated.
    """
    for place in range(_GROUP):
        for lane in range(LANES):
            # Adding 0 keeps the compiler from storing only what has changed, which is slower.
            code = chosen[place, lane] + F32(0)
            along, across = sums[0, lane] + F32(0), sums[1, lane] + F32(0)
            value = x[place, lane]
            weight = value * value
            rest_along = along - weight * value * code
            rest_across = across - weight * code * code
            new = _clipped(np.rint(value * rest_across / rest_along))
            new_along = rest_along + weight * value * new
            new_across = rest_across + weight * new * new
            better = (
                (rest_along > F32(0))
                & (new != code)
                & (new_across > F32(0))
                & (new_along * new_along * across > along * along * new_across)
            )
            chosen[place, lane] = new if better else code
            sums[0, lane] = new_along if better else along
            sums[1, lane] = new_across if better else across


@kernel
def _differ(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether any of the sums FP32 [2, LANES] has changed."""
    changes = 0
    for lane in range(LANES):
        changes += (before[0, lane] != after[0, lane]) | (before[1, lane] != after[1, lane])
    return changes > 0


@kernel
def _clipped(code: np.float32) -> np.float32:
    return max(F32(-_HALF), min(code, F32(_HALF - 1)))


@kernel
def _cut(code: np.float32, half: np.float32) -> np.float32:
    """Code clipped to its range, counted from 0."""
    return max(-half, min(code, half - F32(1))) + half


@kernel
def _plain_scale_codes(scales: np.ndarray, scale_codes: np.ndarray, d: np.ndarray) -> None:
    """Round scales FP32 [groups, LANES] to multiples of the 32nd part of the largest one.

    ``scale_codes``, FP32 [groups, LANES], and ``d``, FP32 [LANES], are output.
    """
    inverses, extreme = np.empty(LANES, F32), np.zeros(LANES, F32)
    for group in range(_GROUPS):
        for lane in range(LANES):
            scale = scales[group, lane]
            # Squares of weights that overflow give NaN; as an infinite scale it is refused later.
            scale = scale if scale == scale else F32(np.inf)  # noqa: PLR0124
            extreme[lane] = scale if abs(scale) > abs(extreme[lane]) else extreme[lane]
    for lane in range(LANES):
        inverses[lane] = F32(-_HALF_SCALE) / extreme[lane]
        d[lane] = F32(1) / inverses[lane] if extreme[lane] != 0 else F32(0)
    for group in range(_GROUPS):
        for lane in range(LANES):
            code = _cut(np.rint(inverses[lane] * scales[group, lane]), F32(_HALF_SCALE))
            scale_codes[group, lane] = code if extreme[lane] != 0 else F32(0)


@kernel
def _round_on_grid(
    x: np.ndarray, scale_codes: np.ndarray, d: np.ndarray, codes: np.ndarray
) -> None:
    """Choose the nearest codes; those of groups with scale 0 stay."""
    steps = np.empty(LANES, F32)
    for group in range(_GROUPS):
        for lane in range(LANES):
            steps[lane] = d[lane] * (scale_codes[group, lane] - F32(_HALF_SCALE))
        for place in range(group * _GROUP, (group + 1) * _GROUP):
            for lane in range(LANES):
                nearest = _cut(np.rint(x[place, lane] / steps[lane]), F32(_HALF))
                kept = F32(codes[place, lane])
                codes[place, lane] = np.uint8(nearest if steps[lane] != 0 else kept)


@kernel
def _pack(
    codes: np.ndarray, scale_codes: np.ndarray, d: np.ndarray, tile: np.ndarray, packed: np.ndarray
) -> None:
    """Pack codes and scales into superblocks.

    Bit k of the high bits' byte p belongs to code 32 k + p. Each half of a superblock has 32 bytes
    with the low bits of codes p, p + 32, p + 64 and p + 96.

    Args:
        codes: uint8 [256, LANES].
        scale_codes: FP32 [groups, LANES].
        d: FP32 [LANES].
        tile: scratch space, uint8 [110, LANES].
        packed: output, uint8 [superblocks, 110]; at most LANES superblocks.
    """
    for byte in range(_PAIRS):
        for lane in range(LANES):
            high = codes[byte, lane] >> 2
            for bit in range(1, 8):
                high |= (codes[32 * bit + byte, lane] >> 2) << bit
            tile[byte, lane] = high
    for byte in range(_SCALES - _PAIRS):
        at = byte // 32 * 128 + byte % 32
        for lane in range(LANES):
            low = codes[at, lane] & 3
            for pair in range(1, 4):
                low |= (codes[at + 32 * pair, lane] & 3) << 2 * pair
            tile[_PAIRS + byte, lane] = low
    _pack_scales(scale_codes, d, tile)
    for lane in range(len(packed)):
        for byte in range(len(tile)):
            packed[lane, byte] = tile[byte, lane]


@kernel
def _pack_scales(scale_codes: np.ndarray, d: np.ndarray, tile: np.ndarray) -> None:
    """Pack scales into bytes 96 to 109 of ``tile``; arguments as ``_pack``.

    The low 4 bits of a scale are a nibble of bytes 96 to 103, its high 2 bits are in bytes 104 to
    107.
    """
    for lane in range(LANES):
        for byte in range(8):
            first, second = int(scale_codes[byte, lane]), int(scale_codes[byte + 8, lane])
            tile[_SCALES + byte, lane] = (first & 0xF) | ((second & 0xF) << 4)
        for byte in range(4):
            high = 0
            for pair in range(4):
                high |= (int(scale_codes[byte + 4 * pair, lane]) >> 4) << 2 * pair
            tile[_SCALES + 8 + byte, lane] = high
        bits = half_bits(d[lane])
        tile[_D, lane] = bits & 0xFF
        tile[_D + 1, lane] = bits >> 8
