"""A matrix of blocks in a device's memory."""

from dataclasses import dataclass

import torch

from phi3quant.quant.codecs.ggml_blocks import BlockTensor, BlockType
from phi3quant.quant.codecs.on_device.block_layouts import LAYOUTS

FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Block types that store weights without scales."""
CHUNK_WEIGHTS = 1 << 24
"""Weights that are handled at once; the working memory is about six times their FP32 size."""


@dataclass(frozen=True)
class BlocksOnDevice:
    """A matrix stored as blocks, on any device.

    Attributes:
        kind: type of the blocks.
        blocks: uint8 [rows, row_bytes], contiguous.
        shape: rows and columns.
    """

    kind: BlockType
    blocks: torch.Tensor
    shape: tuple[int, int]

    def dequantize(self) -> torch.Tensor:
        """Weights that the blocks represent, FP32 [rows, columns] on the same device."""
        name = self.kind.name
        if name in FLOATS:
            return self.blocks.view(FLOATS[name]).float()
        rows, columns = self.shape
        weights = torch.empty(rows, columns, device=self.blocks.device)
        step = max(1, CHUNK_WEIGHTS // columns)
        for part, packed in zip(
            torch.split(weights, step), torch.split(self.blocks, step), strict=True
        ):
            blocks = packed.view(-1, self.kind.row_bytes(self.kind.block))
            part.copy_(LAYOUTS[name].dequantize(blocks).view_as(part))
        return weights

    def stored(self) -> BlockTensor:
        """The same matrix in host memory, for writers."""
        return BlockTensor(self.kind, self.blocks.cpu().numpy(), self.shape)
