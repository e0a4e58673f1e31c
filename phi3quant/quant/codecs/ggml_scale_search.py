"""llama.cpp's searches for the scale of a group, over ``LANES`` groups at once.

Each kernel reimplements the function of ggml-quants.c named in its docstring. It does the same FP32
operations in the same order, so that results are equal bit for bit;
tests/quant/codecs/test_ggml_blocks.py compares them with llama.cpp's. For the layout of arrays see
lanes.py. A search doesn't keep codes; it returns the numbers from which they can be computed.
"""

import numpy as np

from phi3quant.quant.codecs.lanes import F32, LANES, kernel

# Groups whose largest magnitude is below this are treated as zeros.
EPSILON = F32(1e-15)
_TENTH = F32(0.1)
_INFINITY = F32(np.inf)


@kernel
def nearest_code(value: np.float32, highest: np.float32) -> np.float32:
    """Round to a code from 0 to ``highest``.

    Values that aren't finite become 0 as in llama.cpp. They occur where the inverse of a subnormal
    width overflows.
    """
    code = np.rint(value)
    code = max(F32(0), code)
    code = F32(0) if code == _INFINITY else code
    return min(highest, code)


@kernel
def extremes(x: np.ndarray, extreme: np.ndarray) -> None:
    """First value of largest magnitude, with its sign, of each lane of FP32 [places, LANES].

    ``extreme`` is output, FP32 [LANES].
    """
    for lane in range(LANES):
        extreme[lane] = x[0, lane]
    for place in range(1, x.shape[0]):
        for lane in range(LANES):
            value = x[place, lane]
            extreme[lane] = value if abs(value) > abs(extreme[lane]) else extreme[lane]


@kernel
def ranges(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """Least and greatest value of each lane of FP32 [places, LANES]: output, FP32 [LANES]."""
    for lane in range(LANES):
        low[lane] = x[0, lane]
        high[lane] = x[0, lane]
    for place in range(1, x.shape[0]):
        for lane in range(LANES):
            low[lane] = min(x[place, lane], low[lane])
            high[lane] = max(x[place, lane], high[lane])


@kernel
def signed_scale(
    x: np.ndarray, weights: np.ndarray, half: int, scales: np.ndarray, inverses: np.ndarray
) -> None:
    """Search the scale of codes from -half to half - 1: ``make_qx_quants`` with rmse_type 1.

    Args:
        x: FP32 [places, LANES].
        weights: weights of the squared errors, FP32 [places, LANES].
        half: half the number of codes.
        scales: output, FP32 [LANES]; 0 for groups of zeros.
        inverses: output, inverse scales FP32 [LANES]: code = round(x * inverse).
    """
    middle, highest = F32(half), F32(half - 1)
    extreme, best = np.empty(LANES, F32), np.empty(LANES, F32)
    tried, along, across = np.empty(LANES, F32), np.empty(LANES, F32), np.empty(LANES, F32)
    extremes(x, extreme)
    for attempt in range(-10, 10):
        # The plain scale is tried first, in place of attempt -10.
        if attempt == 0:
            continue
        wider = F32(0) if attempt == -10 else _TENTH * F32(attempt)
        for lane in range(LANES):
            tried[lane] = -(middle + wider) / extreme[lane]
            along[lane] = F32(0)
            across[lane] = F32(0)
        for place in range(x.shape[0]):
            for lane in range(LANES):
                code = np.rint(tried[lane] * x[place, lane])
                code = max(-middle, code)
                code = min(highest, code)
                along[lane] += weights[place, lane] * x[place, lane] * code
                across[lane] += weights[place, lane] * code * code
        for lane in range(LANES):
            fitted = along[lane] / across[lane]
            if attempt == -10:
                scale = fitted if across[lane] != F32(0) else F32(0)
                scales[lane] = scale
                best[lane] = scale * along[lane]
                inverses[lane] = tried[lane]
            else:
                better = (across[lane] > F32(0)) & (
                    along[lane] * along[lane] > best[lane] * across[lane]
                )
                inverses[lane] = tried[lane] if better else inverses[lane]
                scales[lane] = fitted if better else scales[lane]
                best[lane] = fitted * along[lane] if better else best[lane]
    for lane in range(LANES):
        if abs(extreme[lane]) < EPSILON:
            scales[lane] = F32(0)
            inverses[lane] = F32(0)


@kernel
def scale_and_minimum(
    x: np.ndarray,
    weights: np.ndarray,
    grid: tuple[int, float, float, int],
    fit: np.ndarray,
    origin: np.ndarray,
) -> None:
    """Search the scale and minimum of codes: ``make_qkx2_quants`` and ``make_qkx3_quants``.

    Args:
        x: FP32 [places, LANES].
        weights: weights of the squared errors, FP32 [places, LANES].
        grid: the highest code, and the offsets that are added to it to divide the range by: first
            offset, increment and number of increments.
        fit: output, scales and minima FP32 [2, LANES]; a weight is scale * code + minimum.
        origin: output, inverse scales and minima FP32 [2, LANES] from which the codes are computed:
            code = round((x - minimum) * inverse).
    """
    highest, first, increment = F32(grid[0]), F32(grid[1]), F32(grid[2])
    high, best, error = np.empty(LANES, F32), np.empty(LANES, F32), np.empty(LANES, F32)
    totals, sums = np.zeros((2, LANES), F32), np.empty((3, LANES), F32)
    tried, solved = np.empty((2, LANES), F32), np.empty((2, LANES), F32)
    determinant = np.empty(LANES, F32)
    flat = np.empty(LANES, np.bool_)
    codes = np.empty((x.shape[0], LANES), F32)
    ranges(x, fit[1], high)
    _weighted_totals(x, weights, totals)
    for lane in range(LANES):
        fit[1, lane] = min(fit[1, lane], F32(0))
        flat[lane] = high[lane] <= fit[1, lane]
        origin[0, lane] = highest / (high[lane] - fit[1, lane])
        origin[1, lane] = fit[1, lane]
        fit[0, lane] = F32(1) / origin[0, lane]
    _sum_codes(x, weights, origin, highest, codes, sums)
    _errors(x, weights, fit, codes, best)
    for step in range(grid[3] + 1):
        divisor = first + increment * F32(step) + highest
        for lane in range(LANES):
            # The attempt starts from the best minimum so far.
            tried[0, lane] = divisor / (high[lane] - fit[1, lane])
            tried[1, lane] = fit[1, lane]
        _sum_codes(x, weights, tried, highest, codes, sums)
        _solve(totals, sums, solved, determinant)
        _errors(x, weights, solved, codes, error)
        for lane in range(LANES):
            better = (determinant[lane] > F32(0)) & (error[lane] < best[lane])
            best[lane] = error[lane] if better else best[lane]
            for row in range(2):
                origin[row, lane] = tried[row, lane] if better else origin[row, lane]
                fit[row, lane] = solved[row, lane] if better else fit[row, lane]
    for lane in range(LANES):
        # All values of the group are equal and not positive, so all codes are 0.
        if flat[lane]:
            fit[0, lane] = F32(0)
            origin[0, lane] = F32(0)


@kernel
def _weighted_totals(x: np.ndarray, weights: np.ndarray, totals: np.ndarray) -> None:
    """Add the sums of weight and of weight * x of each lane to ``totals``, FP32 [2, LANES]."""
    for place in range(x.shape[0]):
        for lane in range(LANES):
            totals[0, lane] += weights[place, lane]
            totals[1, lane] += weights[place, lane] * x[place, lane]


@kernel
def _sum_codes(
    x: np.ndarray,
    weights: np.ndarray,
    origin: np.ndarray,
    highest: np.float32,
    codes: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Compute codes l, FP32 [places, LANES], and weighted sums of l, l * l and l * x.

    ``codes`` and ``sums``, FP32 [3, LANES], are output.
    """
    for lane in range(LANES):
        for row in range(3):
            sums[row, lane] = F32(0)
    for place in range(x.shape[0]):
        for lane in range(LANES):
            code = nearest_code((x[place, lane] - origin[1, lane]) * origin[0, lane], highest)
            codes[place, lane] = code
            once = weights[place, lane] * code
            sums[0, lane] += once
            sums[1, lane] += once * code
            sums[2, lane] += once * x[place, lane]


@kernel
def _solve(
    totals: np.ndarray, sums: np.ndarray, solved: np.ndarray, determinant: np.ndarray
) -> None:
    """Fit scales and minima to codes by weighted least squares.

    ``solved``, FP32 [2, LANES], and ``determinant``, FP32 [LANES], are output.
    """
    for lane in range(LANES):
        sum_w, sum_x = totals[0, lane], totals[1, lane]
        sum_l, sum_l2, sum_xl = sums[0, lane], sums[1, lane], sums[2, lane]
        determinant[lane] = sum_w * sum_l2 - sum_l * sum_l
        scale = (sum_w * sum_xl - sum_x * sum_l) / determinant[lane]
        minimum = (sum_l2 * sum_x - sum_l * sum_xl) / determinant[lane]
        positive = minimum > F32(0)
        solved[0, lane] = sum_xl / sum_l2 if positive else scale
        solved[1, lane] = F32(0) if positive else minimum


@kernel
def _errors(
    x: np.ndarray, weights: np.ndarray, fit: np.ndarray, codes: np.ndarray, error: np.ndarray
) -> None:
    """Weighted squared error of scale * code + minimum of each lane: output, FP32 [LANES]."""
    for lane in range(LANES):
        error[lane] = F32(0)
    for place in range(x.shape[0]):
        for lane in range(LANES):
            off = fit[0, lane] * codes[place, lane] + fit[1, lane] - x[place, lane]
            error[lane] += weights[place, lane] * (off * off)


@kernel
def positive_scale(
    x: np.ndarray, weights: np.ndarray, highest: int, codes: np.ndarray
) -> np.float32:
    """Search the scale of codes from 0 to ``highest``: ``make_qp_quants``.

    Args:
        x: numbers that are not negative, FP32 [places].
        weights: weights of the squared errors, FP32 [places].
        highest: the largest code.
        codes: output, int64 [places].

    Returns:
        The scale.
    """
    top, largest = F32(highest), F32(0)
    for place in range(len(x)):
        largest = max(largest, x[place])
        codes[place] = 0
    if largest < EPSILON:
        return F32(0)
    inverse = _best_inverse(x, weights, top, largest)
    along, across = F32(0), F32(0)
    for place in range(len(x)):
        code = min(np.rint(inverse * x[place]), top)
        codes[place] = int(code)
        along += weights[place] * x[place] * code
        across += weights[place] * code * code
    for _ in range(5):
        for place in range(len(x)):
            w, value, code = weights[place], x[place], F32(codes[place])
            rest_along, rest_across = along - w * value * code, across - w * code * code
            if not (rest_along > F32(0) and rest_across > F32(0)):
                continue
            new = min(np.rint(value * rest_across / rest_along), top)
            new_along, new_across = rest_along + w * value * new, rest_across + w * new * new
            if new != code and new_along * new_along * across > along * along * new_across:
                codes[place] = int(new)
                along, across = new_along, new_across
    return along / across if across > F32(0) else F32(0)


@kernel
def _best_inverse(
    x: np.ndarray, weights: np.ndarray, top: np.float32, largest: np.float32
) -> np.float32:
    """Best of nine inverse scales around the plain one, by weighted squared error."""
    chosen, best = top / largest, F32(np.inf)
    for attempt in range(-5, 5):
        # The plain scale is tried first, in place of attempt -5.
        if attempt == 0:
            continue
        inverse = chosen if attempt == -5 else (_TENTH * F32(attempt) + top) / largest
        scale, error = F32(1) / inverse, F32(0)
        for place in range(len(x)):
            off = x[place] - scale * min(np.rint(inverse * x[place]), top)
            error += weights[place] * off * off
        if error < best:
            chosen, best = inverse, error
    return chosen
