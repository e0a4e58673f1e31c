"""llama.cpp's search for a scale of numbers that aren't negative, over many blocks at once."""

import torch

from phi3quant.quant.codecs.on_device.scale_search import EPSILON, quotient, tenths

_ROUNDS = 5


def positive_scale(
    x: torch.Tensor, weights: torch.Tensor, highest: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Search the scale of codes from 0 to ``highest``: ``make_qp_quants``.

    Args:
        x: FP32 [places, blocks].
        weights: weights of the squared errors, FP32 [places, blocks].
        highest: the largest code.

    Returns:
        Scales FP32 [blocks] and codes FP32 [places, blocks].
    """
    largest = x.amax(dim=0)
    weighted = weights * x
    codes = (x * _best_inverse(x, weights, highest, largest)).round_().clamp_(max=highest)
    along, across = (weighted * codes).sum(dim=0), (weights * codes * codes).sum(dim=0)
    for _ in range(_ROUNDS):
        for place, value in enumerate(x):
            code, w, wx = codes[place], weights[place], weighted[place]
            rest_along, rest_across = along - wx * code, across - w * code * code
            new = (value * rest_across).div_(rest_along).round_().clamp_(max=highest)
            new_along, new_across = rest_along + wx * new, rest_across + w * new * new
            better = (
                (rest_along > 0)
                & (rest_across > 0)
                & (new != code)
                & (new_along * new_along * across > along * along * new_across)
            )
            code.copy_(torch.where(better, new, code))
            along = torch.where(better, new_along, along)
            across = torch.where(better, new_across, across)
    zeros = largest < EPSILON
    scales = (along / across).masked_fill_((across <= 0) | zeros, 0)
    return scales, codes.masked_fill_(zeros, 0)


def _best_inverse(
    x: torch.Tensor, weights: torch.Tensor, highest: int, largest: torch.Tensor
) -> torch.Tensor:
    """Best of ten inverse scales, the plain one first, by weighted squared error: FP32 [blocks]."""
    tops = tenths(highest, range(-5, 5))
    inverses = torch.stack([quotient(top, largest) for top in tops])
    codes = (x[:, None] * inverses).round_().clamp_(max=highest)
    off = codes.mul_(quotient(1, inverses)).sub_(x[:, None])
    errors = (weights[:, None] * off).mul_(off).sum(dim=0)
    errors.masked_fill_(errors.isnan(), torch.inf)
    return inverses.gather(0, errors.argmin(dim=0, keepdim=True))[0]
