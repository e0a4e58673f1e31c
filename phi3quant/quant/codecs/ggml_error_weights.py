"""Weights of squared errors in the searches for scales, over ``LANES`` groups at once.

The formulas and the order of the sums are those of ggml-quants.c.
"""

import numpy as np

from phi3quant.quant.codecs.lanes import F32, LANES, kernel

SUPER = 256
"""Weights per superblock."""


@kernel
def weigh_by_size(x: np.ndarray, w: np.ndarray) -> None:
    """Fill ``w`` FP32 [places, LANES] with abs(x) plus the root mean square of the group."""
    mean = np.zeros(LANES, F32)
    for place in range(x.shape[0]):
        for lane in range(LANES):
            mean[lane] += x[place, lane] * x[place, lane]
    for lane in range(LANES):
        mean[lane] = np.sqrt(mean[lane] / F32(x.shape[0]))
    for place in range(x.shape[0]):
        for lane in range(LANES):
            w[place, lane] = mean[lane] + abs(x[place, lane])


@kernel
def weigh_by_square(x: np.ndarray, w: np.ndarray) -> None:
    """Fill ``w`` FP32 [places, LANES] with x^2."""
    for place in range(x.shape[0]):
        for lane in range(LANES):
            w[place, lane] = x[place, lane] * x[place, lane]


@kernel
def weigh_by_importance(x: np.ndarray, w: np.ndarray, groups: int) -> None:
    """Multiply ``w``, FP32 [places, LANES], by sqrt(2 * the block's mean square + x^2).

    Args:
        x: FP32 [places, LANES].
        w: input and output, the importance of each column as lanes.gather_columns lays it out.
        groups: number of groups per block.
    """
    blocks = LANES // groups
    squares = np.zeros(blocks, F32)
    for group in range(groups):
        for place in range(x.shape[0]):
            for block in range(blocks):
                value = x[place, group * blocks + block]
                squares[block] += value * value
    spread = np.empty(LANES, F32)
    for lane in range(LANES):
        spread[lane] = F32(2) * squares[lane % blocks] / F32(x.shape[0] * groups)
    for place in range(x.shape[0]):
        for lane in range(LANES):
            w[place, lane] *= np.sqrt(spread[lane] + x[place, lane] * x[place, lane])
