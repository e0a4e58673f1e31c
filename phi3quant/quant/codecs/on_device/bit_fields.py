"""Bits of codes in the bytes of blocks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class BitField:
    """Some bits of each code, packed into neighboring bytes.

    The codes are divided into runs of ``8 / bits`` parts of ``width`` codes. Byte p of a run
    contains the bits of code p of each part, those of the first part lowest.

    Attributes:
        start: position of the first byte in a block.
        count: number of codes.
        bits: bits of each code: 1, 2, 4 or 8.
        width: number of codes in a part.
        lift: position of the bits in the code.
        flip: bits that are stored inverted.
    """

    start: int
    count: int
    bits: int
    width: int
    lift: int = 0
    flip: int = 0

    @property
    def _parts(self) -> int:
        return 8 // self.bits

    @property
    def _bytes(self) -> slice:
        return slice(self.start, self.start + self.count // self._parts)

    @property
    def _mask(self) -> int:
        return (1 << self.bits) - 1

    def put(self, blocks: torch.Tensor, codes: torch.Tensor) -> None:
        """Write the bits of codes uint8 [blocks, count] into blocks uint8 [blocks, bytes]."""
        split = (((codes >> self.lift) ^ self.flip) & self._mask).view(
            len(codes), -1, self._parts, self.width
        )
        packed = split[:, :, 0].clone()
        for part in range(1, self._parts):
            packed |= split[:, :, part] << self.bits * part
        blocks[:, self._bytes] = packed.view(len(codes), -1)

    def take(self, blocks: torch.Tensor) -> torch.Tensor:
        """Read the bits from blocks uint8 [blocks, bytes] into codes uint8 [blocks, count]."""
        packed = blocks[:, self._bytes].reshape(len(blocks), -1, 1, self.width)
        parts = [packed >> self.bits * part for part in range(self._parts)]
        codes = (torch.cat(parts, dim=2) & self._mask) ^ self.flip
        return (codes << self.lift).view(len(blocks), self.count)


def put_all(fields: Sequence[BitField], blocks: torch.Tensor, codes: torch.Tensor) -> None:
    """Write codes uint8 [blocks, count] into all fields that contain bits of them."""
    for field in fields:
        field.put(blocks, codes)


def take_all(fields: Sequence[BitField], blocks: torch.Tensor) -> torch.Tensor:
    """Read codes uint8 [blocks, count] from all fields that contain bits of them."""
    codes = fields[0].take(blocks)
    for field in fields[1:]:
        codes |= field.take(blocks)
    return codes


def put_half(blocks: torch.Tensor, start: int, numbers: torch.Tensor) -> torch.Tensor:
    """Store FP32 [blocks] as FP16 from byte ``start`` on; returns the rounded values, FP32."""
    halves = numbers.half()
    blocks[:, start : start + 2] = halves.view(-1, 1).view(torch.uint8)
    return halves.float()


def take_half(blocks: torch.Tensor, start: int) -> torch.Tensor:
    """FP16 number at byte ``start`` of each block, as FP32 [blocks, 1]."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()
