"""Sums over the tokens of both models for one linear: statistics of its inputs, and its shortfall.

A team shares the sums by stripes of rows. Each batch goes to all members that compute a part, in
the order of the batches, so that every stripe adds the same products in the same order.
"""

from collections.abc import Sequence

import torch

from calib.capture import TILE, Moments, stripe_costs, stripes
from calib.share import Share
from phi3quant.model.precision import product_dtype
from phi3quant.quant.gram import Gram
from phi3quant.team import complete, owners, rows_of


class Sums:
    """Running sums over tokens for one linear.

    The sums are over x x^T, (y - x) x^T and (r' - r) x^T. x and y are the linear's inputs in the
    quantized and in the original model; r and r' are the residual streams to which it adds, in the
    quantized and in the original model.
    """

    def __init__(self, width: int, residual: int, device: torch.device, share: Share) -> None:
        """Start with sums of zero.

        Args:
            width: number of values in an input.
            residual: number of values in the residual stream; 0 if the linear doesn't add to it.
            device: device that computes.
            share: share of this member in the batches.
        """
        self._share, team = share, share.team
        self._rounds = 0
        self.inputs = torch.zeros(width, width, device=device)
        self.residuals = torch.zeros(residual, width, device=device)
        stored = [
            (sums, start) for sums in (self.inputs, self.residuals) for start in stripes(len(sums))
        ]
        ranks = owners([*stripe_costs(width), *[float(width)] * len(stored)], team.size)
        own = len(stripes(width))
        self.moments = Moments(width, device, team, ranks[:own])
        self._ranks = ranks[own:]
        self._sums = [sums for sums, _ in stored]
        self._parts = [slice(start, start + TILE) for _, start in stored]

    def add(self, x: torch.Tensor, y: torch.Tensor, residual: torch.Tensor | None = None) -> None:
        """Add this member's batch and those of the others in this round.

        Args:
            x: inputs in the quantized model, FP32 [windows, length, width].
            y: inputs in the original model, of the same shape.
            residual: r' - r, FP32 [windows, length, residual].
        """
        self._exchange(self._parcels(x, y, residual))

    def _exchange(self, batch: Sequence[torch.Tensor]) -> None:
        self._rounds += 1
        team = self._share.team
        mine = [number for number, rank in enumerate(self._ranks) if rank == team.rank]
        for parcels in team.gather(batch):
            if not parcels or not (mine or self.moments.busy):
                continue
            x = parcels[0]
            self.moments.add(x)
            # The corrections are small compared with the weights, so fast products are precise
            # enough.
            ready = x.to(product_dtype(x.device))
            for number in mine:
                sums, part = self._sums[number], self._parts[number]
                sums[part] += _strided(parcels[1 + number], part, len(sums)).T @ ready

    def _parcels(
        self, x: torch.Tensor, y: torch.Tensor, residual: torch.Tensor | None
    ) -> Sequence[torch.Tensor]:
        """The inputs [tokens, width], and columns of both differences for each stripe."""
        dtype = product_dtype(x.device)
        rows = (y - x).flatten(0, 1).to(dtype)
        columns = [rows[:, part] for part in self._parts[: len(stripes(len(self.inputs)))]]
        if residual is not None:
            rows = residual.flatten(0, 1).to(dtype)
            columns += [rows[:, part] for part in self._parts[len(columns) :]]
        return [x.flatten(0, 1), *columns]

    def finish(self, weight: torch.Tensor) -> tuple[Gram, torch.Tensor]:
        """Statistics of the inputs, and the shortfall FP32 [rows, in] of this member's rows.

        The sums are overwritten.

        Args:
            weight: FP32 [out, in], after its folds.
        """
        share, team = self._share, self._share.team
        # In the last round, only some members may have a batch.
        while self._rounds < share.rounds(share.batches):
            self._exchange([])
        tokens = share.tokens(share.batches)
        places = [sums[part] for sums, part in zip(self._sums, self._parts, strict=True)]
        complete(team, [*self.moments.pieces, *zip(self._ranks, places, strict=True)])
        rows, dtype = rows_of(team, len(weight)), product_dtype(weight.device)
        shortfall = (weight[rows].to(dtype) @ self.inputs.to(dtype)).float()
        if len(self.residuals):
            shortfall += self.residuals[rows]
        # The sums are freed before the statistics are copied.
        del self.inputs, self.residuals, self._sums, places
        return self.moments.finish(tokens), shortfall.div_(tokens)


def _strided(columns: torch.Tensor, part: slice, width: int) -> torch.Tensor:
    """Columns ``part`` of rows of ``width`` values; products depend on it at most by speed.

    A product of values that lie in memory as on the member that sent them is the same operation.
    """
    if columns.stride(0) == width:
        return columns
    rows = columns.new_empty(len(columns), width)
    rows[:, part] = columns
    return rows[:, part]
