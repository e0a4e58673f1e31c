"""Layouts of llama.cpp's quantized block types, as in ggml-common.h."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from phi3quant.quant.codecs.ggml_table_quants import VALUES
from phi3quant.quant.codecs.on_device.bit_fields import (
    BitField,
    put_all,
    put_half,
    take_all,
    take_half,
)
from phi3quant.quant.codecs.on_device.code_values import CodeValues

# Six-bit scales of IQ4_XS and Q3_K; a scale is d * (code - 32).
SCALES_XS = (BitField(4, 8, 4, 1), BitField(2, 8, 2, 1, lift=4))
"""Codes of the 8 scales of IQ4_XS."""
SCALES_3_K = (BitField(96, 16, 4, 8), BitField(104, 16, 2, 4, lift=4))
"""Codes of the 16 scales of Q3_K."""
MIDDLE_SCALE = 32
"""Code of scale 0 in IQ4_XS and Q3_K."""

_Read = Callable[[torch.Tensor], torch.Tensor]
"""Reads FP32 [blocks, groups] from blocks uint8 [blocks, block_bytes]."""


@dataclass(frozen=True)
class BlockLayout:
    """Places of codes, scales and minima in a block.

    A weight is scale * value of the code + minimum.

    Attributes:
        values: values of the codes.
        fields: bits of the codes.
        scales: reads the scale of each group, FP32 [blocks, groups].
        minima: reads the minimum of each group, FP32 [blocks, groups]; None: all are 0.
    """

    values: CodeValues
    fields: Sequence[BitField]
    scales: _Read
    minima: _Read | None = None

    def put(self, blocks: torch.Tensor, codes: torch.Tensor) -> None:
        """Write codes uint8 [blocks, weights] into blocks uint8 [blocks, block_bytes]."""
        put_all(self.fields, blocks, codes)

    def take(self, blocks: torch.Tensor) -> torch.Tensor:
        """Codes uint8 [blocks, weights] of blocks uint8 [blocks, block_bytes]."""
        return take_all(self.fields, blocks)

    def dequantize(self, blocks: torch.Tensor) -> torch.Tensor:
        """Weights FP32 [blocks, weights] of blocks uint8 [blocks, block_bytes]."""
        scales, codes = self.scales(blocks), self.take(blocks)
        weights = self.values.of(codes).view(*scales.shape, -1)
        # Product and sum are rounded separately, as in the gguf library.
        weights *= scales[:, :, None]
        if self.minima is not None:
            weights += self.minima(blocks)[:, :, None]
        return weights.view(len(blocks), -1)


def put_k_header(
    blocks: torch.Tensor, halves: torch.Tensor, scales: torch.Tensor, minima: torch.Tensor
) -> None:
    """Write the header of Q4_K and Q5_K.

    Args:
        blocks: uint8 [blocks, block_bytes].
        halves: d and dmin, FP32 [2, blocks].
        scales: codes of six bits, uint8 [blocks, 8].
        minima: likewise.
    """
    put_half(blocks, 0, halves[0])
    put_half(blocks, 2, halves[1])
    blocks[:, 4:8] = scales[:, :4] | (scales[:, 4:] >> 4) << 6
    blocks[:, 8:12] = minima[:, :4] | (minima[:, 4:] >> 4) << 6
    blocks[:, 12:16] = (scales[:, 4:] & 15) | (minima[:, 4:] & 15) << 4


def scales_k(blocks: torch.Tensor) -> torch.Tensor:
    """Scales of Q4_K and Q5_K, FP32 [blocks, 8]."""
    first, last = blocks[:, 4:8], blocks[:, 12:16]
    codes = torch.cat([first & 63, (last & 15) | (first >> 6) << 4], dim=1)
    return take_half(blocks, 0) * codes


def minima_k(blocks: torch.Tensor) -> torch.Tensor:
    """Minima of Q4_K and Q5_K, FP32 [blocks, 8]; the format subtracts them."""
    first, last = blocks[:, 8:12], blocks[:, 12:16]
    codes = torch.cat([first & 63, (last >> 4) | (first >> 6) << 4], dim=1)
    return -(take_half(blocks, 2) * codes)


def _half(start: int) -> _Read:
    return lambda blocks: take_half(blocks, start)


def _scales_6_k(blocks: torch.Tensor) -> torch.Tensor:
    return take_half(blocks, 208) * blocks[:, 192:208].view(torch.int8)


def _six_bits(d: int, fields: Sequence[BitField]) -> _Read:
    def read(blocks: torch.Tensor) -> torch.Tensor:
        return take_half(blocks, d) * (take_all(fields, blocks).float() - MIDDLE_SCALE)

    return read


def _around(middle: int, count: int) -> CodeValues:
    return CodeValues(tuple(float(code - middle) for code in range(count)))


def _legacy(start: int, *, fifth: bool) -> Sequence[BitField]:
    """Codes of a block of 32: fifth bits in 4 bytes (optional), and nibbles in 16."""
    if not fifth:
        return (BitField(start, 32, 4, 16),)
    return (BitField(start + 4, 32, 4, 16), BitField(start, 32, 1, 1, lift=4))


_TABLE = CodeValues(tuple(float(value) for value in VALUES))

LAYOUTS: Mapping[str, BlockLayout] = {
    "Q8_0": BlockLayout(_around(128, 256), (BitField(2, 32, 8, 1, flip=128),), _half(0)),
    "Q4_0": BlockLayout(_around(8, 16), _legacy(2, fifth=False), _half(0)),
    "Q4_1": BlockLayout(_around(0, 16), _legacy(4, fifth=False), _half(0), _half(2)),
    "Q5_0": BlockLayout(_around(16, 32), _legacy(2, fifth=True), _half(0)),
    "Q5_1": BlockLayout(_around(0, 32), _legacy(4, fifth=True), _half(0), _half(2)),
    "IQ4_NL": BlockLayout(_TABLE, _legacy(2, fifth=False), _half(0)),
    "IQ4_XS": BlockLayout(_TABLE, (BitField(8, 256, 4, 16),), _six_bits(0, SCALES_XS)),
    "Q3_K": BlockLayout(
        _around(4, 8),
        (BitField(32, 256, 2, 32), BitField(0, 256, 1, 32, lift=2)),
        _six_bits(108, SCALES_3_K),
    ),
    "Q4_K": BlockLayout(_around(0, 16), (BitField(16, 256, 4, 32),), scales_k, minima_k),
    "Q5_K": BlockLayout(
        _around(0, 32),
        (BitField(48, 256, 4, 32), BitField(16, 256, 1, 32, lift=4)),
        scales_k,
        minima_k,
    ),
    "Q6_K": BlockLayout(
        _around(32, 64),
        (BitField(0, 256, 4, 64), BitField(128, 256, 2, 32, lift=4)),
        _scales_6_k,
    ),
}
"""Layout of each quantized block type, by name."""
