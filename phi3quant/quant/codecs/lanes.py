"""What the compiled kernels share: many groups of weights side by side, and FP16 numbers.

A kernel takes groups by the ``LANES``, laid out [places, LANES]: each step is one loop over the
lanes, which the compiler turns into vector instructions, while a sum over a group's places still
runs one place after another, as llama.cpp's loops do. That is how results agree with its C code
bit for bit, at several times its speed.
"""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numba
import numpy as np

from phi3quant.quant.codecs import kernel_cache

LANES = 64
"""Groups that are handled at once; a multiple of the groups in a superblock."""

F32 = np.float32
_U32 = np.uint32

P = ParamSpec("P")
R = TypeVar("R")


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function at its first call; its machine code is kept for later processes.

    It is kept where phi3quant.quant.codecs.kernel_cache has a place for it.

    Divisions by zero give infinity or NaN, nothing is fused or reordered, and the interpreter's
    lock is released meanwhile.
    """
    options = {"error_model": "numpy", "nogil": True, "no_cfunc_wrapper": True}
    place = kernel_cache.folder()
    if place is None:
        alone: Callable[P, R] = numba.njit(**options)(function)
        return alone
    with kernel_cache.in_folder(place):
        compiled: Any = numba.njit(cache=True, **options)(function)
    compiled._cache = kernel_cache.Forgiving(compiled._cache)  # noqa: SLF001
    kept: Callable[P, R] = compiled
    return kept


@kernel
def gather(weights: np.ndarray, first: int, groups: int, tile: np.ndarray) -> int:
    """Lay superblocks out as lanes, group by group: lane ``g * (LANES / groups) + b``.

    Args:
        weights: FP32 [count], a whole number of superblocks.
        first: the first superblock.
        groups: in a superblock, side by side.
        tile: FP32 [width, LANES], filled; lanes past the last superblock with zeros.

    Returns:
        How many superblocks there were.
    """
    width = tile.shape[0]
    blocks = LANES // groups
    present: int = min(blocks, len(weights) // (groups * width) - first)
    for group in range(groups):
        for block in range(blocks):
            lane = group * blocks + block
            start = ((first + block) * groups + group) * width
            for place in range(width):
                tile[place, lane] = weights[start + place] if block < present else F32(0)
    return present


@kernel
def gather_columns(values: np.ndarray, first: int, groups: int, tile: np.ndarray) -> None:
    """Lay a value for each column out as ``gather`` does with the weights of these columns.

    Args:
        values: FP32 [columns].
        first: the first superblock, counted over all rows.
        groups: in a superblock.
        tile: FP32 [width, LANES], filled.
    """
    width = tile.shape[0]
    blocks = LANES // groups
    for group in range(groups):
        for block in range(blocks):
            start = ((first + block) * groups + group) * width % values.shape[0]
            for place in range(width):
                tile[place, group * blocks + block] = values[start + place]


@kernel
def column_sums(tile: np.ndarray, sums: np.ndarray) -> None:
    """Sum [places, LANES] over the places, one after another, into [LANES]."""
    for lane in range(LANES):
        sums[lane] = tile[0, lane]
    for place in range(1, tile.shape[0]):
        for lane in range(LANES):
            sums[lane] += tile[place, lane]


@kernel
def half_bits(value: np.float32) -> np.uint32:
    """A number as FP16, rounded to nearest even: its 16 bits."""
    bits = F32(value).view(_U32)
    sign = (bits >> _U32(16)) & _U32(0x8000)
    bits = bits & _U32(0x7FFFFFFF)
    if bits >= _U32(0x47800000):  # 65536 and up
        return sign | _U32(0x7E00 if bits > _U32(0x7F800000) else 0x7C00)
    if bits < _U32(0x38800000):  # FP16's subnormal numbers, whose step is that of FP32 from 0.5
        shifted = _U32(bits).view(F32) + F32(0.5)
        return sign | (F32(shifted).view(_U32) - _U32(0x3F000000))
    rounded = bits + _U32(0xFFF) + ((bits >> _U32(13)) & _U32(1))
    return sign | ((rounded - _U32(0x38000000)) >> _U32(13))


@kernel
def half_value(bits: int | np.uint32) -> np.float32:
    """The number that 16 bits of FP16 stand for."""
    exponent, fraction = (bits >> 10) & 31, bits & 1023
    if exponent == 0:
        value = F32(fraction) * F32(2.0**-24)
    elif exponent == 31:
        value = F32(np.inf) if fraction == 0 else F32(np.nan)
    else:
        value = _U32(((exponent + 112) << 23) | (fraction << 13)).view(F32)
    return -value if bits & 0x8000 else value


@kernel
def put_half(bytes_: np.ndarray, at: int, value: np.float32) -> np.float32:
    """Store a number as FP16 at ``bytes_[at : at + 2]``; gives what a reader will see."""
    bits = half_bits(value)
    bytes_[at] = bits & 0xFF
    bytes_[at + 1] = bits >> 8
    return half_value(bits)
