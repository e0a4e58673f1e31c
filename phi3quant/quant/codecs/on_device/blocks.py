"""Codecs of llama.cpp's block types on any device of torch.

Unlike the compiled kernels of ggml_blocks.py these are not equal to llama.cpp's functions bit for
bit: sums are added in another order, so that a search may choose another of two candidates whose
errors are nearly equal. Plain rounding, without a search, is the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from phi3quant.errors import CheckpointError, SchemeError
from phi3quant.quant.codecs.ggml_blocks import BlockCodec, BlockType
from phi3quant.quant.codecs.on_device import k_quants, legacy_quants, q3_k, table_quants
from phi3quant.quant.codecs.on_device.block_layouts import LAYOUTS
from phi3quant.quant.codecs.on_device.block_tensor import CHUNK_WEIGHTS, FLOATS, BlocksOnDevice
from phi3quant.quant.codecs.on_device.tiles import tile_of
from phi3quant.quant.gram import Gram

_Encode = Callable[[torch.Tensor, torch.Tensor | None, torch.Tensor], None]
"""Encodes a tile; arguments as in legacy_quants.py."""

_ENCODERS: Mapping[str, _Encode] = {
    "Q8_0": legacy_quants.encode_bytes,
    "Q4_0": partial(legacy_quants.encode_symmetric, LAYOUTS["Q4_0"]),
    "Q4_1": partial(legacy_quants.encode_affine, LAYOUTS["Q4_1"]),
    "Q5_0": partial(legacy_quants.encode_symmetric, LAYOUTS["Q5_0"]),
    "Q5_1": partial(legacy_quants.encode_affine, LAYOUTS["Q5_1"]),
    "Q3_K": q3_k.encode,
    "Q4_K": partial(k_quants.encode_affine, LAYOUTS["Q4_K"]),
    "Q5_K": partial(k_quants.encode_affine, LAYOUTS["Q5_K"]),
    "Q6_K": k_quants.encode_signed,
    "IQ4_NL": table_quants.encode_nl,
    "IQ4_XS": table_quants.encode_xs,
}


@dataclass(frozen=True)
class DeviceBlockCodec:
    """Codec for a block type on the device of its arguments; implements codecs.Codec."""

    kind: BlockType

    def group_width(self, columns: int) -> int:
        """See Codec."""
        return BlockCodec(self.kind).group_width(columns)

    def quantize(self, weight: torch.Tensor) -> BlocksOnDevice:
        """See Codec; the weights may be BF16 or FP16 too."""
        return self._encoded(weight, None)

    def quantize_fitted(self, weight: torch.Tensor, gram: Gram) -> BlocksOnDevice:
        """See Codec; the search weights each column by the mean square of its input."""
        return self._encoded(weight, gram.diagonal())

    def round_trip(self, weight: torch.Tensor) -> torch.Tensor:
        """See Codec."""
        return self.quantize(weight).dequantize()

    def _encoded(self, weight: torch.Tensor, importance: torch.Tensor | None) -> BlocksOnDevice:
        rows, columns = weight.shape
        width = self.group_width(columns)
        if self.kind.name in FLOATS:
            return BlocksOnDevice(self.kind, _stored(weight, self.kind.name), (rows, columns))
        encode = _ENCODERS[self.kind.name]
        each = None if importance is None else tile_of(importance[None], width)
        stored = torch.empty(
            (rows, self.kind.row_bytes(columns)), dtype=torch.uint8, device=weight.device
        )
        step = max(1, CHUNK_WEIGHTS // columns)
        finite = torch.ones((), dtype=torch.bool, device=weight.device)
        for part, packed in zip(weight.split(step), stored.split(step), strict=True):
            x = tile_of(part, width)
            finite &= torch.isfinite(x).all()
            encode(x, each, packed.view(-1, self.kind.row_bytes(self.kind.block)))
        # Checked once at the end, since the host waits for the device here.
        _require(bool(finite))
        return BlocksOnDevice(self.kind, stored, (rows, columns))


def _stored(weight: torch.Tensor, name: str) -> torch.Tensor:
    """Weights as F32, F16 or BF16, uint8 [rows, row_bytes]."""
    stored = weight.float().to(FLOATS[name])
    if not torch.isfinite(stored).all():
        _require(bool(torch.isfinite(weight.float()).all()))
        raise SchemeError(
            f"a weight of {float(weight.float().abs().max()):g} doesn't fit {name}; "
            "choose BF16 or F32"
        )
    return stored.contiguous().view(torch.uint8)


def _require(finite: bool) -> None:  # noqa: FBT001
    if not finite:
        raise CheckpointError("it holds NaN or infinity, or weights too large to quantize")
