"""Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0: blocks of 32 weights without superblocks.

The formulas are those of codecs/ggml_legacy_quants.py. Arguments of the encoders: a tile of weights
FP32 [32, rows, groups]; the importance of its columns FP32 [32, 1, groups] or None; and the output,
uint8 [blocks, block_bytes].
"""

import torch

from phi3quant.quant.codecs.on_device.bit_fields import put_half
from phi3quant.quant.codecs.on_device.block_layouts import LAYOUTS, BlockLayout
from phi3quant.quant.codecs.on_device.error_weights import weigh_by_row
from phi3quant.quant.codecs.on_device.scale_search import (
    Offsets,
    extremes,
    inverse_of,
    scale_and_minimum,
    signed_scale,
)
from phi3quant.quant.codecs.on_device.tiles import codes_of_blocks

WEIGHTED = Offsets(-0.9, 0.05, 36)
"""Candidates for the scales and minima where columns have an importance."""


def encode_symmetric(
    layout: BlockLayout, x: torch.Tensor, importance: torch.Tensor | None, blocks: torch.Tensor
) -> None:
    """Quantize to Q4_0 or Q5_0."""
    half = len(layout.values.numbers) // 2
    if importance is None:
        scales = extremes(x).div_(-half)
        # Half a step more, since the conversion to integers cuts.
        codes = (x * inverse_of(scales)).add_(half + 0.5)
        _cut(codes, 2 * half - 1)
    else:
        scales, inverses = signed_scale(x, weigh_by_row(x, importance), half)
        codes = (x * inverses).round_().add_(half).clamp_(0, 2 * half - 1)
        # The reference leaves the codes of groups of zeros at 0, not in the middle.
        codes.masked_fill_(inverses == 0, 0)
    put_half(blocks, 0, scales.flatten())
    layout.put(blocks, codes_of_blocks(codes, blocks))


def encode_affine(
    layout: BlockLayout, x: torch.Tensor, importance: torch.Tensor | None, blocks: torch.Tensor
) -> None:
    """Quantize to Q4_1 or Q5_1."""
    highest = len(layout.values.numbers) - 1
    if importance is None:
        minimum = x.amin(dim=0)
        spread = x.amax(dim=0).sub_(minimum)
        scale = spread.div_(torch.full((), highest, dtype=x.dtype, device=x.device))
        codes = (x - minimum).mul_(inverse_of(scale)).add_(0.5)
        _cut(codes, highest)
    else:
        fit = scale_and_minimum(x, weigh_by_row(x, importance), highest, WEIGHTED)
        scale, minimum = fit.scale, fit.minimum
        codes = (x - fit.origin).mul_(fit.inverse).round_().clamp_(0, highest)
    put_half(blocks, 0, scale.flatten())
    put_half(blocks, 2, minimum.flatten())
    layout.put(blocks, codes_of_blocks(codes, blocks))


def encode_bytes(x: torch.Tensor, _importance: torch.Tensor | None, blocks: torch.Tensor) -> None:
    """Quantize to Q8_0, which ignores the importance."""
    layout = LAYOUTS["Q8_0"]
    most = x.abs().amax(dim=0)
    scales = most.div_(torch.full((), 127, dtype=x.dtype, device=x.device))
    values = x * inverse_of(scales)
    whole = values.trunc()
    # As C's roundf, which rounds halves away from zero.
    away = values.sub_(whole).mul_(2).trunc_()
    codes = whole.add_(away).clamp_(-127, 127)
    # NaN occurs where the inverse of a subnormal scale overflowed.
    codes.nan_to_num_(nan=0).sub_(layout.values.numbers[0])
    put_half(blocks, 0, scales.flatten())
    layout.put(blocks, codes_of_blocks(codes, blocks))


def _cut(codes: torch.Tensor, highest: int) -> None:
    """Cut codes to integers; 0 where the inverse of a subnormal scale overflowed."""
    codes.nan_to_num_(nan=0, posinf=0, neginf=0).clamp_(0, highest).trunc_()
