"""llama.cpp's searches for the scale of a group, over all groups of a tile at once.

The formulas are those of codecs/ggml_scale_search.py, whose kernels equal llama.cpp's bit for bit.
Sums over a group are added in another order here, so that another candidate may win where two are
nearly equal. Arguments are tiles FP32 [places, ...]; error_weights.py describes them.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import mse_loss

from phi3quant.quant.codecs.on_device.tiles import sum_places

EPSILON = 1e-15
"""Groups whose largest magnitude is below this are treated as zeros."""

_F32 = np.float32


@dataclass(frozen=True)
class Offsets:
    """Candidates for the search of scale_and_minimum.

    Attributes:
        first: first number that is added to the highest code to divide the range by.
        increment: difference between neighboring numbers.
        count: number of increments.
    """

    first: float
    increment: float
    count: int

    def divisors(self, highest: int) -> list[float]:
        """Numbers to divide the range by, computed in FP32."""
        first, increment = _F32(self.first), _F32(self.increment)
        return [
            float(first + increment * _F32(step) + _F32(highest)) for step in range(self.count + 1)
        ]


@dataclass(frozen=True)
class Fit:
    """Result of scale_and_minimum; FP32 [...] each.

    Attributes:
        scale: a weight is scale * code + minimum.
        minimum: see scale; never positive.
        inverse: inverse scale from which the codes are computed.
        origin: code = round((x - origin) * inverse).
    """

    scale: torch.Tensor
    minimum: torch.Tensor
    inverse: torch.Tensor
    origin: torch.Tensor


def quotient(number: float, divisor: torch.Tensor) -> torch.Tensor:
    """``number / divisor``, rounded once; torch would multiply by the rounded reciprocal."""
    return torch.full_like(divisor, number).div_(divisor)


def inverse_of(scales: torch.Tensor) -> torch.Tensor:
    """1 / scales, and 0 where the scale is 0."""
    return quotient(1, scales).masked_fill_(scales == 0, 0)


def extremes(x: torch.Tensor) -> torch.Tensor:
    """First value of largest magnitude, with its sign, over the first dimension."""
    return x.gather(0, x.abs().argmax(dim=0, keepdim=True))[0]


def tenths(middle: int, attempts: range) -> list[float]:
    """``middle`` plus a tenth of each attempt, in FP32; the plain number is tried first."""
    steps = [_F32(0), *(_F32(0.1) * _F32(attempt) for attempt in attempts[1:] if attempt)]
    return [float(_F32(middle) + step) for step in steps]


def signed_scale(
    x: torch.Tensor, weights: torch.Tensor, half: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Search the scale of codes from -half to half - 1: ``make_qx_quants`` with rmse_type 1.

    Args:
        x: FP32 [places, ...].
        weights: weights of the squared errors, FP32, broadcast to ``x``.
        half: half the number of codes.

    Returns:
        Scales FP32 [...], 0 for groups of zeros, and inverse scales: code = round(x * inverse).
    """
    extreme, weighted = extremes(x), weights * x
    codes, work = torch.empty_like(x), torch.empty_like(x)
    scales = inverses = best = torch.empty(0)
    for attempt, divisor in enumerate(tenths(half, range(-10, 10))):
        tried = quotient(-divisor, extreme)
        torch.mul(x, tried, out=codes).round_().clamp_(-half, half - 1)
        along = sum_places(torch.mul(weighted, codes, out=work))
        across = sum_places(torch.mul(weights, codes, out=work).mul_(codes))
        fitted = along / across
        if attempt == 0:
            scales, inverses = fitted.masked_fill_(across == 0, 0), tried
            best = scales * along
            continue
        better = (across > 0) & (along * along > best * across)
        best = torch.where(better, fitted * along, best)
        scales = torch.where(better, fitted, scales)
        inverses = torch.where(better, tried, inverses)
    zeros = extreme.abs() < EPSILON
    return scales.masked_fill(zeros, 0), inverses.masked_fill(zeros, 0)


def scale_and_minimum(
    x: torch.Tensor, weights: torch.Tensor, highest: int, offsets: Offsets
) -> Fit:
    """Search the scale and minimum of codes: ``make_qkx2_quants`` and ``make_qkx3_quants``.

    Args:
        x: FP32 [places, ...].
        weights: weights of the squared errors, FP32 [places, ...].
        highest: the largest code.
        offsets: the candidates.
    """
    codes, once, work = torch.empty_like(x), torch.empty_like(x), torch.empty_like(x)
    sum_w, sum_x = sum_places(work.copy_(weights)), sum_places(torch.mul(weights, x, out=work))
    high = x.amax(dim=0)
    minimum = origin = x.amin(dim=0).clamp_(max=0)
    flat = high <= minimum
    inverse = quotient(highest, high - minimum)
    scale = quotient(1, inverse)

    def choose(tried: torch.Tensor, least: torch.Tensor) -> None:
        torch.sub(x, least, out=codes).mul_(_finite(tried)).round_().clamp_(0, highest)

    def error_of(scale: torch.Tensor, minimum: torch.Tensor) -> torch.Tensor:
        # Not addcmul, which on some devices rounds once where llama.cpp rounds twice.
        values = torch.mul(codes, scale, out=work).add_(minimum)
        return sum_places(mse_loss(values, x, reduction="none").mul_(weights))

    choose(inverse, minimum)
    best = error_of(scale, minimum)
    for divisor in offsets.divisors(highest):
        # The attempt starts from the best minimum so far.
        tried = quotient(divisor, high - minimum)
        choose(tried, minimum)
        torch.mul(weights, codes, out=once)
        sum_xl = sum_places(torch.mul(once, x, out=work))
        sum_l2 = sum_places(torch.mul(once, codes, out=work))
        sum_l = sum_places(once)
        determinant = sum_w * sum_l2 - sum_l * sum_l
        solved = (sum_w * sum_xl - sum_x * sum_l) / determinant
        least = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        solved = torch.where(least > 0, sum_xl / sum_l2, solved)
        least = least.clamp_(max=0)
        error = error_of(solved, least)
        better = (determinant > 0) & (error < best)
        best = torch.where(better, error, best)
        inverse, origin = torch.where(better, tried, inverse), torch.where(better, minimum, origin)
        scale, minimum = torch.where(better, solved, scale), torch.where(better, least, minimum)
    # All values of a flat group are equal and not positive, so all codes are 0.
    return Fit(scale.masked_fill(flat, 0), minimum, _finite(inverse).masked_fill(flat, 0), origin)


def _finite(inverses: torch.Tensor) -> torch.Tensor:
    """Inverse scales; 0 where they overflow, which gives code 0 as in llama.cpp."""
    return inverses.masked_fill(torch.isinf(inverses), 0)
