"""The scale searches behind llama.cpp's K-quants, over many groups at once.

Each function is one of ggml-quants.c's, named in its docstring, with the same FP32 operations in
the same order, so that every bit comes out alike; tests/test_gguf_blocks.py compares with the
reference. Arrays are laid out with the places of a group first, [places, groups]: sums over a group
run over the first axis one place after another, as the reference's loops do, and each step is one
contiguous operation over all groups.
"""

from dataclasses import dataclass

import numpy as np
import torch

# Below this a group counts as zeros.
EPSILON = 1e-15
_TENTH = torch.tensor(0.1)


@dataclass(frozen=True)
class Grid:
    """What the search for a scale and a minimum tries.

    The codes run from 0 to ``levels``; the step's divisor starts at levels + ``first`` and grows by
    ``increment`` for ``steps`` times.
    """

    levels: int
    first: float
    increment: float
    steps: int


def signed_scale(
    x: torch.Tensor, importance: torch.Tensor, half: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes from -half to half - 1 with one scale: ``make_qx_quants`` with rmse_type 1.

    Args:
        x: FP32 [places, groups].
        importance: FP32 [places, groups], the weight of each squared error.
        half: half the number of codes.

    Returns:
        Scales FP32 [groups], and codes from 0 to 2 half - 1, FP32 [places, groups].
    """
    extreme = first_extreme(x)
    empty = extreme.abs() < EPSILON
    divisor = torch.where(empty, 1.0, extreme)
    weighted = importance * x

    def fit(inverse: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        codes = (inverse * x).round_().clamp_(-half, half - 1)
        return running_sum(weighted * codes), running_sum((importance * codes).mul_(codes))

    inverse = -half / divisor
    along, across = fit(inverse)
    scale = torch.where(across != 0, along / across, 0.0)
    best = scale * along
    for step in (*range(-9, 0), *range(1, 10)):
        tried = -(half + _TENTH * step) / divisor
        along, across = fit(tried)
        better = (across > 0) & (along * along > best * across)
        inverse = torch.where(better, tried, inverse)
        scale = torch.where(better, along / across, scale)
        best = torch.where(better, scale * along, best)
    codes = (inverse * x).round_().clamp_(-half, half - 1).add_(half)
    return torch.where(empty, 0.0, scale), torch.where(empty, 0.0, codes)


def scale_and_minimum(
    x: torch.Tensor, weights: torch.Tensor, grid: Grid
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes with a scale and a minimum: ``make_qkx2_quants`` and ``make_qkx3_quants``.

    Args:
        x: FP32 [places, groups].
        weights: FP32 [places, groups], the weight of each squared error.
        grid: what to try.

    Returns:
        Scales and negated minima, FP32 [groups], and codes, FP32 [places, groups].
    """
    lowest, highest = x.amin(dim=0).clamp_(max=0), x.amax(dim=0)
    flat = highest <= lowest
    highest = torch.where(flat, lowest + 1, highest)
    sum_w, sum_x = running_sum(weights), running_sum(weights * x)

    def codes_of(inverse: torch.Tensor, minimum: torch.Tensor) -> torch.Tensor:
        codes = (x - minimum).mul_(inverse).round_()
        # The widths of subnormal groups overflow when inverted; the reference makes such codes 0.
        return codes.nan_to_num_(nan=0.0, posinf=0.0).clamp_(0, grid.levels)

    def error_of(codes: torch.Tensor, scale: torch.Tensor, minimum: torch.Tensor) -> torch.Tensor:
        difference = (scale * codes).add_(minimum).sub_(x)
        return running_sum(difference.square_().mul_(weights))

    inverse = divided(grid.levels, highest - lowest)
    scale, minimum = 1 / inverse, lowest
    codes = codes_of(inverse, minimum)
    best = error_of(codes, scale, minimum)
    increment, first = torch.tensor(grid.increment), torch.tensor(grid.first)
    for step in range(grid.steps + 1):
        # What is tried depends on the best minimum so far.
        inverse = (first + increment * step + grid.levels) / (highest - minimum)
        tried = codes_of(inverse, minimum)
        once = weights * tried
        sum_l, sum_l2, sum_xl = (
            running_sum(once),
            running_sum(once * tried),
            running_sum(once * x),
        )
        determinant = sum_w * sum_l2 - sum_l * sum_l
        new_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        new_minimum = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        new_scale = torch.where(new_minimum > 0, sum_xl / sum_l2, new_scale)
        new_minimum = torch.where(new_minimum > 0, 0.0, new_minimum)
        error = error_of(tried, new_scale, new_minimum)
        better = (determinant > 0) & (error < best)
        best = torch.where(better, error, best)
        scale = torch.where(better, new_scale, scale)
        minimum = torch.where(better, new_minimum, minimum)
        codes = torch.where(better, tried, codes)
    return torch.where(flat, 0.0, scale), -minimum, torch.where(flat, 0.0, codes)


def positive_scale(
    x: torch.Tensor, weights: torch.Tensor, levels: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes from 0 to ``levels`` for numbers that are not negative: ``make_qp_quants``.

    Args:
        x: FP32 [places, groups].
        weights: FP32 [places, groups].
        levels: the largest code.

    Returns:
        Scales FP32 [groups] and codes FP32 [places, groups].
    """
    highest = x.amax(dim=0).clamp_(min=0)
    empty = highest < EPSILON
    divisor = torch.where(empty, 1.0, highest)

    def error_of(inverse: torch.Tensor) -> torch.Tensor:
        codes = (inverse * x).round_().clamp_(max=levels)
        difference = x - (1 / inverse) * codes
        return running_sum((weights * difference).mul_(difference))

    inverse = divided(levels, divisor)
    best = error_of(inverse)
    for step in (*range(-4, 0), *range(1, 5)):
        tried = (_TENTH * step + levels) / divisor
        error = error_of(tried)
        inverse = torch.where(error < best, tried, inverse)
        best = torch.where(error < best, error, best)
    codes = (inverse * x).round_().clamp_(max=levels)
    along = running_sum((weights * x).mul_(codes))
    across = running_sum((weights * codes).mul_(codes))
    for _ in range(5):
        for place in range(len(x)):
            w, value, code = weights[place], x[place], codes[place]
            rest_along, rest_across = along - w * value * code, across - w * code * code
            new = (value * rest_across / rest_along).round_().clamp_(max=levels)
            new_along, new_across = rest_along + w * value * new, rest_across + w * new * new
            better = (rest_along > 0) & (rest_across > 0) & (new != code)
            better &= new_along * new_along * across > along * along * new_across
            codes[place] = torch.where(better, new, code)
            along = torch.where(better, new_along, along)
            across = torch.where(better, new_across, across)
    scale = torch.where(across > 0, along / across, 0.0)
    return torch.where(empty, 0.0, scale), torch.where(empty, 0.0, codes)


def first_extreme(x: torch.Tensor) -> torch.Tensor:
    """The first value of largest magnitude in each group of [places, groups], signed."""
    return x.gather(0, x.abs().argmax(dim=0, keepdim=True)).squeeze(0)


def divided(number: float, x: torch.Tensor) -> torch.Tensor:
    """``number / x`` rounded once; Python's operator takes the reciprocal, which rounds twice."""
    return torch.div(torch.tensor(float(number)), x)


def exact_sqrt(x: torch.Tensor) -> torch.Tensor:
    """The square root rounded to nearest, which torch's may miss by one unit in the last place."""
    return torch.from_numpy(np.sqrt(x.numpy()))


def running_sum(x: torch.Tensor) -> torch.Tensor:
    """Sum [places, groups] over the places, one after another."""
    total = x[0].clone()
    for place in range(1, len(x)):
        total += x[place]
    return total
