"""Error compensation (GPTQ) as tensor operations; see phi3quant.quant.codecs.compensation.

Matrices are transposed, [columns, rows], so that each column of weights is contiguous. In a group,
weights are first converted to levels, numbers in units of the group's scale, of which the nearest
representable ones become codes. A column then takes four operations.
"""

from collections.abc import Callable

import torch

from phi3quant.quant.codecs.compensation import Walk
from phi3quant.quant.codecs.on_device.replay import Replayed
from phi3quant.quant.gram import remaining_metrics

PIECE = 32
"""Largest number of columns that are rounded one by one before the rest of the row is updated."""

Levels = tuple[torch.Tensor, torch.Tensor]
"""Levels of a group FP32 [width, rows], and the scale of each row FP32 [rows]."""

ToLevels = Callable[[int, torch.Tensor, torch.Tensor], Levels]
"""Converts a group's target weights to levels.

Receives the group's place in the walk, the weights FP32 [width, rows] with earlier errors
compensated, and the metric of the group, FP32 [width, width], from gram.remaining_metrics."""

Round = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Rounds a piece's levels one column after another; see ``rounding``."""


def compensated_levels(
    weight: torch.Tensor, walk: Walk, to_levels: ToLevels, rounded: Round
) -> torch.Tensor:
    """Choose levels so that later ones of a row compensate the errors of earlier ones.

    Args:
        weight: FP32 [rows, columns].
        walk: order of the columns; its matrix is overwritten.
        to_levels: converts each group.
        rounded: from ``rounding``.

    Returns:
        Chosen levels FP32 [rows, columns], in the order of the weights.
    """
    columns, width, places = weight.shape[1], walk.width, walk.damped.places
    factor = walk.damped.inverse_factor()
    metrics = remaining_metrics(factor, width)
    shares = factor / factor.diagonal()[:, None]
    remaining = weight.T[places]
    chosen = torch.empty_like(remaining)
    for group in range(columns // width):
        end = (group + 1) * width
        levels, scales = to_levels(group, remaining[end - width : end], metrics[group])
        for start in range(end - width, end, PIECE):
            stop = min(start + PIECE, end)
            inside = slice(start - end + width, stop - end + width)
            nearest, errors = rounded(levels[inside], shares[start:stop, start:stop])
            chosen[start:stop] = nearest
            # The group's later columns are levels already, the columns after it weights.
            levels[inside.stop :].addmm_(shares[start:stop, stop:end].T, errors, alpha=-1)
            remaining[end:].addmm_(shares[start:stop, end:].T, errors * scales, alpha=-1)
    result = torch.empty_like(chosen)
    result[places] = chosen
    return result.T


def rounding(nearest: Callable[[torch.Tensor, torch.Tensor], None]) -> Replayed[Levels]:
    """Function that rounds a piece's levels one column after another.

    It receives levels FP32 [piece, rows] and shares FP32 [piece, piece], the changes of later
    columns that compensate an error of 1 in each column. It returns the chosen levels and the
    errors, FP32 [piece, rows] each.

    Args:
        nearest: writes the nearest representable levels FP32 [rows] of the first argument into the
            second.
    """

    def rounded(levels: torch.Tensor, shares: torch.Tensor) -> Levels:
        rest, chosen, errors = levels.clone(), torch.empty_like(levels), torch.empty_like(levels)
        for column in range(len(levels)):
            nearest(rest[column], chosen[column])
            torch.sub(rest[column], chosen[column], out=errors[column])
            later = slice(column + 1, None)
            rest[later].addr_(shares[column, later], errors[column], alpha=-1)
        return chosen, errors

    return Replayed(rounded)
