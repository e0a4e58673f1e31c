"""Codecs of llama.cpp's block types on any device of torch.

Unlike the kernels of ggml_blocks.py they don't equal llama.cpp's functions bit for bit: sums are
added in another order, so that a search may choose another of two candidates whose errors are
nearly equal. Plain rounding, without a search, is the same.
"""

from dataclasses import dataclass
from functools import cache

import torch

from phi3quant.errors import CheckpointError, SchemeError
from phi3quant.quant.codecs.compensation import Walk, corrected
from phi3quant.quant.codecs.ggml_blocks import BlockCodec, BlockType
from phi3quant.quant.codecs.ggml_grids import GRIDS
from phi3quant.quant.codecs.on_device.block_encoders import encoding
from phi3quant.quant.codecs.on_device.block_layouts import LAYOUTS
from phi3quant.quant.codecs.on_device.block_tensor import CHUNK_WEIGHTS, FLOATS, BlocksOnDevice
from phi3quant.quant.codecs.on_device.compensation import Levels, compensated_levels, rounding
from phi3quant.quant.codecs.on_device.replay import Replayed
from phi3quant.quant.gram import Gram

# Scale of groups whose scale is stored as 0. It leaves their errors to the later columns.
_ALMOST_ZERO = 2.0**-40


@dataclass(frozen=True)
class DeviceBlockCodec:
    """Codec for a block type on the device of its arguments; implements codecs.Codec."""

    kind: BlockType

    def group_width(self, columns: int) -> int:
        """See Codec."""
        return BlockCodec(self.kind).group_width(columns)

    def quantize(self, weight: torch.Tensor) -> BlocksOnDevice:
        """See Codec; the weights may be FP16 or BF16 too.

        Raises:
            CheckpointError: a weight is NaN or infinite.
            SchemeError: a weight doesn't fit the type.
        """
        return self._encoded(weight, None)

    def quantize_fitted(self, weight: torch.Tensor, gram: Gram) -> BlocksOnDevice:
        """See Codec; the search weights each column by the mean square of its input."""
        return self._encoded(weight, gram.diagonal())

    def quantize_compensated(
        self, weight: torch.Tensor, gram: Gram, shortfall: torch.Tensor | None = None
    ) -> BlocksOnDevice | None:
        """See Codec; the scales are those of quantize_fitted, because a superblock couples them."""
        if self.kind.name not in GRIDS:
            return None
        if shortfall is not None:
            weight = corrected(weight, gram, shortfall)
        tensor, layout = self.quantize_fitted(weight, gram), LAYOUTS[self.kind.name]
        rows, columns = weight.shape
        groups = columns // self.kind.group
        blocks = tensor.blocks.view(-1, self.kind.row_bytes(self.kind.block))
        scales = layout.scales(blocks).view(rows, groups).T.contiguous()
        empty = scales == 0
        scales = scales.masked_fill(empty, _ALMOST_ZERO)
        minima = None if layout.minima is None else layout.minima(blocks).view(rows, groups).T
        walk = Walk.of(gram, self.kind.group)
        order = walk.order.tolist()

        def to_levels(place: int, tile: torch.Tensor, _metric: torch.Tensor) -> Levels:
            group = order[place]
            levels = tile.clone() if minima is None else tile - minima[group]
            return levels.div_(scales[group]), scales[group]

        levels = compensated_levels(weight, walk, to_levels, _rounding(self.kind.name))
        codes = layout.values.nearest(levels).to(torch.uint8)
        codes = codes.view(rows, groups, -1).masked_fill(empty.T[:, :, None], 0)
        layout.put(blocks, codes.view(len(blocks), -1))
        return tensor

    def round_trip(self, weight: torch.Tensor) -> torch.Tensor:
        """See Codec."""
        return self.quantize(weight).dequantize()

    def _encoded(self, weight: torch.Tensor, importance: torch.Tensor | None) -> BlocksOnDevice:
        rows, columns = weight.shape
        self.group_width(columns)
        name = self.kind.name
        if name in FLOATS:
            return BlocksOnDevice(self.kind, _stored(weight, name), (rows, columns))
        row_bytes = self.kind.row_bytes(columns)
        stored = torch.empty(rows, row_bytes, dtype=torch.uint8, device=weight.device)
        finite = torch.ones((), dtype=torch.bool, device=weight.device)
        inputs = () if importance is None else (importance,)
        # Parts of nearly equal size, so that they have one or two shapes.
        parts = max(1, -(-weight.numel() // CHUNK_WEIGHTS))
        step = -(-rows // parts)
        for part, packed in zip(torch.split(weight, step), torch.split(stored, step), strict=True):
            blocks, usable = encoding(name, part.numel())(part, *inputs)
            packed.copy_(blocks.view(packed.shape))
            finite &= usable
        # Checked at the end, since the host waits for the device here.
        _require(bool(finite))
        return BlocksOnDevice(self.kind, stored, (rows, columns))


@cache
def _rounding(name: str) -> Replayed[Levels]:
    return rounding(LAYOUTS[name].values.round_into)


def _stored(weight: torch.Tensor, name: str) -> torch.Tensor:
    """Weights as F32, F16 or BF16, uint8 [rows, row_bytes]."""
    stored = weight.float().to(FLOATS[name])
    if not torch.isfinite(stored).all():
        largest = float(weight.float().abs().max())
        _require(largest < torch.inf)
        raise SchemeError(f"a weight of {largest:g} doesn't fit {name}; choose BF16 or F32")
    return stored.contiguous().view(torch.uint8)


def _require(finite: bool) -> None:  # noqa: FBT001
    if not finite:
        raise CheckpointError("it holds NaN or infinity, or weights too large to quantize")
