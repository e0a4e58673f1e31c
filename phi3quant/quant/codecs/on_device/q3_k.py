"""Q3_K: 3-bit codes in superblocks of 16 groups of 16 weights, without minima.

The formulas are those of codecs/ggml_q3_k.py.
"""

import torch

from phi3quant.quant.codecs.on_device.bit_fields import put_all, put_half
from phi3quant.quant.codecs.on_device.block_layouts import LAYOUTS, MIDDLE_SCALE, SCALES_3_K
from phi3quant.quant.codecs.on_device.error_weights import weigh_by_importance
from phi3quant.quant.codecs.on_device.scale_search import (
    EPSILON,
    extremes,
    quotient,
    signed_scale,
)
from phi3quant.quant.codecs.on_device.tiles import codes_of_blocks

_GROUPS, _HALF = 16, 4
_ROUNDS = 5


def encode(x: torch.Tensor, importance: torch.Tensor | None, blocks: torch.Tensor) -> None:
    """Quantize to Q3_K.

    Args:
        x: FP32 [16, rows, groups].
        importance: importance of the columns, FP32 [16, 1, groups]; or None.
        blocks: output, uint8 [blocks, block_bytes].
    """
    if importance is None:
        scales, codes = _refined(x)
        d, scale_codes = _plain_scale_codes(scales.view(-1, _GROUPS))
    else:
        weights = weigh_by_importance(x, importance, _GROUPS)
        scales, inverses = signed_scale(x, weights, _HALF)
        # The reference leaves the codes of groups of zeros at 0, not in the middle.
        codes = _cut((x * inverses).round_(), _HALF).masked_fill_(inverses == 0, 0)
        sums = weights.sum(dim=0).view(-1, _GROUPS)
        d, scale_codes = _searched_scale_codes(scales.view(-1, _GROUPS), sums)
    rounded = put_half(blocks, 108, d)
    steps = ((scale_codes - MIDDLE_SCALE) * rounded[:, None]).view(scales.shape)
    codes = torch.where(steps == 0, codes, _cut((x / steps).round_(), _HALF))
    put_all(SCALES_3_K, blocks, scale_codes.to(torch.uint8))
    LAYOUTS["Q3_K"].put(blocks, codes_of_blocks(codes, blocks))


def _cut(codes: torch.Tensor, half: int) -> torch.Tensor:
    """Codes clipped to their range, counted from 0; overwrites ``codes``."""
    return codes.clamp_(-half, half - 1).add_(half)


def _searched_scale_codes(
    scales: torch.Tensor, sums: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale FP32 [blocks] of the scales FP32 [blocks, groups], and their codes FP32, likewise."""
    d, inverses = signed_scale(scales.T.contiguous(), sums.T.contiguous(), MIDDLE_SCALE)
    codes = _cut((scales * inverses[:, None]).round_(), MIDDLE_SCALE)
    return d, codes.masked_fill_((inverses == 0)[:, None], 0)


def _plain_scale_codes(scales: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Like _searched_scale_codes: multiples of the 32nd part of the largest scale."""
    # Squares of weights that overflow give NaN; as an infinite scale it is refused later.
    extreme = extremes(scales.masked_fill(scales.isnan(), torch.inf).T)
    inverses = quotient(-MIDDLE_SCALE, extreme)
    zeros = extreme == 0
    d = quotient(1, inverses).masked_fill_(zeros, 0)
    codes = _cut((scales * inverses[:, None]).round_().nan_to_num_(), MIDDLE_SCALE)
    return d, codes.masked_fill_(zeros[:, None], 0)


def _refined(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose codes and scales in turns, each error weighted by x^2: ``make_q3_quants``.

    Returns:
        Scales FP32 [rows, groups] and codes from 0, FP32 [16, rows, groups].
    """
    extreme = extremes(x)
    codes = (x * quotient(-_HALF, extreme)).round_().clamp_(-_HALF, _HALF - 1)
    weights = x.square()
    weighted = weights * x
    along, across = (weighted * codes).sum(dim=0), (weights * codes).mul_(codes).sum(dim=0)
    for _ in range(_ROUNDS):
        for place, value in enumerate(x):
            code, w, wx = codes[place], weights[place], weighted[place]
            rest_along, rest_across = along - wx * code, across - w * code * code
            new = (value * rest_across).div_(rest_along).round_().clamp_(-_HALF, _HALF - 1)
            new_along, new_across = rest_along + wx * new, rest_across + w * new * new
            better = (
                (rest_along > 0)
                & (new != code)
                & (new_across > 0)
                & (new_along * new_along * across > along * along * new_across)
            )
            code.copy_(torch.where(better, new, code))
            along = torch.where(better, new_along, along)
            across = torch.where(better, new_across, across)
    zeros = extreme.abs() < EPSILON
    scales = (along / across).masked_fill_((across <= 0) | zeros, 0)
    return scales, codes.add_(_HALF).masked_fill_(zeros, 0)
