"""llama.cpp's types without superblocks: Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0, blocks of 32 weights.

Output equals that of llama.cpp bit for bit: ``quantize_row_*_ref`` of ggml-quants.c without, and
``quantize_row_*_impl`` with an importance per column (which Q8_0 ignores).
"""

import numpy as np

from phi3quant.quant.codecs.ggml_scale_search import (
    extremes,
    nearest_code,
    ranges,
    scale_and_minimum,
    signed_scale,
)
from phi3quant.quant.codecs.lanes import F32, LANES, gather, gather_columns, kernel, put_half

BLOCK = 32
"""Weights per block."""


@kernel
def encode_symmetric(
    weights: np.ndarray, importance: np.ndarray, highest: int, packed: np.ndarray
) -> None:
    """Quantize rows to Q4_0 or Q5_0.

    A block consists of FP16 d, 4 bytes of fifth bits (Q5_0 only) and 16 bytes of nibbles.

    Args:
        weights: FP32 [rows * columns], columns a multiple of 32.
        importance: mean square of each column's input, FP32 [columns]; or empty.
        highest: the largest code, 15 or 31.
        packed: output, uint8 [blocks, 18 or 22].
    """
    half = (highest + 1) // 2
    x, w = np.empty((BLOCK, LANES), F32), np.empty((BLOCK, LANES), F32)
    scales, inverses = np.empty(LANES, F32), np.empty(LANES, F32)
    codes = np.empty((LANES, BLOCK), np.uint8)
    spread = _mean_squares(weights, importance)
    for first in range(0, len(packed), LANES):
        present = gather(weights, first, 1, x)
        if len(importance):
            _weigh(x, first, importance, spread, w)
            signed_scale(x, w, half, scales, inverses)
            _nearest_codes(x, inverses, half, codes)
        else:
            _plain_codes(x, half, scales, inverses, codes)
        for lane in range(present):
            put_half(packed[first + lane], 0, scales[lane])
            _pack(codes[lane], highest, packed[first + lane, 2:])


@kernel
def _plain_codes(
    x: np.ndarray, half: int, scales: np.ndarray, inverses: np.ndarray, codes: np.ndarray
) -> None:
    """Scales [LANES] that map the value of largest magnitude to code 0, and codes [LANES, 32].

    ``scales``, ``inverses`` and ``codes`` are output.
    """
    middle, top = F32(half), F32(2 * half - 1)
    extremes(x, scales)
    for lane in range(LANES):
        scales[lane] = scales[lane] / -middle
        inverses[lane] = F32(1) / scales[lane] if scales[lane] != 0 else F32(0)
    for place in range(BLOCK):
        for lane in range(LANES):
            code = x[place, lane] * inverses[lane] + (middle + F32(0.5))
            codes[lane, place] = _cut(code, top)


@kernel
def _nearest_codes(x: np.ndarray, inverses: np.ndarray, half: int, codes: np.ndarray) -> None:
    """Codes [LANES, 32] from inverse scales [LANES]; 0 for groups of zeros, as in llama.cpp."""
    middle, top = F32(half), F32(2 * half - 1)
    for place in range(BLOCK):
        for lane in range(LANES):
            code = min(max(np.rint(x[place, lane] * inverses[lane]) + middle, F32(0)), top)
            codes[lane, place] = np.uint8(code if inverses[lane] != 0 else F32(0))


@kernel
def encode_affine(
    weights: np.ndarray, importance: np.ndarray, highest: int, packed: np.ndarray
) -> None:
    """Quantize rows to Q4_1 or Q5_1.

    A block consists of FP16 d, FP16 minimum, 4 bytes of fifth bits (Q5_1 only) and 16 bytes of
    nibbles.

    Args:
        weights: as encode_symmetric.
        importance: as encode_symmetric.
        highest: the largest code, 15 or 31.
        packed: output, uint8 [blocks, 20 or 24].
    """
    top = F32(highest)
    x, w = np.empty((BLOCK, LANES), F32), np.empty((BLOCK, LANES), F32)
    fit, origin = np.empty((2, LANES), F32), np.empty((2, LANES), F32)
    codes = np.empty((LANES, BLOCK), np.uint8)
    spread = _mean_squares(weights, importance)
    for first in range(0, len(packed), LANES):
        present = gather(weights, first, 1, x)
        if len(importance):
            _weigh(x, first, importance, spread, w)
            grid = (highest, -0.9, 0.05, 36)
            scale_and_minimum(x, w, grid, fit, origin)
            for place in range(BLOCK):
                for lane in range(LANES):
                    code = nearest_code((x[place, lane] - origin[1, lane]) * origin[0, lane], top)
                    codes[lane, place] = np.uint8(code)
        else:
            ranges(x, fit[1], fit[0])
            for lane in range(LANES):
                fit[0, lane] = (fit[0, lane] - fit[1, lane]) / top
                origin[0, lane] = F32(1) / fit[0, lane] if fit[0, lane] != 0 else F32(0)
            for place in range(BLOCK):
                for lane in range(LANES):
                    code = (x[place, lane] - fit[1, lane]) * origin[0, lane] + F32(0.5)
                    codes[lane, place] = _cut(code, top)
        for lane in range(present):
            put_half(packed[first + lane], 0, fit[0, lane])
            put_half(packed[first + lane], 2, fit[1, lane])
            _pack(codes[lane], highest, packed[first + lane, 4:])


@kernel
def encode_bytes(weights: np.ndarray, packed: np.ndarray) -> None:
    """Quantize rows to Q8_0: FP16 d and 32 signed bytes.

    Args:
        weights: FP32 [rows * columns], columns a multiple of 32.
        packed: output, uint8 [blocks, 34].
    """
    x, scales, inverses = np.empty((BLOCK, LANES), F32), np.empty(LANES, F32), np.empty(LANES, F32)
    codes = np.empty((LANES, BLOCK), np.int8)
    for first in range(0, len(packed), LANES):
        present = gather(weights, first, 1, x)
        extremes(x, scales)
        for lane in range(LANES):
            scales[lane] = abs(scales[lane]) / F32(127)
            inverses[lane] = F32(1) / scales[lane] if scales[lane] != 0 else F32(0)
        for place in range(BLOCK):
            for lane in range(LANES):
                value = x[place, lane] * inverses[lane]
                whole = np.trunc(value)
                # As C's roundf, which rounds halves away from zero.
                away = np.trunc(F32(2) * (value - whole))
                codes[lane, place] = np.int8(min(max(whole + away, F32(-127)), F32(127)))
        for lane in range(present):
            put_half(packed[first + lane], 0, scales[lane])
            for place in range(BLOCK):
                packed[first + lane, 2 + place] = np.uint8(codes[lane, place])


@kernel
def _cut(code: np.float32, top: np.float32) -> np.uint8:
    """Integer part of a code, at most ``top``; 0 if the inverse of a subnormal scale overflowed."""
    code = code if F32(0) < code < F32(np.inf) else F32(0)
    return np.uint8(min(top, code))


@kernel
def _mean_squares(weights: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """Mean square of each row, FP32 [rows], summed from left to right; empty without importance."""
    columns = len(importance)
    if columns == 0:
        return np.empty(0, F32)
    means = np.zeros(len(weights) // columns, F32)
    for row in range(len(means)):
        total = F32(0)
        for column in range(columns):
            value = weights[row * columns + column]
            total += value * value
        means[row] = total / F32(columns)
    return means


@kernel
def _weigh(
    x: np.ndarray, first: int, importance: np.ndarray, spread: np.ndarray, w: np.ndarray
) -> None:
    """Fill ``w`` FP32 [places, LANES] with importance * sqrt(the row's mean square + x^2)."""
    gather_columns(importance, first, 1, w)
    rows = np.empty(LANES, F32)
    for lane in range(LANES):
        row = (first + lane) * BLOCK // len(importance)
        rows[lane] = spread[min(row, len(spread) - 1)]
    for place in range(BLOCK):
        for lane in range(LANES):
            w[place, lane] *= np.sqrt(rows[lane] + x[place, lane] * x[place, lane])


@kernel
def _pack(codes: np.ndarray, highest: int, packed: np.ndarray) -> None:
    """Pack codes uint8 [32] into 4 bytes of fifth bits (if any) and 16 bytes of nibbles."""
    at = 0
    if highest > 15:
        at = 4
        for byte in range(4):
            bits = 0
            for bit in range(8):
                bits |= (codes[8 * byte + bit] >> 4) << bit
            packed[byte] = bits
    for place in range(BLOCK // 2):
        packed[at + place] = (codes[place] & 0xF) | ((codes[place + BLOCK // 2] & 0xF) << 4)
