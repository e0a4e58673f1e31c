"""Affine integer codec on any device; see phi3quant.quant.codecs.affine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from phi3quant.errors import CheckpointError
from phi3quant.quant.codecs import affine
from phi3quant.quant.codecs.compensation import DAMPING, Walk, corrected
from phi3quant.quant.codecs.on_device.affine_search import Search, best_grid
from phi3quant.quant.codecs.on_device.compensation import Levels, compensated_levels, rounding
from phi3quant.quant.codecs.on_device.replay import Replayed
from phi3quant.quant.gram import Gram
from phi3quant.quant.offset_tensor import with_offsets
from phi3quant.quant.scheme import QuantScheme

# Weights of a part of the rows, which bounds the memory of a search.
_PART = 1 << 24


@dataclass(frozen=True)
class AffineDeviceCodec:
    """Codec for a scheme; implements codecs.Codec for tensors on any device.

    Attributes:
        scheme, real_offsets: see affine.AffineCodec.
    """

    scheme: QuantScheme
    real_offsets: bool = False

    def group_width(self, columns: int) -> int:
        """See Codec."""
        return self.scheme.group_width(columns)

    def quantize(self, weight: torch.Tensor) -> affine.AffineTensor:
        """See Codec; bit for bit as affine.quantize.

        Raises:
            CheckpointError: a weight is NaN or infinite.
        """
        if not torch.isfinite(weight).all():
            raise CheckpointError("it holds NaN or infinity")

        def plain(part: slice) -> affine.Grid:
            return affine.plain_grid(affine.grouped(weight[part].float(), self.scheme), self.scheme)

        coded = affine.with_zero_points(weight, self.scheme, self._rounded(weight, plain))
        return with_offsets(coded) if self.real_offsets else coded

    def quantize_fitted(self, weight: torch.Tensor, gram: Gram) -> affine.AffineTensor:
        """See Codec."""
        columns = weight.shape[1]
        width = self.group_width(columns)
        metrics = gram.blocks(width)

        def fitted(part: slice) -> affine.Grid:
            tiles = weight[part].T.reshape(columns // width, width, -1)
            scales, zeros = best_grid(tiles, metrics, self._search)
            return affine.checked_grid(scales[:, 0].T, zeros[:, 0].T)

        return self._assembled(weight, self._rounded(weight, fitted))

    def quantize_compensated(
        self, weight: torch.Tensor, gram: Gram, shortfall: torch.Tensor | None = None
    ) -> affine.AffineTensor:
        """See Codec."""
        if shortfall is not None:
            weight = corrected(weight, gram, shortfall)
        rows, columns = weight.shape
        walk = Walk.of(gram, self.group_width(columns), DAMPING)
        scales = weight.new_empty(columns // walk.width, rows)
        zeros = torch.empty_like(scales)
        search, rounded = _searching(self._search), _rounding(self.scheme.max_code)
        order = walk.order.tolist()

        def to_levels(place: int, tile: torch.Tensor, metric: torch.Tensor) -> Levels:
            levels, scale, zero = search(tile, metric)
            scales[order[place]], zeros[order[place]] = scale, zero
            return levels, scale

        levels = compensated_levels(weight, walk, to_levels, rounded)
        grid = affine.checked_grid(scales.T, zeros.T)
        return self._assembled(weight, [(levels.to(torch.uint8), grid)])

    def round_trip(self, weight: torch.Tensor) -> torch.Tensor:
        """See Codec."""
        return affine.round_trip(weight, self.scheme)

    def _rounded(
        self, weight: torch.Tensor, grid_of: Callable[[slice], affine.Grid]
    ) -> list[tuple[torch.Tensor, affine.Grid]]:
        """Codes rounded to nearest on the grids of parts of the rows, and the grids."""
        rows, columns = weight.shape
        step = max(1, _PART // columns)
        parts = []
        for start in range(0, rows, step):
            part = slice(start, start + step)
            grid = grid_of(part)
            groups = affine.grouped(weight[part].float(), self.scheme)
            parts.append((affine.nearest_codes(groups, grid, self.scheme), grid))
        return parts

    def _assembled(
        self, weight: torch.Tensor, parts: Sequence[tuple[torch.Tensor, affine.Grid]]
    ) -> affine.AffineTensor:
        return affine.assembled(weight, self.scheme, parts, real_offsets=self.real_offsets)

    @property
    def _search(self) -> Search:
        shares, highest, zeros = affine.search_of(self.scheme, real_offsets=self.real_offsets)
        return Search(tuple(shares), highest, zeros)


@cache
def _searching(given: Search) -> Replayed[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Function from a group's weights and metric to its levels, scales and zero points."""

    def search(
        tile: torch.Tensor, metric: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        scale, zero = best_grid(tile, metric, given)
        return (tile / scale).add_(zero), scale[0], zero[0]

    return Replayed(search)


@cache
def _rounding(highest: int) -> Replayed[Levels]:
    def nearest(levels: torch.Tensor, out: torch.Tensor) -> None:
        torch.round(levels, out=out).clamp_(0, highest)

    return rounding(nearest)
