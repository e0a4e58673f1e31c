"""Basics of the compiled kernels: groups of weights side by side in lanes, and FP16 numbers.

A kernel handles ``LANES`` groups at once, laid out as [places, LANES]. Each step is a loop over the
lanes, which the compiler turns into vector instructions. Sums over the places of a group are still
computed one place after another, as in llama.cpp's loops, so that results equal those of its C code
bit for bit, at several times the speed.
"""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numba
import numpy as np

from phi3quant.quant.codecs import kernel_cache

LANES = 64
"""Number of groups that are handled at once; a multiple of the groups in a superblock."""

F32 = np.float32
_U32 = np.uint32

P = ParamSpec("P")
R = TypeVar("R")


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function at its first call and cache the machine code for later processes.

    Division by zero gives infinity or NaN, no operations are fused or reordered, and the function
    runs without the interpreter's lock. For the cache see kernel_cache.py.
    """
    options = {"error_model": "numpy", "nogil": True, "no_cfunc_wrapper": True}
    folder = kernel_cache.folder()
    if folder is None:
        uncached: Callable[P, R] = numba.njit(**options)(function)
        return uncached
    with kernel_cache.in_folder(folder):
        compiled: Any = numba.njit(cache=True, **options)(function)
    compiled._cache = kernel_cache.Forgiving(compiled._cache, function.__name__)  # noqa: SLF001
    cached: Callable[P, R] = compiled
    return cached


@kernel
def gather(weights: np.ndarray, first: int, groups: int, tile: np.ndarray) -> int:
    """Lay superblocks out as lanes: group g of block b in lane ``g * (LANES / groups) + b``.

    Args:
        weights: FP32 [count], a whole number of superblocks.
        first: the first superblock.
        groups: number of groups per superblock.
        tile: output, FP32 [width, LANES]; lanes past the last superblock are zero.

    Returns:
        Number of superblocks in the tile.
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
def gather_rows(weights: np.ndarray, first: int, start: int, tile: np.ndarray) -> None:
    """Lay rows out as lanes.

    Args:
        weights: FP32 [rows, columns].
        first: the first row.
        start: the first column.
        tile: output, FP32 [width, LANES]; lanes past the last row are zero.
    """
    present = min(LANES, len(weights) - first)
    for lane in range(present):
        for place in range(tile.shape[0]):
            tile[place, lane] = weights[first + lane, start + place]
    for lane in range(present, LANES):
        for place in range(tile.shape[0]):
            tile[place, lane] = F32(0)


@kernel
def gather_columns(values: np.ndarray, first: int, groups: int, tile: np.ndarray) -> None:
    """Lay one value per column out as ``gather`` lays out the weights of these columns.

    Args:
        values: FP32 [columns].
        first: the first superblock, counted over all rows.
        groups: number of groups per superblock.
        tile: output, FP32 [width, LANES].
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
    """Sum FP32 [places, LANES] over the places, one after another, into ``sums`` [LANES]."""
    for lane in range(LANES):
        sums[lane] = tile[0, lane]
    for place in range(1, tile.shape[0]):
        for lane in range(LANES):
            sums[lane] += tile[place, lane]


@kernel
def half_bits(value: np.float32) -> np.uint32:
    """The 16 bits of a number in FP16, rounded to nearest even."""
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
    """Value of an FP16 number from its 16 bits."""
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
    """Store a number as FP16 at ``bytes_[at : at + 2]`` and return the rounded value."""
    bits = half_bits(value)
    bytes_[at] = bits & 0xFF
    bytes_[at + 1] = bits >> 8
    return half_value(bits)
