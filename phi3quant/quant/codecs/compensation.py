"""Error compensation (GPTQ), whatever the codes are: strips of columns, most important first.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", 2022; with differences beside the damping. The groups that carry most come first, and
in each group the columns that do, while all of them keep their places in the file. And with each
strip go the metrics that say what an error costs once all later columns have made up for it as well
as they can.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from phi3quant.parallel import over_rows
from phi3quant.quant.codecs.lanes import LANES
from phi3quant.quant.gram import Damped, Gram, remaining_metrics

DAMPING = 0.03
"""What is added to the Gram matrix, relative to its mean diagonal."""

# The same where weights make up for what came before them: what is learned of that from one text
# holds less for another, so it is trusted less.
_CORRECTION_DAMPING = 1.0

# Columns that are compensated for one by one before the rest of the row hears of it.
_STRIP = 128


@dataclass(frozen=True)
class Strip:
    """Rows of a strip of columns, for a kernel to choose codes for.

    Attributes:
        weights: FP32 [rows, strip], what is left to represent.
        factor: FP32 [strip, strip], the strip's block of the upper Cholesky factor of the inverse
            Gram matrix.
        metrics: FP32 [groups, width, width], gram.remaining_metrics of the strip's groups.
        rows: which rows of the matrix these are.
        groups: int64 [groups], where the strip's groups stand in the matrix.
        codes: uint8 [rows, strip], to fill.
        errors: FP32 [rows, strip], to fill with what the columns after the strip have to make up
            for: errors over the factor's diagonal.
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
    """The order in which columns are chosen, and what each one's error costs.

    Attributes:
        width: columns in a group.
        order: int64 [groups], by falling importance.
        damped: the Gram matrix, its columns by group and falling importance in it.
    """

    width: int
    order: torch.Tensor
    damped: Damped

    @staticmethod
    def of(gram: Gram, width: int, damping: float = DAMPING) -> "Walk":
        """Of a linear whose inputs have the statistics ``gram``, in groups of ``width``."""
        order, places = _most_important_first(gram.diagonal(), width)
        return Walk(width, order, Damped.of(gram, places, damping))


def corrected(weight: torch.Tensor, gram: Gram, shortfall: torch.Tensor) -> torch.Tensor:
    """The weights whose outputs come closest to what is wanted, by least squares.

    Args:
        weight: FP32 [rows, columns].
        gram: of the input.
        shortfall: FP32 [rows, columns], see codecs.Codec.

    Returns:
        FP32 [rows, columns].
    """
    places = torch.arange(weight.shape[1])
    return weight + Damped.of(gram, places, _CORRECTION_DAMPING).solve(shortfall)


def compensated_codes(
    weight: torch.Tensor, walk: Walk, choose: Callable[[Strip], None]
) -> torch.Tensor:
    """Codes of which the later ones of a row make up for the errors of the earlier ones.

    Args:
        weight: FP32 [rows, columns].
        walk: over the columns; it is used up.
        choose: fills in the codes and errors of a strip.

    Returns:
        uint8 [rows, columns], every code in its weight's place.
    """
    rows, columns = weight.shape
    width, order, places = walk.width, walk.order, walk.damped.places
    factor = walk.damped.inverse_factor()
    metrics = remaining_metrics(factor, width).numpy()
    left = weight[:, places].contiguous()
    codes = np.empty((rows, columns), np.uint8)
    strip = max(width, _STRIP - _STRIP % width)
    for start in range(0, columns, strip):
        here = slice(start, min(start + strip, columns))
        groups = slice(here.start // width, here.stop // width)
        weights = left[:, here].contiguous().numpy()
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
        left[:, here.stop :].addmm_(torch.from_numpy(errors), factor[here, here.stop :], alpha=-1)
    return torch.from_numpy(codes)[:, places.argsort()]


def _most_important_first(
    importance: torch.Tensor, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Groups by falling importance, and columns by group and falling importance in it.

    Args:
        importance: FP32 [columns].
        width: columns in a group.

    Returns:
        int64 [groups] and int64 [columns].
    """
    grouped = importance.view(-1, width)
    order = grouped.mean(dim=1).argsort(descending=True, stable=True)
    inside = grouped[order].argsort(dim=1, descending=True, stable=True)
    return order, (order[:, None] * width + inside).flatten()
