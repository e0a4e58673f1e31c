"""The affine integer codec: groups of weights as codes with one scale and zero point.

Scales are rounded to FP16 *before* codes are chosen, so that the codes are the nearest ones for
the scale that a reader will see.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from phi3quant.errors import SchemeError
from phi3quant.gram import diagonal_blocks
from phi3quant.qtensor import QuantizedTensor
from phi3quant.scheme import QuantScheme

# FP16's smallest normal number: the scale of a group of zeros, for readers that divide by scales.
_ZERO_GROUP_SCALE = 2.0**-14
# FP16's smallest subnormal number: a scale that would round to zero becomes this.
_SMALLEST_SCALE = 2.0**-24
_LARGEST_SCALE = 65504.0
# Rows are handled in chunks of about this many weights, which stay in a core's cache.
_CHUNK_WEIGHTS = 1 << 20

# Times that scales are fitted to the codes and codes to the scales, after the search.
_REFINEMENTS = 3

SHRINKS: Sequence[float] = tuple(1.15 - 0.05 * step for step in range(13))
"""Multiples of the plain scale that search tries, from 1.15 down to 0.55.

Above 1 pays in symmetric groups, whose plain scale leaves one side an eighth short."""


@dataclass(frozen=True)
class _Grid:
    """Scale and zero point per group: FP32 [rows, groups], both already as a reader sees them."""

    scales: torch.Tensor
    zeros: torch.Tensor


@dataclass(frozen=True)
class _Found:
    """The best grid so far, with its error [rows, groups]."""

    grid: _Grid
    error: torch.Tensor

    @classmethod
    def start(
        cls, groups: torch.Tensor, grid: _Grid, scheme: QuantScheme, blocks: torch.Tensor
    ) -> "_Found":
        return cls(grid, _group_error(groups, grid, scheme, blocks))

    def or_better(
        self, groups: torch.Tensor, grid: _Grid, scheme: QuantScheme, blocks: torch.Tensor
    ) -> "_Found":
        error = _group_error(groups, grid, scheme, blocks)
        better = error < self.error
        chosen = _Grid(
            torch.where(better, grid.scales, self.grid.scales),
            torch.where(better, grid.zeros, self.grid.zeros),
        )
        return _Found(chosen, torch.where(better, error, self.error))


@dataclass(frozen=True)
class AffineCodec:
    """A scheme as a method uses it; see codecs.Codec."""

    scheme: QuantScheme

    def group_width(self, columns: int) -> int:
        """See Codec."""
        return self.scheme.group_width(columns)

    def quantize(self, weight: torch.Tensor) -> QuantizedTensor:
        """See Codec."""
        return quantize(weight, self.scheme)

    def quantize_fitted(self, weight: torch.Tensor, gram: torch.Tensor) -> QuantizedTensor:
        """See Codec."""
        return quantize_clipped(weight, self.scheme, gram)

    def round_trip(self, weight: torch.Tensor) -> torch.Tensor:
        """See Codec."""
        return round_trip(weight, self.scheme)


def quantize(weight: torch.Tensor, scheme: QuantScheme) -> QuantizedTensor:
    """Round to nearest with the plain scale of each group: RTN.

    Symmetric: the value of largest magnitude, signed, maps to code 0 (as in a Q4_0 block and in
    onnxruntime's MatMulNBits). Asymmetric: the range of the group, widened to hold zero, maps to
    all codes.

    Args:
        weight: FP32 [rows, columns].
        scheme: bits, group size, symmetry.

    Raises:
        SchemeError: the groups don't fill the rows, or a scale doesn't fit FP16.
    """
    groups = _grouped(weight, scheme)
    parts = []
    for chunk in torch.split(groups, _rows_per_chunk(weight)):
        grid = _plain_grid(chunk, scheme, 1.0)
        parts.append((_codes(chunk, grid, scheme), grid))
    return _assemble(weight, scheme, parts)


def round_trip(weight: torch.Tensor, scheme: QuantScheme) -> torch.Tensor:
    """What remains of ``weight`` after ``quantize``: FP32 [rows, columns], without making codes."""
    groups = _grouped(weight, scheme)
    grid = _plain_grid(groups, scheme, 1.0)
    return _dequantized(groups, grid, scheme).view_as(weight)


def quantize_clipped(
    weight: torch.Tensor,
    scheme: QuantScheme,
    gram: torch.Tensor,
    shrinks: Sequence[float] = SHRINKS,
) -> QuantizedTensor:
    """Round to nearest with the scale of each group that loses least output.

    Each group tries the plain scale times every one of ``shrinks`` and keeps the one with the
    smallest error E G E^T, where G is the group's own block of the Gram matrix: AWQ's clipping
    search, without running the layer. Then the scale is fitted to the codes by least squares.

    Args:
        weight: FP32 [rows, columns].
        scheme: bits, group size, symmetry.
        gram: FP32 [columns, columns], second moments of the input.
        shrinks: the multiples to try.

    Raises:
        SchemeError: as quantize.
    """
    groups = _grouped(weight, scheme)
    blocks = diagonal_blocks(gram, groups.shape[-1])
    parts = []
    for chunk in torch.split(groups, _rows_per_chunk(weight)):
        grid = _best_grid(chunk, scheme, blocks, shrinks)
        parts.append((_codes(chunk, grid, scheme), grid))
    return _assemble(weight, scheme, parts)


def _best_grid(
    groups: torch.Tensor, scheme: QuantScheme, blocks: torch.Tensor, shrinks: Sequence[float]
) -> _Grid:
    best = _Found.start(groups, _plain_grid(groups, scheme, 1.0), scheme, blocks)
    for shrink in shrinks:
        best = best.or_better(groups, _plain_grid(groups, scheme, shrink), scheme, blocks)
    for _ in range(_REFINEMENTS):
        fitted = _fitted_grid(groups, best.grid, scheme, blocks)
        best = best.or_better(groups, fitted, scheme, blocks)
    return best.grid


def _fitted_grid(
    groups: torch.Tensor, grid: _Grid, scheme: QuantScheme, blocks: torch.Tensor
) -> _Grid:
    """The scales that suit the codes of ``grid`` best.

    For codes q around zero, (s q - w) G (s q - w)^T is least at s = q G w^T / q G q^T.
    """
    steps = (_levels(groups, grid, scheme) - grid.zeros.unsqueeze(-1)).transpose(0, 1)
    weighted = steps @ blocks
    along = (weighted * groups.transpose(0, 1)).sum(dim=-1).T
    across = (weighted * steps).sum(dim=-1).T
    scales = torch.where(across > 0, along / across, grid.scales)
    return _Grid(_to_fp16(torch.where(scales == 0, grid.scales, scales)), grid.zeros)


def _group_error(
    groups: torch.Tensor, grid: _Grid, scheme: QuantScheme, blocks: torch.Tensor
) -> torch.Tensor:
    """E G E^T for each group, FP32 [rows, groups]."""
    error = (_dequantized(groups, grid, scheme) - groups).transpose(0, 1)
    return ((error @ blocks) * error).sum(dim=-1).T


def _plain_grid(groups: torch.Tensor, scheme: QuantScheme, shrink: float) -> _Grid:
    """The plain scale of groups [rows, groups, width] times ``shrink``."""
    lowest, highest = torch.aminmax(groups, dim=-1)
    if scheme.symmetric:
        extreme = torch.where(-lowest >= highest, lowest, highest)
        scales = _to_fp16(extreme * (-shrink / scheme.middle))
        return _Grid(scales, torch.full_like(scales, scheme.middle))
    lowest, highest = lowest.clamp(max=0), highest.clamp(min=0)
    scales = _to_fp16((highest - lowest) * (shrink / scheme.max_code))
    zeros = torch.round(-lowest * shrink / scales).clamp_(0, scheme.max_code)
    return _Grid(scales, zeros)


def _to_fp16(scales: torch.Tensor) -> torch.Tensor:
    """Round scales to FP16 (kept as FP32), away from zero where they would vanish."""
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


def _levels(groups: torch.Tensor, grid: _Grid, scheme: QuantScheme) -> torch.Tensor:
    """The codes as FP32, [rows, groups, width]."""
    levels = groups / grid.scales.unsqueeze(-1)
    levels += grid.zeros.unsqueeze(-1)
    return levels.round_().clamp_(0, scheme.max_code)


def _dequantized(groups: torch.Tensor, grid: _Grid, scheme: QuantScheme) -> torch.Tensor:
    levels = _levels(groups, grid, scheme)
    return levels.sub_(grid.zeros.unsqueeze(-1)).mul_(grid.scales.unsqueeze(-1))


def _codes(groups: torch.Tensor, grid: _Grid, scheme: QuantScheme) -> torch.Tensor:
    return _levels(groups, grid, scheme).to(torch.uint8)


def _assemble(
    weight: torch.Tensor, scheme: QuantScheme, parts: list[tuple[torch.Tensor, _Grid]]
) -> QuantizedTensor:
    codes = torch.cat([codes for codes, _ in parts]).view(weight.shape)
    scales = torch.cat([grid.scales for _, grid in parts]).half()
    zeros = None
    if not scheme.symmetric:
        zeros = torch.cat([grid.zeros for _, grid in parts]).to(torch.uint8)
    return QuantizedTensor(scheme, codes, scales, zeros)


def _grouped(weight: torch.Tensor, scheme: QuantScheme) -> torch.Tensor:
    rows, columns = weight.shape
    return weight.reshape(rows, -1, scheme.group_width(columns))


def _rows_per_chunk(weight: torch.Tensor) -> int:
    return max(1, _CHUNK_WEIGHTS // weight.shape[1])
