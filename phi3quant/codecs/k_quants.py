"""K-quants: Q4_K, Q5_K and Q6_K, superblocks of 256 weights whose groups' scales are codes too.

Bit for bit what llama.cpp writes, with and without an importance for each column (there called an
importance matrix): ``quantize_row_*_ref`` and ``quantize_row_*_impl`` of ggml-quants.c, vectorised.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from phi3quant.codecs.k_search import (
    EPSILON,
    Grid,
    divided,
    exact_sqrt,
    first_extreme,
    positive_scale,
    running_sum,
    scale_and_minimum,
    signed_scale,
)

SUPER = 256
"""Weights in a superblock."""

# Weights that are searched at once: few enough for a core's cache.
_CHUNK_WEIGHTS = 1 << 18
# Q4_K and Q5_K: groups of 32, whose scales and minima are 6-bit codes.
_GROUP, _GROUPS = 32, 8
_LARGEST_SIX_BIT = 63
# Q6_K: groups of 16, whose scales are 8-bit codes.
_SMALL_GROUP, _SMALL_GROUPS = 16, 16
_HALF_RANGE = 32


Encode = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
"""Weights [rows, columns] and the importance of columns, to bytes."""


@dataclass(frozen=True)
class _Affine:
    """Q4_K or Q5_K: what each search tries without and with importance."""

    plain: Grid
    weighted: Grid


_Q4_K = _Affine(Grid(15, -1.0, 0.1, 20), Grid(15, -0.9, 0.05, 36))
_Q5_K = _Affine(Grid(31, -0.5, 0.1, 15), Grid(31, -0.9, 0.05, 36))


def encode_q4_k(weight: torch.Tensor, importance: torch.Tensor | None = None) -> torch.Tensor:
    """Quantize rows to Q4_K.

    Args:
        weight: FP32 [rows, columns], columns a multiple of 256.
        importance: FP32 [columns], the mean square of what each column is multiplied with.

    Returns:
        uint8 [rows, columns/256*144]. A superblock is FP16 d, FP16 dmin, 12 bytes of scales and
        minima, 128 bytes of codes.
    """
    return _encode(weight, importance, partial(_affine_blocks, _Q4_K))


def encode_q5_k(weight: torch.Tensor, importance: torch.Tensor | None = None) -> torch.Tensor:
    """Quantize rows to Q5_K, as encode_q4_k: 176 bytes, 32 of them high bits before the codes."""
    return _encode(weight, importance, partial(_affine_blocks, _Q5_K))


def encode_q6_k(weight: torch.Tensor, importance: torch.Tensor | None = None) -> torch.Tensor:
    """Quantize rows to Q6_K, as encode_q4_k: ql[128], qh[64], int8 scales[16], FP16 d."""
    return _encode(weight, importance, _signed_blocks)


def _encode(weight: torch.Tensor, importance: torch.Tensor | None, blocks: Encode) -> torch.Tensor:
    rows, columns = weight.shape
    done = []
    for part in torch.split(weight, max(1, _CHUNK_WEIGHTS // columns)):
        places = part.reshape(-1, SUPER).T.contiguous()
        weights = None
        if importance is not None:
            weights = importance.view(-1, SUPER).repeat(len(part), 1).T.contiguous()
        done.append(blocks(places, weights))
    return torch.cat(done).view(rows, -1)


def _affine_blocks(
    kind: _Affine, places: torch.Tensor, importance: torch.Tensor | None
) -> torch.Tensor:
    """Superblocks [256, blocks] to bytes [blocks, 144 or 176]."""
    groups = _grouped(places, _GROUP)
    if importance is None:
        grid = kind.plain
        mean = exact_sqrt(running_sum(groups * groups) / _GROUP)
        weights = mean + groups.abs()
    else:
        grid = kind.weighted
        variance = 2 * running_sum(places * places) / SUPER
        spread = variance.repeat_interleave(_GROUPS)
        weights = _grouped(importance, _GROUP) * exact_sqrt(spread + groups * groups)
    scales, minima, searched = scale_and_minimum(groups, weights, grid)
    scales, minima = scales.view(-1, _GROUPS).T, minima.view(-1, _GROUPS).T
    if importance is None:
        super_scale, scale_codes = _six_bits(scales)
        super_minimum, minimum_codes = _six_bits(minima)
    else:
        total = running_sum(weights).view(-1, _GROUPS).T.contiguous()
        super_scale, scale_codes = positive_scale(scales.contiguous(), total, _LARGEST_SIX_BIT)
        super_minimum, minimum_codes = positive_scale(minima.contiguous(), total, _LARGEST_SIX_BIT)
    super_scale, super_minimum = super_scale.half(), super_minimum.half()
    step = (super_scale.float() * scale_codes).T.reshape(-1)
    minimum = (super_minimum.float() * minimum_codes).T.reshape(-1)
    codes = ((groups + minimum) / torch.where(step == 0, 1.0, step)).round_()
    codes.clamp_(0, grid.levels)
    codes = torch.where(step == 0, searched, codes).to(torch.uint8)
    return torch.cat(
        (
            _halves(super_scale),
            _halves(super_minimum),
            _packed_six_bits(scale_codes.to(torch.uint8), minimum_codes.to(torch.uint8)),
            *_packed_codes(codes, high_bits=grid.levels > 15),
        ),
        dim=1,
    )


def _six_bits(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values [groups, blocks] as a scale, FP32 [blocks], times codes of 0 to 63."""
    # Adding zero turns a negative zero into a positive one.
    highest = values.amax(dim=0).clamp_(min=0) + 0.0
    inverse = torch.where(highest > 0, divided(_LARGEST_SIX_BIT, highest), 0.0)
    # The reference keeps the lowest byte, which matters if a value is negative.
    codes = (inverse * values).round_().nan_to_num_(nan=0.0, posinf=0.0).to(torch.int32) & 0xFF
    return highest / _LARGEST_SIX_BIT, codes.clamp_(max=_LARGEST_SIX_BIT).float()


def _packed_six_bits(scales: torch.Tensor, minima: torch.Tensor) -> torch.Tensor:
    """Six-bit codes [8, blocks] each, as 12 bytes [blocks, 12]."""
    first, last = slice(0, 4), slice(4, 8)
    return torch.cat(
        (
            scales[first] | ((scales[last] >> 4) << 6),
            minima[first] | ((minima[last] >> 4) << 6),
            (scales[last] & 0xF) | ((minima[last] & 0xF) << 4),
        )
    ).T


def _packed_codes(codes: torch.Tensor, *, high_bits: bool) -> list[torch.Tensor]:
    """Codes [32, blocks * 8] as nibbles [blocks, 128], after their fifth bits [blocks, 32]."""
    pairs = codes.view(_GROUP, -1, _GROUPS // 2, 2).permute(1, 2, 3, 0)
    nibbles = ((pairs[:, :, 0] & 0xF) | ((pairs[:, :, 1] & 0xF) << 4)).reshape(len(pairs), -1)
    if not high_bits:
        return [nibbles]
    bits = torch.zeros(len(pairs), _GROUP, dtype=torch.uint8)
    for group in range(_GROUPS):
        bits |= (pairs[:, group // 2, group % 2] >> 4) << group
    return [bits, nibbles]


def _signed_blocks(places: torch.Tensor, importance: torch.Tensor | None) -> torch.Tensor:
    """Superblocks [256, blocks] to bytes [blocks, 210]."""
    groups = _grouped(places, _SMALL_GROUP)
    weights = groups * groups if importance is None else _grouped(importance, _SMALL_GROUP)
    scales, searched = signed_scale(groups, weights, _HALF_RANGE)
    scales = scales.view(-1, _SMALL_GROUPS).T
    extreme = first_extreme(scales)
    empty = extreme.abs() < EPSILON
    inverse = -128.0 / torch.where(empty, 1.0, extreme)
    super_scale = (1 / inverse).half()
    scale_codes = (inverse * scales).round_().clamp_(max=127)
    step = (super_scale.float() * scale_codes).T.reshape(-1)
    codes = (groups / torch.where(step == 0, 1.0, step)).round_()
    codes.clamp_(-_HALF_RANGE, _HALF_RANGE - 1).add_(_HALF_RANGE)
    codes = torch.where(step == 0, searched, codes).to(torch.uint8)
    ordered = codes.view(_SMALL_GROUP, -1, _SMALL_GROUPS).permute(1, 2, 0).reshape(-1, 2, 4, 32)
    low, high = ordered & 0xF, ordered >> 4
    ql = torch.cat((low[:, :, 0] | (low[:, :, 2] << 4), low[:, :, 1] | (low[:, :, 3] << 4)), dim=2)
    qh = high[:, :, 0] | (high[:, :, 1] << 2) | (high[:, :, 2] << 4) | (high[:, :, 3] << 6)
    packed = torch.cat(
        (
            ql.reshape(-1, 128),
            qh.reshape(-1, 64),
            scale_codes.T.to(torch.int8).contiguous().view(torch.uint8),
            _halves(super_scale),
        ),
        dim=1,
    )
    return torch.where(empty[:, None], 0, packed)


def _grouped(places: torch.Tensor, width: int) -> torch.Tensor:
    """[256, blocks] as [width, blocks * 256/width]: the groups of a superblock side by side."""
    blocks = places.shape[1]
    return places.view(-1, width, blocks).permute(1, 2, 0).reshape(width, -1)


def _halves(values: torch.Tensor) -> torch.Tensor:
    """FP16 [blocks] as bytes [blocks, 2]."""
    return values.view(-1, 1).view(torch.uint8)
