"""Grids of stored blocks: read them, and replace the codes while the scales stay.

The scales of a superblock depend on all of its weights, so ggml_blocks.py searches them first, and
compensation then chooses new codes on fixed scales. The layouts are those of ggml-common.h.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from gguf.quants import Q4_K

_F32 = np.float32
_HEADER = 16
# Codes that represent 0 in types without minima: Q5_0 and Q6_K.
_MIDDLE_5, _MIDDLE_6 = 16, 32

StoredGrids = tuple[np.ndarray, np.ndarray]
"""Scale and least value of each group, FP32 [blocks, groups] each; a weight is
scale * code + least."""


@dataclass(frozen=True)
class BlockGrid:
    """Access to the grids and codes of a block type.

    Attributes:
        highest: the largest code.
        read: reads the grids of blocks uint8 [blocks, block_bytes].
        put: writes codes uint8 [blocks, weights] into blocks uint8 [blocks, block_bytes].
    """

    highest: int
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


GRIDS: Mapping[str, BlockGrid] = {
    "Q5_0": BlockGrid(31, _read_5_0, _put_5(2)),
    "Q5_1": BlockGrid(31, _read_5_1, _put_5(4)),
    "Q4_K": BlockGrid(15, _read_k, _put_nibbles),
    "Q5_K": BlockGrid(31, _read_k, _put_5_k),
    "Q6_K": BlockGrid(63, _read_6_k, _put_6_k),
}
"""Grids by block type. Types that equal a scheme in groups of 32 use codecs/affine.py instead."""
