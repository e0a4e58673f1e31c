"""Estimated duration of a calibrated run, by its operations and a short trial of this machine.

Only operations that dominate in large models are counted. The estimate separates minutes from
hours; after a few blocks, the progress display is more accurate.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from phi3quant.model.architecture import LINEARS, linear_shapes
from phi3quant.model.config import Phi3Config
from phi3quant.model.precision import product_dtype
from phi3quant.model.wide_products import wide_products
from phi3quant.run.memory_budget import Calibrated
from phi3quant.run.one_block import SEARCH_TOKENS
from phi3quant.run.window_counts import held_back_windows

# Rows of a matrix for which the search of scales computes output errors, over all candidates.
_SEARCHED_ROWS = 8000
# The following constants were fitted to measured blocks (docs/performance.md).
# Number of times that all weights of a block are rounded or restored, further ones with
# compensation, and the number of copies that take as long as one of these.
_ROUNDINGS, _COMPENSATING, _COPIES = 8, 8, 16
# Numbers that a token's pass through a block reads and writes outside of products, in widths of the
# residual stream and of the MLP.
_PASSED = (28, 16)
# Width of the matrices in a trial, and seconds of a trial.
_TRIAL_WIDTH, TRIAL = 1024, 0.1
# Matrices of that width that a trial copies: more than caches hold.
_TRIAL_COPIES = 16
# Rows of a Gram matrix that are computed at once; a tile extends past the diagonal.
_TILE = 1024
# Duration of factoring and inverting, relative to products with as many operations.
_TRIANGULAR = 2.5


@dataclass(frozen=True)
class Pace:
    """Work that this machine does in a second, on torch's number of threads.

    Attributes:
        fast: operations of products in precision.product_dtype.
        full: operations of products in FP32.
        double: operations of products in FP64.
        copied: FP32 numbers copied.
    """

    fast: float
    full: float
    double: float
    copied: float


def measured(clock: Callable[[], float] = time.perf_counter) -> Pace:
    """Measure the pace of this machine in less than half a second.

    Args:
        clock: the time in seconds.
    """
    numbers = torch.ones(_TRIAL_COPIES, _TRIAL_WIDTH, _TRIAL_WIDTH)
    room = torch.empty_like(numbers)

    def products(dtype: torch.dtype) -> float:
        matrix = torch.ones(_TRIAL_WIDTH, _TRIAL_WIDTH, dtype=dtype)
        return 2.0 * _TRIAL_WIDTH**3 * times_a_second(lambda: matrix @ matrix, clock)

    with wide_products():
        return Pace(
            products(product_dtype()),
            products(torch.float32),
            products(torch.float64),
            numbers.numel() * times_a_second(lambda: room.copy_(numbers), clock),
        )


def seconds(config: Phi3Config, run: Calibrated, pace: Pace) -> float:
    """Estimated seconds for all blocks, without scoring and without measurements for a target size.

    Args:
        config: configuration of the model.
        run: sizes of the run, with the requested number of windows (the text may have fewer). The
            estimate includes AWQ's search.
        pace: pace of the machine.
    """
    held_back = held_back_windows(run.windows) * run.length
    seen = max(run.windows * run.length - held_back, run.length)
    shapes = [linear_shapes(config)[name] for name in LINEARS]
    weights = sum(rows * columns for rows, columns in shapes)
    squares = sum(columns**2 for _, columns in shapes)
    tiles = sum(columns * (columns + min(columns, _TILE)) for _, columns in shapes)
    searched = min(seen, SEARCH_TOKENS) if run.compensate else seen
    passing = 2 * seen + 8 * held_back if run.compensate else seen + 4 * held_back
    # Without the last linear.
    passes = passing + searched * (1 - shapes[-1][0] * shapes[-1][1] / weights)
    fast = 2.0 * weights * passes + 2.0 * _SEARCHED_ROWS * squares
    double, roundings = 0.0, _ROUNDINGS
    full = float(tiles * searched)
    if run.compensate:
        products = sum(rows * columns**2 for rows, columns in shapes)
        residuals = config.hidden_size * (config.query_rows + config.intermediate_size)
        fast += 2.0 * (squares + residuals) * seen + 2.0 * products
        # Two triangles are solved for all rows, mostly by products, and the rows are updated.
        full += tiles * seen + 3.0 * products
        # One factor in FP32 for the solves, and one in FP64, which is inverted in FP32.
        cubes = sum(columns**3 for _, columns in shapes) / 3
        full += _TRIANGULAR * 2 * cubes
        double = _TRIANGULAR * cubes
        roundings += _COMPENSATING
    block = fast / pace.fast + full / pace.full + double / pace.double
    block += roundings * _COPIES * weights / pace.copied
    block += beside_linears(config, run.length, passes, pace)
    return config.num_hidden_layers * block


def beside_linears(config: Phi3Config, length: int, tokens: float, pace: Pace) -> float:
    """Seconds of a block's work besides its linears: attention, norms and activations.

    Args:
        config: configuration of the model.
        length: tokens in a window.
        tokens: tokens that pass the block, each as often as it does.
        pace: pace of the machine.
    """
    attention = 4.0 * length * config.query_rows
    numbers = _PASSED[0] * config.hidden_size + _PASSED[1] * config.intermediate_size
    return tokens * (attention / pace.full + numbers / pace.copied)


def times_a_second(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Repetitions of ``work`` per second, after a first one that is not counted.

    Args:
        work: function to repeat for TRIAL seconds.
        clock: the time in seconds.
    """
    work()
    count, start = 0, clock()
    while (spent := clock() - start) < TRIAL:
        work()
        count += 1
    return count / spent
