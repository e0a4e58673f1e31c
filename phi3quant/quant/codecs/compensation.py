"""Error compensation (GPTQ) for any kind of codes, in strips of columns.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", 2022. Besides the damping, there are two differences. Groups, and the columns in each
group, are processed by falling importance, although they keep their places in the file. Scales are
searched by metrics of the error that remains after optimal compensation by all later columns.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from phi3quant.parallel import over_rows
from phi3quant.quant.codecs.lanes import LANES
from phi3quant.quant.gram import Damped, Gram, remaining_metrics

DAMPING = 0.03
"""Number added to the diagonal of the Gram matrix, relative to its mean."""

# Damping of the correction for earlier layers. It is larger, because this correction generalizes
# less from the calibration text to other texts.
_CORRECTION_DAMPING = 1.0

# Columns per lazy update of the rest of the row.
_STRIP = 128


@dataclass(frozen=True)
class Strip:
    """Some rows of a strip of columns: input and output of a kernel that chooses codes.

    Attributes:
        weights: target values FP32 [rows, strip], with earlier errors compensated.
        factor: the strip's block of the upper Cholesky factor of the inverse Gram matrix,
            FP32 [strip, strip].
        metrics: gram.remaining_metrics of the strip's groups, FP32 [groups, width, width].
        rows: position of the rows in the matrix.
        groups: positions of the strip's groups in the matrix, int64 [groups].
        codes: output, uint8 [rows, strip].
        errors: output, FP32 [rows, strip]: errors divided by the factor's diagonal, which columns
            after the strip have to compensate.
    """

    weights: np.ndarray
    factor: np.ndarray
    metrics: np.ndarray
    rows: slice
    groups: np.ndarray
    codes: np.ndarray
    errors: np.ndarray


@dataclass(frozen=True)
class Walk:
    """Order in which columns are processed, and the factored Gram matrix in this order.

    Attributes:
        width: columns per group.
        order: groups by falling importance, int64 [groups].
        damped: the Gram matrix; its columns follow ``order`` and, within a group, fall in
            importance.
    """

    width: int
    order: torch.Tensor
    damped: Damped

    @staticmethod
    def of(gram: Gram, width: int, damping: float = DAMPING) -> "Walk":
        """Walk over the columns of a linear with input statistics ``gram``, ``width`` per group."""
        order, places = _most_important_first(gram.diagonal(), width)
        return Walk(width, order, Damped.of(gram, places, damping))


def corrected(weight: torch.Tensor, gram: Gram, shortfall: torch.Tensor) -> torch.Tensor:
    """Weights whose outputs come closest to the target, by damped least squares.

    Args:
        weight: FP32 [rows, columns].
        gram: statistics of the input.
        shortfall: FP32 [rows, columns], see codecs.Codec.

    Returns:
        FP32 [rows, columns].
    """
    places = torch.arange(weight.shape[1], device=weight.device)
    # So much damping makes FP32 precise enough.
    damped = Damped.of(gram, places, _CORRECTION_DAMPING, torch.float32)
    return damped.solve(shortfall).add_(weight)


def compensated_codes(
    weight: torch.Tensor, walk: Walk, choose: Callable[[Strip], None]
) -> torch.Tensor:
    """Choose codes so that later ones of a row compensate the errors of earlier ones.

    Args:
        weight: FP32 [rows, columns].
        walk: order of the columns; its matrix is overwritten.
        choose: computes the codes and errors of a strip.

    Returns:
        uint8 [rows, columns], in the order of the weights.
    """
    rows, columns = weight.shape
    width, order, places = walk.width, walk.order, walk.damped.places
    factor = walk.damped.inverse_factor()
    metrics = remaining_metrics(factor, width).numpy()
    remaining = weight[:, places].contiguous()
    codes = np.empty((rows, columns), np.uint8)
    strip = max(width, _STRIP - _STRIP % width)
    for start in range(0, columns, strip):
        here = slice(start, min(start + strip, columns))
        groups = slice(here.start // width, here.stop // width)
        weights = remaining[:, here].contiguous().numpy()
        block = factor[here, here].contiguous().numpy()
        errors = np.empty_like(weights)

        def work(
            part: slice,
            weights: np.ndarray = weights,
            block: np.ndarray = block,
            errors: np.ndarray = errors,
            here: slice = here,
            groups: slice = groups,
        ) -> None:
            choose(
                Strip(
                    weights[part],
                    block,
                    metrics[groups],
                    part,
                    order[groups].numpy(),
                    codes[part, here],
                    errors[part],
                )
            )

        over_rows(rows, here.stop - here.start, work, multiple=LANES)
        remaining[:, here.stop :].addmm_(
            torch.from_numpy(errors), factor[here, here.stop :], alpha=-1
        )
    return torch.from_numpy(codes)[:, places.argsort()]


def _most_important_first(
    importance: torch.Tensor, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Order of the groups by falling importance, and of the columns by the same within each group.

    Args:
        importance: FP32 [columns].
        width: columns per group.

    Returns:
        Indices int64 [groups] and int64 [columns].
    """
    grouped = importance.view(-1, width)
    order = grouped.mean(dim=1).argsort(descending=True, stable=True)
    inside = grouped[order].argsort(dim=1, descending=True, stable=True)
    return order, (order[:, None] * width + inside).flatten()
