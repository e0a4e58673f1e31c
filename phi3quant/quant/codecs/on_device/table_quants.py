"""IQ4_NL and IQ4_XS: 4-bit codes of a table of 16 values that lie closer together near zero.

The formulas are those of codecs/ggml_table_quants.py. Arguments of the encoders are those of
legacy_quants.py.
"""

import torch

from phi3quant.quant.codecs.on_device.bit_fields import put_all, put_half
from phi3quant.quant.codecs.on_device.block_layouts import LAYOUTS, MIDDLE_SCALE, SCALES_XS
from phi3quant.quant.codecs.on_device.error_weights import weigh_by_importance
from phi3quant.quant.codecs.on_device.scale_search import (
    EPSILON,
    extremes,
    inverse_of,
    quotient,
)
from phi3quant.quant.codecs.on_device.tiles import codes_of_blocks, sum_places

_VALUES = LAYOUTS["IQ4_NL"].values
_LOWEST = _VALUES.numbers[0]
_ATTEMPTS = 7
_GROUPS = 8


def encode_nl(x: torch.Tensor, importance: torch.Tensor | None, blocks: torch.Tensor) -> None:
    """Quantize to IQ4_NL."""
    scales = _search_scales(x, _weigh(x, importance, 1))
    put_half(blocks, 0, scales.flatten())
    codes = _VALUES.nearest(x * inverse_of(scales))
    LAYOUTS["IQ4_NL"].put(blocks, codes_of_blocks(codes, blocks))


def encode_xs(x: torch.Tensor, importance: torch.Tensor | None, blocks: torch.Tensor) -> None:
    """Quantize to IQ4_XS."""
    scales = _search_scales(x, _weigh(x, importance, _GROUPS))
    # Squares of weights that overflow give NaN; as an infinite scale it is refused later.
    grouped = scales.masked_fill(scales.isnan(), torch.inf).view(-1, _GROUPS)
    d = extremes(grouped.T).div_(-MIDDLE_SCALE)
    put_half(blocks, 0, d)
    rounded = (grouped * inverse_of(d)[:, None]).round_().nan_to_num_()
    rounded.clamp_(-MIDDLE_SCALE, MIDDLE_SCALE - 1)
    put_all(SCALES_XS, blocks, (rounded + MIDDLE_SCALE).to(torch.uint8))
    # The steps use d before its conversion to FP16, as in llama.cpp.
    steps = (rounded * d[:, None]).view(scales.shape)
    codes = _VALUES.nearest(x * inverse_of(steps))
    LAYOUTS["IQ4_XS"].put(blocks, codes_of_blocks(codes, blocks))


def _weigh(x: torch.Tensor, importance: torch.Tensor | None, groups: int) -> torch.Tensor:
    if importance is None:
        return x.square()
    return weigh_by_importance(x, importance, groups)


def _search_scales(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Search scales FP32 [rows, groups] by weighted squared error; 0 for groups of zeros."""
    extreme = extremes(x)
    work = torch.empty_like(x)
    # The first attempt maps the value of largest magnitude to -VALUES[0], which isn't a value.
    lowest = torch.full((), _LOWEST, device=x.device)
    plain = quotient(1, (-extreme).div_(lowest))
    scales = best = torch.zeros_like(extreme)
    for attempt in range(-_ATTEMPTS - 1, _ATTEMPTS + 1):
        tried = plain if attempt < -_ATTEMPTS else quotient(attempt + _LOWEST, extreme)
        values = _VALUES.of(_VALUES.nearest(torch.mul(x, tried, out=work)))
        along = sum_places(torch.mul(weights, values, out=work).mul_(x))
        across = sum_places(torch.mul(weights, values, out=work).mul_(values))
        fitted = along / across
        better = across > 0
        if attempt >= -_ATTEMPTS:
            better &= along * along > best * across
        scales = torch.where(better, fitted, scales)
        best = torch.where(better, fitted * along, best)
    return scales.masked_fill(extreme.abs() < EPSILON, 0)
