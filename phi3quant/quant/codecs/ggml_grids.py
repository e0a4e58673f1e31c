"""Grids of stored blocks: read them, and replace the codes while the scales stay.

The scales of a superblock depend on all of its weights, so ggml_blocks.py searches them first, and
compensation then chooses new codes on fixed scales. The layouts are those of ggml-common.h.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from gguf.quants import Q4_K

from phi3quant.quant.codecs.ggml_table_quants import VALUES

_F32 = np.float32
_HEADER = 16
# Codes that represent 0 in types without minima: Q3_K, Q5_0 and Q6_K; and 0 among Q3_K's scales.
_MIDDLE_3, _MIDDLE_5, _MIDDLE_6 = 4, 16, 32
_MIDDLE_SCALE = 32

StoredGrids = tuple[np.ndarray, np.ndarray]
"""Scale and least value of each group, FP32 [blocks, groups] each; a weight is
scale * values[code] + least."""


@dataclass(frozen=True)
class BlockGrid:
    """Access to the grids and codes of a block type.

    Attributes:
        values: value of each code before the scale, FP32 [codes].
        read: reads the grids of blocks uint8 [blocks, block_bytes].
        put: writes codes uint8 [blocks, weights] into blocks uint8 [blocks, block_bytes].
    """

    values: np.ndarray
    read: Callable[[np.ndarray], StoredGrids]
    put: Callable[[np.ndarray, np.ndarray], None]


def _half(blocks: np.ndarray, start: int) -> np.ndarray:
    """FP16 number at byte ``start`` of each block, as FP32 [blocks, 1]."""
    return blocks[:, start : start + 2].copy().view(np.float16).astype(_F32)


def _read_5_0(blocks: np.ndarray) -> StoredGrids:
    scale = _half(blocks, 0)
    return scale, scale * _F32(-_MIDDLE_5)


def _read_5_1(blocks: np.ndarray) -> StoredGrids:
    return _half(blocks, 0), _half(blocks, 2)


def _read_k(blocks: np.ndarray) -> StoredGrids:
    scales, minima = Q4_K.get_scale_min(blocks[:, 4:_HEADER].copy())
    return _half(blocks, 0) * scales.astype(_F32), -_half(blocks, 2) * minima.astype(_F32)


def _read_6_k(blocks: np.ndarray) -> StoredGrids:
    scale = _half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(_F32)
    return scale, scale * _F32(-_MIDDLE_6)


def _read_3_k(blocks: np.ndarray) -> StoredGrids:
    low = np.concatenate([blocks[:, 96:104] & 15, blocks[:, 96:104] >> 4], axis=1)
    pairs = blocks[:, None, 104:108] >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    codes = low | pairs.reshape(-1, 16) << 4
    scale = _half(blocks, 108) * (codes.astype(_F32) - _F32(_MIDDLE_SCALE))
    return scale, scale * _F32(-_MIDDLE_3)


def _read_nl(blocks: np.ndarray) -> StoredGrids:
    scale = _half(blocks, 0)
    return scale, np.zeros_like(scale)


def _read_xs(blocks: np.ndarray) -> StoredGrids:
    nibbles = blocks[:, 4:8, None] >> np.array([0, 4], np.uint8) & 15
    pairs = blocks[:, 2:4, None] >> np.array([0, 2, 4, 6], np.uint8) & 3
    codes = nibbles.reshape(-1, 8) | pairs.reshape(-1, 8) << 4
    scale = _half(blocks, 0) * (codes.astype(_F32) - _F32(_MIDDLE_SCALE))
    return scale, np.zeros_like(scale)


def _put_5(start: int) -> Callable[[np.ndarray, np.ndarray], None]:
    """Writer of 32 codes: fifth bits from byte ``start`` on, then nibbles of codes i and i + 16."""

    def put(blocks: np.ndarray, codes: np.ndarray) -> None:
        blocks[:, start : start + 4] = np.packbits(codes >> 4, axis=1, bitorder="little")
        low = codes & 15
        blocks[:, start + 4 : start + 20] = low[:, :16] | low[:, 16:] << 4

    return put


def _put_nibbles(blocks: np.ndarray, codes: np.ndarray) -> None:
    """Write the low nibbles of 8 groups: 32 bytes for each pair of groups of 32."""
    pairs = (codes & 15).reshape(-1, 4, 2, 32)
    blocks[:, -128:] = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)


def _put_5_k(blocks: np.ndarray, codes: np.ndarray) -> None:
    """Write the codes of Q5_K; byte p of the fifth bits belongs to place p of all eight groups."""
    fifths = (codes >> 4).reshape(-1, 8, 32)
    blocks[:, _HEADER : _HEADER + 32] = np.packbits(fifths, axis=1, bitorder="little")[:, 0]
    _put_nibbles(blocks, codes)


def _put_6_k(blocks: np.ndarray, codes: np.ndarray) -> None:
    """Write the codes of Q6_K.

    Each half of a block has 64 bytes with the low nibbles of codes p and p + 64, and 32 bytes with
    the high bit pairs of codes p, p + 32, p + 64 and p + 96.
    """
    quarters = codes.reshape(-1, 2, 4, 32)
    low, high = quarters & 15, quarters >> 4
    blocks[:, :128] = (low[:, :, :2] | low[:, :, 2:] << 4).reshape(-1, 128)
    shifted = high << np.array([0, 2, 4, 6], np.uint8)[:, None]
    blocks[:, 128:192] = np.bitwise_or.reduce(shifted, axis=2).reshape(-1, 64)


def _put_3_k(blocks: np.ndarray, codes: np.ndarray) -> None:
    """Write the codes of Q3_K: 32 bytes of high bits, then 64 of low pairs, as in Q5_K and Q6_K."""
    high, low = (codes >> 2).reshape(-1, 8, 32), (codes & 3).reshape(-1, 2, 4, 32)
    blocks[:, :32] = np.packbits(high, axis=1, bitorder="little")[:, 0]
    shifted = low << np.array([0, 2, 4, 6], np.uint8)[:, None]
    blocks[:, 32:96] = np.bitwise_or.reduce(shifted, axis=2).reshape(-1, 64)


def _put_table(start: int) -> Callable[[np.ndarray, np.ndarray], None]:
    """Writer of groups of 32 codes: 16 bytes each with the nibbles of codes i and i + 16."""

    def put(blocks: np.ndarray, codes: np.ndarray) -> None:
        halves = codes.reshape(len(codes), -1, 2, 16)
        nibbles = halves[:, :, 0] | halves[:, :, 1] << 4
        blocks[:, start:] = nibbles.reshape(len(codes), -1)

    return put


def _steps(count: int) -> np.ndarray:
    return np.arange(count, dtype=_F32)


GRIDS: Mapping[str, BlockGrid] = {
    "IQ4_NL": BlockGrid(VALUES, _read_nl, _put_table(2)),
    "IQ4_XS": BlockGrid(VALUES, _read_xs, _put_table(8)),
    "Q5_0": BlockGrid(_steps(32), _read_5_0, _put_5(2)),
    "Q5_1": BlockGrid(_steps(32), _read_5_1, _put_5(4)),
    "Q3_K": BlockGrid(_steps(8), _read_3_k, _put_3_k),
    "Q4_K": BlockGrid(_steps(16), _read_k, _put_nibbles),
    "Q5_K": BlockGrid(_steps(32), _read_k, _put_5_k),
    "Q6_K": BlockGrid(_steps(64), _read_6_k, _put_6_k),
}
"""Grids by block type. Types that equal a scheme in groups of 32 use codecs/affine.py instead."""
