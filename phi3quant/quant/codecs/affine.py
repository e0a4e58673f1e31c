"""Affine integer codec: codes with a scale and a zero point, or an offset, per group of weights.

Scales are rounded to FP16 *before* codes are chosen, so that the codes are nearest for the scales
that readers will see.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from phi3quant.errors import CheckpointError, SchemeError
from phi3quant.parallel import over_rows
from phi3quant.quant.codecs import affine_compensation, affine_rounding, affine_search
from phi3quant.quant.codecs.compensation import DAMPING, Strip, Walk, compensated_codes, corrected
from phi3quant.quant.codecs.lanes import LANES
from phi3quant.quant.gram import Gram
from phi3quant.quant.offset_tensor import OffsetTensor, offsets_of, with_offsets
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.tensor import QuantizedTensor

AffineTensor: TypeAlias = QuantizedTensor | OffsetTensor
"""A matrix with zero points, or with real offsets."""

_ZERO_GROUP_SCALE = float(affine_search.ZERO_GROUP_SCALE)
# FP16's smallest subnormal number: used for scales that would round to zero.
_SMALLEST_SCALE = 2.0**-24
_LARGEST_SCALE = 65504.0
# Weights per chunk of rows, so that a chunk stays in a core's cache.
_CHUNK_WEIGHTS = 1 << 20

SHRINKS: Sequence[float] = tuple(1.15 - 0.05 * step for step in range(13))
"""Multiples of the plain scale that the search tries, from 1.15 down to 0.55.

Multiples above 1 pay in symmetric groups, where the plain scale reaches only 7/8 as far on one side
as on the other (4 bits)."""

_MODERATE = (1.05, 0.97, 0.89, 0.8)
_FINE = (1.0, 0.99, 0.98, 0.96)
CLIPS: Mapping[int, Sequence[float]] = {
    2: (1.0, 0.85, 0.7, 0.55),
    **dict.fromkeys((3, 4, 5), _MODERATE),
    **dict.fromkeys((6, 8), _FINE),
}
"""Parts of the range below and above zero that the search tries in all pairs, for groups with real
offsets, by bits. The more codes there are, the less of the range is worth giving up."""


@dataclass(frozen=True)
class Grid:
    """Scales and zero points as readers will see them, FP32 [rows, groups] each.

    Zero points are whole numbers, except of grids with offsets.
    """

    scales: torch.Tensor
    zeros: torch.Tensor


@dataclass(frozen=True)
class AffineCodec:
    """Codec for a scheme; implements codecs.Codec.

    Attributes:
        scheme: bits, group size, symmetry.
        real_offsets: whether groups have FP16 offsets instead of zero points, for formats that
            store those; only with an asymmetric scheme. They lose less than zero points, which are
            whole multiples of the scale.
    """

    scheme: QuantScheme
    real_offsets: bool = False

    def group_width(self, columns: int) -> int:
        """See Codec."""
        return self.scheme.group_width(columns)

    def quantize(self, weight: torch.Tensor) -> AffineTensor:
        """See Codec."""
        coded = quantize(weight, self.scheme)
        return with_offsets(coded) if self.real_offsets else coded

    def quantize_fitted(self, weight: torch.Tensor, gram: Gram) -> AffineTensor:
        """See Codec."""
        return quantize_clipped(weight, self.scheme, gram, real_offsets=self.real_offsets)

    def quantize_compensated(
        self, weight: torch.Tensor, gram: Gram, shortfall: torch.Tensor | None = None
    ) -> AffineTensor:
        """See Codec."""
        return quantize_compensated(
            weight, self.scheme, gram, shortfall, real_offsets=self.real_offsets
        )

    def round_trip(self, weight: torch.Tensor) -> torch.Tensor:
        """See Codec; with zero points."""
        return round_trip(weight, self.scheme)


def search_of(scheme: QuantScheme, *, real_offsets: bool) -> tuple[Sequence[float], int, int]:
    """The parts of affine_search.Search for a scheme."""
    if real_offsets:
        return CLIPS[scheme.bits], scheme.max_code, affine_search.REAL
    kind = affine_search.MIDDLE if scheme.symmetric else affine_search.WHOLE
    return SHRINKS, scheme.max_code, kind


def quantize(weight: torch.Tensor, scheme: QuantScheme) -> QuantizedTensor:
    """Round to nearest with the plain scale of each group (RTN).

    Symmetric: the value of largest magnitude maps to code 0, whatever its sign (as in a Q4_0 block
    and in onnxruntime's MatMulNBits). Asymmetric: the range of the group, widened to include zero,
    maps to the range of the codes.

    Args:
        weight: floats of any dtype [rows, columns].
        scheme: bits, group size, symmetry.

    Raises:
        SchemeError: rows are not a whole number of groups, or a scale doesn't fit FP16.
        CheckpointError: a weight is NaN or infinite.
    """
    rows, columns = weight.shape
    groups = columns // scheme.group_width(columns)
    codes = np.empty((rows, columns), np.uint8)
    scales = torch.empty(rows, groups, dtype=torch.float16)
    zeros = None if scheme.symmetric else torch.empty(rows, groups, dtype=torch.uint8)
    share = -1 / scheme.middle if scheme.symmetric else 1 / scheme.max_code
    limits = (np.float32(scheme.max_code), np.float32(share), scheme.symmetric)

    # Conversion and checks are done here, where a part fits into a core's cache.
    def round_part(part: slice) -> None:
        values = weight[part].contiguous()
        grids = _empty_grids(len(values), groups)
        if values.dtype == torch.bfloat16:
            bits = values.view(torch.uint16).numpy()
            finite = affine_rounding.round_bfloat16_rows(bits, limits, grids, codes[part])
        else:
            finite = affine_rounding.round_rows(values.float().numpy(), limits, grids, codes[part])
        if not finite:
            raise CheckpointError("it holds NaN or infinity")
        grid = checked_grid(*_tensors(grids))
        scales[part] = grid.scales
        if zeros is not None:
            zeros[part] = grid.zeros

    over_rows(rows, columns, round_part)
    return QuantizedTensor(scheme, torch.from_numpy(codes), scales, zeros)


def round_trip(weight: torch.Tensor, scheme: QuantScheme) -> torch.Tensor:
    """``weight`` after ``quantize`` and ``dequantize``, FP32 [rows, columns], in fewer steps."""
    groups = grouped(weight, scheme)
    grid = plain_grid(groups, scheme)
    return _dequantized(groups, grid, scheme).view_as(weight)


def quantize_clipped(
    weight: torch.Tensor,
    scheme: QuantScheme,
    gram: Gram,
    *,
    real_offsets: bool = False,
) -> AffineTensor:
    """Round to nearest with the scale of each group that loses least output.

    For each group, the plain scale times each of SHRINKS is tried or, for real offsets, the range
    cut by each pair of CLIPS. The grid with the smallest error E G E^T is kept, where G is the
    group's block of the Gram matrix: AWQ's clipping search, without running the layer. Then the
    scale, and a real offset with it, is fitted to the codes by least squares.

    Args:
        weight: FP32 [rows, columns].
        scheme: bits, group size, symmetry.
        gram: statistics of the input.
        real_offsets: see AffineCodec.

    Raises:
        SchemeError: as quantize.
    """
    rows, columns = weight.shape
    metrics = gram.blocks(scheme.group_width(columns)).numpy()
    grids = _empty_grids(rows, len(metrics))
    search = _compiled(*search_of(scheme, real_offsets=real_offsets))
    flat = weight.contiguous().numpy()

    def fit(part: slice) -> None:
        affine_search.fit(flat[part], metrics, search, (grids[0][part], grids[1][part]))

    over_rows(rows, columns, fit, multiple=LANES)
    grid = checked_grid(*_tensors(grids))
    groups = grouped(weight, scheme)
    parts = []
    step = _rows_per_chunk(weight)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        grid_part = Grid(grid.scales[part], grid.zeros[part])
        parts.append((nearest_codes(groups[part], grid_part, scheme), grid_part))
    return assembled(weight, scheme, parts, real_offsets=real_offsets)


def quantize_compensated(
    weight: torch.Tensor,
    scheme: QuantScheme,
    gram: Gram,
    shortfall: torch.Tensor | None = None,
    damping: float = DAMPING,
    *,
    real_offsets: bool = False,
) -> AffineTensor:
    """Choose codes so that later ones of a row compensate the errors of earlier ones (GPTQ).

    See compensation.compensated_codes. The scale of a group is searched just before its codes are
    chosen, as in quantize_clipped, but by the output error that remains after optimal compensation.

    Args:
        weight: FP32 [rows, columns].
        scheme: bits, group size, symmetry.
        gram: statistics of the input.
        shortfall: FP32 [rows, columns], see Codec.
        damping: added to the diagonal of ``gram``, relative to its mean.
        real_offsets: see AffineCodec.

    Raises:
        SchemeError: as quantize.
    """
    rows, columns = weight.shape
    width = scheme.group_width(columns)
    search = _compiled(*search_of(scheme, real_offsets=real_offsets))
    scales, zeros = _empty_grids(rows, columns // width)

    def choose(strip: Strip) -> None:
        grids = _empty_grids(len(strip.weights), len(strip.groups))
        affine_compensation.compensate(
            strip.weights, strip.factor, strip.metrics, search, grids, strip.codes, strip.errors
        )
        scales[strip.rows, strip.groups], zeros[strip.rows, strip.groups] = grids

    if shortfall is not None:
        weight = corrected(weight, gram, shortfall)
    codes = compensated_codes(weight, Walk.of(gram, width, damping), choose)
    grid = checked_grid(*_tensors((scales, zeros)))
    return assembled(weight, scheme, [(codes, grid)], real_offsets=real_offsets)


def _compiled(shares: Sequence[float], max_code: int, zeros: int) -> affine_search.Search:
    """Search for the kernels."""
    return np.array(shares, np.float32), max_code, zeros


def _empty_grids(rows: int, groups: int) -> affine_search.Grids:
    return np.empty((rows, groups), np.float32), np.empty((rows, groups), np.float32)


def _tensors(grids: affine_search.Grids) -> tuple[torch.Tensor, torch.Tensor]:
    scales, zeros = grids
    return torch.from_numpy(scales), torch.from_numpy(zeros)


def checked_grid(scales: torch.Tensor, zeros: torch.Tensor) -> Grid:
    """Grid of scales and zero points, FP32 [rows, groups] each.

    Raises:
        SchemeError: a scale is infinite, because it doesn't fit FP16.
    """
    if not torch.isfinite(scales).all():
        raise SchemeError(
            f"a group needs a scale above {_LARGEST_SCALE:g}, which doesn't fit FP16; "
            "the weights are too large to quantize"
        )
    return Grid(scales, zeros)


def plain_grid(groups: torch.Tensor, scheme: QuantScheme) -> Grid:
    """Plain grid of groups FP32 [rows, groups, width].

    Raises:
        SchemeError: a scale doesn't fit FP16.
    """
    lowest, highest = torch.aminmax(groups, dim=-1)
    if scheme.symmetric:
        extreme = torch.where(-lowest >= highest, lowest, highest)
        scales = _to_fp16(extreme * (-1 / scheme.middle))
        return Grid(scales, torch.full_like(scales, scheme.middle))
    lowest, highest = lowest.clamp(max=0), highest.clamp(min=0)
    scales = _to_fp16((highest - lowest) * (1 / scheme.max_code))
    zeros = torch.round(-lowest / scales).clamp_(0, scheme.max_code)
    return Grid(scales, zeros)


def _to_fp16(scales: torch.Tensor) -> torch.Tensor:
    """Round scales to FP16 (kept as FP32), but never to zero."""
    largest = scales.abs().amax()
    if not largest <= _LARGEST_SCALE:
        raise SchemeError(
            f"a group needs a scale of {float(largest):g}, which doesn't fit FP16 "
            f"(at most {_LARGEST_SCALE:g}); the weights are too large to quantize"
        )
    rounded = scales.half().float()
    vanished = torch.copysign(torch.full_like(rounded, _SMALLEST_SCALE), scales)
    rounded = torch.where(rounded == 0, vanished, rounded)
    return torch.where(scales == 0, _ZERO_GROUP_SCALE, rounded)


def _levels(groups: torch.Tensor, grid: Grid, scheme: QuantScheme) -> torch.Tensor:
    """Codes as FP32 [rows, groups, width]."""
    levels = groups / grid.scales.unsqueeze(-1)
    levels += grid.zeros.unsqueeze(-1)
    return levels.round_().clamp_(0, scheme.max_code)


def _dequantized(groups: torch.Tensor, grid: Grid, scheme: QuantScheme) -> torch.Tensor:
    levels = _levels(groups, grid, scheme)
    return levels.sub_(grid.zeros.unsqueeze(-1)).mul_(grid.scales.unsqueeze(-1))


def nearest_codes(groups: torch.Tensor, grid: Grid, scheme: QuantScheme) -> torch.Tensor:
    """Codes uint8 [rows, groups, width] nearest to weights FP32 of the same shape."""
    return _levels(groups, grid, scheme).to(torch.uint8)


def assembled(
    weight: torch.Tensor,
    scheme: QuantScheme,
    parts: Sequence[tuple[torch.Tensor, Grid]],
    *,
    real_offsets: bool,
) -> AffineTensor:
    """Quantized matrix of the shape of ``weight`` from the codes and grids of parts of its rows."""
    if not real_offsets:
        return with_zero_points(weight, scheme, parts)
    codes = torch.cat([codes for codes, _ in parts]).view(weight.shape)
    scales, zeros = (
        torch.cat([getattr(grid, name) for _, grid in parts]) for name in ("scales", "zeros")
    )
    return OffsetTensor(scheme, codes, scales.half(), offsets_of(scales, zeros))


def with_zero_points(
    weight: torch.Tensor, scheme: QuantScheme, parts: Sequence[tuple[torch.Tensor, Grid]]
) -> QuantizedTensor:
    """``assembled`` without real offsets."""
    codes = torch.cat([codes for codes, _ in parts]).view(weight.shape)
    scales = torch.cat([grid.scales for _, grid in parts]).half()
    zeros = None
    if not scheme.symmetric:
        zeros = torch.cat([grid.zeros for _, grid in parts]).to(torch.uint8)
    return QuantizedTensor(scheme, codes, scales, zeros)


def grouped(weight: torch.Tensor, scheme: QuantScheme) -> torch.Tensor:
    """View of weights [rows, columns] as [rows, groups, width]."""
    rows, columns = weight.shape
    return weight.reshape(rows, -1, scheme.group_width(columns))


def _rows_per_chunk(weight: torch.Tensor) -> int:
    return max(1, _CHUNK_WEIGHTS // weight.shape[1])
