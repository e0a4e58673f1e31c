"""K-quants: Q4_K, Q5_K and Q6_K, superblocks of 256 weights in which the scales are quantized too.

Output equals that of llama.cpp bit for bit: ``quantize_row_*_ref`` of ggml-quants.c without, and
``quantize_row_*_impl`` with an importance per column (llama.cpp's importance matrix).
"""

import numpy as np

from phi3quant.quant.codecs.ggml_error_weights import SUPER, weigh_by_importance, weigh_by_size
from phi3quant.quant.codecs.ggml_scale_search import (
    EPSILON,
    nearest_code,
    positive_scale,
    scale_and_minimum,
    signed_scale,
)
from phi3quant.quant.codecs.lanes import (
    F32,
    LANES,
    column_sums,
    gather,
    gather_columns,
    half_value,
    kernel,
    put_half,
)

# Q4_K and Q5_K: groups of 32, whose scales and minima are 6-bit codes.
_GROUP, _GROUPS = 32, 8
_BLOCKS = LANES // _GROUPS
_SIX_BITS = 63
_HEADER = 16
# Q6_K: groups of 16, whose scales are 8-bit codes.
_SMALL_GROUP, _SMALL_GROUPS = 16, 16
_SMALL_BLOCKS = LANES // _SMALL_GROUPS
_HALF_RANGE = 32


@kernel
def encode_affine(
    weights: np.ndarray, importance: np.ndarray, highest: int, packed: np.ndarray
) -> None:
    """Quantize rows to Q4_K or Q5_K.

    A superblock consists of FP16 d, FP16 dmin, 12 bytes of scales and minima, 32 bytes of fifth
    bits (Q5_K only) and 128 bytes of nibbles.

    Args:
        weights: FP32 [rows * columns], columns a multiple of 256.
        importance: mean square of each column's input, FP32 [columns]; or empty.
        highest: the largest code, 15 or 31.
        packed: output, uint8 [superblocks, 144 or 176].
    """
    weighted = len(importance) > 0
    x, w = np.empty((_GROUP, LANES), F32), np.empty((_GROUP, LANES), F32)
    fit, origin = np.empty((2, LANES), F32), np.empty((2, LANES), F32)
    sums = np.empty(LANES, F32)
    scales, minima, group_sums = (
        np.empty(_GROUPS, F32),
        np.empty(_GROUPS, F32),
        np.empty(_GROUPS, F32),
    )
    codes = np.empty((_GROUPS, _GROUP), np.uint8)
    if weighted:
        grid = (highest, -0.9, 0.05, 36)
    else:
        grid = (highest, -1.0, 0.1, 20) if highest == 15 else (highest, -0.5, 0.1, 15)
    for first in range(0, len(packed), _BLOCKS):
        present = gather(weights, first, _GROUPS, x)
        if weighted:
            gather_columns(importance, first, _GROUPS, w)
            weigh_by_importance(x, w, _GROUPS)
        else:
            weigh_by_size(x, w)
        scale_and_minimum(x, w, grid, fit, origin)
        column_sums(w, sums)
        for block in range(present):
            header = packed[first + block, :_HEADER]
            for group in range(_GROUPS):
                lane = group * _BLOCKS + block
                # The format subtracts minima.
                scales[group], minima[group] = fit[0, lane], -fit[1, lane]
                group_sums[group] = sums[lane]
            if weighted:
                _searched_header(scales, minima, group_sums, header)
            else:
                _plain_header(scales, minima, header)
            for group in range(_GROUPS):
                lane = group * _BLOCKS + block
                _choose_codes(x, lane, origin, highest, _grid_of(header, group), codes[group])
            _pack_nibbles(codes, highest > 15, packed[first + block, _HEADER:])


@kernel
def _plain_header(scales: np.ndarray, minima: np.ndarray, header: np.ndarray) -> None:
    """Write scales and minima FP32 [groups], each rounded to a 63rd of the largest one."""
    most_scale, most_minimum = F32(0), F32(0)
    for group in range(_GROUPS):
        most_scale = max(most_scale, scales[group])
        most_minimum = max(most_minimum, minima[group])
    by_scale = F32(_SIX_BITS) / most_scale if most_scale > 0 else F32(0)
    by_minimum = F32(_SIX_BITS) / most_minimum if most_minimum > 0 else F32(0)
    for group in range(_GROUPS):
        scale = min(_lowest_byte(by_scale * scales[group]), _SIX_BITS)
        minimum = min(_lowest_byte(by_minimum * minima[group]), _SIX_BITS)
        _put_six_bits(header, group, scale, minimum)
    put_half(header, 0, most_scale / F32(_SIX_BITS))
    put_half(header, 2, most_minimum / F32(_SIX_BITS))


@kernel
def _lowest_byte(value: np.float32) -> int:
    """Round and keep the lowest byte (which wraps negative values); 0 for values beyond 2^22."""
    code = np.rint(value)
    return int(code) & 0xFF if abs(code) < F32(1 << 22) else 0


@kernel
def _searched_header(
    scales: np.ndarray, minima: np.ndarray, sums: np.ndarray, header: np.ndarray
) -> None:
    """Write scales and minima FP32 [groups] with the d and dmin that lose least."""
    scale_codes = np.empty(_GROUPS, np.int64)
    minimum_codes = np.empty(_GROUPS, np.int64)
    put_half(header, 0, positive_scale(scales, sums, _SIX_BITS, scale_codes))
    put_half(header, 2, positive_scale(minima, sums, _SIX_BITS, minimum_codes))
    for group in range(_GROUPS):
        _put_six_bits(header, group, scale_codes[group], minimum_codes[group])


@kernel
def _put_six_bits(header: np.ndarray, group: int, scale: int, minimum: int) -> None:
    """Write a group's six-bit codes into bytes 4 to 15 of a header, in the order of the groups."""
    if group < 4:
        header[4 + group] = scale
        header[8 + group] = minimum
    else:
        header[8 + group] = (scale & 0xF) | ((minimum & 0xF) << 4)
        header[group] |= (scale >> 4) << 6
        header[4 + group] |= (minimum >> 4) << 6


@kernel
def _grid_of(header: np.ndarray, group: int) -> tuple[np.float32, np.float32]:
    """Scale and minimum of a group, as decoded from the header."""
    if group < 4:
        scale, minimum = header[4 + group] & 63, header[8 + group] & 63
    else:
        scale = (header[8 + group] & 0xF) | ((header[group] >> 6) << 4)
        minimum = (header[8 + group] >> 4) | ((header[4 + group] >> 6) << 4)
    d = half_value(header[0] | (header[1] << 8))
    d_minimum = half_value(header[2] | (header[3] << 8))
    return d * F32(scale), d_minimum * F32(minimum)


@kernel
def _choose_codes(
    x: np.ndarray,
    lane: int,
    origin: np.ndarray,
    highest: int,
    grid: tuple[np.float32, np.float32],
    codes: np.ndarray,
) -> None:
    """Choose the codes of one lane: the nearest, or those of the search if the scale is 0."""
    top, (scale, minimum) = F32(highest), grid
    if scale == 0:
        for place in range(_GROUP):
            code = nearest_code((x[place, lane] - origin[1, lane]) * origin[0, lane], top)
            codes[place] = np.uint8(code)
    else:
        for place in range(_GROUP):
            codes[place] = np.uint8(nearest_code((x[place, lane] + minimum) / scale, top))


@kernel
def _pack_nibbles(codes: np.ndarray, fifth_bits: bool, packed: np.ndarray) -> None:  # noqa: FBT001
    """Pack codes uint8 [8, 32] into 32 bytes of fifth bits (optional) and 128 bytes of nibbles."""
    at = 0
    if fifth_bits:
        at = _GROUP
        for place in range(_GROUP):
            bits = 0
            for group in range(_GROUPS):
                bits |= (codes[group, place] >> 4) << group
            packed[place] = bits
    for pair in range(_GROUPS // 2):
        for place in range(_GROUP):
            low, high = codes[2 * pair, place] & 0xF, codes[2 * pair + 1, place] & 0xF
            packed[at + pair * _GROUP + place] = low | (high << 4)


@kernel
def encode_signed(weights: np.ndarray, importance: np.ndarray, packed: np.ndarray) -> None:
    """Quantize rows to Q6_K: ql[128], qh[64], int8 scales[16], FP16 d.

    Args:
        weights: FP32 [rows * columns], columns a multiple of 256.
        importance: as encode_affine.
        packed: output, uint8 [superblocks, 210].
    """
    weighted = len(importance) > 0
    x, w = np.empty((_SMALL_GROUP, LANES), F32), np.empty((_SMALL_GROUP, LANES), F32)
    scales, inverses = np.empty(LANES, F32), np.empty(LANES, F32)
    codes = np.empty(SUPER, np.uint8)
    for first in range(0, len(packed), _SMALL_BLOCKS):
        present = gather(weights, first, _SMALL_GROUPS, x)
        if weighted:
            gather_columns(importance, first, _SMALL_GROUPS, w)
        else:
            for place in range(_SMALL_GROUP):
                for lane in range(LANES):
                    w[place, lane] = x[place, lane] * x[place, lane]
        signed_scale(x, w, _HALF_RANGE, scales, inverses)
        for block in range(present):
            _finish_signed(x, block, scales, inverses, codes, packed[first + block])


@kernel
def _finish_signed(
    x: np.ndarray,
    block: int,
    scales: np.ndarray,
    inverses: np.ndarray,
    codes: np.ndarray,
    packed: np.ndarray,
) -> None:
    """Choose d, the scales and the codes of one superblock of Q6_K, and pack them."""
    extreme = F32(0)
    for group in range(_SMALL_GROUPS):
        scale = scales[group * _SMALL_BLOCKS + block]
        # Squares of weights that overflow give NaN; as an infinite scale it is refused later.
        scale = scale if scale == scale else F32(np.inf)  # noqa: PLR0124
        extreme = scale if abs(scale) > abs(extreme) else extreme
    if abs(extreme) < EPSILON:
        for place in range(len(packed)):
            packed[place] = 0
        return
    inverse = F32(-128) / extreme
    d = put_half(packed, 208, F32(1) / inverse)
    low, high = F32(-_HALF_RANGE), F32(_HALF_RANGE - 1)
    for group in range(_SMALL_GROUPS):
        lane = group * _SMALL_BLOCKS + block
        scale_code = min(np.rint(inverse * scales[lane]), F32(127))
        packed[192 + group] = np.uint8(int(scale_code) & 0xFF)
        step = d * scale_code
        for place in range(_SMALL_GROUP):
            value = x[place, lane] / step if step != 0 else x[place, lane] * inverses[lane]
            code = int(max(min(np.rint(value), high), low)) + _HALF_RANGE
            # The reference leaves the codes of groups of zeros at 0, not in the middle.
            codes[group * _SMALL_GROUP + place] = 0 if inverses[lane] == 0 else np.uint8(code)
    for half in range(2):
        for place in range(32):
            at = half * 128 + place
            first, second, third, fourth = codes[at], codes[at + 32], codes[at + 64], codes[at + 96]
            packed[half * 64 + place] = (first & 0xF) | ((third & 0xF) << 4)
            packed[half * 64 + place + 32] = (second & 0xF) | ((fourth & 0xF) << 4)
            packed[128 + half * 32 + place] = (
                (first >> 4) | ((second >> 4) << 2) | ((third >> 4) << 4) | ((fourth >> 4) << 6)
            )
