"""Q4_K, Q5_K and Q6_K: superblocks of 256 weights in which the scales are quantized too.

The formulas are those of codecs/ggml_k_quants.py. Arguments of the encoders are those of
legacy_quants.py, with groups of 32 weights (Q6_K: 16).
"""

from collections.abc import Mapping

import torch

from phi3quant.quant.codecs.on_device.bit_fields import put_half
from phi3quant.quant.codecs.on_device.block_layouts import (
    LAYOUTS,
    BlockLayout,
    minima_k,
    put_k_header,
    scales_k,
)
from phi3quant.quant.codecs.on_device.error_weights import weigh_by_importance, weigh_by_size
from phi3quant.quant.codecs.on_device.legacy_quants import WEIGHTED
from phi3quant.quant.codecs.on_device.positive_scale import positive_scale
from phi3quant.quant.codecs.on_device.scale_search import (
    EPSILON,
    Offsets,
    extremes,
    quotient,
    scale_and_minimum,
    signed_scale,
)
from phi3quant.quant.codecs.on_device.tiles import codes_of_blocks, sum_places

_GROUPS = 8
_SIX_BITS = 63
_PLAIN: Mapping[int, Offsets] = {15: Offsets(-1.0, 0.1, 20), 31: Offsets(-0.5, 0.1, 15)}
"""Candidates for scales and minima without importance, by the highest code."""

_SMALL_GROUPS, _HALF_RANGE = 16, 32


def encode_affine(
    layout: BlockLayout, x: torch.Tensor, importance: torch.Tensor | None, blocks: torch.Tensor
) -> None:
    """Quantize to Q4_K or Q5_K."""
    highest = len(layout.values.numbers) - 1
    if importance is None:
        weights, offsets = weigh_by_size(x), _PLAIN[highest]
    else:
        weights, offsets = weigh_by_importance(x, importance, _GROUPS), WEIGHTED
    fit = scale_and_minimum(x, weights, highest, offsets)
    # The format subtracts minima. FP32 [2, blocks, groups].
    pair = torch.stack([fit.scale, -fit.minimum]).view(2, -1, _GROUPS)
    if importance is None:
        halves, rounded = _plain_header(pair)
    else:
        halves, rounded = _searched_header(pair, sum_places(weights).view(-1, _GROUPS))
    put_k_header(blocks, halves, rounded[0], rounded[1])
    scale, minimum = scales_k(blocks).view(x.shape[1:]), minima_k(blocks).view(x.shape[1:])
    # Where the rounded scale is 0, the codes are those of the search.
    plain = (x - fit.origin).mul_(fit.inverse)
    codes = torch.where(scale == 0, plain, (x - minimum).div_(scale))
    codes.round_().nan_to_num_(nan=0, posinf=0, neginf=0).clamp_(0, highest)
    layout.put(blocks, codes_of_blocks(codes, blocks))


def _plain_header(pair: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round scales and minima FP32 [2, blocks, groups] to 63rds of the largest one of a block.

    Returns:
        d and dmin FP32 [2, blocks], and codes uint8 [2, blocks, groups].
    """
    # Adding 0 turns -0 into 0.
    most = pair.amax(dim=2).clamp_(min=0).add_(0)
    inverses = quotient(_SIX_BITS, most).masked_fill_(most <= 0, 0)
    rounded = (pair * inverses[:, :, None]).round_()
    # Codes keep their lowest byte, which wraps negative ones; those beyond 2^22 are 0.
    rounded = torch.where(rounded.abs() < 1 << 22, rounded, 0)
    codes = (rounded.int() & 255).clamp_(max=_SIX_BITS)
    return most / torch.full_like(most, _SIX_BITS), codes.to(torch.uint8)


def _searched_header(
    pair: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Like _plain_header, with the d and dmin that lose least.

    Args:
        pair: FP32 [2, blocks, groups].
        weights: sums of the groups' weights, FP32 [blocks, groups].
    """
    numbers = pair.flatten(0, 1).T.contiguous()
    scales, codes = positive_scale(numbers, weights.T.repeat(1, 2), _SIX_BITS)
    wrapped = (codes.T.int() & 255).to(torch.uint8)
    return scales.view(2, -1), wrapped.view(pair.shape)


def encode_signed(x: torch.Tensor, importance: torch.Tensor | None, blocks: torch.Tensor) -> None:
    """Quantize to Q6_K."""
    weights = x.square() if importance is None else importance
    scales, inverses = signed_scale(x, weights, _HALF_RANGE)
    # Squares of weights that overflow give NaN; as an infinite scale it is refused later.
    grouped = scales.masked_fill(scales.isnan(), torch.inf).view(-1, _SMALL_GROUPS)
    extreme = extremes(grouped.T)
    inverse = quotient(-128, extreme)
    d = put_half(blocks, 208, quotient(1, inverse))
    scale_codes = (grouped * inverse[:, None]).round_().nan_to_num_().clamp_(-128, 127)
    blocks[:, 192:208] = scale_codes.to(torch.int8).view(torch.uint8)
    step = (scale_codes * d[:, None]).view(scales.shape)
    codes = torch.where(step == 0, x * inverses, x / step)
    codes.round_().clamp_(-_HALF_RANGE, _HALF_RANGE - 1).add_(_HALF_RANGE)
    # The reference leaves the codes of groups of zeros at 0, not in the middle.
    codes.masked_fill_(inverses == 0, 0)
    LAYOUTS["Q6_K"].put(blocks, codes_of_blocks(codes, blocks))
    blocks.masked_fill_((extreme.abs() < EPSILON)[:, None], 0)
